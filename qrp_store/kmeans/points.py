"""The points that K-means clusters: in memory, or streamed block by block from storage."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from copy import copy
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from qrp_store.errors import InvalidInput
from qrp_store.execution import available_cores, run
from qrp_store.kmeans.nearest import FaissNearest, Float32, Labels, Nearest
from qrp_store.kmeans.passes import BATCH, Engine, Group, Means, Step, assign_pass, group_rows, step_pass

Rows = npt.NDArray[np.int64]
DEFAULT_MEMORY = 2_000_000_000
_READERS = 2


class Points(Protocol):
    """n points of d dimensions, numbered 0 … n-1. Every method returns the same bits for the same arguments."""

    @property
    def count(self) -> int: ...

    @property
    def dim(self) -> int: ...

    def sample(self, rows: Rows) -> Float32:
        """Return the rows with these numbers, in this order: float32 (len(rows), d)."""
        ...

    def glimpse(self, rows: Rows) -> Float32:
        """Return the same for a few rows in few places, without a pass over the points."""
        ...

    def about(self, origin: Float32 | None) -> Points:
        """Return the points less `origin`, float32 (d,), in float32, without a copy. None: unchanged.

        Squared distances are computed as |x|² + |c|² − 2xc, in float32, and so lose all their digits far from 0.
        """
        ...

    def subset(self, rows: Rows | None) -> Points:
        """Return only these rows (ascending; None for all), numbered from 0, in memory if they fit: for many passes."""
        ...

    def step(self, centroids: Float32) -> Step:
        """Return counts, sums and inertia of one Lloyd step about `centroids` (k, d)."""
        ...

    def means(self, centroids: Float32) -> Means:
        """Return the means of a step, as `Step.means`; sums on a device are divided there."""
        ...

    def assign(self, centroids: Float32) -> tuple[Labels, Float32]:
        """Return each point's nearest centroid, int32 (n,), and its squared distance to it, float32 (n,)."""
        ...


class Blocks(Protocol):
    """Source of streamed points: usable rows (those that have a vector) in blocks, in order.

    `read` may be called from several threads at once.
    """

    @property
    def count(self) -> int:
        """Usable rows in all."""
        ...

    @property
    def dim(self) -> int: ...

    @property
    def n_blocks(self) -> int: ...

    def rows_of(self, index: int) -> tuple[int, int]:
        """Return the number of the block's first usable row, and how many it has (perhaps none)."""
        ...

    def read(self, index: int) -> npt.NDArray[Any]:
        """Return the block's usable rows, float32 or float16, (rows, dim)."""
        ...


def row_number(row: int) -> str:
    """Return the name of a row in a message if its key is not known."""
    return f"row {row}"


class MemoryPoints:
    """Points in one array (n, d). `normalize` scales each row to length 1 (a copy); `name` names a row in messages."""

    def __init__(
        self,
        array: npt.NDArray[Any],
        *,
        normalize: bool = False,
        nearest: Nearest | None = None,
        workers: int | None = None,
        name: Callable[[int], str] = row_number,
    ) -> None:
        if array.ndim != 2:
            raise InvalidInput(f"points are rows of one length, not an array of shape {array.shape}")
        self._array = np.ascontiguousarray(array, np.float32)
        self._engine = Engine(nearest or FaissNearest(), workers or available_cores())
        self._name = name
        self.origin: Float32 | None = None
        if normalize:
            self._array = unit(self._array, 0, name)

    @property
    def count(self) -> int:
        return len(self._array)

    @property
    def dim(self) -> int:
        return int(self._array.shape[1])

    def sample(self, rows: Rows) -> Float32:
        return _less(self._array[rows], self.origin)

    glimpse = sample

    def about(self, origin: Float32 | None) -> MemoryPoints:
        moved = copy(self)
        moved.origin = origin
        return moved

    def subset(self, rows: Rows | None) -> MemoryPoints:
        if rows is None:
            return self
        return MemoryPoints(
            self.sample(rows),
            nearest=self._engine.nearest,
            workers=self._engine.workers,
            name=lambda row: self._name(int(rows[row])),
        )

    def step(self, centroids: Float32) -> Step:
        with closing(self.groups(len(centroids))) as groups:
            return step_pass(groups, centroids, self._engine, self._name)

    def means(self, centroids: Float32) -> Means:
        return self.step(centroids).means()

    def assign(self, centroids: Float32) -> tuple[Labels, Float32]:
        with closing(self.groups(len(centroids))) as groups:
            return assign_pass(groups, self.count, centroids, self._engine, self._name)

    def groups(self, k: int) -> Generator[Group, None, None]:
        """Yield the groups of a pass about `k` centroids."""
        size = group_rows(k, self.dim)
        for start in range(0, self.count, size):
            yield Group(start, self._array[start : start + size], self.origin)


