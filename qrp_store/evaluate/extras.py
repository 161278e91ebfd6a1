"""What is scored beside a result when it is asked for, also later: the usual probes, a learning curve, thresholds.

It takes no part in the result's fingerprint or setting, so that asking for it neither repeats a result nor parts a
leaderboard.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.entities import clusterings, embeddings
from qrp_store.catalog.entities import extra_scores as stored
from qrp_store.catalog.entities.clusterings import StoredClustering
from qrp_store.device import resolve_device
from qrp_store.embedding import Embedding
from qrp_store.errors import InvalidInput
from qrp_store.evaluate import probe
from qrp_store.evaluate.curve import at_thresholds, check_thresholds, learning_curve
from qrp_store.evaluate.data import JoinedConcepts, ProbeRequest, load
from qrp_store.evaluate.further import Question, require_references, store_numbers, with_code_length, with_upper
from qrp_store.evaluate.result import Result
from qrp_store.options import ExtraOptions
from qrp_store.probing.limit import error_of, limit, still_climbs
from qrp_store.progress import Progress
from qrp_store.records import derive_seed, fingerprint
from qrp_store.store import Store

_ALGORITHM = 2
KEPT_BYTES = 1 << 30
"""The most that is kept of an embedding, as it is stored, for going through it again."""


def check(store: Store, clustering: StoredClustering | None, joined: JoinedConcepts, wanted: ExtraOptions) -> None:
    """Raises InvalidInput when something that is wanted cannot be had beside this clustering's and concepts' result.

    None: a clustering that is still to be made of an embedding.
    """
    check_thresholds(joined, wanted.thresholds)
    if (
        clustering is not None
        and wanted.forward
        and clusterings.embedding_id(store.catalog, clustering.artifact.id) is None
    ):
        raise InvalidInput(
            f"clustering {clustering.artifact.name!r} was imported: it has no embedding for a forward probe to look at",
            hint="evaluate it without --forward",
        )


def missing(
    store: Store,
    identifier: str,
    clustering: StoredClustering,
    joined: JoinedConcepts,
    request: ProbeRequest,
    w: ExtraOptions,
) -> ExtraOptions:
    """What of `w` is not there yet beside a result."""
    known = {row["threshold"] for row in stored.points(store.catalog, "thresholds", identifier)}
    numbers = {row["name"] for row in stored.points(store.catalog, "numbers", identifier)}
    return ExtraOptions(
        forward=w.forward
        and not stored.forward(store.catalog, _forward_asked(clustering, joined, request, w.knn_queries)),
        knn_queries=w.knn_queries,
        curve=w.curve and not stored.points(store.catalog, "curve", identifier),
        thresholds=tuple(t for t in w.thresholds if t not in known),
        upper=w.upper and "nmi_upper" not in numbers,
        mdl=w.mdl and "code_length_nats" not in numbers,
    )


def score_beside(question: Question, wanted: ExtraOptions) -> Result:
    """The result with all that is wanted beside it, computed and stored where it is not there yet."""
    require_references(question)
    result = question.result
    if wanted.upper:
        result = with_upper(replace(question, result=result))
    if wanted.mdl:
        result = with_code_length(replace(question, result=result))
    if wanted.forward:
        result = replace(result, forward=tuple(_forward(question, wanted.knn_queries)))
    if wanted.curve:
        result = _with_limit(question.store.catalog, replace(result, curve=tuple(_curve(question))), question.progress)
    if wanted.thresholds:
        result = replace(result, thresholds=tuple(_thresholds(question, wanted.thresholds)))
    return result


def _with_limit(catalog: Catalog, result: Result, progress: Progress) -> Result:
    """The result with the limit of its curve, under tight: under sgd less data are fewer steps, too."""
    samples = [point for point in result.curve or () if point["axis"] == "samples"]
    if result.protocol != "tight" or result.nmi is None:
        return result
    interval = result.nmi_ci_lo, result.nmi_ci_hi
    found = limit([p["n_train"] for p in samples], [p["nmi"] for p in samples], error_of(*interval))
    if found is None:
        return result
    if still_climbs(found, result.nmi, *interval):
        more = found.at(3 * result.n_train)
        progress.warn(
            f"{result.backbone}, K {result.clusters}, seed {result.seed}, {result.concepts}: the bound is limited by "
            f"data; 3 times the images would raise NMI from {result.nmi:.3f} to about {more:.3f}"
        )
    limits = {"nmi_limit": found.nmi, "nmi_limit_lo": found.lo, "nmi_limit_hi": found.hi}
    store_numbers(catalog, result.id, limits, {"exponent": found.exponent})
    return replace(result, nmi_limit=found.nmi, nmi_limit_lo=found.lo, nmi_limit_hi=found.hi)


def _curve(question: Question) -> list[dict[str, Any]]:
    """Rows of `curve_scores`; none for a result without a score."""
    catalog, result, q = question.store.catalog, question.result, question
    if result.nmi is not None and not stored.points(catalog, "curve", result.id):
        rows = learning_curve(q.store, q.clustering, q.joined, q.request, result, q.progress)
        stored.put_points(catalog, "curve", result.id, rows)
    return stored.points(catalog, "curve", result.id)


def _thresholds(question: Question, thresholds: tuple[float, ...]) -> list[dict[str, Any]]:
    """Rows of `threshold_scores` at these thresholds; none for a result without a score."""
    catalog, result, q = question.store.catalog, question.result, question
    known = {row["threshold"] for row in stored.points(catalog, "thresholds", result.id)}
    missing = sorted(set(thresholds) - known)
    if result.nmi is not None and missing:
        rows = at_thresholds(q.store, q.clustering, q.joined, q.request, missing, q.progress)
        stored.put_points(catalog, "thresholds", result.id, rows)
    return [row for row in stored.points(catalog, "thresholds", result.id) if row["threshold"] in thresholds]


def _forward(question: Question, queries: int) -> list[dict[str, Any]]:
    """Rows of `forward_scores`: those there are, those of another result of the same samples and concepts, or new."""
    catalog = question.store.catalog
    asked = _forward_asked(question.clustering, question.joined, question.request, queries)
    rows = stored.forward(catalog, asked, of=question.result.id)
    if rows:
        return rows
    # what --force has just made anew is not to be found elsewhere
    rows = stored.forward(catalog, asked) if question.result.cached else []
    rows = rows or _computed(question, queries)
    stored.put_forward(catalog, question.result.id, asked, rows)
    return stored.forward(catalog, asked, of=question.result.id)


def _forward_asked(clustering: StoredClustering, joined: JoinedConcepts, request: ProbeRequest, queries: int) -> str:
    """The fingerprint of all that changes a forward score."""
    return fingerprint(
        {
            "algorithm": _ALGORITHM,
            "clustering": clustering.artifact.identity,
            "concepts": [part.artifact.identity for part in joined.parts],
            "samples": [request.labelled_only, request.min_count, request.permute, *([True] * request.only_verified)],
            "queries": queries,
            **({} if request.sample_eval is None else {"sample_eval": request.sample_eval}),
        }
    )


def _computed(question: Question, queries: int) -> list[dict[str, Any]]:
    from qrp_store.probing.forward import ForwardData, forward

    store, seed = question.store, question.clustering.row.seed
    embedding_id = clusterings.embedding_id(store.catalog, question.clustering.artifact.id)
    assert embedding_id is not None  # checked before
    data = load(store, question.clustering, question.joined, question.request)
    rows = EmbeddingRows(Embedding(store.arrays, embeddings.by_id(store.catalog, embedding_id)))
    scores = forward(
        ForwardData(rows, data.positions, data.parts, data.concepts.matrix, data.concepts.groups_named),
        queries=queries,
        seed=derive_seed(seed, "forward"),
        device=question.request.device,
        progress=question.progress,
    )
    about = {"device": str(resolve_device(question.request.device)), **probe.surroundings()}
    return [{**asdict(score), "seed": seed, "details": {**score.details, **about}} for score in scores]


class EmbeddingRows:
    """Vectors of an embedding by position, a block at a time; the blocks stay in memory when all of them are small."""

    def __init__(self, embedding: Embedding) -> None:
        self._embedding = embedding
        self._kept: dict[int, np.ndarray] = {}
        self._keep = embedding.shape[0] * embedding.shape[1] * embedding.dtype.itemsize <= KEPT_BYTES

    @property
    def dim(self) -> int:
        return self._embedding.shape[1]

    def chunks(self, positions: np.ndarray) -> Iterator[np.ndarray]:
        """The vectors at these positions (ascending), in order; float32 (n, dim) each."""
        size = self._embedding.stored.array.block_rows
        numbers, starts = np.unique(positions // size, return_index=True)
        for number, start, stop in zip(numbers.tolist(), starts, [*starts[1:], len(positions)], strict=True):
            block = self._kept.get(number)
            if block is None:
                block = self._embedding.block(number)
                if self._keep:
                    self._kept[number] = block
            yield block[positions[start:stop] - number * size].astype(np.float32)
