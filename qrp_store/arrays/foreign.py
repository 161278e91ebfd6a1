"""Zarr arrays that somebody else wrote, of format 2 or 3: read as they are, with every chunk asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qrp_store.errors import InvalidInput, first_line


@dataclass(frozen=True)
class ForeignArray:
    """An array of a Zarr store: its name inside ("" for the store itself), shape, dtype; `read` gives rows."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[int, int], npt.NDArray[Any]]
    missing_chunks: Callable[[], int]


def open_foreign(path: Path) -> list[ForeignArray]:
    """Every array of a Zarr folder. InvalidInput, naming folder and fault, when it is none."""
    import zarr

    try:
        node = zarr.open(path, mode="r")
        members = [("", node)] if isinstance(node, zarr.Array) else node.members(None)
        return [_foreign(name, member) for name, member in members if isinstance(member, zarr.Array)]
    except Exception as error:  # damaged metadata break zarr's parser in many ways
        raise InvalidInput(f"{path}: not a Zarr array or group, or damaged ({first_line(error)})") from error


def _foreign(name: str, array: Any) -> ForeignArray:
    return ForeignArray(
        name,
        tuple(array.shape),
        np.dtype(array.dtype),
        lambda start, stop: np.asarray(array[start:stop]),
        lambda: int(array.nchunks - array.nchunks_initialized),
    )
