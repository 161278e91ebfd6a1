"""What an evaluation will cost, before it runs: seconds, memory and rows, by what earlier runs of this store took.

Work is counted (multiply-adds of K-means and of the probe) and divided by the rate of the store's newest runs; without
any, by a rate that two slow cores reach. An estimate, not a promise.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qrp_store.catalog.entities import concept_sets
from qrp_store.catalog.overview import history
from qrp_store.evaluate.curve import DRAWS, FRACTIONS
from qrp_store.evaluate.data import JoinedConcepts, ProbeRequest
from qrp_store.evaluate.extras import KEPT_BYTES
from qrp_store.evaluate.plan import Plan
from qrp_store.execution import available_cores
from qrp_store.options import ExtraOptions, KMeansTraining, parse_memory
from qrp_store.probing.explain import TOP
from qrp_store.store import Store

_CLUSTER_RATE = 1e10
"""Multiply-adds a second and core of K-means' search where nothing is known."""
_PROBE_RATE = 3e8
_LBFGS_EPOCHS = 200
_LINEAR_PASSES = 150
"""How often the linear probe of --forward reads the training part, more or less."""
_UPPER_PROBES = 4
"""Probes that --upper is worth, more or less: products of concepts and a network."""
_CODE_PROBES = 2
"""Probes that --mdl is worth: its blocks double, up to all samples."""
_BASE_BYTES = {"clustering": 200_000_000, "result": 600_000_000}
"""What faiss and torch take before there are any data."""


@dataclass(frozen=True)
class Estimate:
    """All that a dry run's plan would take. `seconds` and `memory_bytes` (the most at once) are estimates; `rows` go
    into SQL. `by` says what the seconds go by: earlier runs of this store, or assumed rates."""

    clusterings_to_make: int
    results_to_make: int
    results_there: int
    seconds: float
    memory_bytes: int
    rows: int
    by: str


@dataclass(frozen=True)
class _Rates:
    """Multiply-adds a second, and whether each is known from this store."""

    cluster: float
    probe: float
    known: tuple[bool, bool]


def forecast(
    plan: Plan, sets: Sequence[JoinedConcepts], clustering: KMeansTraining
) -> tuple[tuple[dict[str, Any], ...], Estimate]:
    """The plan with `estimated_s`, `memory_bytes` and `rows` of what each line makes, and all of it together.

    A clustering that several concept sets share counts in the first line that needs it. What is wanted beside a result
    counts also where the result is there.
    """
    job = plan.job
    store, request, wanted, n_samples = job.store, job.request, job.wanted, job.dataset.n
    rates = _rates(store)
    by_name = {joined.name: joined for joined in sets}
    counted: set[tuple[Any, ...]] = set()
    lines = []
    for line in plan.lines():
        own = (line["backbone"], line["clusters"], line["seed"])
        seconds, memory, rows = 0.0, 0, 0
        if line["clustering"] == "to make" and own not in counted:
            counted.add(own)
            seconds += (
                _cluster_work(line["n"], line["dim"], line["clusters"], None, clustering.identity()) / rates.cluster
            )
            centroids = 4 * line["clusters"] * line["dim"]
            data = min(parse_memory(clustering.memory), 4 * line["n"] * line["dim"])
            memory = _BASE_BYTES["clustering"] + data + 4 * centroids
            rows += line["n"] + line["clusters"]
        joined = by_name[line["concepts"]]
        n_labels = sum(part.n_labels for part in joined.parts)
        n_concepts = sum(part.n_concepts for part in joined.parts)
        probes, points = _beside_probes(line, wanted)
        if line["result"] == "to make":
            probes += _runs(store, joined, request)
            rows += line["clusters"] * (1 + min(TOP, n_concepts))
        if probes:
            seconds += (
                probes * _probe_work(line, n_concepts, n_labels / max(n_samples, 1), request.document()) / rates.probe
            )
            weights = 4 * line["clusters"] * (n_concepts + 1)
            memory = max(memory, _BASE_BYTES["result"] + 16 * n_labels + 20 * line["n"] + 4 * weights)
        if line.get("forward") == "to make":
            seconds += _forward_work(line, n_concepts, wanted.knn_queries) / rates.cluster
            vectors = min(4 * line["n"] * line["dim"], KEPT_BYTES)
            memory = max(memory, _BASE_BYTES["result"] + 16 * n_labels + 2 * vectors)
            n_groups = len(_groups(store, joined))
            points += 2 * (1 + (n_groups if n_groups > 1 else 0))
        rows += points
        lines.append({**line, "estimated_s": round(seconds, 3), "memory_bytes": memory, "rows": rows})
    return tuple(lines), _together(lines, len(counted), rates)


