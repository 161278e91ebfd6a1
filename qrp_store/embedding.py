"""Read a stored embedding: numpy slices, blocks, dask and torch; every read is verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from qrp_store.arrays import blocked as arrays
from qrp_store.arrays.root import Root
from qrp_store.errors import InvalidInput, NotFound, Unavailable
from qrp_store.records import StoredEmbedding
from qrp_store.samples import shown

if TYPE_CHECKING:
    import dask.array
    import torch.utils.data

_FEW = 8  # a slice with less than this part of a block is read in pieces
Rows = slice | int | Sequence[int] | np.ndarray


class Embedding:
    """A ready embedding, shape (n, dim). Row i is the sample at position i of the dataset, NaN without a vector."""

    def __init__(self, root: Root, stored: StoredEmbedding, keys: Callable[[], list[str]] | None = None) -> None:
        self._root = root
        self.stored = stored
        self._read_keys = keys
        self._keys: list[str] | None = None
        self._places: dict[str, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A worker process gets no catalog, and keys only if they have been read already.
        return {**self.__dict__, "_read_keys": None, "_places": None}

    def __repr__(self) -> str:
        return f"<Embedding {self.stored.artifact.id} {self.shape} {self.dtype}>"

    @property
    def shape(self) -> tuple[int, int]:
        return self.stored.array.n, self.stored.array.dim

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.stored.array.dtype)

    @property
    def url(self) -> str:
        """URL of the array for any Zarr reader."""
        return f"{self._root.url}/{self.stored.array.path}"

    def __len__(self) -> int:
        return self.stored.array.n

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the rows in order, each of shape (dim,), read block by block."""
        for _, rows in self.blocks():
            yield from rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows, for whatever takes arrays of numpy's."""
        if copy is False:
            raise ValueError("an embedding is read into new memory")
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def __getitem__(self, rows: Rows) -> np.ndarray:
        """Return rows by slice, position or array of positions. Raise Corrupt for a missing or damaged block."""
        n = len(self)
        if isinstance(rows, slice):
            start, stop, step = rows.indices(n)
            if step == 1:
                return self._range(start, max(start, stop))
            return self._gather(np.arange(start, stop, step))
        if isinstance(rows, (int, np.integer)):
            if not -n <= rows < n:
                raise IndexError(f"row {rows} of {n}")
            row: np.ndarray = self._gather(np.array([int(rows) % n]))[0]
            return row
        positions = np.asarray(rows)
        if positions.dtype == bool:
            if positions.shape != (n,):
                raise IndexError(f"a mask of shape {positions.shape} for {n} rows")
            positions = np.flatnonzero(positions)
        if positions.size and positions.dtype.kind not in "iu":
            raise IndexError(f"rows are picked by position, not by {positions.dtype}")
        if positions.size and (positions.min() < -n or positions.max() >= n):
            raise IndexError(f"rows outside 0…{n - 1}")
        return self._gather(positions.astype(np.int64) % max(n, 1))

    @property
    def keys(self) -> list[str]:
        """Keys of the samples in order of position, read from the catalog once."""
        if self._keys is None:
            if self._read_keys is None:
                raise Unavailable("the keys are in the catalog", hint="use an embedding from store.embedding()")
            self._keys = self._read_keys()
        return self._keys

    def by_key(self, keys: str | Sequence[str]) -> np.ndarray:
        """Return the row of one key, shape (dim,), or the rows of several, shape (len(keys), dim).

        Raise NotFound, which names the first unknown key.
        """
        if self._places is None:
            self._places = {key: position for position, key in enumerate(self.keys)}
        names = [keys] if isinstance(keys, str) else list(keys)
        missing = next((key for key in names if key not in self._places), None)
        if missing is not None:
            raise NotFound(f"dataset {self.stored.dataset.name!r} has no key {shown(missing)}")
        rows = self._gather(np.array([self._places[key] for key in names], np.int64))
        return rows[0] if isinstance(keys, str) else rows

    @property
    def n_blocks(self) -> int:
        return len(self.stored.blocks)

    def block(self, index: int) -> np.ndarray:
        """Return the rows of one block, shape (rows, dim), verified against the catalog."""
        return arrays.read_block(self._root, self.stored.array, self.stored.blocks[index])

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, rows) of every block in order."""
        for block in self.stored.blocks:
            yield block.start, self.block(block.index)

    def dask(self) -> dask.array.Array:
        """Return a dask array with one chunk per block."""
        try:
            import dask.array as da
            from dask.delayed import delayed
        except ImportError as error:
            raise Unavailable("this needs dask", hint="pip install 'qrp-store[cpu]'") from error
        read = delayed(self.block, pure=False)
        parts = [
            da.from_delayed(read(b.index), shape=(b.rows, self.shape[1]), dtype=self.dtype) for b in self.stored.blocks
        ]
        array: dask.array.Array = da.concatenate(parts)
        return array

    def torch(self, streaming: bool = False, seed: int | None = None) -> torch.utils.data.Dataset[Any]:
        """Return a torch dataset of rows (tensors of shape (dim,)): map-style, or `streaming` block by block.

        Streamed rows come in order; with a `seed`, blocks and the rows within them are shuffled. Workers of a
        DataLoader divide the blocks.
        """
        try:
            from qrp_store.embedding_torch import MappedRows, StreamedRows
        except ImportError as error:
            raise Unavailable("this needs torch", hint="pip install 'qrp-store[cpu]'") from error
        return StreamedRows(self, seed) if streaming else MappedRows(self)

    def _range(self, start: int, stop: int) -> np.ndarray:
        spec = self.stored.array
        out = np.empty((stop - start, spec.dim), self.dtype)
        if stop <= start:
            return out
        for index in range(start // spec.block_rows, (stop - 1) // spec.block_rows + 1):
            first, rows = spec.rows_of(index)
            low, high = max(start, first), min(stop, first + rows)
            if _FEW * (high - low) <= rows:
                local = np.arange(low - first, high - first)
                part = arrays.read_rows(self._root, spec, self.stored.blocks[index], local)
            else:
                part = self.block(index)[low - first : high - first]
            out[low - start : high - start] = part
        return out

    def _gather(self, positions: np.ndarray) -> np.ndarray:
        if positions.ndim != 1:
            raise InvalidInput(f"rows are picked by a list of positions, not by an array of shape {positions.shape}")
        spec = self.stored.array
        out = np.empty((len(positions), spec.dim), self.dtype)
        order = np.argsort(positions, kind="stable")
        ascending = positions[order]
        numbers = ascending // spec.block_rows
        starts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
        for start, stop in pairwise([*starts, len(positions)]):
            index = int(numbers[start])
            local = ascending[start:stop] - index * spec.block_rows
            out[order[start:stop]] = arrays.read_rows(self._root, spec, self.stored.blocks[index], local)
        return out
