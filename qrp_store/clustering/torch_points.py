"""Points that are searched and summed where a GPU has them: resident when they fit, else sent over in every pass."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch

from qrp_store.clustering.nearest import Float32, Labels
from qrp_store.clustering.passes import Step, Subtree, group_rows, total
from qrp_store.clustering.points import MemoryPoints, Points, Rows, StreamedPoints, row_number
from qrp_store.clustering.torch_nearest import exact_products, nearest, prepared
from qrp_store.errors import InvalidInput

_SHARE = 0.6  # of the free GPU memory: sums, distances and copies of a group need the rest
_NONE = int(np.iinfo(np.int64).max)  # no row
Held = list[tuple[int, torch.Tensor]]


class TorchPoints:
    """The points of `inner`, with steps and assignments on a torch device.

    Sums are float64, taken cluster by cluster in the order of the rows, so a pass repeats itself to the bit on one
    device. Against the CPU engines distances agree to float32 rounding (about 1e-6 of the squared norms), and so do
    sums but for rows that are as near to two centroids. `budget` (bytes) bounds what stays on the device; None: a
    share of its free memory.
    """

    def __init__(
        self,
        inner: MemoryPoints | StreamedPoints,
        *,
        device: str = "cuda",
        budget: int | None = None,
        name: Callable[[int], str] = row_number,
    ) -> None:
        self._inner, self._device, self._name = inner, torch.device(device), name
        self._budget = budget
        self._held: Held | None = None
        self._held_size = 0

    @property
    def count(self) -> int:
        return self._inner.count

    @property
    def dim(self) -> int:
        return self._inner.dim

    def sample(self, rows: Rows) -> Float32:
        return self._inner.sample(rows)

    def subset(self, rows: Rows | None) -> Points:
        name = self._name if rows is None else (lambda row: self._name(int(rows[row])))
        return TorchPoints(self._inner.subset(rows), device=str(self._device), budget=self._budget, name=name)

    def step(self, centroids: Float32) -> Step:
        own, norms = prepared(centroids, self._device)

        def partials(groups: Iterable[tuple[int, torch.Tensor]]) -> Generator[Subtree[_Partial], None, None]:
            for number, (start, rows) in enumerate(groups):
                labels, distances = nearest(rows, own, norms)
                yield Subtree(0, number, _partial(start, rows, labels, distances, len(centroids)))

        with exact_products(), closing(self._groups(len(centroids))) as groups:
            whole = total(partials(groups))
        self._refuse(int(whole.bad))
        return Step(whole.counts.cpu().numpy(), whole.sums.cpu().numpy(), float(whole.inertia))

    def assign(self, centroids: Float32) -> tuple[Labels, Float32]:
        own, norms = prepared(centroids, self._device)
        labels, distances = np.empty(self.count, np.int32), np.empty(self.count, np.float32)
        with exact_products(), closing(self._groups(len(centroids))) as groups:
            for start, rows in groups:
                found, apart = nearest(rows, own, norms)
                self._refuse(int(_first_bad(start, apart)))
                part = slice(start, start + len(rows))
                labels[part] = found.cpu().numpy()
                # From the differences: exact far from the origin too, as on the CPU.
                distances[part] = (rows - own[found]).square_().sum(dim=1).cpu().numpy()
        return labels, distances

    def _groups(self, k: int) -> Generator[tuple[int, torch.Tensor], None, None]:
        """First row and rows, on the device, of each group."""
        size = group_rows(k, self.dim)
        if self._held is not None and self._held_size == size:
            yield from self._held
            return
        self._held = None
        keep: Held | None = [] if self._fits() else None
        with closing(self._inner.groups(k)) as groups:
            for group in groups:
                # The copy of the next group runs while the device still works on this one.
                rows = torch.tensor(group.rows, device=self._device)
                if keep is not None:
                    keep.append((group.start, rows))
                yield group.start, rows
        self._held, self._held_size = keep, size

    def _fits(self) -> bool:
        budget = self._budget
        if budget is None:
            budget = int(torch.cuda.mem_get_info(self._device)[0] * _SHARE) if self._device.type == "cuda" else 0
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


def _partial(start: int, rows: torch.Tensor, labels: torch.Tensor, distances: torch.Tensor, k: int) -> _Partial:
    counts = torch.bincount(labels, minlength=k)
    order = torch.argsort(labels, stable=True)
    # Sums of sorted segments have a fixed order; those of index_add_ on a GPU have not.
    sums = torch.segment_reduce(rows[order].double(), "sum", lengths=counts, axis=0, initial=0.0)
    return _Partial(counts, sums, distances.sum(dtype=torch.float64), _first_bad(start, distances))


def _first_bad(start: int, distances: torch.Tensor) -> torch.Tensor:
    bad = ~distances.isfinite()
    return torch.where(bad.any(), start + bad.to(torch.uint8).argmax(), _NONE)
