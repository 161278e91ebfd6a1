"""The minimum of the probe's objective: full-batch L-BFGS that stops by a certificate, and a path of weight decays."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from qrp_store.errors import QrpStoreError
from qrp_store.probing.device import torch
from qrp_store.probing.objective import CrossEntropy, Objective, square
from qrp_store.probing.reverse import CERTIFICATE, Epoch
from qrp_store.progress import Progress

PATH = tuple(10 ** (-step / 2) for step in range(15))
"""Weight decays that protocol tight walks down: 1, 0.32, 0.1, … 1e-7."""
_AIM = CERTIFICATE / 10
_CLOSE = CERTIFICATE / 100
"""What one minimum is taken to; on a path those that are not chosen need no such care."""
_BURST = 10
"""Steps of L-BFGS between two looks at the validation part."""
_MEMORY = 10
_LIMIT = 20_000
_PATIENCE = 2
_CLEAR = 2.0
"""Standard errors by which a probe must validate better than the strongest weight decay's, which is nearly constant."""
_FLOOR = 1e-9
"""Nats: no aim is closer, since float32 shows nothing below."""


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
    start: torch.Tensor,
    weight_decay: float,
    progress: Progress,
) -> Optimum:
    """The minimum at one weight decay, from the table `start` (M + 1, K), which is changed.

    The validation part is only recorded; it decides nothing.
    """
    walk = _Walk(start)
    walk.validate(validation, None, weight_decay)
    with progress.task("probe", None, "pass") as task:
        loss, gap = _descend(objective, walk, weight_decay, _CLOSE, task.advance)
    _warn_unless_certain(gap, weight_decay, progress)
    best = walk.validate(validation, loss, weight_decay)
    return walk.done(walk.table, best)


def tightest(
    objective: Objective,
    validation: CrossEntropy,
    start: torch.Tensor,
    weight_decay: float,
    progress: Progress,
) -> Optimum:
    """The minimum at the weight decay of PATH with the least validation cross-entropy; `weight_decay` is not used.

    Walks down from the strongest, from the table `start` (M + 1, K), each minimum started from the last. Ends once
    validation has risen twice running: at two minima, or at two looks on the way to one. The weakest weight decays
    take longest, and past its minimum validation only rises.

    The minimum at the strongest weight decay, which is nearly the model without concepts, stays the choice unless the
    best one validates better by _CLEAR standard errors (paired by sample): among a dozen probes that know nothing, the
    one of least validation cross-entropy is worse on held-out samples.
    """
    walk = _Walk(start)
    best, kept, left, risen = walk.validate(validation, None, PATH[0]), walk.table, 0.0, 0
    plainest = best, kept, left
    with progress.task("probe path", len(PATH), "weight decay") as task:
        for decay in PATH:
            first = best.epoch == 0
            watched = None if first else _Watch(validation, best.val_cross_entropy)
            loss, gap = _descend(objective, walk, decay, _AIM, lambda amount: None, watched)
            seen = walk.validate(validation, loss, decay)
            task.advance()
            if watched is not None and watched.risen == _PATIENCE:
                break
            needed = CERTIFICATE if gap > CERTIFICATE else 0.0  # where the minimum is not known, it must be clear
            if first or seen.val_cross_entropy < best.val_cross_entropy - needed:
                best, kept, left, risen = seen, walk.table.clone(), gap, 0
            else:
                risen += 1
            if first:
                plainest = best, kept, left
            if risen == _PATIENCE:
                break
    if not _clearly_better(validation, kept, plainest[1]):
        best, kept, left = plainest
    _warn_unless_certain(left, best.weight_decay, progress)
    return walk.done(kept, best)


def _clearly_better(validation: CrossEntropy, table: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether a table validates better than another by _CLEAR standard errors of the paired difference."""
    gains = (validation.samples(other) - validation.samples(table)).double()
    return len(gains) > 1 and float(gains.mean()) > _CLEAR * float(gains.std()) / math.sqrt(len(gains))


def _warn_unless_certain(gap: float, weight_decay: float, progress: Progress) -> None:
    if gap > CERTIFICATE:
        progress.warn(f"weight decay {weight_decay:g}: within {gap:.2g} nats of the optimum, not {CERTIFICATE:g}")


@dataclass
class _Watch:
    """Looks at the validation part during a descent: how often running it was worse than `best`."""

    validation: CrossEntropy
    best: float
    risen: int = 0

    def look(self, table: torch.Tensor) -> None:
        self.risen = self.risen + 1 if self.validation(table) > self.best else 0


class _Reached(Exception):
    """The certificate holds for the table as it is."""


class _Descent:
    """The objective at a weight decay and its gradient, for a search over the walk's table to ask for."""

    def __init__(
        self, objective: Objective, walk: _Walk, weight_decay: float, aim: float, advance: Callable[[int], None]
    ) -> None:
        self._objective, self._walk, self._weight_decay = objective, walk, weight_decay
        self._aim, self._advance = aim, advance
        self._walk_begins = True
        self._at = torch.full_like(walk.table, math.nan)
        self.loss = self.gap = math.inf

    def __call__(self) -> float:
        """The objective; raises _Reached when what is left to gain is at most `aim`."""
        table = self._walk.table
        if torch.equal(self._at, table):  # a burst begins where the last one ended
            return self.loss
        self.loss, gradient = self._objective(table, self._weight_decay)
        if not math.isfinite(self.loss):
            told = f"the loss became {self.loss} at weight decay {self._weight_decay:g}"
            raise QrpStoreError(f"the optimum was not found: {told}")
        self.gap = square(gradient) / (2 * self._weight_decay)
        if self._walk_begins:  # near a minimum from the start: still to be approached, not to be taken for it
            self._aim, self._walk_begins = max(min(self._aim, self.gap / 100), _FLOOR), False
        table.grad = gradient.float()
        self._at.copy_(table)
        self._walk.passes += 1
        self._advance(1)
        if self.gap <= self._aim:
            raise _Reached
        return self.loss


def _descend(
    objective: Objective,
    walk: _Walk,
    weight_decay: float,
    aim: float,
    advance: Callable[[int], None],
    watch: _Watch | None = None,
) -> tuple[float, float]:
    """Take `walk` to within `aim` nats of the minimum at a weight decay, or until `watch` has seen enough.

    The objective there, and the bound on what is left, which float32 may keep above `aim`.
    """
    began, looking_s, last = time.perf_counter(), 0.0, math.inf
    evaluate = _Descent(objective, walk, weight_decay, aim, advance)
    search = torch.optim.LBFGS(
        [walk.table],
        max_iter=_BURST,
        history_size=_MEMORY,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    with suppress(_Reached):
        while walk.passes < _LIMIT:
            search.step(evaluate)  # type: ignore[no-untyped-call]
            if not evaluate() < last:
                break
            last = evaluate.loss
            if watch is not None:
                looked = time.perf_counter()
                watch.look(walk.table)
                looking_s += time.perf_counter() - looked
                if watch.risen == _PATIENCE:
                    break
    walk.val_s += looking_s
    walk.train_s += time.perf_counter() - began - looking_s
    return evaluate.loss, evaluate.gap
