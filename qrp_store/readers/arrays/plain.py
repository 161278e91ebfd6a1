"""Arrays whose bytes lie in a file as they are, or deflated: .npy, .npz and .safetensors, read without their libraries.

Nothing is ever unpickled.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from qrp_store.errors import InvalidInput, first_line
from qrp_store.readers.arrays.columns import Columns, is_key_name, key_name
from qrp_store.readers.arrays.matrix import (
    ArrayRequest,
    ArraySource,
    Rows,
    check_size,
    choose_arrays,
    matrix,
    with_columns,
)

_HEADER_LIMIT = 100 << 20  # what the format allows
_CELL_BYTES = 1 << 17  # of a key: 32,768 characters
_PIECE_BYTES = 1 << 20
_LOOKED_AT = 64  # arrays of an archive; one of more has to be named


def _npy_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype; the file then stands at the data."""
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(file)
        if version == (2, 0):
            return np.lib.format.read_array_header_2_0(file)
    except Exception as error:  # numpy evaluates the header as a literal: a damaged one breaks its parser in many ways
        raise InvalidInput(f"{name}: not a .npy array, or damaged ({first_line(error)})") from error
    raise InvalidInput(f"{name}: .npy version {version[0]}.{version[1]} holds no plain matrix")


def read_npy(path: Path, request: ArrayRequest) -> ArraySource:
    if request.field is not None or request.key_column is not None:
        option = "--field" if request.field is not None else "--key-column"
        raise InvalidInput(f"{path}: a .npy file holds one array without a name", hint=f"leave {option} out")
    with path.open("rb") as file:
        shape, fortran, stored = _npy_header(file, str(path))
        offset = file.tell()
        size = file.seek(0, io.SEEK_END)

    def rows(start: int, stop: int) -> Rows:
        if not fortran:
            return _contiguous(path, offset, stored, start, stop, shape[1])
        # A map per read, so that its pages do not stay in memory.
        mapped = np.memmap(path, dtype=stored, mode="r", offset=offset, shape=shape, order="F")
        return np.array(mapped[start:stop])

    source = matrix(path, None, shape, stored, rows)
    check_size(str(path), size - offset, math.prod(shape) * stored.itemsize)
    return source


def _contiguous(path: Path, offset: int, stored: np.dtype[Any], start: int, stop: int, dim: int) -> Rows:
    """Rows that lie one after the other from `offset` on."""
    out = np.empty((stop - start, dim), stored)
    with path.open("rb", buffering=0) as file:
        file.seek(offset + start * dim * stored.itemsize)
        view, done = out.reshape(-1).view(np.uint8).data, 0
        while done < len(view):
            got = file.readinto(view[done:])
            if not got:
                raise EOFError("the data end early")
            done += got
    return out


def read_npz(path: Path, request: ArrayRequest) -> ArraySource:
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {i.filename.removesuffix(".npy"): i.file_size for i in archive.infolist()}
            roles = _npz_roles(archive, path, list(sizes), request)
            (field,) = roles.vector
            with archive.open(_member(archive, field)) as file:
                shape, fortran, stored = _npy_header(file, f"{path}[{field}]")
                offset = file.tell()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{path}: not a .npz archive, or damaged ({first_line(error)})") from error
    stream = _ZipRows(path, field, shape, stored, fortran, offset)
    source = matrix(path, field, shape, stored, stream.read)
    check_size(f"{path}[{field}]", sizes[field] - offset, math.prod(shape) * stored.itemsize)
    return with_columns(source, roles, lambda: _npz_cells(path, roles.key or ""))


def _npz_roles(archive: zipfile.ZipFile, path: Path, names: list[str], request: ArrayRequest) -> Columns:
    """The roles of an archive's arrays. Of a large archive only those are looked at that can hold keys or are named."""
    kinds: dict[str, list[str]] = {"matrix": [], "text": [], "number": [], "object": [], "other": []}
    for name in names:
        named = name in (request.field, request.key_column) or is_key_name(name)
        kind = _npz_kind(archive, path, name) if named or len(names) <= _LOOKED_AT else "other"
        kinds[kind].append(name)
    keys = key_name(kinds["object"])
    if not request.keyed and request.key_column in (None, *kinds["object"]) and keys is not None and not kinds["text"]:
        raise InvalidInput(
            f"{path}[{request.key_column or keys}]: keys as an array of objects, which only running code can read",
            hint="save them as texts: np.array(keys, dtype=str); or name them with --keys FILE",
        )
    others = kinds["object"] + kinds["other"]
    return choose_arrays(path, kinds["matrix"], kinds["text"], kinds["number"], others, request)


