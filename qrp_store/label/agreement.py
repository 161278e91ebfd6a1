"""The story of compare-concepts: how far do two concept sets of one dataset agree, concept by concept?

One set, the reference, holds labels that are trusted, for example those that people made; the other is judged by them.
A pair of image and concept counts when both sets know it (`verified`): unknown is not absent.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qrp_store.catalog.entities import concept_sets, datasets
from qrp_store.catalog.entities.concept_sets import StoredConcepts, Vocabulary
from qrp_store.catalog.overview import references
from qrp_store.errors import InvalidInput
from qrp_store.label import concept_rows
from qrp_store.options import AgreementOptions, takes
from qrp_store.store import Store, split_version

SCHEMA = "qrp-store/compare-concepts/1"


@dataclass(frozen=True)
class Compared:
    """One of the two sets. `scored`: its labels have scores, so that they rank the images."""

    id: str
    concepts: str
    version: int
    n_concepts: int
    n_labels: int
    format: str
    scored: bool


@dataclass(frozen=True)
class ConceptAgreement:
    """One concept that both sets have, over the `n` images of which both know whether it holds.

    `other`: its name in the second set. `n_a`, `n_b`, `n_both`: images for which it holds in the reference, in the
    second set, and in both. `precision`, `recall` and `f1` are of the second set; `kappa` is Cohen's. `ap`: average
    precision of the scores of the set that has some, against the labels of the other one. None: not defined.
    """

    concept: str
    other: str
    concept_group: str | None
    n: int
    n_a: int
    n_b: int
    n_both: int
    precision: float | None
    recall: float | None
    f1: float | None
    kappa: float | None
    ap: float | None


@dataclass(frozen=True)
class AgreementReport:
    """The agreement of set `b` with the reference `a`.

    The means are over the concepts that have the number. `scored`: whose scores `ap` ranks. `only_a`, `only_b`: the
    concepts of one set alone. `rows` are in the order of the reference's vocabulary.
    """

    schema: str
    dataset: str
    a: Compared
    b: Compared
    n_common: int
    f1_mean: float | None
    kappa_mean: float | None
    ap_mean: float | None
    scored: str | None
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    rows: tuple[ConceptAgreement, ...]
    timings: dict[str, float]


@takes(AgreementOptions)
def compare_concepts(store: Store, first: str, second: str, *, dataset: str | None = None) -> AgreementReport:
    """Compare a concept set with a reference, the first one: names (with `dataset` if several have them) or ids.

    Raise NotFound for a set, and InvalidInput for sets of two datasets or without a common concept.
    """
    a, b = (_stored(store, name, dataset) for name in (first, second))
    if a.dataset != b.dataset:
        raise InvalidInput(
            f"{first} is of dataset {a.dataset!r}, {second} of {b.dataset!r}", hint="label the same images with both"
        )
    report = agreement(store, a, b)
    if not report.n_common:
        raise InvalidInput(
            f"{first} and {second} have no concept in common: {_some(report.only_a)} and {_some(report.only_b)}",
            hint="concepts are matched by name; label --names renames them",
        )
    return report


def agreements(store: Store, dataset: str, *, ranked: bool = True) -> list[AgreementReport]:
    """Return the agreement of every expert's set of a dataset with every other set that has concepts in common.

    A set that is no expert's is the reference. `ranked`: with average precision.
    """
    sets = [concept_sets.get(store.catalog, dataset, name) for name in concept_sets.names(store.catalog, dataset)]
    trusted = [one for one in sets if not by_expert(one)]
    reports = [agreement(store, a, b, ranked=ranked) for b in sets if by_expert(b) for a in trusted]
    return [report for report in reports if report.n_common]


def by_expert(stored: StoredConcepts) -> bool:
    """Return whether a model made the labels of a set."""
    return stored.artifact.provenance.get("format") == "expert"


def agreement(store: Store, a: StoredConcepts, b: StoredConcepts, *, ranked: bool = True) -> AgreementReport:
    """Compare two sets of one dataset; `ranked`: with average precision, which reads all scores."""
    started = time.perf_counter()
    words = [concept_sets.vocabulary(store.catalog, each.artifact.id) for each in (a, b)]
    pairs = matched(*words)
    sides = [_Side(store, each, ranked=ranked and bool(pairs)) for each in (a, b)]
    scored = next((name for name, side in (("b", sides[1]), ("a", sides[0])) if side.scored), None)
    rows = tuple(_row(words, i, j, *sides) for i, j in pairs)
    taken = [{i for i, _ in pairs}, {j for _, j in pairs}]
    alone = [tuple(n for i, n in enumerate(w.names) if i not in t) for w, t in zip(words, taken, strict=True)]
    return AgreementReport(
        schema=SCHEMA,
        dataset=a.dataset,
        a=sides[0].compared(),
        b=sides[1].compared(),
        n_common=len(rows),
        f1_mean=_mean([row.f1 for row in rows]),
        kappa_mean=_mean([row.kappa for row in rows]),
        ap_mean=_mean([row.ap for row in rows]),
        scored=scored,
        only_a=alone[0],
        only_b=alone[1],
        rows=rows,
        timings={"total_s": time.perf_counter() - started},
    )


def matched(a: Vocabulary, b: Vocabulary) -> list[tuple[int, int]]:
    """Return the numbers of the concepts that two vocabularies share, in the order of the first.

    Names are the same, or else the same but for case, plural and synonyms where that leaves one candidate on each side.
    """
    numbers = {name: j for j, name in enumerate(b.names)}
    pairs = {i: numbers[name] for i, name in enumerate(a.names) if name in numbers}
    free = [set(range(len(a.names))) - set(pairs), set(range(len(b.names))) - set(pairs.values())]
    by_form = [_by_form(words, left) for words, left in zip((a, b), free, strict=True)]
    candidates: dict[int, set[int]] = {}
    for form, ours in by_form[0].items():
        others = by_form[1].get(form, [])
        if len(ours) == len(others) == 1:
            candidates.setdefault(ours[0], set()).add(others[0])
    sure = {i: next(iter(js)) for i, js in candidates.items() if len(js) == 1}
    uses = Counter(sure.values())
    pairs |= {i: j for i, j in sure.items() if uses[j] == 1}
    return sorted(pairs.items())


def _by_form(words: Vocabulary, numbers: set[int]) -> dict[str, list[int]]:
    by_form: dict[str, list[int]] = {}
    for number in sorted(numbers):
        for form in forms(words.names[number]):
            by_form.setdefault(form, []).append(number)
    return by_form


def forms(name: str) -> set[str]:
    """A name and its synonyms (`tench, Tinca tinca`) in lower case, letters and digits alone, in the singular."""
    plain = {re.sub(r"[\W_]+", " ", part.casefold()).strip() for part in name.split(",")}
    return {
        form[:-1] if len(form) > 3 and form.endswith("s") and not form.endswith("ss") else form for form in plain
    } - {""}


class _Side:
    """A concept set's labels by concept, the pairs that it knows, and its scores."""

    def __init__(self, store: Store, stored: StoredConcepts, *, ranked: bool) -> None:
        self.stored = stored
        self.n = datasets.get_dataset(store.catalog, stored.dataset).n
        indptr, concepts = concept_rows.load(store, stored)
        positions = np.repeat(np.arange(self.n), np.diff(indptr))
        self._order = np.argsort(concepts, kind="stable")
        self._starts = np.searchsorted(concepts[self._order], np.arange(stored.n_concepts + 1))
        self._positions = positions[self._order]
        self._scores: np.ndarray | None = None
        if ranked:
            scores = concept_sets.label_scores(store.catalog, stored.artifact.id)
            if not np.isnan(scores).all():
                self._scores = np.where(np.isnan(scores), np.float32(1), scores)[self._order]
        self._whole: np.ndarray | None = None
        self._known: Mapping[int, np.ndarray] = {}
        if stored.n_verified is not None:
            at, concept = concept_sets.verified(store.catalog, stored.artifact.id)
            self._whole = np.zeros(self.n, bool)
            self._whole[at[concept < 0]] = True
            by = np.argsort(concept, kind="stable")
            numbers, first = np.unique(concept[by], return_index=True)
            self._known = dict(zip(numbers.tolist(), np.split(at[by], first[1:]), strict=True))

    @property
    def scored(self) -> bool:
        return self._scores is not None

    def compared(self) -> Compared:
        artifact = self.stored.artifact
        return Compared(
            artifact.id,
            artifact.name,
            artifact.version or 0,
            self.stored.n_concepts,
            self.stored.n_labels,
            str(artifact.provenance.get("format", "long")),
            self.scored,
        )

    def known(self, concept: int) -> np.ndarray | None:
        """Return which samples (bool) the set knows for a concept; None: all."""
        if self._whole is None:
            return None
        known = self._whole.copy()
        known[self._known.get(concept, np.empty(0, np.int64))] = True
        known[self._positions[self._slice(concept)]] = True
        return known

    def holds(self, concept: int) -> np.ndarray:
        """Return for which samples (bool) a concept holds."""
        holds = np.zeros(self.n, bool)
        holds[self._positions[self._slice(concept)]] = True
        return holds

    def scores(self, concept: int) -> np.ndarray | None:
        """Return each sample's score of a concept, 0 where the set has none; None for a set without scores."""
        if self._scores is None:
            return None
        scores = np.zeros(self.n, np.float32)
        scores[self._positions[self._slice(concept)]] = self._scores[self._slice(concept)]
        return scores

    def _slice(self, concept: int) -> slice:
        return slice(int(self._starts[concept]), int(self._starts[concept + 1]))


