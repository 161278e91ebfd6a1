"""Zarr arrays that somebody else wrote, of format 2 or 3: read as they are, with every chunk accounted for."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qrp_store.errors import InvalidInput, first_line

MAX_CHUNK_BYTES = 2 << 30  # a chunk is decoded whole
_CHUNK = re.compile(r"(?:c[/.])?(\d+(?:[/.]\d+)*)")


@dataclass(frozen=True)
class ForeignArray:
    """An array of a Zarr store: its name inside ("" for the store itself), shape, dtype; `read` gives rows."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_bytes: int
    read: Callable[[int, int], npt.NDArray[Any]]
    missing_chunks: Callable[[], int]


def open_foreign(path: Path) -> list[ForeignArray]:
    """Every array of a Zarr folder. InvalidInput, naming folder and fault, when it is none, or when it holds a link
    that leads out of the folder: its bytes would be another file's."""
    import zarr

    _refuse_links(path)
    try:
        node = zarr.open(path, mode="r")
        members = [("", node)] if isinstance(node, zarr.Array) else node.members(None)
        return [_foreign(path, name, member) for name, member in members if isinstance(member, zarr.Array)]
    except Exception as error:  # damaged metadata break zarr's parser in many ways
        raise InvalidInput(f"{path}: not a Zarr array or group, or damaged ({first_line(error)})") from error


def _foreign(path: Path, name: str, array: Any) -> ForeignArray:
    dtype = np.dtype(array.dtype)
    folder = path / name if name else path
    steps = array.shards or array.chunks
    return ForeignArray(
        name,
        tuple(array.shape),
        dtype,
        math.prod(array.chunks) * dtype.itemsize,
        lambda start, stop: np.asarray(array[start:stop]),
        lambda: _missing(folder, [-(-extent // step) for extent, step in zip(array.shape, steps, strict=True)]),
    )


def _missing(folder: Path, grid: list[int]) -> int:
    """How many chunks (or shards) of a grid have no file. Counts files, so that a huge grid costs nothing."""
    present = 0
    for entry in _files(folder):
        match = _CHUNK.fullmatch(Path(entry.path).relative_to(folder).as_posix())
        if match is not None:
            place = [int(part) for part in re.split(r"[/.]", match[1])]
            present += len(place) == len(grid) and all(at < extent for at, extent in zip(place, grid, strict=True))
    return math.prod(grid) - present


def _refuse_links(path: Path) -> None:
    root = path.resolve()
    for entry in _files(path):
        if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
            raise InvalidInput(
                f"{entry.path}: a link out of {path}", hint="copy the array with its files, without links"
            )


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Everything below a folder that is no folder; links are not followed."""
    try:
        with os.scandir(folder) as listing:
            entries = list(listing)
    except OSError as error:
        raise InvalidInput(f"{folder}: cannot be listed ({error.strerror or error})") from error
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        else:
            yield entry
