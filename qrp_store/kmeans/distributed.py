"""Points on the workers of a Dask cluster, which read blocks, search them and return partial sums.

The rows are cut into parts, runs of consecutive groups, equally many for each worker. Sums are added on each worker,
then between workers, and at last by the client, along the binary tree of a single process. So any number of workers, in
any order, gives the same bits. If a worker dies, others repeat its parts.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice, pairwise, repeat
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from qrp_store.device import gpu_identity
from qrp_store.errors import InvalidInput, QrpStoreError, Unavailable
from qrp_store.execution import DaskPool, LostData
from qrp_store.kmeans.engines import Chosen, choose
from qrp_store.kmeans.nearest import Float32, Labels
from qrp_store.kmeans.passes import (
    Engine,
    Group,
    Means,
    Step,
    Subtree,
    assign_pass,
    group_rows,
    joined,
    subtrees_pass,
    total,
)
from qrp_store.kmeans.points import (
    DEFAULT_MEMORY,
    Blocks,
    MemoryPoints,
    Points,
    Rows,
    Selection,
    StreamedPoints,
    row_number,
    unit,
)

if TYPE_CHECKING:
    from qrp_store.kmeans.torch_points import TorchPoints

R = TypeVar("R")
Held: TypeAlias = "Float32 | TorchPoints"
_TRIES = 4
_PARTS_A_THREAD = 2  # so that the work of a worker that dies is shared; each costs some milliseconds
_SUMS_JOINED = 8  # by one task on a worker
_PARTS_HELD = 4  # by a thread, at the least, so that one that is only passing does not take all the room
_SHARE = 0.5  # of a worker's memory; Dask begins to spill at 0.6


@dataclass(frozen=True)
class _Part:
    """Rows [first, last), for one of the cluster's threads."""

    first: int
    last: int
    thread: int