def _row(words: Sequence[Vocabulary], i: int, j: int, a: _Side, b: _Side) -> ConceptAgreement:
    known = [mask for mask in (a.known(i), b.known(j)) if mask is not None]
    kept = np.logical_and.reduce(known) if known else np.ones(a.n, bool)
    in_a, in_b = a.holds(i)[kept], b.holds(j)[kept]
    n, n_a, n_b, both = len(in_a), int(in_a.sum()), int(in_b.sum()), int((in_a & in_b).sum())
    ap = None
    for scores, truth in ((b.scores(j), in_a), (a.scores(i), in_b)):
        if scores is not None:
            ap = average_precision(truth, scores[kept])
            break
    return ConceptAgreement(
        concept=words[0].names[i],
        other=words[1].names[j],
        concept_group=words[0].groups[i],
        n=n,
        n_a=n_a,
        n_b=n_b,
        n_both=both,
        precision=both / n_b if n_b else None,
        recall=both / n_a if n_a else None,
        f1=2 * both / (n_a + n_b) if n_a + n_b else None,
        kappa=_kappa(n, n_a, n_b, both),
        ap=ap,
    )


def _kappa(n: int, n_a: int, n_b: int, both: int) -> float | None:
    """Cohen's kappa; None when chance alone agrees throughout."""
    if not n:
        return None
    chance = (n_a * n_b + (n - n_a) * (n - n_b)) / n**2
    observed = (n - n_a - n_b + 2 * both) / n
    return None if chance == 1 else (observed - chance) / (1 - chance)


def average_precision(truth: np.ndarray, scores: np.ndarray) -> float | None:
    """Σ (R_i − R_i−1) P_i over falling thresholds, equal scores at once; None without positives."""
    positives = int(truth.sum())
    if not positives:
        return None
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(truth[order])[ends]
    precision, recall = hits / (ends + 1), hits / positives
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _stored(store: Store, name: str, dataset: str | None) -> StoredConcepts:
    if dataset is not None and not references.looks_like_id(name):
        return concept_sets.get(store.catalog, dataset, *split_version(name))
    reference = references.resolve(store.catalog, name)
    if reference.kind != "concepts":
        raise InvalidInput(f"{name}: a {reference.kind}, expected a concept set", hint="qrp-store ls concepts")
    stored = concept_sets.by_id(store.catalog, reference.id)
    if stored.artifact.state != "ready":
        raise InvalidInput(f"{name}: is {stored.artifact.state}, so its labels may be gone", hint="label again")
    if dataset is not None and stored.dataset != dataset:
        raise InvalidInput(f"{name} is of dataset {stored.dataset!r}, not of {dataset!r}", hint="leave --dataset out")
    return stored


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
