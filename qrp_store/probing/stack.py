"""Train many probes: on a GPU as many at once as fit and gain by it, on a CPU one after another.

On a GPU a small probe's step takes no longer than its kernels take to start, and a stack of many starts no more of them
(see `resident`). On a CPU a stack gains little: the steps of one small probe stay in a core's cache, those of many do
not (`benchmarks/probe.py --stack`).

Importing this module loads no torch: callers whose work turns out to be empty never need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from qrp_store.device import free_bytes
from qrp_store.errors import QrpStoreError, Unavailable
from qrp_store.progress import Progress, silent

if TYPE_CHECKING:
    import torch

    from qrp_store.probing.train import ProbeFit, Problem

_FILLED = 1 << 22
"""Floats of weights and logits in a step with which its kernels run longer than they take to start: 16 MB, a few
microseconds of a GPU's memory for each pass over them. More probes at once gain nothing."""
_SHARE = 0.5
"""The share of a GPU's free memory that a stack may take by its estimate: other processes and libraries need some."""
_MOST_BYTES = 2 << 30
"""The most a stack may take in any case: the host holds its parts several times over."""
_PASS_BYTES = 1 << 27
"""Memory of a pass over a whole part: its logits twice, and as much again for its entries."""

Key = TypeVar("Key")


def fit_all(
    work: Iterable[tuple[Key, Problem]], progress: Progress = silent
) -> Iterator[tuple[Key, ProbeFit | QrpStoreError]]:
    """Train each problem as `train.fit` does. Yield its key with the fit, or with the error that `fit` would raise.

    Problems are drawn when they are needed, and results come in their order. On a GPU neighbours that share options and
    number of clusters may be trained together: several are then drawn before the first result comes, and their numbers
    are those of each alone but for the last digits.
    """
    return chain.from_iterable(map(partial(_fit, progress), _stacks(work)))


def _fit(progress: Progress, stack: Sequence[tuple[Key, Problem]]) -> Iterable[tuple[Key, ProbeFit | QrpStoreError]]:
    """Train a stack together; when memory is too short after all, one by one."""
    from qrp_store.probing.train import fit_together

    keys, problems = zip(*stack, strict=True)
    fits = fit_together(problems, progress)
    if len(stack) == 1 or not isinstance(fits[0], Unavailable):
        return list(zip(keys, fits, strict=True))
    reason = fits[0].message
    progress.note(f"{problems[0].place} could not train {len(stack)} probes at once; one after another ({reason})")
    return [(key, fit) for key, problem in stack for fit in fit_together([problem], progress)]


def _stacks(work: Iterable[tuple[Key, Problem]]) -> Iterator[list[tuple[Key, Problem]]]:
    """Yield all of them in their order, those in one list to be trained together; each is drawn when it is needed."""
    stack: list[tuple[Key, Problem]] = []
    room = 0
    for key, problem in work:
        if stack and not _fits([*(other for _, other in stack), problem], room):
            yield stack
            stack = []
        if not stack:
            gains = problem.options.solver == "sgd" and 2 * problem.floats <= _FILLED
            room = room_on(problem.place) if gains else 0
        stack.append((key, problem))
        del key, problem  # before the next one is drawn
        if not room:
            yield stack
            stack = []
    if stack:
        yield stack


def room_on(device: torch.device) -> int:
    """Return how many bytes a stack may take on a device; 0: probes are trained one by one there."""
    return min(int(_SHARE * free_bytes(device)), _MOST_BYTES) if device.type == "cuda" else 0


def _fits(stack: Sequence[Problem], room: int) -> bool:
    """Return whether these can be trained together within so many bytes, and gain by it."""
    first = stack[0]
    shared = (first.options, first.n_clusters, first.place)
    steps = [len(problem.x_train) // first.options.batch_size for problem in stack]
    return (
        all((problem.options, problem.n_clusters, problem.place) == shared for problem in stack)
        # steps that only some have are taken unrecorded, so they must be few
        and max(steps) - min(steps) <= 1
        and sum(problem.floats for problem in stack) <= _FILLED
        and needed_bytes(stack) <= room
    )


def needed_bytes(stack: Sequence[Problem]) -> int:
    """Return an upper estimate of the device memory that training these together takes."""
    from qrp_store.probing.resident import GROUP_BYTES, batch_bytes

    k, size, rows = stack[0].n_clusters, stack[0].options.batch_size, sum(p.shape[0] for p in stack)
    # float32: table, momentum, gradient and its pieces, best, and the first two once more while a step is recorded; the
    # final evaluation of one probe's objective is in float64
    tables = 4 * 7 * rows * k + 8 * 3 * max(p.shape[0] for p in stack) * k
    logits = 4 * 3 * len(stack) * size * k
    samples = sum(3 * 8 * len(p.x_train) + 2 * 8 * len(p.x_val) for p in stack)
    entries = sum(2 * 4 * (len(p.x_train.indices) + len(p.x_val.indices)) for p in stack)
    each = max(len(p.x_train.indices) / len(p.x_train) for p in stack) + 1
    batch = batch_bytes(rows, len(stack) * size, int(1.5 * each * len(stack) * size))
    steps = max(len(p.x_train) // size for p in stack) + 1
    return tables + logits + samples + entries + max(batch, min(GROUP_BYTES, steps * batch)) + _PASS_BYTES