class DistributedPoints:
    """Streamed points whose passes run on the workers of a cluster.

    Parts stay in the memory of the worker that read them as far as `memory` (bytes a worker) and half of the
    workers' own limit allow, and with torch on its GPU, too, as far as that has room; the others are read in every
    pass. `k`: how many centroids to expect; `name` names a row in messages. Raises Unavailable for workers that cannot
    read the blocks or have no such engine.
    """

    def __init__(
        self,
        source: Blocks,
        pool: DaskPool,
        chosen: Chosen,
        *,
        k: int,
        normalize: bool = False,
        memory: int = DEFAULT_MEMORY,
        name: Callable[[int], str] = row_number,
    ) -> None:
        self._source, self._pool, self._chosen = source, pool, chosen
        self._k, self._normalize, self._memory, self._name = k, normalize, memory, name
        self._origin: Float32 | None = None
        self._shared: Any = None
        self._kept: dict[int, Any] = {}
        self._lay_out(group_rows(k, source.dim))

    @property
    def count(self) -> int:
        return self._source.count

    @property
    def dim(self) -> int:
        return self._source.dim

    def about(self, origin: Float32 | None) -> DistributedPoints:
        moved = copy(self)
        moved._origin, moved._shared, moved._kept = origin, None, {}
        return moved

    def subset(self, rows: Rows | None) -> Points:
        if rows is None:
            return self
        points = DistributedPoints(
            Selection(self._source, rows),
            self._pool,
            self._chosen,
            k=self._k,
            normalize=self._normalize,
            memory=self._memory,
            name=lambda row: self._name(int(rows[row])),
        )
        return points.about(self._origin)

    def glimpse(self, rows: Rows) -> Float32:
        """Read the rows in this process: workers would read, and keep, their whole parts."""
        points = StreamedPoints(self._source, normalize=self._normalize, memory=0, name=self._name)
        return points.about(self._origin).sample(rows)

    def sample(self, rows: Rows) -> Float32:
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        edges = np.searchsorted(ordered, [part.first for part in self._parts] + [self.count])
        touched = [i for i in range(len(self._parts)) if edges[i] < edges[i + 1]]

        def gather() -> Float32:
            out = np.empty((len(rows), self.dim), np.float32)
            picks = [(ordered[edges[i] : edges[i + 1]] - self._parts[i].first,) for i in touched]
            with closing(self._pool.results(self._over(_pick, touched, picks))) as parts:
                for i, part in zip(touched, parts, strict=True):
                    out[order[edges[i] : edges[i + 1]]] = part
            return out

        return self._again(gather)

    def step(self, centroids: Float32) -> Step:
        def once() -> Step:
            sums, left, window = self._with_centroids(_step, centroids), len(self._parts), self._pool.window
            while left > _SUMS_JOINED:
                sums, left, window = self._joined(sums), -(-left // _SUMS_JOINED), -(-window // _SUMS_JOINED) + 1
            with closing(self._pool.results(sums, window, early=True)) as summed:
                subtrees: Iterable[Subtree[Step]] = chain.from_iterable(summed)
                return total(subtrees)

        return self._again(once)

    def means(self, centroids: Float32) -> Means:
        return self.step(centroids).means()

    def assign(self, centroids: Float32) -> tuple[Labels, Float32]:
        labels, distances = np.empty(self.count, np.int32), np.empty(self.count, np.float32)

        def once() -> None:
            with closing(self._pool.results(self._with_centroids(_assign, centroids))) as assigned:
                for part, (part_labels, part_distances) in zip(self._parts, assigned, strict=True):
                    labels[part.first : part.last], distances[part.first : part.last] = part_labels, part_distances

        self._again(once)
        return labels, distances

    def _lay_out(self, size: int) -> None:
        groups, group = -(-self.count // size), size * self.dim * 4
        limit = self._memory
        if self._pool.memory is not None:
            limit = min(limit, int(self._pool.memory * _SHARE))
        threads = self._pool.threads
        at_once = -(-threads // self._pool.workers)
        most = max(1, limit // (_PARTS_HELD * at_once * group))
        n = min(groups, threads * max(_PARTS_A_THREAD, -(-groups // (threads * most))))
        cuts = _cuts(groups, n, threads)
        edges = [min(cut * size, self.count) for cut in cuts]
        self._size = size
        self._parts = [_Part(edges[i], edges[i + 1], i * threads // n) for i in range(n)]
        part = max(last - first for first, last in pairwise(cuts)) * group
        if self.count * self.dim * 4 > limit * self._pool.workers:
            limit -= at_once * part  # those that are read and not kept
        self._n_kept = max(0, limit * self._pool.workers // part)
        self._kept = {}

    def _with_centroids(self, function: Callable[..., Any], centroids: Float32) -> Iterator[Any]:
        size = group_rows(len(centroids), self.dim)
        if size != self._size:
            self._lay_out(size)
        everyone = self._pool.share(centroids)
        return self._over(function, range(len(self._parts)), repeat((everyone, self._chosen, size)))

    def _over(self, function: Callable[..., Any], parts: Iterable[int], arguments: Iterable[Any]) -> Iterator[Any]:
        """Begins function(first row, rows, *arguments) for each part, in order, as they are drawn."""
        if self._shared is None:
            self._shared = self._pool.share((self._source, self._normalize, self._origin))
        for index, extra in zip(parts, arguments, strict=False):
            part = self._parts[index]
            where = (self._shared, part.first, part.last)
            if index >= self._n_kept:
                yield self._pool.keep(_read_and, function, *where, self._chosen, *extra)
                continue
            if index not in self._kept:
                self._kept[index] = self._pool.keep(_read, *where, self._chosen, thread=part.thread)
            yield self._pool.keep(function, part.first, self._kept[index], *extra, thread=part.thread)

    def _joined(self, sums: Iterator[Any]) -> Iterator[Any]:
        """Joins subtrees on the workers, some at a time."""
        while some := tuple(islice(sums, _SUMS_JOINED)):
            yield self._pool.keep(_join, *some)

    def _again(self, work: Callable[[], R]) -> R:
        """Do the work; anew when the workers have lost what it needs. Rows in messages get their names."""
        for left in reversed(range(_TRIES)):
            try:
                return work()
            except LostData:
                if not left:
                    raise
                self._shared, self._kept = None, {}
            except InvalidInput as error:
                named = re.sub(r"\brow (\d+)\b", lambda match: self._name(int(match[1])), error.message, count=1)
                raise InvalidInput(named, hint=error.hint) from error
        raise AssertionError("unreachable")


def _cuts(groups: int, n: int, threads: int) -> list[int]:
    """Where n parts of so many groups begin, and the end: each thread's share is the same, within one group.

    Between the parts of a thread lie round numbers, as the tree of sums has them: then a part is few subtrees.
    """
    cuts = [groups * i // n for i in range(n + 1)]
    reach = groups // (3 * n)
    for i in range(1, n):
        if i * threads // n == (i - 1) * threads // n:
            cuts[i] = max(range(cuts[i] - reach, cuts[i] + reach + 1), key=lambda number: number & -number)
    return cuts


def choose_on_workers(pool: DaskPool, engine: str, device: str) -> Chosen:
    """Return the engine and device of all workers. Raise Unavailable or InvalidInput if they differ."""
    kinds = {chosen: worker for worker, chosen in _answers(pool.everywhere(choose, engine, device)).items()}
    if len(kinds) != 1:
        listed = "; ".join(f"{worker}: {kind.engine} on {kind.device}" for kind, worker in kinds.items())
        raise InvalidInput(
            f"the Dask workers differ in what they search with ({listed})", hint="give --engine and --device"
        )
    chosen = next(iter(kinds))
    if not chosen.on_gpu:
        return chosen
    processes = Counter(_answers(pool.everywhere(gpu_identity, chosen.device)).values())
    return replace(chosen, sharers=max(processes.values()))


def require_gpu_room(pool: DaskPool, chosen: Chosen, k: int, dim: int) -> None:
    """Raise Unavailable, with the worker's address, if a GPU has no room for a pass about `k` centroids."""
    if chosen.on_gpu:
        _answers(pool.everywhere(_require_gpu_room, chosen, k, dim))


def _require_gpu_room(chosen: Chosen, k: int, dim: int) -> None:
    from qrp_store.kmeans.torch_points import require_room

    require_room(chosen.device, k, dim, chosen.sharers)


def _answers(answers: dict[str, R | QrpStoreError]) -> dict[str, R]:
    """Return what the workers answered. Raise the first error."""
    values: dict[str, R] = {}
    for worker, answer in answers.items():
        if isinstance(answer, QrpStoreError):
            raise answer
        values[worker] = answer
    return values


def require_readable(source: Blocks, pool: DaskPool, where: str) -> None:
    """Raise Unavailable, naming the worker, if one cannot read the arrays although this process can."""
    index = next(i for i in range(source.n_blocks) if source.rows_of(i)[1])
    source.read(index)
    for worker, answer in pool.everywhere(_reads, pool.share(source), index).items():
        if isinstance(answer, QrpStoreError):
            reason = answer.message.removeprefix(f"worker {worker}: ")
            raise Unavailable(
                f"Dask worker {worker} cannot read the arrays at {where}: {reason}",
                hint="every worker needs them at the same path, or the same S3 credentials in its environment",
            ) from answer


def read_rows(source: Blocks, normalize: bool, first: int, last: int) -> Float32:
    """Return rows [first, last) of the blocks, float32 (last - first, d)."""
    out = np.empty((last - first, source.dim), np.float32)
    index = bisect_right(range(source.n_blocks), first, key=lambda i: source.rows_of(i)[0]) - 1
    filled = 0
    while filled < len(out):
        start, count = source.rows_of(index)
        if count:
            rows = source.read(index)
            if rows.shape != (count, source.dim):
                raise InvalidInput(f"block {index} gave {rows.shape}, not {(count, source.dim)}")
            part = rows[max(0, first - start) : last - start]
            out[filled : filled + len(part)] = part
            filled += len(part)
        index += 1
    return unit(out, first, row_number) if normalize else out


Source: TypeAlias = tuple[Blocks, bool, "Float32 | None"]
"""Blocks, whether their rows are normalised, and what is subtracted from them then."""


def _read(shared: Source, first: int, last: int, chosen: Chosen) -> Held:
    """Rows [first, last), as a worker keeps them: where they are summed on a device, as points that may stay there."""
    source, normalize, origin = shared
    rows = read_rows(source, normalize, first, last)
    if origin is not None:
        rows -= origin
    return on_device(first, rows, chosen) if chosen.on_gpu else rows


def on_device(first: int, rows: Float32, chosen: Chosen) -> TorchPoints:
    """Return rows from number `first` on as points whose passes run on a torch device."""
    from qrp_store.kmeans.torch_points import TorchPoints

    name = partial(_row_after, first)
    return TorchPoints(
        MemoryPoints(rows), device=chosen.device, engine=chosen.engine, sharers=chosen.sharers, name=name
    )


def _row_after(first: int, row: int) -> str:
    return row_number(first + row)


def _read_and(function: Callable[..., R], shared: Source, first: int, last: int, chosen: Chosen, *arguments: Any) -> R:
    return function(first, _read(shared, first, last, chosen), *arguments)


def _pick(first: int, rows: Held, numbers: Rows) -> Float32:
    return rows[numbers] if isinstance(rows, np.ndarray) else rows.sample(numbers)


def _step(first: int, rows: Held, centroids: Float32, chosen: Chosen, size: int) -> list[Subtree[Step]]:
    if not isinstance(rows, np.ndarray):
        return rows.subtrees(centroids, first // size)
    groups = (Group(first + i, rows[i : i + size]) for i in range(0, len(rows), size))
    return subtrees_pass(groups, centroids, Engine(chosen.nearest()), row_number, first // size)


def _join(*parts: list[Subtree[Step]]) -> list[Subtree[Step]]:
    return joined(chain.from_iterable(parts))


def _assign(first: int, rows: Held, centroids: Float32, chosen: Chosen, size: int) -> tuple[Labels, Float32]:
    if not isinstance(rows, np.ndarray):
        return rows.assign(centroids)
    groups = (Group(i, rows[i : i + size]) for i in range(0, len(rows), size))
    engine = Engine(chosen.nearest())
    return assign_pass(groups, len(rows), centroids, engine, lambda row: row_number(first + row))


def _reads(source: Blocks, index: int) -> int:
    return len(source.read(index))
