"""Fit reverse probes: SGD by the published schedule, or the optimum (see `optimum`)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike

from qrp_store.errors import Interrupted, QrpStoreError
from qrp_store.probing.descent import CpuDescent, Descent
from qrp_store.probing.device import torch, using_threads
from qrp_store.probing.objective import CrossEntropy, Objective, log_frequencies, square
from qrp_store.probing.optimum import Optimum, optimum, tightest
from qrp_store.probing.resident import ResidentDescent
from qrp_store.probing.reverse import Epoch, ProbeFit, ProbeOptions
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.probing.stack import Problem, stacks
from qrp_store.progress import Progress, silent

_EXPLODED = 100.0
"""A running loss of so many times that of guessing is not going to come back."""
_SMALL = 1 << 16
"""Floats of weights and logits in a step, up to which a second thread gains nothing: `benchmarks/probe.py --steps`."""


def fit(
    x_train: ConceptMatrix,
    c_train: ArrayLike,
    x_val: ConceptMatrix,
    c_val: ArrayLike,
    n_clusters: int,
    options: ProbeOptions,
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress = silent,
) -> ProbeFit:
    """Train q(c | y) = softmax(W y + b) on the training part and choose among its epochs by the validation part.

    c_train and c_val are (n,) integers in 0…n_clusters − 1; clusters may be absent from either part. Ours, after
    Laina et al. 2022:

    sgd     W and b start at 0; `numpy.random.default_rng(seed).permutation(n)` gives each epoch's order; the last short
            batch is used, its gradient scaled by its size / `batch_size`; weight decay holds for W and b. The epoch of
            least validation cross-entropy is returned.
            Epoch 0 stands for the model that looks at no concept: W = 0 and b = log((n_k + ½) / (n + K/2)) of the
            training counts (SGD itself still starts from zeros), so that a probe which only overfits scores about 0.
    lbfgs   the minimum of the whole training part's objective, whatever `epochs` says, without early stopping.
    tight   such minima along a path of weight decays, the best by validation cross-entropy (see `optimum.tightest`).
            Starts at W = 0 and b = ln f, f the training frequencies with half a sample added to each cluster, and the
            weight decay pulls b toward ln f: where the concepts say nothing, the probe is those frequencies.

    On the CPU the same input, seed and number of torch threads give the same bits. Small steps of sgd are taken by one
    thread, with the same bits: two would mostly wait for each other, and long on busy cores. Raises InvalidInput for
    parts that do not fit together or are empty, QrpStoreError when training diverges.
    """
    c_train, c_val = np.asarray(c_train), np.asarray(c_val)
    problem = Problem(x_train, c_train, x_val, c_val, n_clusters, options, seed, device)
    (found,) = fit_all([problem], progress)
    if isinstance(found, QrpStoreError):
        raise found
    return found


def fit_all(problems: Iterable[Problem], progress: Progress = silent) -> Iterator[ProbeFit | QrpStoreError]:
    """What `fit` makes of each, in their order; for one that diverges the error that `fit` would raise.

    On a GPU those that follow one another and share options and number of clusters are trained together, as many as
    `stack.stacks` lets; their numbers are those of each alone but for the last digits. Problems are drawn as they are
    needed.
    """
    return chain.from_iterable(map(partial(_fitted, progress), stacks(problems)))


def _fitted(progress: Progress, stack: Sequence[Problem]) -> list[ProbeFit | QrpStoreError]:
    sgd = stack[0].options.solver == "sgd"
    # not under lbfgs, whose sums depend on the number of threads in their last bits
    small = sgd and stack[0].floats <= _SMALL
    with torch.no_grad(), using_threads(1 if small else None):
        found = _descended(stack, progress) if sgd else [_minimum(problem, progress) for problem in stack]
        return [
            answer if isinstance(answer, QrpStoreError) else _report(problem, answer)
            for problem, answer in zip(stack, found, strict=True)
        ]


def _minimum(problem: Problem, progress: Progress) -> Optimum | QrpStoreError:
    options, place = problem.options, problem.place
    objective = _objective(problem)
    validation = CrossEntropy([(problem.x_val, problem.c_val)], problem.n_clusters, place)
    start = torch.zeros(problem.shape, device=place)
    if options.protocol == "tight":
        start[-1] = torch.from_numpy(log_frequencies(problem.c_train, problem.n_clusters))
    search = tightest if options.protocol == "tight" else optimum
    try:
        return search(objective, validation, start, options.weight_decay, progress)
    except Interrupted:
        raise
    except QrpStoreError as error:
        return error


def _objective(problem: Problem) -> Objective:
    """What the training minimises: under tight the bias decays toward the log frequencies, else toward 0."""
    x, c, k = problem.x_train, problem.c_train, problem.n_clusters
    center = log_frequencies(c, k) if problem.options.protocol == "tight" else None
    return Objective(x, c, k, problem.place, bias_decays_to=center)


def _descended(stack: Sequence[Problem], progress: Progress) -> list[Optimum | QrpStoreError]:
    """By sgd, together; a stack for which there is too little memory after all, one by one."""
    try:
        return _sgd(stack, progress)
    except RuntimeError as error:  # torch's for too little memory while a step is recorded may be any of these
        if len(stack) == 1:
            raise
        told = str(error).partition("\n")[0]
    # here, where the error no longer keeps the stack's tensors
    progress.note(f"{stack[0].place} could not train {len(stack)} probes at once; one after another ({told})")
    return [found for problem in stack for found in _sgd([problem], progress)]


class _Course:
    """One probe's way through its epochs: its table as it stands, the best so far, both (M + 1, K), and how they went.

    `best` becomes the model that looks at no concept, with which it begins.
    """

    def __init__(self, problem: Problem, table: torch.Tensor, best: torch.Tensor) -> None:
        self.problem, self._table, self._best_table = problem, table, best
        self.error: QrpStoreError | None = None
        best[-1] = _frequencies(problem)

    def begin(self, val_cross_entropy: float) -> None:
        self._best = Epoch(0, None, val_cross_entropy, self.problem.options.weight_decay)
        self._history = [self._best]

    def go_on(self, loss: float, val_cross_entropy: float) -> None:
        """After an epoch of this summed cross-entropy. One that diverged stays where it is."""
        if self.error is not None:
            return
        epoch, mean, options = len(self._history), loss / len(self.problem.c_train), self.problem.options
        if not mean <= _EXPLODED * (1 + math.log(self.problem.n_clusters)):
            self.error = QrpStoreError(
                f"training diverged in epoch {epoch}: mean loss {mean:.3g} nats at learning rate {options.lr}",
                hint="lower the learning rate",
            )
            return
        self._history.append(Epoch(epoch, mean, val_cross_entropy, options.weight_decay))
        if val_cross_entropy < self._best.val_cross_entropy:
            self._best = self._history[-1]
            self._best_table.copy_(self._table)

    def end(self, train_s: float, val_s: float) -> Optimum | QrpStoreError:
        if self.error is not None:
            return self.error
        options, best = self.problem.options, self._best.epoch
        history = tuple(self._history)
        return Optimum(self._best_table, options.weight_decay, options.epochs, best, history, train_s, val_s)


def _sgd(stack: Sequence[Problem], progress: Progress) -> list[Optimum | QrpStoreError]:
    """Each one's best epoch, all trained at once; its seconds are its share."""
    options, k, place = stack[0].options, stack[0].n_clusters, stack[0].place
    parts = [(problem.x_train, problem.c_train) for problem in stack]
    by_itself = place.type == "cpu" and len(stack) == 1
    descent: Descent = CpuDescent(*parts[0], k, options) if by_itself else ResidentDescent(parts, k, options, place)
    validation = CrossEntropy([(problem.x_val, problem.c_val) for problem in stack], k, place)
    best, heights = torch.zeros_like(descent.table), [problem.shape[0] for problem in stack]
    courses = list(map(_Course, stack, torch.split(descent.table, heights), torch.split(best, heights)))
    began = time.perf_counter()
    for course, value in zip(courses, validation.each(best), strict=True):
        course.begin(value)
    train_s, val_s = 0.0, time.perf_counter() - began
    # those of one seed and length are shuffled once
    keys = [(problem.seed, len(problem.x_train)) for problem in stack]
    shuffles = {(seed, n): np.random.default_rng(seed) for seed, n in keys}
    with progress.task("probe", options.epochs, "epoch") as task:
        for epoch in range(1, options.epochs + 1):
            began = time.perf_counter()
            orders = {key: rng.permutation(key[1]) for key, rng in shuffles.items()}
            losses = descent.epoch([orders[key] for key in keys], options.lr_at(epoch))
            trained = time.perf_counter()
            for course, loss, value in zip(courses, losses, validation.each(descent.table), strict=True):
                course.go_on(loss, value)
            train_s, val_s = train_s + trained - began, val_s + time.perf_counter() - trained
            if all(course.error for course in courses):
                break
            task.advance()
    return [course.end(train_s / len(stack), val_s / len(stack)) for course in courses]


def _frequencies(problem: Problem) -> torch.Tensor:
    """The bias of a model that knows the clusters' training frequencies and nothing else, centred; float32 (K,)."""
    log_p = log_frequencies(problem.c_train, problem.n_clusters)
    return torch.from_numpy((log_p - log_p.mean()).astype(np.float32)).to(problem.place)


def _report(problem: Problem, found: Optimum) -> ProbeFit:
    began = time.perf_counter()
    loss, gradient = _objective(problem)(found.table, found.weight_decay)
    table = found.table.cpu().numpy()
    return ProbeFit(
        weight=np.ascontiguousarray(table[:-1].T),
        bias=table[-1].copy(),
        train_loss=loss,
        grad_norm=math.sqrt(square(gradient)),
        weight_decay=found.weight_decay,
        epochs_run=found.epochs_run,
        best_epoch=found.best_epoch,
        history=found.history,
        timings={"train_s": found.train_s, "val_s": found.val_s + time.perf_counter() - began},
        options=problem.options,
        device=str(problem.place),
        n_train=len(problem.c_train),
        n_val=len(problem.c_val),
        cluster_counts=np.bincount(np.concatenate((problem.c_train, problem.c_val)), minlength=problem.n_clusters),
    )
