"""Blocked and whole arrays as plain Zarr v3 arrays: one chunk is one object, and every read is verified."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace as replace_fields
from typing import Any

import numpy as np
import numpy.typing as npt

from qrp_store.arrays.chunk import CRC_BYTES, crc32c, encode, extend, octets, read, rolling_crc32c
from qrp_store.arrays.metadata import metadata_problem, put_metadata, read_metadata
from qrp_store.arrays.root import Root
from qrp_store.errors import Corrupt, InvalidInput, NotFound
from qrp_store.records import ArraySpec, Block

Array = npt.NDArray[Any]
BLOCK_BYTES = 16 << 20
PIECE_BYTES = 16 << 10  # smaller: checksums in Python take longer than reading; larger: rows cost more
WHOLE_CHUNK_BYTES = 64 << 20
DIMENSIONS = ("sample", "feature")
_REPAIR = "run `qrp-store repair`, restore the arrays from a backup, or ingest again"


def default_block_rows(dim: int, itemsize: int, n: int | None = None) -> int:
    """Rows that make a block of about 16 MiB: at least 1, at most `n` when that is given."""
    rows = max(1, BLOCK_BYTES // max(1, dim * itemsize))
    return rows if n is None else max(1, min(rows, n))


def create(
    root: Root,
    spec: ArraySpec,
    dimension_names: tuple[str, str] = DIMENSIONS,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write the metadata of the array `spec.path` and of the group it lies in; blocks follow with `write_block`.

    Harmless when repeated. Corrupt when an array of another layout is there, InvalidInput for a shape or dtype that
    cannot be stored.
    """
    if min(spec.n, spec.dim, spec.block_rows) < 1:
        raise InvalidInput(f"array {spec.path}: cannot hold {spec.n} rows of {spec.dim} in blocks of {spec.block_rows}")
    chunk = (_chunk_rows(spec), spec.dim)
    put_metadata(root, spec.path, (spec.n, spec.dim), chunk, spec.dtype, dimension_names, attributes)


def write_block(
    root: Root,
    spec: ArraySpec,
    index: int,
    rows: Array,
    bad: Sequence[int] = (),
    *,
    replace: bool = False,
    durable: bool = True,
    expect: str | None = None,
) -> Block:
    """Store block `index`: `rows` has shape (rows of the block, dim) and the array's dtype. Durable on return, or
    else after `sync_block`. Nothing is written, and Corrupt raised, when its checksum is not the one to `expect`.

    `bad` are the positions in the whole array that have no vector; their rows are stored as NaN. The same bytes again
    are fine, other bytes are Corrupt unless `replace`, which is only for a block that nobody has recorded yet.
    """
    start, count = spec.rows_of(index)
    if not 0 <= index < spec.n_blocks:
        raise InvalidInput(f"array {spec.path} has {spec.n_blocks} blocks, no block {index}")
    if rows.shape != (count, spec.dim) or rows.dtype.name != spec.dtype:
        expected = f"{(count, spec.dim)} of {spec.dtype}"
        raise InvalidInput(f"array {spec.path}, block {index}: expected {expected}, got {rows.shape} of {rows.dtype}")
    positions = tuple(sorted({int(p) for p in bad}))
    if positions:
        if positions[0] < start or positions[-1] >= start + count:
            raise InvalidInput(f"array {spec.path}, block {index}: bad positions {positions} lie outside it")
        rows = rows.copy()
        rows[np.array(positions) - start] = np.nan if rows.dtype.kind == "f" else 0
    data = octets(rows)
    rolling = rolling_crc32c(data, _piece_rows(spec) * _row_bytes(rows.shape, rows.dtype))
    parts, checksum = encode(data, _chunk_bytes(spec), int(rolling[-1]))
    if expect is not None and f"{checksum:08x}" != expect:
        raise Corrupt(
            f"array {spec.path}: block {index} comes out with other bytes (crc32c {checksum:08x}, not {expect})"
        )
    root.put(_block_path(spec, index), *parts, replace=replace, durable=durable)
    return Block(index, start, count, _chunk_bytes(spec) + CRC_BYTES, f"{checksum:08x}", positions, rolling.tobytes())