class StreamedPoints:
    """Points read block by block, the next ones while one is being searched.

    `memory` (bytes) bounds what is held. Rows that do not fit are read in every pass, as many blocks and groups at a
    time as fit, at least one. Neither it nor the layout of the blocks changes a result.
    """

    def __init__(
        self,
        source: Blocks,
        *,
        normalize: bool = False,
        memory: int = DEFAULT_MEMORY,
        nearest: Nearest | None = None,
        workers: int | None = None,
        name: Callable[[int], str] = row_number,
    ) -> None:
        self._source = source
        self._normalize = normalize
        self._memory = memory
        self._engine = Engine(nearest or FaissNearest(), workers or available_cores())
        self._name = name
        self.origin: Float32 | None = None

    @property
    def count(self) -> int:
        return self._source.count

    @property
    def dim(self) -> int:
        return self._source.dim

    def sample(self, rows: Rows) -> Float32:
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        out = np.empty((len(rows), self.dim), np.float32)
        name, ahead = (lambda i: self._name(int(ordered[i]))), self._ahead(out.nbytes)
        with closing(self._blocks(Selection(self._source, ordered), name, ahead)) as blocks:
            for start, part in blocks:
                out[order[start : start + len(part)]] = part
        return _less(out, self.origin)

    glimpse = sample

    def about(self, origin: Float32 | None) -> StreamedPoints:
        moved = copy(self)
        moved.origin = origin
        return moved

    def subset(self, rows: Rows | None) -> MemoryPoints | StreamedPoints:
        count = self.count if rows is None else len(rows)
        name = self._name if rows is None else (lambda row: self._name(int(rows[row])))
        engine = self._engine
        if count * self.dim * 4 <= self._memory:
            held = self._all() if rows is None else self.sample(rows)
            return MemoryPoints(held, nearest=engine.nearest, workers=engine.workers, name=name)
        streamed = StreamedPoints(
            self._source if rows is None else Selection(self._source, rows),
            normalize=self._normalize,
            memory=self._memory,
            nearest=engine.nearest,
            workers=engine.workers,
            name=name,
        )
        return streamed.about(self.origin)

    def step(self, centroids: Float32) -> Step:
        with closing(self.groups(len(centroids))) as groups:
            return step_pass(groups, centroids, self._side_by_side(len(centroids))[1], self._name)

    def means(self, centroids: Float32) -> Means:
        return self.step(centroids).means()

    def assign(self, centroids: Float32) -> tuple[Labels, Float32]:
        with closing(self.groups(len(centroids))) as groups:
            return assign_pass(groups, self.count, centroids, self._side_by_side(len(centroids))[1], self._name)

    def _side_by_side(self, k: int) -> tuple[int, Engine]:
        """Return how many blocks are read ahead, and the engine with a thread for each group that fits."""
        block = self._block_bytes()
        group = min(group_rows(k, self.dim), self.count) * self.dim * 4 + k * self.dim * 8
        ahead = self._ahead(group)
        fit = (self._memory - (ahead + 1) * block) // group - 2  # one more waits, one is being filled
        return ahead, Engine(self._engine.nearest, max(1, min(self._engine.workers, fit)))

    def _block_bytes(self) -> int:
        return max((self._source.rows_of(i)[1] for i in range(self._source.n_blocks)), default=0) * self.dim * 4

    def _ahead(self, held: int) -> int:
        """Return how many blocks are read ahead within `memory`, beside so many bytes."""
        return _READERS if (_READERS + 1) * self._block_bytes() + held <= self._memory else 0

    def _all(self) -> Float32:
        out = np.empty((self.count, self.dim), np.float32)
        with closing(self._blocks(self._source, self._name, self._ahead(out.nbytes))) as blocks:
            for start, rows in blocks:
                out[start : start + len(rows)] = rows
        return _less(out, self.origin)

    def _blocks(
        self, source: Blocks, name: Callable[[int], str], ahead: int
    ) -> Generator[tuple[int, npt.NDArray[Any]], None, None]:
        """Yield first row and rows of each block that has any, as stored, or normalised if requested."""
        filled = [i for i in range(source.n_blocks) if source.rows_of(i)[1]]
        with closing(run(source.read, filled, workers=max(1, ahead), window=ahead or None)) as blocks:
            for index, rows in zip(filled, blocks, strict=True):
                start, count = source.rows_of(index)
                if rows.shape != (count, self.dim):
                    raise InvalidInput(f"block {index} gave {rows.shape}, not {(count, self.dim)}")
                yield start, unit(rows, start, name) if self._normalize else rows

    def groups(self, k: int) -> Generator[Group, None, None]:
        """Yield the groups of a pass about `k` centroids."""
        with closing(self._blocks(self._source, self._name, self._side_by_side(k)[0])) as blocks:
            for group in _regroup((rows for _, rows in blocks), self.count, self.dim, group_rows(k, self.dim)):
                yield replace(group, origin=self.origin)


