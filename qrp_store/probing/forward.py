"""The usual probes, from embedding to concepts: linear, and by nearest neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qrp_store.device import float32_arithmetic, memory_errors, resolve_device
from qrp_store.probing.linear import Features, Labelled, LinearProbe, fit_linear
from qrp_store.probing.neighbours import NEIGHBOURS, TEMPERATURE, Votes, vote
from qrp_store.probing.runtime import torch, using_threads
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.progress import Progress
from qrp_store.records import TEST, TRAIN, VAL

EVERYTHING = "(all)"
_CELLS = 1 << 26
_SMALL = 1 << 26  # products in a pass; below, a second thread mostly waits for the first

Scores = Callable[[slice], NDArray[Any]]
"""Return the scores of some concepts for every test sample, (n, concepts)."""


@dataclass(frozen=True)
class ForwardScore:
    """How well a probe predicts the concepts of a group (`(all)`: of the whole vocabulary) for held-out samples.

    metric      top1 for concepts of which a sample has at most one: the accuracy over the `n_test` samples that have
                one. map for others: the mean average precision over concepts on all `n_test` samples, without the
                `n_left_out` of `n_concepts` that no test sample has
    value       None without a test sample or a training sample
    details     the choices of the probe, and its number of samples
    """

    concept_group: str
    probe: Literal["linear", "knn"]
    metric: Literal["top1", "map"]
    value: float | None
    n_test: int
    n_concepts: int
    n_left_out: int
    details: dict[str, Any]


@dataclass(frozen=True, eq=False)
class ForwardData:
    """Samples by position (n,), ascending, their part (n,), concepts (n, M), the group of each concept, and vectors."""

    features: Features
    positions: NDArray[np.int64]
    parts: NDArray[np.integer[Any]]
    x: ConceptMatrix
    groups: Sequence[str]

    def part(self, number: int, columns: NDArray[np.int64] | None = None, *, labelled: bool = False) -> Labelled:
        """Return the samples of a part with these concepts; with `labelled`, only samples that have one of them."""
        at = np.flatnonzero(self.parts == number)
        x = self.x.take(at) if columns is None else self.x.take(at).select(columns)
        if not labelled:
            return Labelled(self.positions[at], x)
        labelled_rows = np.flatnonzero(np.diff(x.indptr))
        return Labelled(self.positions[at[labelled_rows]], x.take(labelled_rows))


def forward(data: ForwardData, *, queries: int, seed: int, device: str, progress: Progress) -> list[ForwardScore]:
    """Return linear and nearest-neighbour scores of the whole vocabulary and, when there are several groups, of each.

    Groups in which a sample has at most one concept get a softmax probe and `top1`. Others get a sigmoid for each
    concept and `map`, computed from the probe of the whole vocabulary. The neighbours of at most `queries` test
    samples, drawn by `seed`, are searched; 0: of all.
    """
    size, m, place = (len(data.positions), data.features.dim), data.x.n_concepts, resolve_device(device)
    threads = using_threads(1 if math.prod(size) * m < _SMALL else None)
    task = f"the linear and the nearest-neighbour probe of {size[0]:,} × {size[1]:,} vectors and {m:,} concepts"
    with threads, float32_arithmetic(), memory_errors(place, task):
        return _forward(data, queries, seed, place, progress)


def _forward(data: ForwardData, queries: int, seed: int, place: torch.device, progress: Progress) -> list[ForwardScore]:
    names = sorted(set(data.groups))
    of = np.asarray(data.groups, dtype=object)
    vocabularies = [(EVERYTHING, np.arange(data.x.n_concepts))]
    vocabularies += [(name, np.flatnonzero(of == name)) for name in names] if len(names) > 1 else []
    test = data.part(TEST)
    queried = _drawn(len(test), queries, seed)
    scores: list[ForwardScore] = []
    votes = vote(data.features, data.part(TRAIN), test.positions[queried], place)
    whole: list[tuple[Literal["linear", "knn"], NDArray[np.float64], int, dict[str, Any]]] = []
    for name, columns in vocabularies:
        exclusive = _exclusive(data.x.select(columns))
        if exclusive:
            scores.append(_linear_top1(data, name, columns, place, progress))
            scores.append(_knn_top1(name, votes, test, queried, columns))
            continue
        if not whole:
            probe = fit_linear(
                data.features, data.part(TRAIN), data.part(VAL), exclusive=False, device=place, progress=progress
            )
            precisions = average_precisions(_of_probe(probe, data.features, test.positions), test.x)
            details = {"weight_decay": probe.weight_decay, "passes": probe.passes}
            whole.append(("linear", precisions, len(test), details))
            whole.append(
                ("knn", average_precisions(votes.of, test.x.take(queried)), len(queried), _knn_details(queried))
            )
        scores += [_mean(name, kind, precisions[columns], n, details) for kind, precisions, n, details in whole]
    return scores


def _exclusive(x: ConceptMatrix) -> bool:
    return x.n_concepts > 1 and bool((np.diff(x.indptr) <= 1).all())


def _drawn(n: int, most: int, seed: int) -> NDArray[np.int64]:
    """Draw at most so many of n samples, ascending."""
    if most == 0 or n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).permutation(n)[:most])


def _linear_top1(
    data: ForwardData, name: str, columns: NDArray[np.int64], device: torch.device, progress: Progress
) -> ForwardScore:
    train, val, test = (data.part(part, columns, labelled=True) for part in (TRAIN, VAL, TEST))
    if not (len(train) and len(val) and len(test)):
        return ForwardScore(name, "linear", "top1", None, len(test), len(columns), 0, {})
    probe = fit_linear(data.features, train, val, exclusive=True, device=device, progress=progress)
    likeliest = [logits.argmax(dim=1).cpu().numpy() for logits in probe.logits(data.features, test.positions)]
    value = float((np.concatenate(likeliest) == test.x.indices).mean())
    details = {"weight_decay": probe.weight_decay, "passes": probe.passes}
    return ForwardScore(name, "linear", "top1", value, len(test), len(columns), 0, details)


def _knn_top1(
    name: str, votes: Votes, test: Labelled, queried: NDArray[np.int64], columns: NDArray[np.int64]
) -> ForwardScore:
    """Neighbours without a concept of the group vote for none; a query without any vote is a miss."""
    x = test.x.take(queried).select(columns)
    labelled = np.flatnonzero(np.diff(x.indptr))
    group_votes = Votes(votes.neighbours[labelled], votes.weights[labelled], votes.x.select(columns))
    best, likeliest = np.zeros(len(labelled)), np.full(len(labelled), -1)
    for part in _slices(len(columns), len(labelled)):
        weights = group_votes.of(part)
        top = weights.argmax(axis=1)
        value = weights[np.arange(len(weights)), top]
        likeliest = np.where(value > best, top + part.start, likeliest)
        best = np.maximum(best, value)
    value_of = float((likeliest == x.take(labelled).indices).mean()) if len(labelled) else None
    return ForwardScore(name, "knn", "top1", value_of, len(labelled), len(columns), 0, _knn_details(queried))


def _knn_details(queried: NDArray[np.int64]) -> dict[str, Any]:
    return {"neighbours": NEIGHBOURS, "temperature": TEMPERATURE, "n_queries": len(queried)}


def _of_probe(probe: LinearProbe, features: Features, positions: NDArray[np.int64]) -> Scores:
    def scores(columns: slice) -> NDArray[Any]:
        return np.concatenate([logits.cpu().numpy() for logits in probe.logits(features, positions, columns)])

    return scores


def _mean(
    name: str, probe: Literal["linear", "knn"], precisions: NDArray[np.float64], n_test: int, details: dict[str, Any]
) -> ForwardScore:
    defined = precisions[~np.isnan(precisions)]
    value = float(defined.mean()) if len(defined) else None
    return ForwardScore(name, probe, "map", value, n_test, len(precisions), len(precisions) - len(defined), details)


def _slices(n_concepts: int, n: int) -> Iterator[slice]:
    step = max(1, _CELLS // max(n, 1))
    return (slice(start, min(start + step, n_concepts)) for start in range(0, n_concepts, step))


def average_precisions(scores: Scores, x: ConceptMatrix) -> NDArray[np.float64]:
    """Return Σ (recall_i − recall_i−1) precision_i over each concept's distinct scores; (M,), NaN without positives."""
    precisions = np.full(x.n_concepts, np.nan)
    by_concept = np.argsort(x.indices, kind="stable")
    rows = x.rows()[by_concept]
    ends = np.concatenate(([0], np.cumsum(x.counts())))
    for part in _slices(x.n_concepts, len(x)):
        part_scores = scores(part)
        for concept in range(part.start, part.stop):
            positive = rows[ends[concept] : ends[concept + 1]]
            if len(positive):
                precisions[concept] = _average_precision(part_scores[:, concept - part.start], positive)
    return precisions


def _average_precision(scores: NDArray[Any], positive: NDArray[np.int64]) -> float:
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    hit = np.zeros(len(scores), bool)
    hit[positive] = True
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # equal scores are one step
    hits = np.cumsum(hit[order])[last]
    gained = np.diff(hits, prepend=0)
    return float((gained * hits / (last + 1)).sum() / len(positive))
