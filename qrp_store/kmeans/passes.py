"""One pass over all points, in memory or streamed: search the nearest centroids, and sum the rows of each.

Every number depends only on the points, the centroids, n, K and d. Rows are searched in batches at fixed offsets.
float64 sums are taken within groups of fixed size and added in a binary tree over the groups. So the number of workers,
their order, the layout of blocks on disk and the memory limit change no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from qrp_store.errors import InvalidInput
from qrp_store.execution import run
from qrp_store.kmeans.nearest import Float32, Labels, Nearest, Search

BATCH = 2048  # rows a search: half as many are twice as slow in few dimensions, more only take memory
_GROUP_BYTES = 8 << 20


@dataclass(frozen=True)
class Step:
    """Sums of a Lloyd step: rows per centroid int64 (k,), their sum float64 (k, d), the sum of squared distances."""

    counts: npt.NDArray[np.int64]
    sums: npt.NDArray[np.float64]
    inertia: float

    def __add__(self, other: Step) -> Step:
        return Step(self.counts + other.counts, self.sums + other.sums, self.inertia + other.inertia)

    def means(self) -> Means:
        """Return the centroids' new places, divided in float64."""
        means = np.empty(self.sums.shape, np.float32)
        np.divide(self.sums, np.maximum(self.counts, 1)[:, None], out=means, casting="same_kind")
        return Means(self.counts, means, self.inertia)


@dataclass(frozen=True)
class Means:
    """Result of a Lloyd step: rows per centroid int64 (k,), their mean float32 (k, d; 0 if empty), inertia."""

    counts: npt.NDArray[np.int64]
    means: Float32
    inertia: float


@dataclass(frozen=True)
class Group:
    """Consecutive rows: number of the first one, and the rows float32 (m, d).

    With an `origin`, float32 (d,), the points are the rows less it; `part` and `gather` give them.
    """

    start: int
    rows: Float32
    origin: Float32 | None = None

    def part(self, first: int) -> Float32:
        """The points of a batch, from the group's point `first` on."""
        rows = self.rows[first : first + BATCH]
        return rows if self.origin is None else rows - self.origin

    def gather(self, numbers: npt.NDArray[np.int64]) -> Float32:
        """The points of these numbers within the group."""
        rows = self.rows[numbers]
        if self.origin is not None:
            rows -= self.origin
        return rows


@dataclass(frozen=True)
class Engine:
    """How a pass is computed: the search engine, and how many threads run it in parallel."""

    nearest: Nearest
    workers: int = 1

    def over(self, function: Callable[[Group], Any], groups: Iterable[Group]) -> Generator[Any, None, None]:
        return run(function, groups, workers=self.workers, window=None if self.workers == 1 else self.workers + 1)


def group_rows(k: int, dim: int) -> int:
    """Return the rows of a group: whole batches, at least 8 K (else partial sums outweigh the data), about 8 MiB."""
    rows = max(8 * k, _GROUP_BYTES // (4 * dim), BATCH)
    return -(-rows // BATCH) * BATCH


def step_pass(groups: Iterable[Group], centroids: Float32, engine: Engine, name: Callable[[int], str]) -> Step:
    """Return counts, sums and inertia of all rows. Raise InvalidInput, naming the row, for one that is not finite."""
    return total(subtrees_pass(groups, centroids, engine, name))


def subtrees_pass(
    groups: Iterable[Group], centroids: Float32, engine: Engine, name: Callable[[int], str], first: int = 0
) -> list[Subtree[Step]]:
    """Return the same for consecutive groups, the first of which has number `first`, as subtrees of the whole tree."""
    search = engine.nearest.prepare(centroids)
    k = len(centroids)
    with closing(engine.over(lambda group: _partial(group, search, k, name), groups)) as partials:
        return joined(Subtree(0, number, partial) for number, partial in enumerate(partials, first))


def assign_pass(
    groups: Iterable[Group], count: int, centroids: Float32, engine: Engine, name: Callable[[int], str]
) -> tuple[Labels, Float32]:
    """Return each row's nearest centroid, int32 (count,), and the squared distance to it, float32 (count,).

    Distances are computed from the differences, not from the expanded square that the search uses: they stay exact for
    points far from the origin.
    """
    search = engine.nearest.prepare(centroids)
    labels, distances = np.empty(count, np.int32), np.empty(count, np.float32)

    def assign(group: Group) -> None:
        group_labels, _ = _search(group, search, name)
        labels[group.start : group.start + len(group_labels)] = group_labels
        for first in range(0, len(group_labels), BATCH):
            differences = group.part(first) - centroids[group_labels[first : first + BATCH]]
            distances[group.start + first : group.start + first + len(differences)] = np.einsum(
                "ij,ij->i", differences, differences
            )

    with closing(engine.over(assign, groups)) as done:
        for _ in done:
            pass
    return labels, distances


def _search(group: Group, search: Search, name: Callable[[int], str]) -> tuple[Labels, Float32]:
    parts = [search(group.part(first)) for first in range(0, len(group.rows), BATCH)]
    labels = np.concatenate([p[0] for p in parts])
    if labels.min() < 0:
        row = group.start + int(np.argmax(labels < 0))
        raise InvalidInput(f"{name(row)} holds values that are not finite, or too large to square")
    return labels, np.concatenate([p[1] for p in parts])


def _partial(group: Group, search: Search, k: int, name: Callable[[int], str]) -> Step:
    labels, distances = _search(group, search, name)
    counts = np.bincount(labels, minlength=k)
    sums = np.zeros((k, group.rows.shape[1]))
    order = np.argsort(labels, kind="stable")
    first = 0
    # Gathering each cluster's few rows while they are in the cache beats one large gather, and np.add.at by far.
    for cluster, last in enumerate(np.cumsum(counts).tolist()):
        if last > first:
            np.add.reduce(group.gather(order[first:last]), axis=0, out=sums[cluster])
        first = last
    return Step(counts, sums, float(distances.sum(dtype=np.float64)))


class Summand(Protocol):
    """A value that can be added in a tree: a Step in the host's memory or on a device."""

    def __add__(self, other: Self, /) -> Self: ...


S = TypeVar("S", bound=Summand)


@dataclass(frozen=True)
class Subtree(Generic[S]):
    """A node of the binary tree: the sum, pair by pair, of the 2^level groups from number x 2^level on."""

    level: int
    number: int
    sum: S


def joined(subtrees: Iterable[Subtree[S]]) -> list[Subtree[S]]:
    """Join consecutive subtrees to as few as possible, adding siblings only, as soon as both exist."""
    trees: list[Subtree[S]] = []
    for subtree in subtrees:
        trees.append(subtree)
        while len(trees) > 1 and trees[-1].level == trees[-2].level and trees[-2].number % 2 == 0:
            right, left = trees.pop(), trees.pop()
            trees.append(Subtree(left.level + 1, left.number // 2, left.sum + right.sum))
    return trees


def total(subtrees: Iterable[Subtree[S]]) -> S:
    """Return the sum of all groups: right to left over the joined subtrees, the order of the whole binary tree."""
    held = [subtree.sum for subtree in joined(subtrees)]
    whole = held[-1]
    for part in reversed(held[:-1]):
        whole = part + whole
    return whole
