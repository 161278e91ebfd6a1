"""Embeddings that somebody else computed: a two-dimensional array in a file, read row by row in bounded memory.

Nothing is ever unpickled. A format is one function `(path, field) -> ArraySource` in `READERS`.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from qrp_store.errors import InvalidInput, NotFound
from qrp_store.samples import check_keys

Rows = NDArray[Any]
_DIGEST_BYTES = 16 << 20
_HEADER_LIMIT = 100 << 20  # what the format allows


@dataclass(frozen=True)
class ArraySource:
    """A matrix in a file: n rows of dim numbers, of a native numpy dtype (floats of 16–64 bits, or integers).

    Reading forwards is cheap in every format; one thread at a time.
    """

    path: Path
    field: str | None
    n: int
    dim: int
    dtype: np.dtype[Any]
    _rows: Callable[[int, int], Rows]

    def read(self, start: int, stop: int) -> Rows:
        """Rows [start, stop) as stored: a new C-contiguous array (stop − start, dim) in native byte order."""
        if not 0 <= start <= stop <= self.n:
            raise IndexError(f"rows {start}:{stop} of {self.n}")
        try:
            rows = self._rows(start, stop)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InvalidInput(f"{self.path}: rows {start}:{stop} cannot be read ({error})") from error
        return np.array(rows, dtype=self.dtype, order="C")

    def digest(self) -> str:
        """sha256 (hex) of dtype, shape and numbers; the file's format, byte order and memory order don't matter."""
        little = self.dtype.newbyteorder("<")
        digest = hashlib.sha256(json.dumps([little.str, self.n, self.dim]).encode())
        step = max(1, _DIGEST_BYTES // (self.dim * self.dtype.itemsize))
        for start in range(0, self.n, step):
            rows = self.read(start, min(start + step, self.n))
            digest.update(rows.astype(little, copy=False).data)
        return digest.hexdigest()


def open_array(path: Path, field: str | None = None) -> ArraySource:
    """Open the matrix in a file, by its ending; `field` names one of several arrays in the file.

    Reads the header only. Raises NotFound when there is no such file; InvalidInput, naming file and fault, for an
    unknown ending, a damaged or truncated file, a pickled array, and whatever is not a non-empty matrix of numbers.
    """
    if not path.exists():
        raise NotFound(f"{path}: no such file")
    reader = READERS.get(path.suffix.lower())
    if reader is None or path.is_dir():
        raise InvalidInput(
            f"{path}: not a kind of array file that can be read", hint="known endings: " + " ".join(sorted(READERS))
        )
    try:
        return reader(path, field)
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror or error})") from error


def read_keys(path: Path) -> list[str]:
    """The keys of an array's rows: a UTF-8 text file with one per line; spaces are part of a key.

    Raises NotFound, or InvalidInput naming the line of an empty key, a duplicate, a NUL or undecodable bytes.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file") from error
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"{path}: line {line} is not UTF-8", hint="save the file as UTF-8") from error
    keys = text.removesuffix("\n").split("\n") if text else []
    keys = [key.removesuffix("\r") for key in keys]
    check_keys(keys, str(path), place="line")
    return keys


def _matrix(
    path: Path, field: str | None, shape: tuple[int, ...], dtype: np.dtype[Any], rows: Callable[[int, int], Rows]
) -> ArraySource:
    """The source, once shape and dtype have been found good."""
    name = f"{path}[{field}]" if field is not None else str(path)
    if dtype.hasobject:
        raise InvalidInput(f"{name}: a pickled object array", hint="save numbers: np.save(…, x.astype('float32'))")
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise InvalidInput(f"{name}: numbers of type {dtype}", hint="expected float16, float32, float64 or integers")
    if len(shape) != 2:
        raise InvalidInput(f"{name}: shape {shape}", hint="expected two dimensions, one row a sample")
    if min(shape) < 1:
        raise InvalidInput(f"{name}: empty, shape {shape}")
    return ArraySource(path, field, shape[0], shape[1], dtype.newbyteorder("="), rows)