def write_once(
    root: Root, spec: ArraySpec, index: int, rows: Array, bad: Sequence[int] = (), *, durable: bool = True
) -> Block:
    """`write_block` that never replaces an object: when a worker that was given up has put the block there with other
    bytes (the last bits of another processor), its block is the one. Corrupt when that one is damaged.
    """
    try:
        return write_block(root, spec, index, rows, bad, durable=durable)
    except Corrupt:
        stored = whole_block(root, spec, index)
        if stored is None:
            raise
        return replace_fields(stored, bad=tuple(sorted({int(p) for p in bad})))


def sync_block(root: Root, spec: ArraySpec, block: Block) -> None:
    """Make a block durable that was written without."""
    root.sync(_block_path(spec, block.index))


def read_block(root: Root, spec: ArraySpec, block: Block) -> Array:
    """The rows of a recorded block, shape (block.rows, dim).

    Corrupt, naming array and block, when the object is missing, damaged, or not the one that was recorded.
    """
    try:
        data = _read(root, spec, block)
    except NotFound as error:
        raise Corrupt(f"array {spec.path}: block {block.index} is missing", hint=_REPAIR) from error
    if isinstance(data, str):
        raise Corrupt(f"array {spec.path}: block {block.index} {data}", hint=_REPAIR)
    return data.view(np.dtype(spec.dtype).newbyteorder("<")).reshape(block.rows, spec.dim)


