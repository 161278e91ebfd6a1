"""What a store hands out to read an embedding: numpy slices, blocks, dask and torch, every read verified."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qrp_store.arrays import arrays
from qrp_store.arrays.root import Root
from qrp_store.errors import InvalidInput, Unavailable
from qrp_store.records import StoredEmbedding

if TYPE_CHECKING:
    import dask.array
    import torch.utils.data

Rows = slice | int | Sequence[int] | np.ndarray


class Embedding:
    """A ready embedding, shape (n, dim); row i is the dataset's sample at position i, NaN where it has no vector."""

    def __init__(self, root: Root, stored: StoredEmbedding) -> None:
        self._root = root
        self.stored = stored

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
        """Where any Zarr reader opens the array."""
        return f"{self._root.url}/{self.stored.array.path}"

    def __len__(self) -> int:
        return self.stored.array.n

    def __getitem__(self, rows: Rows) -> np.ndarray:
        """Rows by slice, position or array of positions, as numpy. Raises Corrupt for a missing or damaged block."""
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
        wanted = np.asarray(rows)
        if wanted.dtype == bool:
            wanted = np.flatnonzero(wanted)
        if wanted.size and (wanted.min() < -n or wanted.max() >= n):
            raise IndexError(f"rows outside 0…{n - 1}")
        return self._gather(wanted.astype(np.int64) % max(n, 1))

    def block(self, index: int) -> np.ndarray:
        """The rows of one block, shape (rows, dim), verified against the catalog."""
        return arrays.read_block(self._root, self.stored.array, self.stored.blocks[index])

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, rows) of every block in order."""
        for block in self.stored.blocks:
            yield block.start, self.block(block.index)

    def dask(self) -> dask.array.Array:
        """As a dask array with one chunk a block."""
        try:
            import dask.array as da
            from dask.delayed import delayed
        except ImportError as error:
            raise Unavailable("this needs dask", hint="pip install 'qrp-store[cpu]'") from error
        read = delayed(self.block, pure=False)
        parts = [
            da.from_delayed(read(b.index), shape=(b.rows, self.shape[1]), dtype=self.dtype) for b in self.stored.blocks
        ]
        whole: dask.array.Array = da.concatenate(parts)
        return whole

    def torch(self) -> torch.utils.data.Dataset[Any]:
        """As a map-style torch dataset of rows (float tensors of shape (dim,))."""
        try:
            import torch
            from torch.utils.data import Dataset
        except ImportError as error:
            raise Unavailable("this needs torch", hint="pip install 'qrp-store[cpu]'") from error
        embedding = self

        class Rows(Dataset[Any]):
            def __len__(self) -> int:
                return len(embedding)

            def __getitem__(self, index: int) -> Any:
                return torch.from_numpy(embedding[index])

            def __getitems__(self, indices: Sequence[int]) -> list[Any]:
                return list(torch.from_numpy(embedding[np.asarray(indices)]))

        return Rows()

    def _range(self, start: int, stop: int) -> np.ndarray:
        spec = self.stored.array
        out = np.empty((stop - start, spec.dim), self.dtype)
        if stop <= start:
            return out
        for index in range(start // spec.block_rows, (stop - 1) // spec.block_rows + 1):
            first, rows = spec.rows_of(index)
            low, high = max(start, first), min(stop, first + rows)
            out[low - start : high - start] = self.block(index)[low - first : high - first]
        return out

    def _gather(self, positions: np.ndarray) -> np.ndarray:
        if positions.ndim != 1:
            raise InvalidInput(f"rows are picked by a list of positions, not by an array of shape {positions.shape}")
        spec = self.stored.array
        out = np.empty((len(positions), spec.dim), self.dtype)
        numbers = positions // spec.block_rows
        for index in np.unique(numbers):
            at = np.flatnonzero(numbers == index)
            out[at] = self.block(int(index))[positions[at] - int(index) * spec.block_rows]
        return out