def _npy_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype; the file then stands at the data."""
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(file)
        if version == (2, 0):
            return np.lib.format.read_array_header_2_0(file)
    except Exception as error:  # numpy evaluates the header as a literal: a damaged one breaks its parser in many ways
        raise InvalidInput(f"{name}: not a .npy array, or damaged ({_first_line(error)})") from error
    raise InvalidInput(f"{name}: .npy version {version[0]}.{version[1]} holds no plain matrix")


def _npy(path: Path, field: str | None) -> ArraySource:
    if field is not None:
        raise InvalidInput(f"{path}: a .npy file holds one array without a name", hint="leave --field out")
    with path.open("rb") as file:
        shape, fortran, stored = _npy_header(file, str(path))
        offset = file.tell()
        size = file.seek(0, io.SEEK_END)

    def rows(start: int, stop: int) -> Rows:
        # A map per read, so that its pages do not stay in memory.
        mapped = np.memmap(path, dtype=stored, mode="r", offset=offset, shape=shape, order="F" if fortran else "C")
        return np.array(mapped[start:stop])

    source = _matrix(path, None, shape, stored, rows)
    _check_size(str(path), size - offset, math.prod(shape) * stored.itemsize)
    return source


def _npz(path: Path, field: str | None) -> ArraySource:
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {i.filename.removesuffix(".npy"): i.file_size for i in archive.infolist()}
            field = _choose(path, list(sizes), field)
            with archive.open(_member(archive, field)) as file:
                shape, fortran, stored = _npy_header(file, f"{path}[{field}]")
                offset = file.tell()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise InvalidInput(f"{path}: not a .npz archive, or damaged ({_first_line(error)})") from error
    stream = _ZipRows(path, field, shape, stored, fortran, offset)
    source = _matrix(path, field, shape, stored, stream.read)
    _check_size(f"{path}[{field}]", sizes[field] - offset, math.prod(shape) * stored.itemsize)
    return source


def _member(archive: zipfile.ZipFile, field: str) -> str:
    return field if field in archive.namelist() else f"{field}.npy"


class _ZipRows:
    """Rows of a member of a zip archive. It inflates forwards only, so going back starts it again."""

    def __init__(
        self, path: Path, field: str, shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool, offset: int
    ) -> None:
        self._path, self._field, self._shape, self._dtype = path, field, shape, dtype
        self._fortran, self._offset = fortran, offset
        self._file: IO[bytes] | None = None
        self._whole: Rows | None = None

    def read(self, start: int, stop: int) -> Rows:
        if self._fortran:  # its rows are spread over the whole member
            if self._whole is None:
                flat = self._bytes(0, math.prod(self._shape) * self._dtype.itemsize)
                self._whole = np.frombuffer(flat, self._dtype).reshape(self._shape, order="F")
            return self._whole[start:stop]
        width = self._shape[1] * self._dtype.itemsize
        data = self._bytes(start * width, (stop - start) * width)
        return np.frombuffer(data, self._dtype).reshape(stop - start, self._shape[1])

    def _bytes(self, first: int, count: int) -> bytes:
        position = self._offset + first
        if self._file is None or self._file.tell() > position:
            if self._file is not None:
                self._file.close()
            # The member keeps the archive's file open for as long as it is open itself.
            with zipfile.ZipFile(self._path) as archive:
                self._file = archive.open(_member(archive, self._field))
        self._file.seek(position)
        data = self._file.read(count)
        if len(data) != count:
            raise EOFError("the data end early")
        return data


_SAFETENSORS: Mapping[str, str] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
}


def _safetensors(path: Path, field: str | None) -> ArraySource:
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8 or length > _HEADER_LIMIT:
            raise InvalidInput(f"{path}: not a .safetensors file, or truncated")
        try:
            header = json.loads(file.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            field = _choose(path, list(tensors), field)
            code, shape = str(tensors[field]["dtype"]), tuple(int(extent) for extent in tensors[field]["shape"])
            first, last = (int(offset) for offset in tensors[field]["data_offsets"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput(f"{path}: damaged .safetensors header ({_first_line(error)})") from error
    if code not in _SAFETENSORS:
        raise InvalidInput(f"{path}[{field}]: numbers of type {code}", hint="expected floats or integers")
    if first < 0:
        raise InvalidInput(f"{path}[{field}]: damaged .safetensors header (data begin at {first})")
    stored = np.dtype(_SAFETENSORS[code])
    offset = 8 + length + first

    def rows(start: int, stop: int) -> Rows:
        mapped = np.memmap(path, dtype=stored, mode="r", offset=offset, shape=shape)
        if code == "BF16":  # the upper half of a float32
            return (mapped[start:stop].astype("<u4") << 16).view("<f4")
        return np.array(mapped[start:stop])

    source = _matrix(path, field, shape, np.dtype("<f4") if code == "BF16" else stored, rows)
    _check_size(f"{path}[{field}]", min(last - first, size - offset), math.prod(shape) * stored.itemsize)
    return source


def _choose(path: Path, names: list[str], field: str | None) -> str:
    """The array that is meant among those of a file."""
    listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    if field is not None:
        if field not in names:
            raise InvalidInput(f"{path}: holds no array {field!r}", hint=f"it holds: {listed or 'nothing'}")
        return field
    if len(names) != 1:
        raise InvalidInput(f"{path}: holds {len(names)} arrays", hint=f"choose with --field: {listed or 'none'}")
    return names[0]


def _check_size(name: str, found: int, expected: int) -> None:
    if found < expected:
        raise InvalidInput(f"{name}: truncated, {found} of {expected} bytes of data")
    if found > expected:
        raise InvalidInput(f"{name}: {found - expected} bytes more than its header says")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


READERS: Mapping[str, Callable[[Path, str | None], ArraySource]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
}
