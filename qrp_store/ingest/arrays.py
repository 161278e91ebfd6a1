"""Rows of an array that somebody else computed, for ingest."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from qrp_store.arrays import foreign
from qrp_store.errors import InvalidInput
from qrp_store.ingest.rows import BlockRows, Output, SeenFile
from qrp_store.progress import Progress
from qrp_store.readers.arrays.columns import Columns, summary
from qrp_store.readers.arrays.folders import is_array_folder, open_array_folder
from qrp_store.readers.arrays.formats import open_array, read_keys
from qrp_store.readers.arrays.matrix import OTHER_KEYS, ArrayRequest, ArraySource, choose_arrays, matrix, with_columns
from qrp_store.records import ArraySpec
from qrp_store.samples import check_keys, shown

_PIECE_BYTES = 4 << 20
_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")


def is_array(path: Path) -> bool:
    """Whether a folder holds an array: a Zarr array or group, pieces, or what clip-retrieval and thingsvision write."""
    return path.suffix == ".zarr" or any((path / name).is_file() for name in _ZARR_FILES) or is_array_folder(path)


class ArrayRows:
    """Rows of an array file, cast to the stored dtype. Memory: two blocks."""

    root: str | None = None

    def __init__(
        self,
        path: Path,
        member: str | None,
        keys: Path | None,
        key_root: str | None,
        dtype: np.dtype[Any],
        key_column: str | None = None,
    ) -> None:
        if keys is not None and key_column is not None:
            raise InvalidInput("--keys and --key-column both name the keys", hint="leave one of them out")
        self._wanted = ArrayRequest(member, key_column, keys is not None)
        self._source = _open(path, self._wanted)
        self._dtype = dtype
        self._order: np.ndarray | None = None
        self._digest: Future[str] | None = None
        n = self._source.n
        self.keys: Sequence[str] = read_keys(keys) if keys is not None else self._own_keys()
        if len(self.keys) != n:
            raise InvalidInput(f"{path} has {n} rows, {keys} has {len(self.keys)} keys", hint="one key a row, in order")
        if key_root is not None:
            self.keys = _below(self.keys, key_root)

    def _own_keys(self) -> Sequence[str]:
        """The keys that the file names, else numbers."""
        keys = self._source.keys
        if keys is None:
            return [str(i) for i in range(self._source.n)]
        check_keys(keys, str(self._source.path), place="row", hint=OTHER_KEYS)
        return keys

    @property
    def outputs(self) -> Sequence[Output]:
        return [Output({"kind": "array", "dim": self._source.dim}, slice(0, self._source.dim))]

    @property
    def content(self) -> str | None:
        if self._digest is None:
            return None
        order = "" if self._order is None else f":{_order_digest(self._order)}"
        return self._digest.result() + order

    @property
    def provenance(self) -> Mapping[str, Any]:
        columns = {} if self.columns is None else {"columns": self.columns}
        return {"field": self._source.field, "source_dtype": self._source.dtype.name, **columns}

    @property
    def columns(self) -> dict[str, Any] | None:
        """The roles of a table's columns; None for a file of one array."""
        return None if self._source.columns is None else asdict(self._source.columns)

    @property
    def not_taken(self) -> Mapping[str, int]:
        return {}

    def reorder(self, order: np.ndarray) -> None:
        self.keys = [self.keys[row] for row in order]
        self._order = order

    def prepare(self, progress: Progress) -> None:
        if self._source.columns is not None:
            progress.note(summary(self._source.columns, keyed=self._wanted.keyed))
        digester = ThreadPoolExecutor(1, "digest")
        self._digest = digester.submit(self._source.digest)  # other work goes on until `content` is needed
        digester.shutdown(wait=False)

    def changed_blocks(self, layout: ArraySpec, seen: Mapping[int, SeenFile]) -> set[int]:
        return set()

    def part(self, layout: ArraySpec, number: int) -> ArrayPart:
        start, count = layout.rows_of(number)
        rows = range(start, start + count) if self._order is None else self._order[start : start + count]
        return ArrayPart(self._source.path, self._wanted, (self._source.n, self._source.dim), rows, self._dtype)

    def check(self, start: int, files: Sequence[SeenFile]) -> None:
        """An array has no images."""

    def blocks(self, layout: ArraySpec, numbers: Sequence[int]) -> Iterator[BlockRows]:
        return (self.part(layout, number).rows_of(self._source) for number in numbers)


