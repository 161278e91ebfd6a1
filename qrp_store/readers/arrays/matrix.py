"""A matrix in a file, whatever the format: n rows of dim numbers, read piece by piece."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qrp_store.errors import InvalidInput, QrpStoreError, first_line
from qrp_store.readers.arrays.columns import Columns, key_name, refuse_odd_keys
from qrp_store.samples import shown

Rows = NDArray[Any]
ReadRows = Callable[[int, int], Rows]
MAX_ROWS = 100_000_000  # a key a row is held in memory
MAX_DIM = 1 << 24
_KEY_BYTES = 512  # of a key, on average, in memory
_KEYS_BYTES = 64 << 20  # of all keys, in any case
OTHER_KEYS = "--key-column names another column of keys (-: number the rows); or name the keys with --keys FILE"
_DIGEST_BYTES = 1 << 20  # stays in the cache between being read and being summed


@dataclass(frozen=True)
class ArrayRequest:
    """Options of a file: `field` names the vectors, `key_column` the keys; `keyed`: the keys come from elsewhere."""

    field: str | None = None
    key_column: str | None = None
    keyed: bool = False


@dataclass(frozen=True)
class ArraySource:
    """A matrix in a file: n rows of dim numbers, of a native numpy dtype (floats of 16–64 bits, or integers).

    `keys` name the rows where the file says them; `columns` are the roles of its columns or arrays, None for a file of
    one array. Reading forwards is cheap in every format; one thread at a time.
    """

    path: Path
    field: str | None
    n: int
    dim: int
    dtype: np.dtype[Any]
    _rows: ReadRows
    keys: Sequence[str] | None = None
    columns: Columns | None = None

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
    """The source, with a shape and dtype that can be stored."""
    name = f"{path}[{field}]" if field is not None else str(path)
    if dtype.hasobject:
        raise InvalidInput(f"{name}: an array of objects (pickled) or texts", hint="save numbers: x.astype('float32')")
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise InvalidInput(f"{name}: numbers of type {dtype}", hint="expected float16, float32, float64 or integers")
    if len(shape) != 2:
        raise InvalidInput(f"{name}: shape {shape}", hint="expected two dimensions, one row a sample")
    if min(shape) < 1:
        raise InvalidInput(f"{name}: empty, shape {shape}")
    if shape[0] > MAX_ROWS:
        raise InvalidInput(f"{name}: {shape[0]:,} rows, at most {MAX_ROWS:,}", hint="divide it into several datasets")
    if shape[1] > MAX_DIM:
        raise InvalidInput(f"{name}: rows of {shape[1]:,} numbers, at most {MAX_DIM:,}")
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


def check_size(name: str, size: int, expected: int) -> None:
    if size < expected:
        raise InvalidInput(f"{name}: truncated, {size} of {expected} bytes of data")
    if size > expected:
        raise InvalidInput(f"{name}: {size - expected} bytes more than its header says")


def choose_arrays(
    path: Path,
    matrices: Sequence[str],
    texts: Sequence[str],
    numbers: Sequence[str],
    others: Sequence[str],
    request: ArrayRequest,
) -> Columns:
    """The roles of a file's named arrays: one matrix; the keys in a list of `texts`, else of `numbers`."""
    everything = [*matrices, *texts, *numbers, *others]
    lists = [name for name in (*texts, *numbers) if name != request.field]
    numbered = request.key_column == "-"
    key = None if numbered else request.key_column or key_name([name for name in texts if name in lists])
    if request.key_column is not None and not numbered and request.key_column not in lists:
        names = ", ".join(lists[:10])
        raise InvalidInput(
            f"{path}: no list {shown(request.key_column)} for the keys", hint=f"its lists: {names or 'none'}"
        )
    key = None if numbered else key or key_name([name for name in numbers if name in lists])
    if key is None and not numbered and not request.keyed:
        refuse_odd_keys(path, [name for name in others if name != request.field])
    possible = list(matrices) or [name for name in everything if name != key]
    field = choose(path, everything if request.field is not None else possible, request.field)
    key = None if request.keyed else key
    return Columns((field,), key, tuple(name for name in everything if name not in (field, key)))


def with_columns(source: ArraySource, roles: Columns, keys: Callable[[], Iterable[object]]) -> ArraySource:
    """The source with the roles of its file's columns, and the keys (read when one column holds them)."""
    described = replace(source, columns=roles)
    if roles.key is None:
        return described
    try:
        return with_keys(described, keys(), roles.key)
    except InvalidInput:
        raise
    except Exception as error:  # a damaged file breaks its library's reader in many ways
        raise InvalidInput(f"{source.path}: keys {roles.key!r} cannot be read ({first_line(error)})") from error


def with_keys(source: ArraySource, keys: Iterable[object], name: str) -> ArraySource:
    """The source with the keys that its file holds under `name`: one text or whole number a row, else InvalidInput."""
    texts: list[str] = []
    room = _KEYS_BYTES + _KEY_BYTES * source.n
    for row, key in enumerate(keys):
        text = key_text(key)
        if text is None:
            what = "is missing" if key is None or key != key else f"is neither text nor a whole number ({key!r:.60})"
            raise InvalidInput(f"{source.path}: row {row}: the key in {name!r} {what}", hint=OTHER_KEYS)
        texts.append(text)
        room -= len(text)
        if room < 0:
            raise InvalidInput(
                f"{source.path}: the keys in {name!r} take more than {_KEY_BYTES} characters a row", hint=OTHER_KEYS
            )
    if len(texts) != source.n:
        raise InvalidInput(f"{source.path}: has {source.n} rows and {len(texts)} keys in {name}", hint=OTHER_KEYS)
    return replace(source, keys=texts)


def key_text(key: object) -> str | None:
    """A key as text; None where it is none."""
    if isinstance(key, str):
        return key
    if isinstance(key, bytes):
        return key.decode("utf-8", "surrogateescape")
    if isinstance(key, (bool, np.bool_)):
        return None
    if isinstance(key, (int, np.integer)):
        return str(int(key))
    if isinstance(key, (float, np.floating)) and float(key).is_integer() and abs(float(key)) <= 2**53:
        return str(int(key))  # ids that met a missing value once
    return None
