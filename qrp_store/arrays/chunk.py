"""One stored chunk: the bytes of its elements, padding up to the whole chunk, and the crc32c of both.

This is what Zarr's `bytes` (little-endian) and `crc32c` codecs make of a chunk; coding it here runs at the speed of
memory and gives, in the same pass, the checksum of the elements alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from qrp_store.arrays.root import Root
from qrp_store.errors import Unavailable

CRC_BYTES = 4
_PIECE = 1 << 18
Octets = npt.NDArray[np.uint8]


@cache
def _extender() -> Callable[[int, Any], int]:
    try:
        import google_crc32c
    except ImportError as error:
        raise Unavailable("stored arrays need google-crc32c", hint="pip install qrp-store") from error
    return google_crc32c.extend  # type: ignore[no-any-return]


def extend(before: int, data: bytes) -> int:
    """The checksum of a few bytes after those with checksum `before`."""
    return _extender()(before, data)


def crc32c(data: Octets, before: int = 0) -> int:
    """The checksum of contiguous bytes; `before` is the checksum of what precedes them."""
    extend = _extender()
    for offset in range(0, data.size, _PIECE):  # the C code keeps the GIL: other threads get a turn between pieces
        before = extend(before, data[offset : offset + _PIECE])
    return before


def rolling_crc32c(data: Octets, step: int) -> npt.NDArray[np.uint32]:
    """The checksum of everything up to the end of each `step` bytes; the last one is that of all."""
    extend, checksum = _extender(), 0
    rolling = np.empty(-(-data.size // step), "<u4")
    for piece in range(len(rolling)):
        rolling[piece] = checksum = extend(checksum, data[piece * step : (piece + 1) * step])
    return rolling


def octets(array: npt.NDArray[Any]) -> Octets:
    """The little-endian bytes of an array in C order, without a copy where it lies so already."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8)


def encode(data: Octets, chunk_bytes: int, checksum: int | None = None) -> tuple[tuple[memoryview, ...], int]:
    """The parts to store for a chunk that begins with `data`, and the crc32c of `data` (`checksum`, when known)."""
    padding = np.zeros(chunk_bytes - data.size, np.uint8)
    checksum = crc32c(data) if checksum is None else checksum
    check = np.array([crc32c(padding, checksum)], "<u4").view(np.uint8)
    return (data.data, padding.data, check.data), checksum


def read(root: Root, path: str, used_bytes: int, chunk_bytes: int) -> tuple[Octets, int] | str:
    """The first `used_bytes` of a stored chunk and their crc32c, or in words what is wrong with it.

    NotFound when there is no such object.
    """
    stored = np.empty(chunk_bytes + CRC_BYTES, np.uint8)
    seen = checksum = 0
    for filled in root.read_into(path, stored.data):  # each piece is summed while it is still in the cache
        checksum = crc32c(stored[min(seen, used_bytes) : min(filled, used_bytes)], checksum)
        seen = filled
    if seen != stored.size:
        return f"has {seen} bytes, not {stored.size}" if seen < stored.size else f"has more than {stored.size} bytes"
    if crc32c(stored[used_bytes:chunk_bytes], checksum) != int(stored[chunk_bytes:].view("<u4")[0]):
        return "is damaged: its bytes do not match their crc32c"
    return stored[:used_bytes], checksum
