"""Labels put aside in temporary files, so that memory holds a batch or a pile of them, whatever the source's length.

What comes in any order goes into piles, each of some positions; pile by pile it is sorted and goes into columns.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Self

import numpy as np

from qrp_store.errors import Unavailable

LABEL = np.dtype([("at", np.int64), ("concept", np.int32), ("score", np.float64)])
LOOKED_AT = np.dtype([("at", np.int64), ("concept", np.int32)])
_PILES = 128


class Piles:
    """Records whose field `at` is a position below `n`, in temporary files until it is closed.

    Iterating gives the piles (structured arrays) by position; within a pile the records are in the order they came in.
    Writing raises Unavailable when the disk is full.
    """

    def __init__(self, n: int, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._width = -(-n // _PILES) or 1
        self._pieces: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        self._size = 0
        self._file = _temporary()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._size // self._dtype.itemsize

    def add(self, *columns: np.ndarray) -> None:
        """Put equally long columns aside, one for each field."""
        rows = np.empty(len(columns[0]), self._dtype)
        for name, column in zip(self._dtype.names or (), columns, strict=True):
            rows[name] = column
        pile = rows["at"] // self._width
        if (pile[1:] < pile[:-1]).any():
            by = np.argsort(pile, kind="stable")
            rows, pile = rows[by], pile[by]
        numbers, starts = np.unique(pile, return_index=True)
        ends = [*starts[1:].tolist(), len(rows)]
        each = self._dtype.itemsize
        for number, start, end in zip(numbers.tolist(), starts.tolist(), ends, strict=False):
            self._pieces[number].append((self._size + start * each, (end - start) * each))
        _append(self._file, rows)
        self._size += rows.nbytes

    def __iter__(self) -> Iterator[np.ndarray]:
        for number in sorted(self._pieces):
            parts = []
            for start, size in self._pieces[number]:
                self._file.seek(start)
                parts.append(self._file.read(size))
            yield np.frombuffer(b"".join(parts), self._dtype)
        self._file.seek(self._size)


@contextmanager
def columns(*dtypes: type) -> Iterator[Columns]:
    """Columns to be filled; their files end with the arrays that `arrays` gives."""
    made = Columns(*dtypes)
    try:
        yield made
    finally:
        made.close()


class Columns:
    """Equally long arrays that grow on disk."""

    def __init__(self, *dtypes: type) -> None:
        self._dtypes = dtypes
        self._files = [_temporary() for _ in dtypes]
        self._n = 0

    def add(self, *parts: np.ndarray) -> None:
        """Append to each column. Raises Unavailable when the disk is full."""
        for file, dtype, part in zip(self._files, self._dtypes, parts, strict=True):
            _append(file, np.ascontiguousarray(part, dtype))
        self._n += len(parts[0])

    def arrays(self) -> tuple[np.ndarray, ...]:
        """The columns, read from disk where they are touched."""
        if not self._n:
            return tuple(np.empty(0, dtype) for dtype in self._dtypes)
        both = zip(self._files, self._dtypes, strict=True)
        return tuple(np.memmap(file, dtype, "r", shape=(self._n,)) for file, dtype in both)

    def close(self) -> None:
        """Close the files; arrays that were given out stay."""
        for file in self._files:
            file.close()


def _temporary() -> IO[bytes]:
    with _translated():
        return tempfile.TemporaryFile(prefix="qrp-labels-", buffering=0)


def _append(file: IO[bytes], values: np.ndarray) -> None:
    left = memoryview(values.view(np.uint8).data) if len(values) else memoryview(b"")
    with _translated():
        while left:
            left = left[file.write(left) :]


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"{tempfile.gettempdir()}: labels cannot be put aside here ({error.strerror or error})",
            hint="TMPDIR names another folder; reading takes up to 64 bytes a label there",
        ) from error
