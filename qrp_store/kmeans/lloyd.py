"""K-means as in faiss, over any Points: exact Lloyd, split clusters in place of empty ones, resumable to the bit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from qrp_store.errors import InvalidInput
from qrp_store.kmeans.nearest import Float32, Labels
from qrp_store.kmeans.passes import Means
from qrp_store.kmeans.points import Points, Rows
from qrp_store.kmeans.seeding import INITS, Init, initial
from qrp_store.progress import Progress, silent

POINTS_PER_CENTROID = 256  # faiss' default training sample
_SPLIT_SEED = 1234  # faiss' own, whatever the user's seed
_EPSILON = 1 / 1024
_SECOND_TRY = 15486557  # faiss' stride between the seeds of two tries
_PLACES, _RUN = 16, 16
"""The origin is taken from so many runs of so many consecutive rows: few blocks are read for it."""
_COUNTED_BYTES = 1 << 30
"""Training rows up to this size are looked through for repetitions when clusters stay empty."""


@dataclass(frozen=True)
class KMeansOptions:
    """What changes the result. `sample`: rows to train on ("all", a number, or None for at most 256 a centroid)."""

    k: int
    seed: int = 0
    niter: int = 25
    nredo: int = 1
    init: Init = "random"
    sample: int | Literal["all"] | None = None
    spherical: bool = False

    def sample_size(self, count: int) -> int:
        """Return the number of training rows out of `count`."""
        if self.sample == "all":
            return count
        return min(count, POINTS_PER_CENTROID * self.k if self.sample is None else self.sample)


@dataclass(frozen=True)
class KMeansState:
    """State of training: enough to continue with the same bits.

    `iteration` steps of try `redo` are done. For each step, `objective` has the sum of squared distances of training
    rows before it, and `splits` the number of empty clusters. `centroids` float32 (k, d), relative to the run's origin,
    is the result of the last step. `best_*` is the best of the earlier tries.
    """

    redo: int
    iteration: int
    centroids: Float32
    objective: tuple[float, ...]
    best_centroids: Float32 | None = None
    best_objective: tuple[float, ...] = ()
    splits: tuple[int, ...] = ()
    best_splits: tuple[int, ...] = ()


@dataclass(frozen=True)
class KMeansResult:
    """`labels` int32 (n,) of all points; `objective` is the sum of their squared distances to their centroid.

    `objective_per_iteration` is of the training rows in the best try; `splits_per_iteration` counts the empty clusters
    that got half of another one there. Both are empty, and `n_sampled` None, if nothing was trained. `origin` float32
    (d,): distances were computed relative to it; None: to 0. `timings`: read_s (training rows into memory),
    train_s, assign_s, total_s.
    """

    centroids: Float32
    labels: Labels
    sizes: npt.NDArray[np.int64]
    objective: float
    objective_per_iteration: tuple[float, ...]
    splits_per_iteration: tuple[int, ...]
    n_sampled: int | None
    timings: dict[str, float]
    origin: Float32 | None = None


def kmeans(
    points: Points,
    options: KMeansOptions,
    *,
    start: Float32 | None = None,
    resume: KMeansState | None = None,
    on_iteration: Callable[[KMeansState], None] | None = None,
    progress: Progress = silent,
) -> KMeansResult:
    """Cluster `points`: train on the sample that the seed chooses, then assign every point.

    `start` (k, d) replaces the first try's initial centroids. `on_iteration` gets the state before the first step of
    a try and after each step. With the same points and options, `resume` from such a state gives the same bits. An
    exception of `on_iteration` ends the run.
    Distances are computed relative to a common origin, the median of a few rows in each dimension, so that they are as
    exact far from 0 as near it. Spherical K-means uses the angle at 0 and has no origin. Labels and objective are those
    of the returned centroids, in the rows' coordinates: see `quantized`.
    Raise InvalidInput if K < 2, K exceeds the training rows, or an option is out of range.
    """
    _check(points, options, start, resume)
    began = time.perf_counter()
    rows = _sample_rows(points.count, options)
    middle = _origin(points)
    origin = None if options.spherical else middle
    whole, points = points.about(middle), points.about(origin)
    if start is not None:
        start = _relative(start, origin)
    training = points.subset(rows)
    read = time.perf_counter()
    with progress.task("K-means", options.nredo * options.niter + 1, "passes") as task:
        shown = 0

        def show(state: KMeansState) -> None:
            nonlocal shown
            before, shown = shown, state.redo * options.niter + state.iteration
            task.advance(shown - before)

        def stepped(state: KMeansState) -> None:
            if on_iteration is not None:
                on_iteration(state)
            show(state)

        if resume is not None:
            show(resume)

        state = _train(training, options, start, resume, stepped)
        trained = time.perf_counter()
        best, objective, splits = _best(state)
        centroids = _absolute(best, origin)
        kept = rows is None and not options.spherical
        labels, distances = (training if kept else whole).assign(_relative(centroids, middle))
        task.advance()
    if splits[-1]:
        _warn_of_repetitions(training, options.k, progress)
    ended = time.perf_counter()
    return KMeansResult(
        centroids,
        labels,
        np.bincount(labels, minlength=options.k),
        float(distances.sum(dtype=np.float64)),
        objective,
        splits,
        training.count,
        {"read_s": read - began, "train_s": trained - read, "assign_s": ended - trained, "total_s": ended - began},
        origin,
    )


def quantized(points: Points, centroids: Float32, *, progress: Progress = silent) -> KMeansResult:
    """Assign every point to the nearest of the given centroids, float32 (k, d). Nothing is trained.

    The centroids of `kmeans` give the labels and the objective of `kmeans`, to the bit.
    Raise InvalidInput if the points have another number of dimensions.
    """
    if centroids.shape[1] != points.dim:
        raise InvalidInput(f"points have {points.dim} dimensions, the centroids {centroids.shape[1]}")
    began = time.perf_counter()
    origin = _origin(points)
    with progress.task("Assigning", 1, "passes") as task:
        labels, distances = points.about(origin).assign(_relative(centroids, origin))
        task.advance()
    took = time.perf_counter() - began
    return KMeansResult(
        centroids,
        labels,
        np.bincount(labels, minlength=len(centroids)),
        float(distances.sum(dtype=np.float64)),
        (),
        (),
        None,
        {"read_s": 0.0, "train_s": 0.0, "assign_s": took, "total_s": took},
        origin,
    )


def _check(points: Points, options: KMeansOptions, start: Float32 | None, resume: KMeansState | None) -> None:
    k, n_training = options.k, options.sample_size(points.count)
    if k < 2:
        raise InvalidInput(f"K is {k}: at least 2 clusters are needed")
    if k > points.count:
        raise InvalidInput(f"K is {k}, but there are only {points.count} usable rows", hint="choose a smaller K")
    if k > n_training:
        raise InvalidInput(f"K is {k}, but the sample has only {n_training} rows", hint="choose a larger sample")
    if options.niter < 1 or options.nredo < 1:
        raise InvalidInput(f"niter {options.niter} and nredo {options.nredo} must be at least 1")
    if options.init not in INITS:
        raise InvalidInput(f"init {options.init!r} is not one of {', '.join(INITS)}")
    if options.seed < 0:
        raise InvalidInput(f"seed {options.seed} is negative")
    for array in (start, None if resume is None else resume.centroids):
        if array is not None and array.shape != (k, points.dim):
            raise InvalidInput(f"initial centroids are {array.shape}, not {(k, points.dim)}")


def _random(seed: int) -> np.random.RandomState:
    """Return numpy's frozen generator: the same numbers in every version, unlike Generator."""
    return np.random.RandomState(seed % (1 << 32))


