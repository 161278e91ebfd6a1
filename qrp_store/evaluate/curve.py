"""What limits a score: the same probe with less data, fewer concepts, or surer labels only."""

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
"""How many random vocabularies of each size are tried."""


def learning_curve(
    store: Store,
    clustering: StoredClustering,
    joined: JoinedConcepts,
    request: ProbeRequest,
    result: Result,
    progress: Progress,
) -> list[dict[str, Any]]:
    """The rows of `curve_scores` of a result: axis, fraction, draw, n_train, n_concepts, nmi, mi_nats.

    Validation and test part stay whole. Subsets are nested, and drawn by position and seed alone, so that backbones
    share them as far as they share the split.
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
        found = _scored((some for *_, some in smaller), clustering, request)
        for (axis, fraction, draw, some), told in zip(smaller, found, strict=True):
            size = {"n_train": int((some.parts == TRAIN).sum()), "n_concepts": len(some.concepts.names)}
            rows.append({"axis": axis, "fraction": fraction, "draw": draw, **size, **_information(told)})
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
    """The rows of `threshold_scores`: threshold, n_labels, n_concepts, nmi, mi_nats.

    A label counts when its score is above the threshold; the samples and the vocabulary stay the result's.
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
        for number, told in enumerate(_scored(surer(), clustering, request)):
            rows[number] |= _information(told)
            task.advance()
    return rows


def check_thresholds(joined: JoinedConcepts, thresholds: Sequence[float]) -> None:
    """Raises InvalidInput for a threshold below the one that the labels were stored with."""
    for part in joined.parts:
        stored = part.artifact.spec.get("threshold")
        low = [t for t in thresholds if isinstance(stored, float) and t < stored]
        if low:
            raise InvalidInput(
                f"threshold {low[0]:g}: concepts {part.artifact.name!r} hold only labels with a score above {stored:g}",
                hint=f"label again with --threshold {low[0]:g}",
            )


def flips(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """Where two backbones of one setting and seed stand in another order than with everything.

    `by`: how much the better one is ahead there (below 0), `ahead`: how much with everything; of NMI.
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


def _information(found: Score) -> dict[str, Any]:
    return {"nmi": found.nmi, "mi_nats": found.mi_nats}


def _surer(data: ProbeData, threshold: float, soft: bool) -> ProbeData:
    """With the labels alone whose score is above the threshold; `soft`: they keep it."""
    return replace(data, concepts=replace(data.concepts, matrix=data.concepts.matrix.above(threshold, soft=soft)))


def _fewer_samples(data: ProbeData, fraction: float, seed: int) -> ProbeData:
    """Without all but a fraction of the training part."""
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
    """With a random fraction of the vocabulary."""
    own = data.concepts
    order = np.random.default_rng(seed).permutation(len(own.names))
    kept = np.sort(order[: math.ceil(fraction * len(own.names))])
    columns = [tuple(column[i] for i in kept) for column in (own.names, own.groups, own.sets)]
    return replace(
        data,
        concepts=replace(own, matrix=own.matrix.select(kept), names=columns[0], groups=columns[1], sets=columns[2]),
    )