def _npz_kind(archive: zipfile.ZipFile, path: Path, name: str) -> str:
    with archive.open(_member(archive, name)) as file:
        try:
            shape, _, dtype = _npy_header(file, f"{path}[{name}]")
        except InvalidInput:  # not the one that is meant, or it says so when it is opened
            return "other"
    if dtype.hasobject:
        return "object"
    if len(shape) == 1:
        return "text" if dtype.kind in "US" else "number" if dtype.kind in "iuf" else "other"
    return "matrix" if len(shape) == 2 and dtype.kind not in "US" else "other"


def _npz_cells(path: Path, name: str) -> Iterator[object]:
    """The cells of a list in an archive, a piece at a time. Raises InvalidInput for texts of an absurd length, which a
    small compressed file can hold."""
    with zipfile.ZipFile(path) as archive, archive.open(_member(archive, name)) as file:
        shape, _, dtype = _npy_header(file, f"{path}[{name}]")
        if dtype.itemsize > _CELL_BYTES:
            raise InvalidInput(f"{path}[{name}]: texts of {dtype.itemsize:,} bytes, at most {_CELL_BYTES:,}")
        step = max(1, _PIECE_BYTES // max(1, dtype.itemsize))
        for start in range(0, shape[0], step):
            count = min(step, shape[0] - start)
            data = file.read(count * dtype.itemsize)
            if len(data) != count * dtype.itemsize:
                raise EOFError("the data end early")
            yield from np.frombuffer(data, dtype, count).tolist() if dtype.itemsize else [""] * count


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


def read_safetensors(path: Path, request: ArrayRequest) -> ArraySource:
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8 or length > _HEADER_LIMIT:
            raise InvalidInput(f"{path}: not a .safetensors file, or truncated")
        try:
            header = json.loads(file.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            roles = _safetensors_roles(path, tensors, request)
            (field,) = roles.vector
            code, shape, first, last = _entry(tensors[field])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput(f"{path}: damaged .safetensors header ({first_line(error)})") from error
    if code not in _SAFETENSORS:
        raise InvalidInput(f"{path}[{field}]: numbers of type {code}", hint="expected floats or integers")
    if first < 0:
        raise InvalidInput(f"{path}[{field}]: damaged .safetensors header (data begin at {first})")
    stored = np.dtype(_SAFETENSORS[code])
    offset = 8 + length + first

    def rows(start: int, stop: int) -> Rows:
        numbers = _contiguous(path, offset, stored, start, stop, shape[1])
        # bfloat16 is the upper half of a float32
        return (numbers.astype("<u4") << 16).view("<f4") if code == "BF16" else numbers

    source = matrix(path, field, shape, np.dtype("<f4") if code == "BF16" else stored, rows)
    check_size(f"{path}[{field}]", min(last - first, size - offset), math.prod(shape) * stored.itemsize)
    return with_columns(source, roles, lambda: _safetensors_cells(path, 8 + length, size, tensors, roles.key or ""))


def _entry(entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """A tensor's type, shape, and where its bytes begin and end behind the header."""
    first, last = (int(offset) for offset in entry["data_offsets"])
    return str(entry["dtype"]), tuple(int(extent) for extent in entry["shape"]), first, last


def _safetensors_roles(path: Path, tensors: Mapping[str, Any], request: ArrayRequest) -> Columns:
    """The roles of a file's tensors; keys can only be whole numbers."""
    kinds: dict[int, list[str]] = {1: [], 2: []}
    others: list[str] = []
    for name, entry in tensors.items():
        size = len(entry["shape"]) if str(entry["dtype"]) in _SAFETENSORS else 0
        kinds.get(size, others).append(name)
    return choose_arrays(path, kinds[2], [], kinds[1], others, request)


def _safetensors_cells(path: Path, data: int, size: int, tensors: Mapping[str, Any], name: str) -> list[object]:
    code, shape, first, _ = _entry(tensors[name])
    stored = np.dtype(_SAFETENSORS[code])
    if first < 0 or shape[0] * stored.itemsize > size - data - first:
        raise EOFError("the data end early")
    cells: list[object] = _contiguous(path, data + first, stored, 0, shape[0], 1).ravel().tolist()
    return cells
