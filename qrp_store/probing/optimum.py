"""Minimise the probe's objective: full-batch L-BFGS that stops by a certificate, and a path of weight decays."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from qrp_store.errors import QrpStoreError
from qrp_store.probing.descent import CrossEntropy, Epoch, Objective, Trained, square
from qrp_store.probing.runtime import torch
from qrp_store.progress import Progress

CERTIFICATE = 1e-3
"""A fit counts as converged when its training loss is provably at most this many nats above the minimum."""
PATH = tuple(10 ** (-step / 2) for step in range(15))
"""Weight decays of protocol tight, in this order: 1, 0.32, 0.1, … 1e-7."""
_AIM = CERTIFICATE / 10
_CLOSE = CERTIFICATE / 100
"""The bound at which the search for a single minimum stops; on a path `_AIM` suffices."""
_BURST = 10
"""Steps of L-BFGS between two evaluations of the validation part."""
_MEMORY = 10
_LIMIT = 20_000
_PATIENCE = 2
_CLEAR = 2.0
"""Standard errors by which a probe must validate better than the strongest weight decay's, which is nearly constant."""
_FLOOR = 1e-9
"""Nats: no aim is closer, since float32 shows nothing below."""


@dataclass
class _Walk:
    """The state of a search: table, number of passes, seconds and history."""

    table: torch.Tensor
    passes: int = 0
    train_s: float = 0.0
    val_s: float = 0.0
    history: list[Epoch] = field(default_factory=list)

    def validate(self, validation: CrossEntropy, loss: float | None, weight_decay: float) -> Epoch:
        began = time.perf_counter()
        epoch = Epoch(self.passes, loss, validation(self.table), weight_decay)
        self.val_s += time.perf_counter() - began
        self.history.append(epoch)
        return epoch

    def done(self, table: torch.Tensor, best: Epoch) -> Trained:
        history = tuple(self.history)
        return Trained(table, best.weight_decay, self.passes, best.epoch, history, self.train_s, self.val_s)


def optimum(
    objective: Objective,
    validation: CrossEntropy,
    start: torch.Tensor,
    weight_decay: float,
    progress: Progress,
) -> Trained:
    """Return the minimum at one weight decay, searched from the table `start` (M + 1, K), which is overwritten.

    The validation cross-entropy is recorded and decides nothing.
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
) -> Trained:
    """Return the minimum at the weight decay of PATH with the least validation cross-entropy. Ignore `weight_decay`.

    The path starts with the strongest weight decay from the table `start` (M + 1, K); each search starts from the last
    minimum. It ends when validation has risen twice in a row: at two minima, or at two evaluations on the way to one.
    Weak weight decays take longest, and after its minimum validation only rises.

    The minimum at the strongest weight decay is nearly the model without concepts. It stays the choice unless the best
    one validates better by _CLEAR standard errors (paired by sample). Otherwise, among a dozen probes without signal,
    the one of least validation cross-entropy would be worse on held-out samples.
    """
    walk = _Walk(start)
    best, table, gap, risen = walk.validate(validation, None, PATH[0]), walk.table, 0.0, 0
    plainest = best, table, gap
    with progress.task("probe path", len(PATH), "weight decay") as task:
        for decay in PATH:
            first = best.epoch == 0
            watched = None if first else _Watch(validation, best.val_cross_entropy)
            loss, new_gap = _descend(objective, walk, decay, _AIM, lambda amount: None, watched)
            epoch = walk.validate(validation, loss, decay)
            task.advance()
            if watched is not None and watched.risen == _PATIENCE:
                break
            needed = CERTIFICATE if new_gap > CERTIFICATE else 0.0  # an uncertain minimum must be clearly better
            if first or epoch.val_cross_entropy < best.val_cross_entropy - needed:
                best, table, gap, risen = epoch, walk.table.clone(), new_gap, 0
            else:
                risen += 1
            if first:
                plainest = best, table, gap
            if risen == _PATIENCE:
                break
    if not _clearly_better(validation, table, plainest[1]):
        best, table, gap = plainest
    _warn_unless_certain(gap, best.weight_decay, progress)
    return walk.done(table, best)


def _clearly_better(validation: CrossEntropy, table: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether a table validates better than another by _CLEAR standard errors of the paired difference."""
    gains = (validation.samples(other) - validation.samples(table)).double()
    return len(gains) > 1 and float(gains.mean()) > _CLEAR * float(gains.std()) / math.sqrt(len(gains))


def _warn_unless_certain(gap: float, weight_decay: float, progress: Progress) -> None:
    if gap > CERTIFICATE:
        progress.warn(f"weight decay {weight_decay:g}: within {gap:.2g} nats of the optimum, not {CERTIFICATE:g}")


@dataclass
class _Watch:
    """Validates during a descent; `risen` counts how often in a row the result was worse than `best`."""

    validation: CrossEntropy
    best: float
    risen: int = 0

    def validate(self, table: torch.Tensor) -> None:
        self.risen = self.risen + 1 if self.validation(table) > self.best else 0


class _Reached(Exception):
    """The certificate holds for the current table."""


class _Descent:
    """The objective at one weight decay as a closure for L-BFGS over the walk's table."""

    def __init__(
        self, objective: Objective, walk: _Walk, weight_decay: float, aim: float, advance: Callable[[int], None]
    ) -> None:
        self._objective, self._walk, self._weight_decay = objective, walk, weight_decay
        self._aim, self._advance = aim, advance
        self._first = True
        self._at = torch.full_like(walk.table, math.nan)
        self.loss = self.gap = math.inf

    def __call__(self) -> float:
        """Return the objective, and leave its gradient in `table.grad`. Raise _Reached when at most `aim` is left."""
        table = self._walk.table
        if torch.equal(self._at, table):  # a burst begins where the last one ended
            return self.loss
        self.loss, gradient = self._objective(table, self._weight_decay)
        if not math.isfinite(self.loss):
            message = f"the loss became {self.loss} at weight decay {self._weight_decay:g}"
            raise QrpStoreError(f"the optimum was not found: {message}")
        self.gap = square(gradient) / (2 * self._weight_decay)
        if self._first:  # a start near the minimum must still be improved
            self._aim, self._first = max(min(self._aim, self.gap / 100), _FLOOR), False
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
    """Move `walk` to within `aim` nats of the minimum at a weight decay, or until `watch` ends the search.

    Return the objective and the bound on what is left, which float32 may keep above `aim`.
    """
    began, validating_s, last = time.perf_counter(), 0.0, math.inf
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
                began_validating = time.perf_counter()
                watch.validate(walk.table)
                validating_s += time.perf_counter() - began_validating
                if watch.risen == _PATIENCE:
                    break
    walk.val_s += validating_s
    walk.train_s += time.perf_counter() - began - validating_s
    return evaluate.loss, evaluate.gap