@dataclass(frozen=True)
class ArrayPart:
    """Rows of an array file, by number: `wanted` may be in any order."""

    path: Path
    source: ArrayRequest
    shape: tuple[int, int]
    wanted: range | np.ndarray
    dtype: np.dtype[Any]

    def compute(self, threads: int) -> BlockRows:
        """The rows, read from the file as this process sees it."""
        with _reading:
            source = _opened(self.path.absolute(), self.source)
            if (source.n, source.dim) != self.shape:
                raise InvalidInput(f"{self.path}: shape {(source.n, source.dim)}, it was {self.shape}")
            return self.rows_of(source)

    def rows_of(self, source: ArraySource) -> BlockRows:
        """The rows of an open source, in the stored dtype; what does not fit is bad."""
        chosen = self.wanted
        if source.dtype == self.dtype:
            rows = _raw(source, chosen)
            return BlockRows(rows, _cast(rows, rows))
        rows = np.empty((len(chosen), source.dim), self.dtype)
        bad: dict[int, str] = {}
        # In pieces, so that a block is not in memory in both types; rows in another order are gathered at once.
        step = len(chosen)
        if isinstance(chosen, range):
            step = max(1, _PIECE_BYTES // (source.dim * source.dtype.itemsize))
        for first in range(0, len(chosen), step):
            lost = _cast(_raw(source, chosen[first : first + step]), rows[first : first + step])
            bad |= {first + i: why for i, why in lost.items()}
        return BlockRows(rows, bad)


_reading = threading.Lock()  # a source is read by one thread at a time


@lru_cache(1)
def _opened(path: Path, request: ArrayRequest) -> ArraySource:
    return _open(path, request)


def _raw(source: ArraySource, rows: range | np.ndarray) -> np.ndarray:
    return source.read(rows.start, rows.stop) if isinstance(rows, range) else _gathered(source, rows)


def _cast(raw: np.ndarray, out: np.ndarray) -> dict[int, str]:
    """Put rows into `out`, which may be `raw` itself; which are bad, and why."""
    finite_before = _finite(raw)
    if out is not raw:
        with np.errstate(over="ignore", invalid="ignore"):
            out[...] = raw
    finite = finite_before if out is raw else _finite(out)
    return {
        int(i): f"does not fit into {out.dtype.name}" if finite_before[i] else "NaN or Inf"
        for i in np.flatnonzero(~finite)
    }


def _gathered(source: ArraySource, rows: np.ndarray) -> np.ndarray:
    out = np.empty((len(rows), source.dim), source.dtype)
    ascending = np.argsort(rows, kind="stable")
    # Runs of neighbouring rows are read at once, forwards.
    breaks = np.flatnonzero(np.diff(rows[ascending]) != 1) + 1
    for run in np.split(ascending, breaks):
        first = int(rows[run[0]])
        out[run] = source.read(first, first + len(run))
    return out


def _finite(rows: np.ndarray) -> np.ndarray:
    """Which rows hold only finite numbers."""
    if rows.dtype.kind != "f":
        return np.ones(len(rows), bool)
    if rows.itemsize == 2:  # numpy adds half floats one by one; their exponents it sees at the speed of memory
        halves: np.ndarray = (rows.view(np.uint16) & 0x7C00).max(axis=1) < 0x7C00
        return halves
    # A sum is finite when all of its terms are; only the few rows that overflow need a closer look.
    with np.errstate(over="ignore", invalid="ignore"):
        fine: np.ndarray = np.isfinite(rows.sum(axis=1, dtype=np.float32 if rows.itemsize < 8 else np.float64))
    for i in np.flatnonzero(~fine):
        fine[i] = np.isfinite(rows[i]).all()
    return fine


def _open(path: Path, request: ArrayRequest) -> ArraySource:
    if not path.is_dir() or path.suffix in (".npy", ".npz"):
        return open_array(path, request.field, request.key_column, keyed=request.keyed)
    return open_array_folder(path, request) if is_array_folder(path) else _open_zarr(path, request)


def _open_zarr(path: Path, request: ArrayRequest) -> ArraySource:
    members = {array.name: array for array in foreign.open_foreign(path)}
    roles = None
    if list(members) == [""] and request.field is None and request.key_column is None:
        chosen = members[""]
    else:
        roles = _zarr_roles(path, members, request)
        chosen = members[roles.vector[0]]
    source = matrix(path, chosen.name if roles else None, chosen.shape, chosen.dtype, chosen.read)
    _refuse_holes(path, chosen)
    if roles is None:
        return source
    keys = members.get(roles.key or "")
    if roles.key is not None and keys is not None:
        if keys.shape[0] != source.n:
            raise InvalidInput(f"{path}: has {source.n} rows and {keys.shape[0]} keys in {roles.key}")
        _refuse_holes(path, keys)
    return with_columns(source, roles, lambda: [] if keys is None else keys.read(0, source.n).tolist())


def _refuse_holes(path: Path, array: foreign.ForeignArray) -> None:
    """Raise InvalidInput for an array with missing chunks, which would read as the fill value without a word, and for
    one of absurdly large chunks."""
    missing = array.missing_chunks()
    if missing:
        raise InvalidInput(f"{path}: {missing} chunks of the array are missing", hint="copy the array again")
    if array.chunk_bytes > foreign.MAX_CHUNK_BYTES:
        raise InvalidInput(f"{path}: chunks of {array.chunk_bytes:,} bytes", hint="write smaller chunks")


def _zarr_roles(path: Path, members: Mapping[str, foreign.ForeignArray], request: ArrayRequest) -> Columns:
    """The roles of a group's arrays."""
    kinds: dict[str, list[str]] = {"matrix": [], "text": [], "number": [], "other": []}
    for name, array in members.items():
        kind = "other"
        if len(array.shape) == 2 and array.dtype.kind in "iuf":
            kind = "matrix"
        elif len(array.shape) == 1:
            kind = "number" if array.dtype.kind in "iuf" else "text" if array.dtype.kind in "OSTU" else "other"
        kinds[kind].append(name)
    field = None if request.field is None else request.field.strip("/")
    key_column = None if request.key_column is None else request.key_column.strip("/")
    request = replace(request, field=field, key_column=key_column)
    return choose_arrays(path, kinds["matrix"], kinds["text"], kinds["number"], kinds["other"], request)


def _below(keys: Sequence[str], root: str) -> list[str]:
    """Keys relative to a folder that all of them lie in."""
    prefix = root.rstrip("/") + "/"
    stray = next((key for key in keys if not key.startswith(prefix)), None)
    if stray is not None:
        raise InvalidInput(f"--key-root {root}: the key {shown(stray)} does not begin with {prefix}")
    below = [key.removeprefix(prefix) for key in keys]
    check_keys(below, f"--key-root {root}")
    return below


def _order_digest(order: np.ndarray) -> str:
    """A short digest of a permutation."""
    return hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()[:16]
