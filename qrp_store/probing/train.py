"""Train reverse probes q(cluster | concepts) = softmax(W y + b): from samples to a `ProbeFit`.

`fit` is the way in. Solver sgd follows the published schedule: `_sgd` below, with the steps of `descent` (on a GPU of
`resident`). Solver lbfgs and protocol tight search the optimum: see `optimum`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qrp_store.device import memory_errors, resolve_device
from qrp_store.errors import Interrupted, InvalidInput, QrpStoreError, Unavailable
from qrp_store.options import ProbeOptions
from qrp_store.probing.descent import (
    CpuDescent,
    CrossEntropy,
    Descent,
    Epoch,
    Objective,
    Trained,
    log_frequencies,
    square,
)
from qrp_store.probing.optimum import CERTIFICATE, optimum, tightest
from qrp_store.probing.resident import ResidentDescent
from qrp_store.probing.runtime import torch, using_threads
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.progress import Progress, silent

_FLAT = 1e-6
"""Without weight decay nothing is provable: a gradient as small as this then counts as converged."""
_EXPLODED = 100.0
"""A mean loss of this many times that of guessing does not come back."""
_SMALL = 1 << 16
"""Floats of weights and logits in a step, up to which a second thread gains nothing: `benchmarks/probe.py --steps`."""


@dataclass(frozen=True, eq=False)
class Problem:
    """The input of a training: samples, options, seed of the shuffles and device (`place`: torch's name of it).

    Each part has n rows of concepts and (n,) clusters, integers in 0…n_clusters − 1. Raise InvalidInput for parts that
    do not fit together or are empty, Unavailable for a missing device.
    """

    x_train: ConceptMatrix
    c_train: NDArray[np.int64]
    x_val: ConceptMatrix
    c_val: NDArray[np.int64]
    n_clusters: int
    options: ProbeOptions
    seed: int
    device: str = "cpu"
    place: torch.device = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "c_train", _checked(self.x_train, self.c_train, self.n_clusters, "training"))
        object.__setattr__(self, "c_val", _checked(self.x_val, self.c_val, self.n_clusters, "validation"))
        object.__setattr__(self, "place", resolve_device(self.device))
        if self.x_train.n_concepts != self.x_val.n_concepts:
            message = f"{self.x_train.n_concepts} concepts in the training part, {self.x_val.n_concepts} in validation"
            raise InvalidInput(message)

    @property
    def parts(self) -> tuple[ConceptMatrix, NDArray[np.int64], ConceptMatrix, NDArray[np.int64]]:
        """Return concepts and clusters of the training and of the validation part."""
        return self.x_train, self.c_train, self.x_val, self.c_val

    @property
    def shape(self) -> tuple[int, int]:
        """Return the shape of the table of weights and bias, (M + 1, K)."""
        return self.x_train.n_concepts + 1, self.n_clusters

    @property
    def floats(self) -> int:
        """Return how many weights and logits a step of sgd reads."""
        return (self.shape[0] + min(len(self.x_train), self.options.batch_size)) * self.n_clusters


def _checked(x: ConceptMatrix, clusters: ArrayLike, n_clusters: int, part: str) -> NDArray[np.int64]:
    c = np.ascontiguousarray(clusters, dtype=np.int64)
    if n_clusters < 2:
        raise InvalidInput(f"{n_clusters} clusters: a probe needs at least 2")
    if c.shape != (len(x),):
        raise InvalidInput(f"{part} part: {len(x)} rows of concepts for {c.shape} clusters")
    if len(c) == 0:
        raise InvalidInput(f"the {part} part is empty", hint="use fewer clusters, or more samples")
    if not 0 <= c.min() <= c.max() < n_clusters:
        raise InvalidInput(f"{part} part: a cluster lies outside 0…{n_clusters - 1}")
    return c


@dataclass(frozen=True, eq=False)
class ProbeFit:
    """A trained reverse probe over K clusters and M concepts.

    weight         float32 (K, M), bias float32 (K,): q(c | y) = softmax(weight @ y + bias)
    train_loss     mean cross-entropy + λ/2 (‖W‖² + ‖b − b₀‖²) over the whole training part at these weights, in nats;
                   b₀ is 0, under tight the log frequencies of the training part
    grad_norm      2-norm of its gradient; `gap_bound` = grad_norm² / (2λ) bounds what is left to gain
    weight_decay   λ, as given or (tight) as chosen by validation
    epochs_run     passes over the training part; `best_epoch` the one whose weights these are
    cluster_counts int64 (K,): rows of each cluster in training and validation part together
    timings        seconds: train_s optimisation alone; val_s validation and the final evaluation of the objective
    """

    weight: NDArray[np.float32] = field(repr=False)
    bias: NDArray[np.float32] = field(repr=False)
    train_loss: float
    grad_norm: float
    weight_decay: float
    epochs_run: int
    best_epoch: int
    history: tuple[Epoch, ...] = field(repr=False)
    timings: Mapping[str, float]
    options: ProbeOptions
    device: str
    n_train: int
    n_val: int
    cluster_counts: NDArray[np.int64] = field(repr=False)

    @property
    def n_clusters(self) -> int:
        return len(self.bias)

    @property
    def n_concepts(self) -> int:
        return int(self.weight.shape[1])

    @property
    def gap_bound(self) -> float:
        """Return how many nats the training loss can still fall at most: the objective is λ-strongly convex."""
        return self.grad_norm**2 / (2 * self.weight_decay) if self.weight_decay > 0 else math.inf

    @property
    def converged(self) -> bool:
        """Return whether `gap_bound` is at most CERTIFICATE; without weight decay, whether the gradient is nearly 0."""
        return self.gap_bound <= CERTIFICATE if self.weight_decay > 0 else self.grad_norm <= _FLAT


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
            Epoch 0 is the model without concepts: W = 0 and b = log((n_k + ½) / (n + K/2)) of the training counts, so
            that a probe which only overfits scores about 0. SGD itself starts from zeros.
    lbfgs   the minimum of the whole training part's objective, whatever `epochs` says, without early stopping.
    tight   such minima along a path of weight decays, the best by validation cross-entropy (see `optimum.tightest`).
            They start at W = 0 and b = ln f, where f are the training frequencies with half a sample added to each
            cluster. The weight decay pulls b toward ln f: where concepts say nothing, the probe is those frequencies.

    On the CPU the same input, seed and number of torch threads give the same bits. One thread takes small steps of sgd,
    with the same bits: two threads would mostly wait for each other. Raise InvalidInput for parts that do not fit
    together or are empty, QrpStoreError when training diverges.
    """
    problem = Problem(x_train, np.asarray(c_train), x_val, np.asarray(c_val), n_clusters, options, seed, device)
    (result,) = fit_together([problem], progress)
    if isinstance(result, QrpStoreError):
        raise result
    return result


def fit_together(problems: Sequence[Problem], progress: Progress = silent) -> list[ProbeFit | QrpStoreError]:
    """Train these at once; they share options, number of clusters and device. Return for each what `fit` would.

    For one that diverges, and for all of them when memory is too short, that is the error. `stack` decides which
    problems gain by it.
    """
    (rows, k), place = problems[0].shape, problems[0].place
    several = f"{len(problems)} probes, each" if len(problems) > 1 else "a probe"
    task = f"training {several} of {rows - 1:,} concepts × {k:,} clusters"
    try:
        with memory_errors(place, task, "use a smaller K or fewer concepts"):
            return _fit(problems, progress)
    except Unavailable as error:
        # a new one: the frames of this one hold the tensors
        failure = Unavailable(error.message, hint=error.hint)
    return [failure] * len(problems)


def _fit(problems: Sequence[Problem], progress: Progress) -> list[ProbeFit | QrpStoreError]:
    sgd = problems[0].options.solver == "sgd"
    # not under lbfgs, whose sums depend on the number of threads in their last bits
    small = sgd and problems[0].floats <= _SMALL
    with torch.no_grad(), using_threads(1 if small else None):
        results = _sgd(problems, progress) if sgd else [_minimum(problem, progress) for problem in problems]
        return [
            result if isinstance(result, QrpStoreError) else _report(problem, result)
            for problem, result in zip(problems, results, strict=True)
        ]


def _minimum(problem: Problem, progress: Progress) -> Trained | QrpStoreError:
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
    """Return what the training minimises: under tight the bias decays toward the log frequencies, else toward 0."""
    x, c, k = problem.x_train, problem.c_train, problem.n_clusters
    center = log_frequencies(c, k) if problem.options.protocol == "tight" else None
    return Objective(x, c, k, problem.place, bias_decays_to=center)


class _Course:
    """The epochs of one probe: its current table, the best table so far, both (M + 1, K), and its history.

    `best` is overwritten with the model without concepts, which is epoch 0.
    """

    def __init__(self, problem: Problem, table: torch.Tensor, best: torch.Tensor) -> None:
        self.problem, self._table, self._best_table = problem, table, best
        self.error: QrpStoreError | None = None
        best[-1] = _frequencies(problem)

    def begin(self, val_cross_entropy: float) -> None:
        self._best = Epoch(0, None, val_cross_entropy, self.problem.options.weight_decay)
        self._history = [self._best]

    def add(self, loss: float, val_cross_entropy: float) -> None:
        """Record an epoch by its summed cross-entropy, and keep its table if it is the best. Skip after divergence."""
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

    def end(self, train_s: float, val_s: float) -> Trained | QrpStoreError:
        if self.error is not None:
            return self.error
        options, best = self.problem.options, self._best.epoch
        history = tuple(self._history)
        return Trained(self._best_table, options.weight_decay, options.epochs, best, history, train_s, val_s)


def _sgd(problems: Sequence[Problem], progress: Progress) -> list[Trained | QrpStoreError]:
    """Return the best epoch of each; all are trained at once, and each reports its share of the seconds."""
    options, k, place = problems[0].options, problems[0].n_clusters, problems[0].place
    parts = [(problem.x_train, problem.c_train) for problem in problems]
    plain = place.type == "cpu" and len(problems) == 1
    descent: Descent = CpuDescent(*parts[0], k, options) if plain else ResidentDescent(parts, k, options, place)
    validation = CrossEntropy([(problem.x_val, problem.c_val) for problem in problems], k, place)
    best, heights = torch.zeros_like(descent.table), [problem.shape[0] for problem in problems]
    courses = list(map(_Course, problems, torch.split(descent.table, heights), torch.split(best, heights)))
    began = time.perf_counter()
    for course, value in zip(courses, validation.each(best), strict=True):
        course.begin(value)
    train_s, val_s = 0.0, time.perf_counter() - began
    # problems of one seed and length share their shuffles
    keys = [(problem.seed, len(problem.x_train)) for problem in problems]
    shuffles = {(seed, n): np.random.default_rng(seed) for seed, n in keys}
    with progress.task("probe", options.epochs, "epoch") as task:
        for epoch in range(1, options.epochs + 1):
            began = time.perf_counter()
            orders = {key: rng.permutation(key[1]) for key, rng in shuffles.items()}
            losses = descent.epoch([orders[key] for key in keys], options.lr_at(epoch))
            trained = time.perf_counter()
            for course, loss, value in zip(courses, losses, validation.each(descent.table), strict=True):
                course.add(loss, value)
            train_s, val_s = train_s + trained - began, val_s + time.perf_counter() - trained
            if all(course.error for course in courses):
                break
            task.advance()
    return [course.end(train_s / len(problems), val_s / len(problems)) for course in courses]


def _frequencies(problem: Problem) -> torch.Tensor:
    """Return the bias of the model without concepts, the centred log training frequencies; float32 (K,)."""
    log_p = log_frequencies(problem.c_train, problem.n_clusters)
    return torch.from_numpy((log_p - log_p.mean()).astype(np.float32)).to(problem.place)


def _report(problem: Problem, trained: Trained) -> ProbeFit:
    began = time.perf_counter()
    loss, gradient = _objective(problem)(trained.table, trained.weight_decay)
    table = trained.table.cpu().numpy()
    return ProbeFit(
        weight=np.ascontiguousarray(table[:-1].T),
        bias=table[-1].copy(),
        train_loss=loss,
        grad_norm=math.sqrt(square(gradient)),
        weight_decay=trained.weight_decay,
        epochs_run=trained.epochs_run,
        best_epoch=trained.best_epoch,
        history=trained.history,
        timings={"train_s": trained.train_s, "val_s": trained.val_s + time.perf_counter() - began},
        options=problem.options,
        device=str(problem.place),
        n_train=len(problem.c_train),
        n_val=len(problem.c_val),
        cluster_counts=np.bincount(np.concatenate((problem.c_train, problem.c_val)), minlength=problem.n_clusters),
    )