def _sample_rows(count: int, options: KMeansOptions) -> Rows | None:
    """Return the training rows, ascending so that reading is sequential; None for all."""
    size = options.sample_size(count)
    if size == count:
        return None
    return np.sort(_random(options.seed).permutation(count)[:size]).astype(np.int64)


def _origin(points: Points) -> Float32:
    """Return the middle of a few points: float32 (d,), the same for any blocks, memory and workers.

    In each dimension the (upper) median; 0 where that is not finite.
    """
    starts = np.linspace(0, max(points.count - _RUN, 0), _PLACES).astype(np.int64)
    few = np.unique((starts[:, None] + np.arange(_RUN)).clip(max=points.count - 1))
    middle = np.sort(points.glimpse(few), axis=0)[len(few) // 2]
    return np.where(np.isfinite(middle), middle, np.float32(0))


def _relative(centroids: Float32, origin: Float32 | None) -> Float32:
    return centroids if origin is None else np.asarray(centroids.astype(np.float64) - origin, np.float32)


def _absolute(centroids: Float32, origin: Float32 | None) -> Float32:
    return centroids if origin is None else np.asarray(centroids.astype(np.float64) + origin, np.float32)


def _warn_of_repetitions(training: Points, k: int, progress: Progress) -> None:
    """Warn if there are fewer distinct training rows than clusters: some clusters then stay empty."""
    at_once = max(1, (1 << 24) // (4 * training.dim))
    if 4 * training.count * training.dim > _COUNTED_BYTES:
        return
    multipliers = _random(0).randint(0, 1 << 63, training.dim, dtype=np.int64).astype(np.uint64) | np.uint64(1)
    seen = np.zeros(0, np.uint64)
    for first in range(0, training.count, at_once):
        rows = training.sample(np.arange(first, min(first + at_once, training.count)))
        numbers = (rows + np.float32(0)).view(np.uint32).astype(np.uint64)  # + 0: −0 is 0
        seen = np.union1d(seen, (numbers * multipliers).sum(axis=1, dtype=np.uint64))
    if len(seen) < k:
        progress.warn(
            f"K is {k}, but only {len(seen)} of the {training.count} training rows are distinct: "
            f"{k - len(seen)} clusters or more stay empty; choose K {len(seen)} or less"
        )


def _train(
    training: Points,
    options: KMeansOptions,
    start: Float32 | None,
    resume: KMeansState | None,
    stepped: Callable[[KMeansState], None],
) -> KMeansState:
    state = resume
    while True:
        if state is None:
            state = KMeansState(0, 0, _initial(training, options, 0, start), ())
            stepped(state)  # so that it may be kept: seeding a large K takes as long as many steps
        elif state.iteration == options.niter:
            if state.redo + 1 == options.nredo:
                return state
            centroids, objective, splits = _best(state)
            fresh = _initial(training, options, state.redo + 1, None)
            state = KMeansState(state.redo + 1, 0, fresh, (), centroids, objective, best_splits=splits)
            stepped(state)
        state = _iterate(training, options, state)
        stepped(state)


def _iterate(training: Points, options: KMeansOptions, state: KMeansState) -> KMeansState:
    """Do one Lloyd step; or all remaining ones, if it moves nothing and they would repeat it."""
    step = training.means(state.centroids)
    last = state.iteration + 1 == options.niter
    centroids = _update(step, training.count, options.spherical, state.centroids if last else None)
    done = options.niter - state.iteration if np.array_equal(centroids, state.centroids) else 1
    return replace(
        state,
        iteration=state.iteration + done,
        centroids=centroids,
        objective=state.objective + (step.inertia,) * done,
        splits=state.splits + (int((step.counts == 0).sum()),) * done,
    )


def _best(state: KMeansState) -> tuple[Float32, tuple[float, ...], tuple[int, ...]]:
    """Return centroids, objective and splits of this try or of the best earlier one; of the earlier one if equal."""
    if state.best_centroids is not None and state.best_objective[-1] <= state.objective[-1]:
        return state.best_centroids, state.best_objective, state.best_splits
    return state.centroids, state.objective, state.splits


def _initial(training: Points, options: KMeansOptions, redo: int, start: Float32 | None) -> Float32:
    random = _random(options.seed + 1 + redo * _SECOND_TRY)
    if start is not None:
        centroids = np.array(start, np.float32)
    else:
        centroids = initial(training, options.k, options.init, random)
    return _unit_length(centroids) if options.spherical else centroids


def _update(step: Means, n: int, spherical: bool, before: Float32 | None) -> Float32:
    """Return the means of a step's clusters; an empty one gets half of another one, as in faiss.

    In the last step an empty cluster keeps its place `before`, since no later step would settle the two halves. So the
    centroids are at least as good as the last recorded objective.
    """
    counts = step.counts.astype(np.float32)
    centroids = step.means.copy()
    if before is None:
        centroids = _split_empty(centroids, counts, n)
    else:
        centroids[step.counts == 0] = before[step.counts == 0]
    return _unit_length(centroids) if spherical else centroids


def _split_empty(centroids: Float32, counts: npt.NDArray[np.float32], n: int) -> Float32:
    """Give each empty cluster a copy of a populous one's centroid, and push the two apart by 1/1024.

    faiss walks round the clusters and stops at one with probability (size - 1) / (n - k); the walk below draws the
    same numbers. `counts` is changed along.
    """
    k, dim = centroids.shape
    draws = np.random.RandomState(_SPLIT_SEED)
    sign = np.where(np.arange(dim) % 2 == 0, np.float32(_EPSILON), np.float32(-_EPSILON))
    for empty in np.flatnonzero(counts == 0):
        chances = ((counts - 1.0) / np.float32(max(n - k, 1))).astype(np.float32)
        full = 0
        while np.float32(draws.randint(1 << 32, dtype=np.uint32)) / np.float32(2**32 - 1) >= chances[full]:
            full = (full + 1) % k
        centroids[empty] = centroids[full] * (1 + sign)
        centroids[full] = centroids[full] * (1 - sign)
        counts[empty] = counts[full] / 2
        counts[full] -= counts[empty]
    return centroids


def _unit_length(centroids: Float32) -> Float32:
    norms = np.sqrt(np.square(centroids, dtype=np.float64).sum(axis=1))
    norms[norms == 0] = 1.0
    unit: Float32 = (centroids / norms[:, None]).astype(np.float32)
    return unit
