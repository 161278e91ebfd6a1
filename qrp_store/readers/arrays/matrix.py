"""A matrix in a file, whatever the format: n rows of dim numbers, read piece by piece."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qrp_store.errors import InvalidInput, QrpStoreError, first_line

Rows = NDArray[Any]
ReadRows = Callable[[int, int], Rows]
KEY_NAMES = ("key", "keys", "filename", "filenames", "file_name", "file_names", "image_path", "path", "paths")
_DIGEST_BYTES = 1 << 20  # stays in the cache between being read and being summed


@dataclass(frozen=True)
class ArraySource:
    """A matrix in a file: n rows of dim numbers, of a native numpy dtype (floats of 16–64 bits, or integers).

    `keys` name the rows where the file says them. Reading forwards is cheap in every format; one thread at a time.
    """

    path: Path
    field: str | None
    n: int
    dim: int
    dtype: np.dtype[Any]
    _rows: ReadRows
    keys: Sequence[str] | None = None

    def read(self, start: int, stop: int) -> Rows:
        """Rows [start, stop) as stored: a C-contiguous array (stop − start, dim) in native byte order."""
        if not 0 <= start <= stop <= self.n:
            raise IndexError(f"rows {start}:{stop} of {self.n}")
        try:
            rows = self._rows(start, stop)
        except QrpStoreError:
            raise
        except Exception as error:  # a damaged file breaks its library's reader in many ways
            raise InvalidInput(f"{self.path}: rows {start}:{stop} cannot be read ({first_line(error)})") from error
        return np.ascontiguousarray(rows, dtype=self.dtype)

    def digest(self) -> str:
        """sha256 (hex) of dtype, shape and numbers; the file's format, byte order and memory order don't matter."""
        little = self.dtype.newbyteorder("<")
        digest = hashlib.sha256(json.dumps([little.str, self.n, self.dim]).encode())
        step = max(1, _DIGEST_BYTES // (self.dim * self.dtype.itemsize))
        for start in range(0, self.n, step):
            rows = self.read(start, min(start + step, self.n))
            digest.update(rows.astype(little, copy=False).data)
        return digest.hexdigest()


def matrix(path: Path, field: str | None, shape: tuple[int, ...], dtype: np.dtype[Any], rows: ReadRows) -> ArraySource:
    """The source, once shape and dtype have been found good."""
    name = f"{path}[{field}]" if field is not None else str(path)
    if dtype.hasobject:
        raise InvalidInput(f"{name}: an array of objects (pickled) or texts", hint="save numbers: x.astype('float32')")
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise InvalidInput(f"{name}: numbers of type {dtype}", hint="expected float16, float32, float64 or integers")
    if len(shape) != 2:
        raise InvalidInput(f"{name}: shape {shape}", hint="expected two dimensions, one row a sample")
    if min(shape) < 1:
        raise InvalidInput(f"{name}: empty, shape {shape}")
    return ArraySource(path, field, shape[0], shape[1], dtype.newbyteorder("="), rows)


def choose(path: Path, names: list[str], field: str | None) -> str:
    """The array that is meant among those of a file."""
    listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    if field is not None:
        if field not in names:
            raise InvalidInput(f"{path}: holds no array {field!r}", hint=f"it holds: {listed or 'nothing'}")
        return field
    if len(names) != 1:
        raise InvalidInput(f"{path}: holds {len(names)} arrays", hint=f"choose with --field: {listed or 'none'}")
    return names[0]


def check_size(name: str, found: int, expected: int) -> None:
    if found < expected:
        raise InvalidInput(f"{name}: truncated, {found} of {expected} bytes of data")
    if found > expected:
        raise InvalidInput(f"{name}: {found - expected} bytes more than its header says")


def key_name(names: Sequence[str]) -> str | None:
    """Which of the names of a file's arrays or columns stands for the rows' keys; the first of `KEY_NAMES`."""
    return next((name for name in KEY_NAMES if name in names), None)


def with_keys(source: ArraySource, keys: Sequence[object], name: str) -> ArraySource:
    """The source with the keys that its file holds under `name`; InvalidInput unless one text a row."""
    texts = [key.decode("utf-8", "surrogateescape") if isinstance(key, bytes) else key for key in keys]
    if len(texts) != source.n:
        raise InvalidInput(f"{source.path}: has {source.n} rows and {len(texts)} keys in {name}")
    found = [key for key in texts if isinstance(key, str)]
    if len(found) != len(texts):
        wrong = next(row for row, key in enumerate(texts) if not isinstance(key, str))
        raise InvalidInput(f"{source.path}[{name}]: row {wrong} is no text", hint="name the keys with --keys FILE")
    return replace(source, keys=found)
