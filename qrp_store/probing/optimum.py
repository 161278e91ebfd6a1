"""The minimum of the probe's objective: full-batch L-BFGS that stops by a certificate, and a path of weight decays."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from qrp_store.errors import QrpStoreError
from qrp_store.probing.device import torch
from qrp_store.probing.objective import CrossEntropy, Objective, square
from qrp_store.probing.reverse import CERTIFICATE, Epoch
from qrp_store.progress import Progress

PATH = tuple(10 ** (-step / 2) for step in range(4, 15))
"""Weight decays that protocol tight walks down: 1e-2, 3.2e-3, … 1e-7."""
_AIM = CERTIFICATE / 10
_ITERATIONS = 20
_MEMORY = 10
_LIMIT = 20_000
_PATIENCE = 2


@dataclass(frozen=True, eq=False)
class Optimum:
    """What a search ends with: the table (M + 1, K) of weights and bias on its device, and how it got there."""

    table: torch.Tensor
    weight_decay: float
    epochs_run: int
    best_epoch: int
    history: tuple[Epoch, ...] = field(repr=False)
    train_s: float
    val_s: float


@dataclass
class _Walk:
    """Where a search stands: the table, how many passes it took, what it saw, how long it worked."""

    table: torch.Tensor
    passes: int = 0
    train_s: float = 0.0
    val_s: float = 0.0
    history: list[Epoch] = field(default_factory=list)

    def validate(self, validation: CrossEntropy, loss: float | None, weight_decay: float) -> Epoch:
        began = time.perf_counter()
        seen = Epoch(self.passes, loss, validation(self.table), weight_decay)
        self.val_s += time.perf_counter() - began
        self.history.append(seen)
        return seen

    def done(self, table: torch.Tensor, best: Epoch) -> Optimum:
        history = tuple(self.history)
        return Optimum(table, best.weight_decay, self.passes, best.epoch, history, self.train_s, self.val_s)


def optimum(
    objective: Objective,
    validation: CrossEntropy,
    shape: tuple[int, int],
    weight_decay: float,
    device: torch.device,
    progress: Progress,
) -> Optimum:
    """The minimum at one weight decay, for a table of `shape` (M + 1, K). Validation is looked at, never obeyed."""
    walk = _Walk(torch.zeros(shape, device=device))
    walk.validate(validation, None, weight_decay)
    with progress.task("probe", None, "pass") as task:
        loss = _descend(objective, walk, weight_decay, progress, task.advance)
    best = walk.validate(validation, loss, weight_decay)
    return walk.done(walk.table, best)


def tightest(
    objective: Objective,
    validation: CrossEntropy,
    shape: tuple[int, int],
    weight_decay: float,
    device: torch.device,
    progress: Progress,
) -> Optimum:
    """The minimum at the weight decay of PATH with the least validation cross-entropy; `weight_decay` is not used.

    Walks down from the strongest, each started from the last, and stops early once validation has risen twice running:
    the weakest ones take longest and, past its minimum, validation only rises.
    """
    walk = _Walk(torch.zeros(shape, device=device))
    walk.validate(validation, None, PATH[0])
    best, kept, risen = None, walk.table, 0
    with progress.task("probe path", len(PATH), "weight decay") as task:
        for decay in PATH:
            loss = _descend(objective, walk, decay, progress, lambda amount: None)
            seen = walk.validate(validation, loss, decay)
            task.advance()
            if best is None or seen.val_cross_entropy < best.val_cross_entropy:
                best, kept, risen = seen, walk.table.clone(), 0
            else:
                risen += 1
            if risen == _PATIENCE:
                break
    assert best is not None
    return walk.done(kept, best)


def _descend(
    objective: Objective, walk: _Walk, weight_decay: float, progress: Progress, advance: Callable[[int], None]
) -> float:
    """Take `walk` to the minimum at a weight decay; the objective there. Warns when it cannot be reached."""
    began = time.perf_counter()
    search = torch.optim.LBFGS(
        [walk.table],
        max_iter=_ITERATIONS,
        history_size=_MEMORY,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    seen: list[tuple[float, float]] = []

    def evaluate() -> float:
        loss, gradient = objective(walk.table, weight_decay)
        if not math.isfinite(loss):
            raise QrpStoreError(f"the optimum was not found: the loss became {loss} at weight decay {weight_decay:g}")
        walk.table.grad = gradient.float()
        seen.append((loss, square(gradient) / (2 * weight_decay)))
        walk.passes += 1
        advance(1)
        return loss

    last = math.inf
    while True:
        loss, gap = evaluate(), seen[-1][1]
        stuck = not loss < last
        if gap <= _AIM or stuck or walk.passes >= _LIMIT:
            break
        last = loss
        search.step(evaluate)  # type: ignore[no-untyped-call]
    if gap > CERTIFICATE:
        progress.warn(f"weight decay {weight_decay:g}: within {gap:.2g} nats of the optimum, not {CERTIFICATE:g}")
    walk.train_s += time.perf_counter() - began
    return loss
