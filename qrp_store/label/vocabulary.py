"""What a person wants to know of a concept set: what is frequent, rare or constant, what goes together, and which
concepts of the dataset's other sets mean the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from qrp_store.catalog.entities import concept_sets, datasets
from qrp_store.catalog.entities.concept_sets import StoredConcepts, Vocabulary
from qrp_store.label import concept_rows
from qrp_store.label.agreement import agreement, by_expert, forms, matched
from qrp_store.store import Store

_TOP = 10
_COMPARED = 50
_SHOWN = 20
_SAME = 0.8
RARE = 10
_CHUNK_ROWS = 1 << 16


def describe(store: Store, identifier: str) -> dict[str, Any]:
    """Counts, frequencies and neighbours of a ready concept set's concepts, as JSON.

    `n_rare`: concepts that hold for fewer than 10 samples; `n_constant`: for none or for every labelled sample.
    `together`: the most frequent concepts pair by pair, with lift P(both) / (P(one) P(other)). `near_duplicates`:
    concepts of other sets with the same name but for case, plural and synonyms, or with a Jaccard index of the
    samples of at least 0.8 among each set's 50 most frequent. `agreement`: mean F1 and kappa over the concepts shared
    with each other set. `options` and `provenance`: what it was made from and
    how (a file's sha256, or the expert with its weights' digest and preprocessing; threshold, group).
    """
    words = concept_sets.vocabulary(store.catalog, identifier)
    stored = concept_sets.by_id(store.catalog, identifier)
    n = datasets.get_dataset(store.catalog, stored.dataset).n
    order = frequent(words)
    common = [
        {
            "concept": words.names[i],
            "group": words.groups[i],
            "n": words.n_positive[i],
            "share": words.n_positive[i] / n,
        }
        for i in order[:_TOP]
    ]
    # of a retired set the rows may be gone
    rows = concept_rows.load(store, stored) if stored.artifact.state == "ready" else None
    near = () if rows is None else _near_duplicates(store, stored, rows, words)
    return {
        "groups": sorted({g for g in words.groups if g is not None}),
        "n_without_positives": sum(count == 0 for count in words.n_positive),
        "n_rare": sum(count < RARE for count in words.n_positive),
        "n_constant": sum(count in (0, stored.n_labelled_samples) for count in words.n_positive),
        "labels_a_sample": stored.n_labels / n,
        "n_verified": stored.n_verified,
        "most_frequent": common,
        "together": [] if rows is None else _together(rows, words, order[:_TOP], n),
        "near_duplicates": sorted(near, key=_closest)[:_SHOWN],
        "agreement": [] if rows is None else list(_agreements(store, stored, words)),
        **_origin(stored),
    }


def _origin(stored: StoredConcepts) -> dict[str, Any]:
    """Without what only the store needs, and without an expert's categories, which are the concepts."""
    options = {k: v for k, v in stored.artifact.spec.items() if k not in ("algorithm", "dataset", "scores")}
    if "expert" in options:
        options["expert"] = {k: v for k, v in options["expert"].items() if k != "names"}
    provenance = {k: v for k, v in stored.artifact.provenance.items() if k not in (concept_rows.MEMBER, "scores")}
    return {"fingerprint": stored.artifact.fingerprint, "options": options, "provenance": provenance}


def frequent(words: Vocabulary) -> list[int]:
    """The numbers of the concepts that hold somewhere, the most frequent first."""
    occurring = [i for i, count in enumerate(words.n_positive) if count]
    return sorted(occurring, key=lambda i: (-words.n_positive[i], words.names[i]))


