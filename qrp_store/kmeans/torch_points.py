"""Points that are searched and summed on a GPU: resident if they fit, else copied there in every pass.

The host waits for the device once a pass, not once a group. So counts come from searchsorted, and segment_reduce is not
checked: bincount and the check would each wait for a number.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from qrp_store.device import float32_arithmetic, free_bytes, memory_errors
from qrp_store.errors import InvalidInput, Unavailable
from qrp_store.kmeans.nearest import Float32, Labels
from qrp_store.kmeans.passes import Means, Step, Subtree, group_rows, joined, total
from qrp_store.kmeans.points import MemoryPoints, Points, Rows, StreamedPoints, row_number
from qrp_store.kmeans.torch_nearest import nearest, on_device, prepared, squared
from qrp_store.kmeans.torch_transfer import copied_to

_LEFT = 0.4  # of the GPU's memory: sums, distances and copies of a group need it
_SCRATCH = 1 << 28  # bytes that distances, or float64 copies, may take at a time
_LATE = 32  # groups whose assignments wait on the device before they are fetched
_GROUPS_IN_FLIGHT = 3
_SUMS_HELD = 24  # a tree over a million groups, and a few while two are added
_NONE = int(np.iinfo(np.int64).max)  # no row


@dataclass(frozen=True)
class _Group:
    """Consecutive rows on the device: number of the first, the rows (m, d), their squared norms (m,)."""

    start: int
    rows: torch.Tensor
    squares: torch.Tensor


class TorchPoints:
    """The points of `inner`, with steps and assignments on a torch device.

    Sums are float64, taken cluster by cluster in the order of the rows, so a pass repeats itself to the bit on one
    device. Against the CPU engines distances agree to float32 rounding (about 1e-6 of the squared norms), and so do
    sums, except for rows that are equally near to two centroids. `budget` (bytes) bounds the rows that stay on the
    device; None: as much as leaves two fifths of its memory free, shared by `sharers` processes. `engine`: "torch" or
    "faiss", which searches. Raise Unavailable if the device's memory is too small for one group.
    """

    def __init__(
        self,
        inner: MemoryPoints | StreamedPoints,
        *,
        device: str = "cuda",
        engine: str = "torch",
        sharers: int = 1,
        budget: int | None = None,
        name: Callable[[int], str] = row_number,
    ) -> None:
        self._inner, self._device, self._name = inner, torch.device(device), name
        self._engine, self._sharers = engine, sharers
        self._budget = budget
        self._held: list[_Group] | None = None
        self._held_size = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None}  # another process copies the rows to its device

    @property
    def count(self) -> int:
        return self._inner.count

    @property
    def dim(self) -> int:
        return self._inner.dim

    def sample(self, rows: Rows) -> Float32:
        return self._inner.sample(rows)

    def glimpse(self, rows: Rows) -> Float32:
        return self._inner.glimpse(rows)

    def about(self, origin: Float32 | None) -> TorchPoints:
        moved = copy(self)
        moved._inner, moved._held = self._inner.about(origin), None
        return moved

    def subset(self, rows: Rows | None) -> Points:
        name = self._name if rows is None else (lambda row: self._name(int(rows[row])))
        return TorchPoints(
            self._inner.subset(rows),
            device=str(self._device),
            engine=self._engine,
            sharers=self._sharers,
            budget=self._budget,
            name=name,
        )

    def step(self, centroids: Float32) -> Step:
        with self._partials(centroids, 0) as partials:
            whole = total(partials)
        self._refuse(int(whole.bad))
        return whole.step()

    def means(self, centroids: Float32) -> Means:
        with self._partials(centroids, 0) as partials:
            means, bad = total(partials).means()
        self._refuse(bad)
        return means

    def subtrees(self, centroids: Float32, first: int) -> list[Subtree[Step]]:
        """Return a step's sums as subtrees, for points whose first group is number `first` of a larger set."""
        with self._partials(centroids, first) as partials:
            trees = joined(partials)
        self._refuse(min(int(subtree.sum.bad) for subtree in trees))
        return [Subtree(subtree.level, subtree.number, subtree.sum.step()) for subtree in trees]

    def assign(self, centroids: Float32) -> tuple[Labels, Float32]:
        labels, distances = np.empty(self.count, np.int32), np.empty(self.count, np.float32)
        late: list[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]] = []

        def fetch() -> None:
            for start, group_labels, group_distances, bad in late:
                self._refuse(int(bad))
                labels[start : start + len(group_labels)] = group_labels.cpu().numpy()
                distances[start : start + len(group_labels)] = group_distances.cpu().numpy()
            late.clear()

        with self._pass(centroids) as (groups, centers, norms):
            for group in groups:
                group_labels, group_distances = self._search(group, centers, norms)
                # From the differences: exact far from the origin too, as on the CPU.
                exact = [
                    (group.rows[b] - centers[group_labels[b]]).square_().sum(dim=1)
                    for b in _blocks(group, len(centers))
                ]
                late.append(
                    (group.start, group_labels.int(), torch.cat(exact), _first_bad(group.start, group_distances))
                )
                if len(late) == _LATE:
                    fetch()
            fetch()
        return labels, distances

    @contextmanager
    def _partials(self, centroids: Float32, first: int) -> Iterator[Iterator[Subtree[_Partial]]]:
        with self._pass(centroids) as (groups, centers, norms):
            yield (
                Subtree(0, number, self._partial(group, centers, norms)) for number, group in enumerate(groups, first)
            )

    @contextmanager
    def _pass(self, centroids: Float32) -> Iterator[tuple[Iterator[_Group], torch.Tensor, torch.Tensor]]:
        task = f"{len(centroids):,} centroids, {self.dim:,}-d"
        try:
            with memory_errors(self._device, task, "choose a smaller K"), float32_arithmetic():
                centers, norms = prepared(centroids, self._device)
                with closing(self._groups(len(centroids))) as groups:
                    yield groups, centers, norms
        except Unavailable:
            self._held = None
            raise

    def _search(self, group: _Group, centroids: torch.Tensor, norms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        search = nearest
        if self._engine == "faiss":
            from qrp_store.kmeans.torch_faiss import nearest_by_faiss as search
        parts = [search(group.rows[b], group.squares[b], centroids, norms) for b in _blocks(group, len(centroids))]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _partial(self, group: _Group, centroids: torch.Tensor, norms: torch.Tensor) -> _Partial:
        labels, distances = self._search(group, centroids, norms)
        ordered, order = torch.sort(labels, stable=True)
        counts = torch.searchsorted(ordered, torch.arange(len(centroids) + 1, device=labels.device)).diff()
        return _Partial(
            counts,
            _sums(group.rows, order, counts),
            distances.sum(dtype=torch.float64),
            _first_bad(group.start, distances),
        )

    def _groups(self, k: int) -> Generator[_Group, None, None]:
        """Yield the groups of a pass about `k` centroids, on the device."""
        size = group_rows(k, self.dim)
        if self._held is not None and self._held_size == size:
            yield from self._held
            return
        self._held = None
        keep: list[_Group] | None = [] if self._fits() else None
        origin_row = self._inner.origin
        origin = None if origin_row is None else torch.tensor(origin_row, device=self._device)
        with closing(self._inner.groups(k)) as groups, closing(self._brought(groups)) as arrivals:
            for start, brought_rows in arrivals:
                rows = brought_rows if origin is None else self._less(brought_rows, origin)
                squares = [squared(rows[b : b + _rows_at_once(k)]) for b in range(0, len(rows), _rows_at_once(k))]
                group = _Group(start, rows, torch.cat(squares))
                if keep is not None:
                    keep.append(group)
                yield group
        self._held, self._held_size = keep, size

    def _brought(self, groups: Any) -> Generator[tuple[int, torch.Tensor], None, None]:
        if self._device.type == "cuda":
            return copied_to(groups, self._device)
        return ((group.start, on_device(group.rows, self._device)) for group in groups)

    def _less(self, rows: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
        """Return the rows less the origin; in place if they are a copy of the host's."""
        return rows.sub_(origin) if self._device.type == "cuda" else rows - origin

    def _fits(self) -> bool:
        budget = self._budget
        if budget is None:
            budget = free_bytes(self._device, keep=_LEFT, sharers=self._sharers) if self._device.type == "cuda" else 0
        return self.count * self.dim * 4 <= budget

    def _refuse(self, bad: int) -> None:
        if bad < _NONE:
            raise InvalidInput(f"{self._name(bad)} holds values that are not finite, or too large to square")


@dataclass(frozen=True)
class _Partial:
    """A Step on the device, and the number of its first row that cannot be searched."""

    counts: torch.Tensor
    sums: torch.Tensor
    inertia: torch.Tensor
    bad: torch.Tensor

    def __add__(self, other: _Partial) -> _Partial:
        return _Partial(
            self.counts + other.counts,
            self.sums + other.sums,
            self.inertia + other.inertia,
            torch.minimum(self.bad, other.bad),
        )

    def means(self) -> tuple[Means, int]:
        """Return the means, divided on the device in float64, and the first row that cannot be searched."""
        means = (self.sums / self.counts.clamp(min=1)[:, None]).float()
        # one copy of all that is small: each copy waits for the device
        numbers = torch.cat([self.counts, self.bad[None], self.inertia[None].view(torch.int64)]).cpu().numpy()
        return Means(numbers[:-2], means.cpu().numpy(), float(numbers[-1:].view(np.float64)[0])), int(numbers[-2])

    def step(self) -> Step:
        return Step(self.counts.cpu().numpy(), self.sums.cpu().numpy(), float(self.inertia))


def require_room(device: str, k: int, dim: int, sharers: int = 1) -> None:
    """Raise Unavailable if a GPU's free memory, or this process' part of it, is too small for a pass."""
    needed, room = needed_bytes(k, dim), free_bytes(torch.device(device), sharers=sharers)
    if needed > room:
        shared = f" for each of {sharers} processes" if sharers > 1 else ""
        raise Unavailable(
            f"{device} has {room / 1e9:.1f} GB free{shared}; {k:,} centroids, {dim:,}-d, take {needed / 1e9:.1f} GB",
            hint="end other programs that use it, or use fewer processes for each GPU, or choose a smaller K",
        )


def needed_bytes(k: int, dim: int) -> int:
    """Return an upper bound of what a pass takes on a GPU beside resident rows."""
    group, rows = group_rows(k, dim), _rows_at_once(k)
    columns = max(32, _SCRATCH // (8 * group))
    copies = 4 * group * dim * (_GROUPS_IN_FLIGHT + 1)  # groups on their way, and squares of one
    distances = 4 * k * min(rows, group)
    doubles = (4 + 8) * group * min(columns, dim)
    sums = 8 * k * dim * _SUMS_HELD
    return copies + distances + doubles + sums + 8 * k * dim + 64 * group


def _rows_at_once(k: int) -> int:
    """Return how many rows are searched at a time. It depends on K alone, since it can change the last bits."""
    return max(1, _SCRATCH // (4 * k))


def _blocks(group: _Group, k: int) -> list[slice]:
    rows = _rows_at_once(k)
    return [slice(first, first + rows) for first in range(0, len(group.rows), rows)]


def _sums(rows: torch.Tensor, order: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the float64 sums (k, d) of sorted rows. Segments add in a fixed order, unlike index_add_ on a GPU."""
    columns = max(32, _SCRATCH // (8 * len(rows)))
    parts = [
        torch.segment_reduce(
            rows[:, first : first + columns][order].double(), "sum", lengths=counts, axis=0, initial=0.0, unsafe=True
        )
        for first in range(0, rows.shape[1], columns)
    ]
    return torch.cat(parts, dim=1)


def _first_bad(start: int, distances: torch.Tensor) -> torch.Tensor:
    bad = ~distances.isfinite()
    return torch.where(bad.any(), start + bad.to(torch.uint8).argmax(), _NONE)
