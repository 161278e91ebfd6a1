"""Numbers to read a result by, stored next to it: the upper reference, the code length, known groups.

They take no part in the result's fingerprint or setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from qrp_store.arrays.blocked import load_array
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.entities import extra_scores as stored
from qrp_store.catalog.entities import results
from qrp_store.catalog.entities.clusterings import StoredClustering
from qrp_store.evaluate.data import Concepts, JoinedConcepts, ProbeData, ProbeRequest, load
from qrp_store.evaluate.result import Result
from qrp_store.probing.agreement import agreement
from qrp_store.progress import Progress
from qrp_store.records import TEST, TRAIN, VAL, derive_seed
from qrp_store.store import Store

_REFERENCES = "n_references"
"""The number of exclusive groups that a result was compared with, so that none is not looked for again."""
_CLEAR = 0.01
"""NMI by which the upper reference must exceed the bound to be mentioned."""


@dataclass(frozen=True)
class Question:
    """A result, and what it was computed from."""

    store: Store
    result: Result
    clustering: StoredClustering
    joined: JoinedConcepts
    request: ProbeRequest
    progress: Progress

    @property
    def name(self) -> str:
        """Return what messages call the result."""
        result = self.result
        return f"{result.backbone}, K {result.clusters}, seed {result.seed}, {result.concepts}"


def store_numbers(catalog: Catalog, result: str, values: Mapping[str, float], details: Mapping[str, Any]) -> None:
    """Store numbers of a result, unless they are stored with these values."""
    known = {row["name"]: row["value"] for row in stored.points(catalog, "numbers", result)}
    rows = [{"name": n, "value": v, "details": dict(details)} for n, v in values.items() if known.get(n) != v]
    if rows:
        stored.put_points(catalog, "numbers", result, rows)


def with_upper(question: Question) -> Result:
    """Return the result with its upper reference, computed unless it is stored; none for a result without a score."""
    result = question.result
    if result.nmi is None:
        return result
    row = _number(question, "nmi_upper")
    if row is None:
        value, details = _upper(question)
        store_numbers(question.store.catalog, result.id, {"nmi_upper": value}, details)
        row = {"value": value, "details": details}
    details = row["details"]
    if row["value"] - result.nmi > _CLEAR:
        question.progress.note(
            f"{question.name}: the model {details['model']!r} reaches NMI {row['value']:.3f}, the linear probe "
            f"{result.nmi:.3f}: clusters follow combinations of concepts that do not add up"
        )
    return replace(result, nmi_upper=row["value"], upper=details)


def _upper(question: Question) -> tuple[float, dict[str, Any]]:
    from qrp_store.probing.upper import upper

    store, clustering, request = question.store, question.clustering, question.request
    data = load(store, clustering, question.joined, request)
    row = results.by_id(store.catalog, question.result.id).row
    best = upper(
        data.part(TRAIN),
        data.part(VAL),
        data.part(TEST),
        clustering.row.clusters,
        load_array(store.arrays, row["weights_path"], row["weights_checksum"]),
        seed=derive_seed(clustering.row.seed, "upper"),
        device=request.device,
        progress=question.progress,
    )
    return best.nmi, {"model": best.model, "candidates": [asdict(candidate) for candidate in best.candidates]}


def with_code_length(question: Question) -> Result:
    """Return the result with its prequential code length, computed unless it is stored."""
    result = question.result
    row = _number(question, "code_length_nats")
    if row is None:
        value, details = _code_length(question)
        store_numbers(question.store.catalog, result.id, {"code_length_nats": value}, details)
        row = {"value": value, "details": details}
    return replace(result, code_length_nats=row["value"], mdl=row["details"])


def _code_length(question: Question) -> tuple[float, dict[str, Any]]:
    from qrp_store.probing.codelength import code_length

    clustering, request = question.clustering, question.request
    data = load(question.store, clustering, question.joined, request)
    k, seed = clustering.row.clusters, derive_seed(clustering.row.seed, "code length")
    length = code_length(
        data.concepts.matrix,
        data.clusters,
        k,
        seed=seed,
        device=request.device,
        groups=data.groups,
        progress=question.progress,
    )
    share = np.bincount(data.clusters, minlength=k) / len(data.clusters)
    entropy = float(-(share[share > 0] * np.log(share[share > 0])).sum())
    return length, {"n": len(data.clusters), "entropy_nats": entropy, "saved_nats": entropy - length}


def require_references(question: Question) -> None:
    """Compare a result's clustering with each exclusive concept group, unless that is stored.

    Not for a control, whose concepts are permuted.
    """
    if not question.result.permuted and _number(question, _REFERENCES) is None:
        data = load(question.store, question.clustering, question.joined, question.request)
        store_references(question.store, question.result.id, data)


def store_references(store: Store, result: str, data: ProbeData) -> None:
    """Compare the clusters with each exclusive group over all samples that have one of its concepts, and store it."""
    rows = [
        {"concept_group": name, "n_concepts": len(np.unique(classes)), **asdict(agreement(classes, data.clusters[at]))}
        for name, at, classes in exclusive_groups(data.concepts)
    ]
    if rows:
        stored.put_points(store.catalog, "references", result, rows)
    store_numbers(store.catalog, result, {_REFERENCES: float(len(rows))}, {})


def exclusive_groups(concepts: Concepts) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return name, rows and classes of each group in which no sample has two concepts and two concepts or more occur.

    Rows (n,) are those with a concept of the group, ascending; classes (n,) their concept.
    """
    x = concepts.matrix
    names, number = np.unique(np.asarray(concepts.groups_named, dtype=object), return_inverse=True)
    row, group = x.rows(), number[x.indices]
    groups = []
    for i, name in enumerate(names.tolist()):
        entries = np.flatnonzero(group == i)
        at, classes = row[entries], x.indices[entries]
        # rows ascend, so two concepts of one sample are neighbours
        if len(at) and not (at[1:] == at[:-1]).any() and (classes != classes[0]).any():
            groups.append((name, at, classes))
    return groups


def _number(question: Question, name: str) -> dict[str, Any] | None:
    rows = stored.points(question.store.catalog, "numbers", question.result.id)
    return next((row for row in rows if row["name"] == name), None)