def _together(lines: Sequence[Mapping[str, Any]], n_clusterings: int, rates: _Rates) -> Estimate:
    to_make = sum(line["result"] == "to make" for line in lines)
    return Estimate(
        clusterings_to_make=n_clusterings,
        results_to_make=to_make,
        results_there=len(lines) - to_make,
        seconds=round(sum(line["estimated_s"] for line in lines), 3),
        memory_bytes=max((line["memory_bytes"] for line in lines), default=0),
        rows=sum(line["rows"] for line in lines),
        by={
            (True, True): "earlier runs of this store",
            (False, False): "assumed rates: nothing has run in this store yet",
        }.get(rates.known, "earlier runs of this store, and an assumed rate where there are none"),
    )


def _rates(store: Store) -> _Rates:
    clusterings = [
        _cluster_work(past.n, past.dim, past.clusters, past.n_sampled, past.options) / past.seconds
        for past in history.past_clusterings(store.catalog)
        if past.dim and past.seconds > 0
    ]
    probes = []
    for past in history.past_probes(store.catalog):
        shape = {"clusters": past.clusters, "n": past.n_train / 0.64}
        if past.seconds > 0:
            density = past.n_labels / max(past.n_samples, 1)
            work = _probe_work(shape, past.n_concepts, density, past.options, passes=past.epochs)
            probes.append(work / past.seconds)
    return _Rates(
        statistics.median(clusterings) if clusterings else _CLUSTER_RATE * available_cores(),
        statistics.median(probes) if probes else _PROBE_RATE,
        (bool(clusterings), bool(probes)),
    )


def _cluster_work(n: int, dim: int, k: int, sampled: int | None, options: Mapping[str, Any]) -> float:
    """Multiply-adds of training on the sample and assigning every row."""
    wanted = options.get("sample")
    if sampled is None:
        sampled = n if wanted == "all" else min(n, wanted if isinstance(wanted, int) else 256 * k)
    passes = int(options.get("niter", 25)) * int(options.get("nredo", 1))
    return float(k) * dim * (sampled * passes + n)


def _probe_work(
    line: Mapping[str, Any],
    n_concepts: int,
    labels_each: float,
    options: Mapping[str, Any],
    passes: int | None = None,
) -> float:
    """Multiply-adds of one probe: a few rows of the weights a sample, all of them a step."""
    n_train = 0.64 * line["n"]
    sgd = options.get("solver") == "sgd"
    epochs = passes if passes is not None else (options["epochs"] if sgd else _LBFGS_EPOCHS)
    steps = math.ceil(n_train / options["batch_size"]) if sgd else 1
    return float(line["clusters"] * epochs * (n_train * (labels_each + 1) + steps * n_concepts))


def _forward_work(line: Mapping[str, Any], n_concepts: int, queries: int) -> float:
    """Multiply-adds of the linear probe, forth and back on each pass, and of the search for neighbours."""
    n_train, n_test = 0.64 * line["n"], 0.2 * line["n"]
    asked = min(n_test, queries) if queries else n_test
    return float(line["dim"] * n_train * (2 * _LINEAR_PASSES * n_concepts + asked))


def _beside_probes(line: Mapping[str, Any], wanted: ExtraOptions) -> tuple[float, int]:
    """Return how many probes the curve, thresholds, upper reference and code length are worth, and their rows."""
    probes, rows = 0.0, 0
    if line.get("curve") == "to make":
        probes += (1 + DRAWS) * sum(FRACTIONS)
        rows += (1 + DRAWS) * len(FRACTIONS) + 2
    if line.get("upper") == "to make":
        probes += _UPPER_PROBES
        rows += 1
    if line.get("mdl") == "to make":
        probes += _CODE_PROBES
        rows += 1
    if line.get("thresholds") == "to make":
        probes += len(wanted.thresholds)
        rows += len(wanted.thresholds)
    return probes, rows


def _runs(store: Store, joined: JoinedConcepts, request: ProbeRequest) -> int:
    """How many probes a result trains: its own, the permuted ones, and two for each concept group."""
    return 1 + request.permutations + (2 * len(_groups(store, joined)) if request.ablate else 0)


def _groups(store: Store, joined: JoinedConcepts) -> set[str | None]:
    return {group for part in joined.parts for group in concept_sets.vocabulary(store.catalog, part.artifact.id).groups}
