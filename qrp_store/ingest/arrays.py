"""Rows of an array that somebody else computed, for ingest."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from qrp_store.arrays import foreign
from qrp_store.errors import InvalidInput
from qrp_store.ingest.rows import BlockRows, Output, SeenFile
from qrp_store.progress import Progress
from qrp_store.readers.arrays.folders import is_array_folder, open_array_folder
from qrp_store.readers.arrays.formats import open_array, read_keys
from qrp_store.readers.arrays.matrix import ArraySource, choose, matrix
from qrp_store.records import ArraySpec
from qrp_store.samples import check_keys, shown

_PIECE_BYTES = 4 << 20
_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")


def is_array(path: Path) -> bool:
    """Whether a folder holds an array: a Zarr array or group, or what clip-retrieval and thingsvision write."""
    return path.suffix == ".zarr" or any((path / name).is_file() for name in _ZARR_FILES) or is_array_folder(path)


class ArrayRows:
    """Rows of an array file, cast to the stored dtype. Memory: two blocks."""

    root: str | None = None

    def __init__(
        self, path: Path, member: str | None, keys: Path | None, key_root: str | None, dtype: np.dtype[Any]
    ) -> None:
        self._source = _open(path, member)
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
        found = self._source.keys
        if found is None:
            return [str(i) for i in range(self._source.n)]
        check_keys(found, str(self._source.path), place="row")
        return found

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
        return {"field": self._source.field, "source_dtype": self._source.dtype.name}

    def reorder(self, order: np.ndarray) -> None:
        self.keys = [self.keys[row] for row in order]
        self._order = order

    def prepare(self, progress: Progress) -> None:
        digester = ThreadPoolExecutor(1, "digest")
        self._digest = digester.submit(self._source.digest)  # until `content` is asked for, others can work
        digester.shutdown(wait=False)

    def changed_blocks(self, layout: ArraySpec, seen: Mapping[int, SeenFile]) -> set[int]:
        return set()

    def part(self, layout: ArraySpec, number: int) -> ArrayPart:
        start, count = layout.rows_of(number)
        wanted = range(start, start + count) if self._order is None else self._order[start : start + count]
        return ArrayPart(self._source.path, self._source.field, (self._source.n, self._source.dim), wanted, self._dtype)

    def check(self, start: int, files: Sequence[SeenFile]) -> None:
        """An array has no images."""

    def blocks(self, layout: ArraySpec, numbers: Sequence[int]) -> Iterator[BlockRows]:
        return (self.part(layout, number).rows_of(self._source) for number in numbers)


@dataclass(frozen=True)
class ArrayPart:
    """Rows of an array file, by number: `wanted` may be in any order."""

    path: Path
    member: str | None
    shape: tuple[int, int]
    wanted: range | np.ndarray
    dtype: np.dtype[Any]

    def compute(self, threads: int) -> BlockRows:
        """The rows, read from the file as this process sees it."""
        with _reading:
            source = _opened(self.path.absolute(), self.member)
            if (source.n, source.dim) != self.shape:
                raise InvalidInput(f"{self.path}: shape {(source.n, source.dim)}, it was {self.shape}")
            return self.rows_of(source)

    def rows_of(self, source: ArraySource) -> BlockRows:
        """The rows of an open source, in the stored dtype; what does not fit is bad."""
        wanted = self.wanted
        if source.dtype == self.dtype:
            rows = _raw(source, wanted)
            return BlockRows(rows, _cast(rows, rows))
        rows = np.empty((len(wanted), source.dim), self.dtype)
        bad: dict[int, str] = {}
        # In pieces, so that a block is not in memory in both types; rows in another order are gathered at once.
        step = len(wanted)
        if isinstance(wanted, range):
            step = max(1, _PIECE_BYTES // (source.dim * source.dtype.itemsize))
        for first in range(0, len(wanted), step):
            found = _cast(_raw(source, wanted[first : first + step]), rows[first : first + step])
            bad |= {first + i: why for i, why in found.items()}
        return BlockRows(rows, bad)


_reading = threading.Lock()  # a source is read by one thread at a time


@lru_cache(1)
def _opened(path: Path, member: str | None) -> ArraySource:
    return _open(path, member)


def _raw(source: ArraySource, wanted: range | np.ndarray) -> np.ndarray:
    return source.read(wanted.start, wanted.stop) if isinstance(wanted, range) else _gathered(source, wanted)


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


def _gathered(source: ArraySource, wanted: np.ndarray) -> np.ndarray:
    out = np.empty((len(wanted), source.dim), source.dtype)
    ascending = np.argsort(wanted, kind="stable")
    # Runs of neighbouring rows are read at once, forwards.
    breaks = np.flatnonzero(np.diff(wanted[ascending]) != 1) + 1
    for run in np.split(ascending, breaks):
        first = int(wanted[run[0]])
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


def _open(path: Path, member: str | None) -> ArraySource:
    if not path.is_dir() or path.suffix in (".npy", ".npz"):
        return open_array(path, member)
    return open_array_folder(path, member) if is_array_folder(path) else _open_zarr(path, member)


def _open_zarr(path: Path, member: str | None) -> ArraySource:
    found = {array.name: array for array in foreign.open_foreign(path)}
    if list(found) == [""] and member is None:
        chosen = found[""]
    else:
        matrices = [name for name, array in found.items() if len(array.shape) == 2]
        member = choose(path, matrices or list(found), None if member is None else member.strip("/"))
        chosen = found[member]
    source = matrix(path, member, chosen.shape, chosen.dtype, chosen.read)
    missing = chosen.missing_chunks()
    if missing:  # they would read as the fill value without a word, and no embedding holds a whole chunk of that
        raise InvalidInput(f"{path}: {missing} chunks of the array are missing", hint="copy the array again")
    return source


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