def _together(rows: concept_rows.Rows, words: Vocabulary, chosen: Sequence[int], n: int) -> list[dict[str, Any]]:
    both = _overlaps(rows, rows, chosen, chosen)
    pairs: list[dict[str, Any]] = []
    for a in range(len(chosen)):
        for b in range(a + 1, len(chosen)):
            one, other = chosen[a], chosen[b]
            if both[a, b]:
                lift = float(both[a, b]) * n / (words.n_positive[one] * words.n_positive[other])
                pairs.append(
                    {"concept": words.names[one], "with": words.names[other], "n": int(both[a, b]), "lift": lift}
                )
    return sorted(pairs, key=lambda row: (-row["n"], row["concept"], row["with"]))[:_TOP]


def _overlaps(
    one: concept_rows.Rows, other: concept_rows.Rows, first: Sequence[int], second: Sequence[int]
) -> np.ndarray:
    """(len(first), len(second)): how many samples have both concepts."""
    counts = np.zeros((len(first), len(second)), np.int64)
    n = len(one[0]) - 1
    for start in range(0, n, _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, n)
        a, b = _dense(one, first, start, stop), _dense(other, second, start, stop)
        counts += (a.T @ b).astype(np.int64)
    return counts


def _dense(rows: concept_rows.Rows, chosen: Sequence[int], start: int, stop: int) -> np.ndarray:
    indptr, indices = rows
    columns = indices[indptr[start] : indptr[stop]]
    place = np.full(max(int(columns.max(initial=0)), *chosen, 0) + 1, -1)
    place[list(chosen)] = np.arange(len(chosen))
    at = np.repeat(np.arange(stop - start), np.diff(indptr[start : stop + 1]))
    column = place[columns]
    out = np.zeros((stop - start, len(chosen)), np.float32)
    out[at[column >= 0], column[column >= 0]] = 1
    return out


def _near_duplicates(
    store: Store, stored: StoredConcepts, rows: concept_rows.Rows, words: Vocabulary
) -> Iterator[dict[str, Any]]:
    for name in concept_sets.names(store.catalog, stored.dataset):
        if name == stored.artifact.name:
            continue
        other = concept_sets.get(store.catalog, stored.dataset, name)
        others = concept_sets.vocabulary(store.catalog, other.artifact.id)
        known = {form: i for i, concept in enumerate(others.names) for form in forms(concept)}
        called = {(i, known[f]) for i, concept in enumerate(words.names) for f in forms(concept) if f in known}
        first = sorted({i for i, _ in called} | set(frequent(words)[:_COMPARED]))
        second = sorted({j for _, j in called} | set(frequent(others)[:_COMPARED]))
        if not first or not second:
            continue
        both = _overlaps(rows, concept_rows.load(store, other), first, second)
        for a, i in enumerate(first):
            for b, j in enumerate(second):
                union = words.n_positive[i] + others.n_positive[j] - int(both[a, b])
                jaccard = int(both[a, b]) / union if union else 0.0
                if (i, j) in called or jaccard >= _SAME:
                    same = {"concept": words.names[i], "concepts": name, "other": others.names[j]}
                    yield {**same, "same_name": (i, j) in called, "jaccard": jaccard}


def _agreements(store: Store, stored: StoredConcepts, words: Vocabulary) -> Iterator[dict[str, Any]]:
    """Yield the mean agreement with each other set of the dataset that shares concepts, as `compare-concepts` has it.

    An expert's set is judged by one that is not, whichever is shown. Average precision, which reads all scores, is left
    out.
    """
    for name in concept_sets.names(store.catalog, stored.dataset):
        if name == stored.artifact.name:
            continue
        other = concept_sets.get(store.catalog, stored.dataset, name)
        if not matched(words, concept_sets.vocabulary(store.catalog, other.artifact.id)):
            continue
        a, b = (other, stored) if by_expert(stored) and not by_expert(other) else (stored, other)
        report = agreement(store, a, b, ranked=False)
        means = {"f1_mean": report.f1_mean, "kappa_mean": report.kappa_mean}
        yield {"concepts": name, "n_common": report.n_common, **means}


def _closest(row: dict[str, Any]) -> tuple[Any, ...]:
    return not row["same_name"], -row["jaccard"], row["concept"], row["concepts"], row["other"]
