"""SGD of the probe on a CPU: momentum and weight decay as in `torch.optim.SGD`, in two passes over the table a step.

With gradient g, momentum μ, weight decay λ and learning rate η a step is m ← μ m + g + λ W, W ← W − η m. Done as it
stands, the λ W costs a pass of its own. But where c solves η μ c² − (1 − μ − η λ) c + λ = 0, the vector U = W − m / c
moves without looking at W,

    U ← μ (1 + η c) U − (1 + η c) / c g        W ← W + η c / (1 + η c) (U − W)

and g need never be written down: the sum over samples goes straight into U. It is the same W in exact arithmetic, and
no less exact in float32: U is as much larger than m as it counts less. Where no such c exists (λ = 0, or a large η λ),
the step is done as it stands.

g is the sum over the batch divided by `batch_size`, so a short last batch counts by its share. Divided by its own
size, a batch of a few samples would take a full step at a high learning rate, and the score would depend on n modulo
`batch_size`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qrp_store.probing.device import torch
from qrp_store.probing.objective import batches, residuals, with_bias
from qrp_store.probing.reverse import ProbeOptions
from qrp_store.probing.sparse import ConceptMatrix

_NO_DECAY = 1e-20
"""A c below this changes no float32 within any number of steps, and 1 / c might not be one."""


class Descent(Protocol):
    """SGD of one probe or of several, each over its own training part, from zeros."""

    @property
    def table(self) -> torch.Tensor:
        """Weights and bias as they stand, float32 (M + 1, K) for each probe, one below the other."""

    def epoch(self, orders: Sequence[NDArray[np.int64]], lr: float) -> list[float]:
        """One pass of each probe over all its samples in its order; each one's summed cross-entropy as it was met."""


class CpuDescent:
    """The one described above, of a single probe; `fit` says what its bits depend on."""

    def __init__(self, x: ConceptMatrix, clusters: NDArray[np.int64], n_clusters: int, options: ProbeOptions) -> None:
        self._x, self._clusters, self._options = with_bias(x), clusters, options
        self.table = torch.zeros((x.n_concepts + 1, n_clusters))
        self._c = 0.0
        self._other = torch.zeros_like(self.table)  # m; or U, where c is above 0

    def epoch(self, orders: Sequence[NDArray[np.int64]], lr: float) -> list[float]:
        (order,) = orders
        self._change(coupling(lr, self._options.momentum, self._options.weight_decay))
        loss = torch.zeros((), dtype=torch.float64)
        cpu = self.table.device
        for batch in batches(self._x, self._clusters, self._options.batch_size, cpu, order=order, transposed=True):
            assert batch.samples is not None
            losses, residual = residuals(batch, self.table)
            loss += losses.sum(dtype=torch.float64)
            keep, scale = self._options.momentum, 1 / self._options.batch_size
            if self._c > 0:
                reach = lr * self._c
                batch.samples.sum_into(
                    self._other, residual, keep=keep * (1 + reach), scale=-scale * (1 + reach) / self._c
                )
                self.table.lerp_(self._other, reach / (1 + reach))
            else:
                batch.samples.sum_into(self._other, residual, keep=keep, scale=scale)
                self._other.add_(self.table, alpha=self._options.weight_decay)
                self.table.add_(self._other, alpha=-lr)
        return [float(loss)]

    def _change(self, c: float) -> None:
        """Go on with another c."""
        if c == self._c:
            return
        if self._c > 0:
            self._other.sub_(self.table).mul_(-self._c)
        if c > 0:
            self._other.mul_(-1 / c).add_(self.table)
        self._c = c


def coupling(lr: float, momentum: float, weight_decay: float) -> float:
    """The smaller c; 0 where there is none, or no weight decay to speak of."""
    slope = 1 - momentum - lr * weight_decay
    inside = slope * slope - 4 * lr * momentum * weight_decay
    if slope <= 0 or inside < 0:
        return 0.0
    c = 2 * weight_decay / (slope + math.sqrt(inside))
    return c if c > _NO_DECAY else 0.0