def _regroup(blocks: Iterator[npt.NDArray[Any]], count: int, dim: int, size: int) -> Generator[Group, None, None]:
    """Cut consecutive blocks into groups of `size` rows (the last may be shorter), float32."""
    rows = np.empty((0, dim), np.float32)
    start = held = 0
    for block in blocks:
        used = 0
        while used < len(block):
            length = min(size, count - start)
            if held == 0:
                whole = block[used : used + length]
                if len(whole) == length and whole.dtype == np.float32:  # the group lies in one block: no copy
                    yield Group(start, whole)
                    start, used = start + length, used + length
                    continue
                rows = np.empty((length, dim), np.float32)
            part = block[used : used + length - held]
            rows[held : held + len(part)] = part
            held, used = held + len(part), used + len(part)
            if held == length:
                yield Group(start, rows)
                start, held = start + length, 0


class Selection:
    """Some rows (ascending) of blocks, again as blocks."""

    def __init__(self, source: Blocks, rows: Rows) -> None:
        self._source, self._rows = source, rows

    @property
    def count(self) -> int:
        return len(self._rows)

    @property
    def dim(self) -> int:
        return self._source.dim

    @property
    def n_blocks(self) -> int:
        return self._source.n_blocks

    def rows_of(self, index: int) -> tuple[int, int]:
        start, count = self._source.rows_of(index)
        first, last = np.searchsorted(self._rows, (start, start + count))
        return int(first), int(last - first)

    def read(self, index: int) -> npt.NDArray[Any]:
        first, count = self.rows_of(index)
        rows = self._source.read(index)
        return rows[self._rows[first : first + count] - self._source.rows_of(index)[0]]


def _less(rows: Float32, origin: Float32 | None) -> Float32:
    """Subtract `origin` in place; the caller's array is new."""
    if origin is not None:
        rows -= origin
    return rows


def unit(rows: npt.NDArray[Any], start: int, name: Callable[[int], str]) -> Float32:
    """Return the rows scaled to length 1, float32. Raise InvalidInput for a row of zeros, called `name(row)`."""
    out = np.empty(rows.shape, np.float32)
    for first in range(0, len(rows), BATCH):
        part = rows[first : first + BATCH].astype(np.float64)
        norms = np.sqrt(np.square(part).sum(axis=1))
        if not norms.all():
            raise InvalidInput(
                f"{name(start + first + int(np.argmin(norms)))} is all zeros and cannot be normalised",
                hint="ingest again with --skip-bad, or cluster without --normalize",
            )
        out[first : first + len(part)] = part / norms[:, None]
    return out
