"""Limits of a score: the same probe with less data, fewer concepts, or only labels with high scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from qrp_store.catalog.entities.clusterings import StoredClustering
from qrp_store.errors import InvalidInput
from qrp_store.evaluate.data import JoinedConcepts, ProbeData, ProbeRequest, load
from qrp_store.evaluate.result import Result
from qrp_store.probing.controls import Trial, scores
from qrp_store.progress import Progress
from qrp_store.records import TRAIN, derive_seed
from qrp_store.store import Store

if TYPE_CHECKING:
    from qrp_store.probing.metrics import Score

FRACTIONS = (0.25, 0.5)
DRAWS = 3
"""Number of random vocabularies of each size."""


def learning_curve(
    store: Store,
    clustering: StoredClustering,
    joined: JoinedConcepts,
    request: ProbeRequest,
    result: Result,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Return a result's rows of `curve_scores`: axis, fraction, draw, n_train, n_concepts, nmi, mi_nats.

    Validation and test parts stay complete. Subsets are nested and depend only on position and seed, so backbones with
    the same split get the same subsets.
    """
    data = load(store, clustering, joined, request)
    seed = clustering.row.seed
    smaller: list[tuple[str, float, int, ProbeData]] = [
        ("samples", fraction, 0, _fewer_samples(data, fraction, seed)) for fraction in FRACTIONS
    ]
    smaller += [
        ("concepts", fraction, draw, _fewer_concepts(data, fraction, derive_seed(seed, f"vocabulary {draw}")))
        for fraction in FRACTIONS
        for draw in range(DRAWS)
    ]
    rows = []
    with progress.task("curve", len(smaller), "probe") as task:
        scored = _scored((subset for *_, subset in smaller), clustering, request)
        for (axis, fraction, draw, subset), score in zip(smaller, scored, strict=True):
            size = {"n_train": int((subset.parts == TRAIN).sum()), "n_concepts": len(subset.concepts.names)}
            rows.append({"axis": axis, "fraction": fraction, "draw": draw, **size, **_information(score)})
            task.advance()
    whole = {"n_train": result.n_train, "n_concepts": result.n_concepts, "nmi": result.nmi, "mi_nats": result.mi_nats}
    rows += [{"axis": axis, "fraction": 1.0, "draw": 0, **whole} for axis in ("samples", "concepts")]
    return sorted(rows, key=lambda row: (row["axis"] != "samples", row["fraction"], row["draw"]))


def at_thresholds(
    store: Store,
    clustering: StoredClustering,
    joined: JoinedConcepts,
    request: ProbeRequest,
    thresholds: Sequence[float],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Return rows of `threshold_scores`: threshold, n_labels, n_concepts, nmi, mi_nats.

    A label counts if its score is above the threshold. Samples and vocabulary are those of the result.
    """
    scored = load(store, clustering, joined, replace(request, soft=True))
    rows: list[dict[str, Any]] = []

    def surer() -> Iterator[ProbeData]:
        for threshold in thresholds:
            data = _surer(scored, threshold, request.soft)
            x = data.concepts.matrix
            counted = {"n_labels": len(x.indices), "n_concepts": int(np.count_nonzero(x.counts()))}
            rows.append({"threshold": threshold, **counted})
            yield data

    with progress.task("thresholds", len(thresholds), "probe") as task:
        for number, score in enumerate(_scored(surer(), clustering, request)):
            rows[number] |= _information(score)
            task.advance()
    return rows


def check_thresholds(joined: JoinedConcepts, thresholds: Sequence[float]) -> None:
    """Raise InvalidInput for a threshold below the one that the labels were stored with."""
    for part in joined.parts:
        stored = part.artifact.spec.get("threshold")
        low = [t for t in thresholds if isinstance(stored, float) and t < stored]
        if low:
            raise InvalidInput(
                f"threshold {low[0]:g}: concepts {part.artifact.name!r} hold only labels with a score above {stored:g}",
                hint=f"label again with --threshold {low[0]:g}",
            )


def flips(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """Yield the points of the curve at which two backbones of one setting and seed change their order.

    `ahead`: by how much NMI the better backbone leads on all data; `by`: the same difference at this point, below 0.
    """
    peers: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        if result.curve:
            peers.setdefault((result.concepts, result.clusters, result.seed, result.setting), []).append(result)
    for (concepts, clusters, seed, _), group in peers.items():
        for a, b in combinations(sorted(group, key=lambda r: -(r.nmi or 0.0)), 2):
            for first, second in zip(a.curve or (), b.curve or (), strict=True):
                if first["nmi"] < second["nmi"] and a.nmi != b.nmi:
                    where = {name: first[name] for name in ("axis", "fraction", "draw")}
                    about = {"concepts": concepts, "clusters": clusters, "seed": seed, **where}
                    gaps = {"by": first["nmi"] - second["nmi"], "ahead": (a.nmi or 0.0) - (b.nmi or 0.0)}
                    yield {**about, "better": a.backbone, "worse": b.backbone, **gaps}


def _scored(several: Iterable[ProbeData], clustering: StoredClustering, request: ProbeRequest) -> Iterator[Score]:
    row = clustering.row
    how = (row.clusters, request.options, derive_seed(row.seed, "shuffle"), request.device)
    return scores((Trial(data.clusters, data.parts, *how), data.concepts.matrix) for data in several)


def _information(score: Score) -> dict[str, Any]:
    return {"nmi": score.nmi, "mi_nats": score.mi_nats}


def _surer(data: ProbeData, threshold: float, soft: bool) -> ProbeData:
    """Return the data with only the labels whose score is above the threshold; `soft` keeps the scores."""
    return replace(data, concepts=replace(data.concepts, matrix=data.concepts.matrix.above(threshold, soft=soft)))


def _fewer_samples(data: ProbeData, fraction: float, seed: int) -> ProbeData:
    """Return the data with a fraction of the training part."""
    chance = np.random.default_rng(derive_seed(seed, "curve")).random(int(data.positions[-1]) + 1)[data.positions]
    train = np.flatnonzero(data.parts == TRAIN)
    kept = data.parts != TRAIN
    kept[train[np.argsort(chance[train], kind="stable")[: math.ceil(fraction * len(train))]]] = True
    at = np.flatnonzero(kept)
    concepts = replace(data.concepts, matrix=data.concepts.matrix.take(at))
    return ProbeData(
        data.positions[at],
        concepts,
        data.clusters[at],
        data.parts[at],
        None if data.groups is None else data.groups[at],
    )


def _fewer_concepts(data: ProbeData, fraction: float, seed: int) -> ProbeData:
    """Return the data with a random fraction of the vocabulary."""
    concepts = data.concepts
    order = np.random.default_rng(seed).permutation(len(concepts.names))
    kept = np.sort(order[: math.ceil(fraction * len(concepts.names))])
    columns = [tuple(column[i] for i in kept) for column in (concepts.names, concepts.groups, concepts.sets)]
    return replace(
        data,
        concepts=replace(
            concepts, matrix=concepts.matrix.select(kept), names=columns[0], groups=columns[1], sets=columns[2]
        ),
    )
