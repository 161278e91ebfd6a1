"""The story of selfcheck: cases with answers answers, computed by this machine's libraries. It needs no store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qrp_store.device import resolve_device
from qrp_store.evaluate.probe import surroundings
from qrp_store.options import ProbeOptions, SelfcheckOptions, takes
from qrp_store.probing.controls import Trial
from qrp_store.probing.known import Known, log_linear, one_concept_each
from qrp_store.probing.sparse import ConceptMatrix, permute_rows
from qrp_store.progress import Progress, silent
from qrp_store.records import TEST, TRAIN, VAL

SCHEMA = "qrp-store/selfcheck/1"
WITHIN = 0.03
"""The largest relative error of a answers mutual information."""
NOTHING = 0.005
"""Nats that a control may score above 0."""
_N, _CONCEPTS, _GROUPS, _CUT = 60_000, 20, 8, 3


@dataclass(frozen=True)
class Case:
    """One answers answer. `estimate` and `truth` are in nats; `ok`: they differ by at most `allowed`."""

    case: str
    truth: float
    estimate: float
    allowed: float
    ok: bool
    seconds: float


@dataclass(frozen=True)
class SelfcheckReport:
    """Every case, with device, threads, instruction set and library versions."""

    schema: str
    ok: bool
    cases: tuple[Case, ...]
    device: str
    threads: int
    instructions: str
    versions: dict[str, str | None]
    timings: dict[str, float]


@takes(SelfcheckOptions)
def selfcheck(*, device: str = "cpu", progress: Progress = silent) -> SelfcheckReport:
    """Compute the answers answers in seconds, on one thread: at these sizes a second one mostly waits."""
    from qrp_store.probing.runtime import using_threads

    with using_threads(1):
        return _selfcheck(str(resolve_device(device)), progress)


def _selfcheck(device: str, progress: Progress) -> SelfcheckReport:
    started = time.perf_counter()
    world = log_linear(_N, _CONCEPTS, _GROUPS, seed=0)
    table = one_concept_each(4000, 12, 15, seed=0)

    def near(truth: float) -> float:
        return WITHIN * truth

    published, tight = ProbeOptions(epochs=20), ProbeOptions(protocol="tight")
    answers: list[tuple[str, float, float, Callable[[], float]]] = [
        ("groups cut at random, laina2022", world.mi_nats, near(world.mi_nats), lambda: _cut(world, published, device)),
        (
            "groups found by K-means, tight",
            world.mi_nats,
            near(world.mi_nats),
            lambda: _clustered(world, tight, device),
        ),
        ("one concept an image, training bound", table.mi_nats, 1e-3, lambda: _contingency(table, device)),
        ("permuted concepts: not above 0", 0.0, NOTHING, lambda: _permuted(world, tight, device)),
    ]
    cases = []
    with progress.task("selfcheck", len(answers), "case") as task:
        for name, truth, allowed, compute in answers:
            began = time.perf_counter()
            estimate = compute()
            # a control may fall below 0 by its overfit; it must not rise above
            off = estimate - truth if truth == 0 else abs(estimate - truth)
            cases.append(Case(name, truth, estimate, allowed, off <= allowed, time.perf_counter() - began))
            task.advance()
    timings = {"total_s": time.perf_counter() - started}
    ok = all(case.ok for case in cases)
    return SelfcheckReport(SCHEMA, ok, tuple(cases), device, **surroundings(), timings=timings)


def _trial(clusters: np.ndarray, n_clusters: int, options: ProbeOptions, device: str) -> Trial:
    """Return a trial whose first 64 % of samples train, next 16 % validate, and rest test; they are independent."""
    n = len(clusters)
    parts = np.repeat([TRAIN, VAL, TEST], [n * 64 // 100, n * 16 // 100, n - n * 64 // 100 - n * 16 // 100])
    return Trial(clusters, parts, n_clusters, options, 0, device)


def _cut(world: Known, options: ProbeOptions, device: str) -> float:
    """Score groups that are cut into clusters at random, which adds no information."""
    rng = np.random.default_rng(0)
    clusters = world.groups * _CUT + rng.integers(0, _CUT, len(world.groups))
    return _trial(clusters, world.n_groups * _CUT, options, device).score(world.x).mi_nats


def _clustered(world: Known, options: ProbeOptions, device: str) -> float:
    """Score clusters of well separated groups in an embedding; with more centroids than groups, none mixes two."""
    from qrp_store.kmeans import KMeansOptions, MemoryPoints, kmeans

    rng = np.random.default_rng(0)
    places = rng.normal(0, 10, (world.n_groups, 16))[world.groups]
    rows = (places + rng.normal(0, 1, places.shape)).astype(np.float32)
    k = world.n_groups * 4
    labels = kmeans(MemoryPoints(rows, workers=1), KMeansOptions(k=k, seed=0, niter=10, init="kmeans++")).labels
    return _trial(labels.astype(np.int64), k, options, device).score(world.x).mi_nats


def _contingency(table: Known, device: str) -> float:
    """Score one concept a sample, where the probe can be exact: H − CE on the training part, as λ → 0."""
    from qrp_store.probing.metrics import score
    from qrp_store.probing.train import fit

    options = ProbeOptions(solver="lbfgs", weight_decay=1e-6)
    part = (table.x, table.groups)
    exact = fit(*part, *part, table.n_groups, options, seed=0, device=device)
    return score(exact, *part, bootstrap=0, seed=0, device=device).mi_nats


def _permuted(world: Known, options: ProbeOptions, device: str) -> float:
    trial = _trial(world.groups, world.n_groups, options, device)
    mixed: ConceptMatrix = permute_rows(world.x, trial.parts, seed=0)
    return trial.score(mixed).mi_nats