def read_rows(root: Root, spec: ArraySpec, block: Block, rows: npt.NDArray[np.int64]) -> Array:
    """Rows of a recorded block by their number inside it (ascending), shape (len(rows), dim), verified as every read.

    Only the pieces around them are read, where the block's rolling checksums are known and few pieces are wanted.
    """
    per = _piece_rows(spec)
    pieces = (rows // per).tolist()
    if block.rolling is None or 2 * len(set(pieces)) * per > block.rows:
        return read_block(root, spec, block)[rows]
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    width, last = spec.dim * dtype.itemsize, block.rows - 1
    numbers = sorted(set(pieces))
    spans = [(piece * per * width, (min(piece * per + per, last + 1)) * width) for piece in numbers]
    try:
        parts = root.read_ranges(_block_path(spec, block.index), spans)
    except NotFound as error:
        raise Corrupt(f"array {spec.path}: block {block.index} is missing", hint=_REPAIR) from error
    rolling = np.frombuffer(block.rolling, "<u4")
    if int(f"0x{block.checksum}", 16) != rolling[-1]:
        raise Corrupt(f"array {spec.path}: block {block.index} has rolling checksums of another block", hint=_REPAIR)
    for piece, part, (low, high) in zip(numbers, parts, spans, strict=True):
        if len(part) != high - low or extend(int(rolling[piece - 1]) if piece else 0, part) != rolling[piece]:
            what = "is not the one recorded, or damaged: its rows do not match their crc32c"
            raise Corrupt(f"array {spec.path}: block {block.index} {what}", hint=_REPAIR)
    at = {piece: place * per for place, piece in enumerate(numbers)}
    held = np.frombuffer(b"".join(parts), dtype).reshape(-1, spec.dim)
    return held[[at[piece] + row - piece * per for piece, row in zip(pieces, rows.tolist(), strict=True)]]


def verify_block(root: Root, spec: ArraySpec, block: Block, deep: bool) -> str | None:
    """What is wrong with a recorded block, or None. Shallow: it is there and has its size; `deep` reads it."""
    try:
        if deep:
            data = _read(root, spec, block)
            return data if isinstance(data, str) else None
        size = root.size(_block_path(spec, block.index))
    except NotFound:
        return "is missing"
    return None if size == block.nbytes else f"has {size} bytes, not {block.nbytes}"


def layout_problem(root: Root, spec: ArraySpec) -> str | None:
    """What is wrong with the metadata that lets other Zarr readers open a blocked array, or None."""
    chunk = (_chunk_rows(spec), spec.dim)
    return metadata_problem(root, spec.path, (spec.n, spec.dim), chunk, spec.dtype, DIMENSIONS)


def whole_block(root: Root, spec: ArraySpec, index: int) -> Block | None:
    """Block `index` as it lies there, recorded or not, when it is whole in itself; None when missing or damaged."""
    start, count = spec.rows_of(index)
    used = count * spec.dim * np.dtype(spec.dtype).itemsize
    try:
        data = read(root, _block_path(spec, index), used, _chunk_bytes(spec))
    except NotFound:
        return None
    if isinstance(data, str):
        return None
    return Block(index, start, count, _chunk_bytes(spec) + CRC_BYTES, f"{data[1]:08x}")


def save_array(root: Root, path: str, array: Array, *, replace: bool = False) -> str:
    """Store a whole array (1-d or more) at `path`; the checksum that comes back is what `load_array` asks for.

    It covers shape, dtype and elements. Chunks hold at most 64 MiB (so mostly one), cut along the first axis.
    """
    if array.ndim == 0:
        raise InvalidInput(f"array {path}: a single number is not stored as an array")
    step = _whole_step(array.shape, array.dtype.itemsize)
    put_metadata(
        root, path, array.shape, (step, *(max(1, s) for s in array.shape[1:])), array.dtype.name, replace=replace
    )
    checksum = _header(array.shape, array.dtype.name)
    chunk_bytes = step * _row_bytes(array.shape, array.dtype)
    for place, start in _whole_chunks(path, array.shape, step):
        data = octets(array[start : start + step])
        checksum = crc32c(data, checksum)
        root.put(place, *encode(data, chunk_bytes)[0], replace=replace)
    return f"{checksum:08x}"


def whole_checksum(array: Array) -> str:
    """The checksum that `save_array` gives an array."""
    return f"{crc32c(octets(array), _header(array.shape, array.dtype.name)):08x}"


def load_array(root: Root, path: str, checksum: str) -> Array:
    """The whole array stored at `path`. Corrupt when it is missing, damaged, or not the one with this checksum."""
    try:
        metadata = read_metadata(root, path)
        shape, dtype = tuple(metadata["shape"]), np.dtype(metadata["data_type"])
        step = int(metadata["chunk_grid"]["configuration"]["chunk_shape"][0])
        out = np.empty(shape, dtype.newbyteorder("<"))
        computed = _header(shape, dtype.name)
        row_bytes = _row_bytes(shape, dtype)
        for place, start in _whole_chunks(path, shape, step):
            target = octets(out[start : start + step])
            piece = read(root, place, target.size, step * row_bytes)
            if isinstance(piece, str):
                raise Corrupt(f"array {path}: {place} {piece}", hint=_REPAIR)
            target[:] = piece[0]
            computed = crc32c(target, computed)
    except NotFound as error:
        raise Corrupt(f"array {path}: {error.message} (missing)", hint=_REPAIR) from error
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise Corrupt(f"array {path}: its zarr.json is damaged ({error})", hint=_REPAIR) from error
    if f"{computed:08x}" != checksum:
        raise Corrupt(f"array {path} is not the one recorded (checksum {computed:08x}, not {checksum})", hint=_REPAIR)
    return out


def _read(root: Root, spec: ArraySpec, block: Block) -> npt.NDArray[np.uint8] | str:
    used = block.rows * spec.dim * np.dtype(spec.dtype).itemsize
    answer = read(root, _block_path(spec, block.index), used, _chunk_bytes(spec))
    if isinstance(answer, str):
        return answer
    data, checksum = answer
    if f"{checksum:08x}" != block.checksum:  # whole in itself, but another block's bytes
        return f"is not the one recorded (crc32c {checksum:08x}, not {block.checksum})"
    return data


def _piece_rows(spec: ArraySpec) -> int:
    """Rows that a rolling checksum covers more than the one before."""
    return max(1, PIECE_BYTES // (spec.dim * np.dtype(spec.dtype).itemsize))


def _chunk_rows(spec: ArraySpec) -> int:
    return min(spec.block_rows, spec.n)


def _chunk_bytes(spec: ArraySpec) -> int:
    return _chunk_rows(spec) * spec.dim * np.dtype(spec.dtype).itemsize


def _block_path(spec: ArraySpec, index: int) -> str:
    return f"{spec.path}/c/{index}/0"


def _row_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape[1:]) * dtype.itemsize


def _whole_step(shape: tuple[int, ...], itemsize: int) -> int:
    return max(1, min(shape[0], WHOLE_CHUNK_BYTES // max(1, math.prod(shape[1:]) * itemsize)))


def _whole_chunks(path: str, shape: tuple[int, ...], step: int) -> Iterator[tuple[str, int]]:
    if math.prod(shape):
        for index in range(-(-shape[0] // step)):
            yield f"{path}/c/{index}" + "/0" * (len(shape) - 1), index * step


def _header(shape: tuple[int, ...], dtype: str) -> int:
    text = f"{dtype}:{','.join(str(s) for s in shape)}\n"
    return crc32c(np.frombuffer(text.encode(), np.uint8))
