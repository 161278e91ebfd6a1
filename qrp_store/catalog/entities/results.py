"""Probe results and what they say per cluster. Written whole in one transaction; the database refuses every change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from qrp_store.catalog.database import bulk
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.entities import concept_sets, datasets
from qrp_store.catalog.entities.concept_sets import StoredConcepts
from qrp_store.catalog.lifecycle import lease
from qrp_store.catalog.lifecycle.lease import Claim
from qrp_store.catalog.model import tables as t
from qrp_store.catalog.model.values import ClusterConcept, ClusterScore, ConceptScore, GroupScore, ResultValues, entries
from qrp_store.errors import NotFound
from qrp_store.records import Artifact, Dataset

_a, _r = t.artifact.c, t.result.c


@dataclass(frozen=True)
class StoredResult:
    """A ready result: its row, and the id of its clustering."""

    artifact: Artifact
    row: Mapping[str, Any]
    clustering_id: str


def commit(
    catalog: Catalog,
    claimed: Claim,
    dataset: Dataset,
    clustering_id: str,
    concept_ids: Sequence[str],
    row: Mapping[str, Any],
    scores: Sequence[ClusterScore],
    concepts: Sequence[ClusterConcept],
    groups: Sequence[GroupScore],
    alone: Sequence[ConceptScore],
    provenance: Mapping[str, Any],
) -> int:
    """Write a result and make it ready; return its version.

    `row` holds the stored values of ResultValues with history, timings and weights. Raises NotFound when an input was
    retired meanwhile.
    """
    with catalog.write() as connection:
        lease.fence(connection, claimed)
        pks = {
            identifier: connection.execute(sa.select(_a.pk).where(_a.id == identifier)).scalar_one()
            for identifier in (clustering_id, *concept_ids)
        }
        lease.require_inputs(connection, pks.values())
        connection.execute(
            t.result.insert().values(
                artifact_pk=claimed.pk,
                dataset_pk=datasets.dataset_pk(connection, dataset.id),
                clustering_pk=pks[clustering_id],
                **row,
            )
        )
        used = [(claimed.pk, pks[identifier], place) for place, identifier in enumerate(concept_ids)]
        bulk.put(connection, t.result_concept_set, ("result_pk", "concept_set_pk", "place"), used)
        tables: Sequence[tuple[sa.Table, Sequence[tuple[Any, ...]]]] = (
            (t.cluster_score, scores),
            (t.cluster_concept, concepts),
            (t.group_score, groups),
            (t.concept_score, alone),
        )
        for table, rows in tables:
            bulk.put(connection, table, table.c.keys(), [(claimed.pk, *values) for values in rows])
        return lease.commit(connection, claimed, provenance)


def by_id(catalog: Catalog, identifier: str) -> StoredResult:
    """The ready result of that id. Raises NotFound."""
    clustering = t.artifact.alias("clustering_artifact")
    query = (
        sa.select(t.artifact, clustering.c.id.label("clustering_id"))
        .add_columns(*(c.label(f"result_{c.name}") for c in t.result.c))
        .join(t.result, _r.artifact_pk == _a.pk)
        .join(clustering, clustering.c.pk == _r.clustering_pk)
        .where(_a.id == identifier, _a.state == "ready")
    )
    with catalog.read() as connection:
        row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFound(f"no result {identifier!r}", hint="qrp-store ls results")
    columns = {c.name: row[f"result_{c.name}"] for c in t.result.c if not c.name.endswith("_pk")}
    return StoredResult(lease.artifact_of(row), columns, row["clustering_id"])


def values(catalog: Catalog, identifier: str) -> dict[str, Any]:
    """The ResultValues of a ready result as the views show them, and its `timings`. Raises NotFound."""
    row = by_id(catalog, identifier).row
    query = "SELECT * FROM result_versions WHERE id = :id"
    with catalog.read() as connection:
        shown = connection.execute(sa.text(query), {"id": identifier}).mappings().one()
    flags = {entry.name: bool(shown[entry.name]) for entry in entries(ResultValues) if entry.kind is bool}
    return {**shown, **flags, "timings": row["timings"]}


def origin(catalog: Catalog, identifier: str) -> dict[str, Any]:
    """How a result in any state was made: its `options`, its inputs' `fingerprints`, and its `provenance`."""
    embedding = t.artifact.alias("embedding_artifact")
    query = (
        sa.select(_a.spec, _a.provenance, embedding.c.fingerprint)
        .join(t.result, _r.artifact_pk == _a.pk)
        .join(t.clustering, t.clustering.c.artifact_pk == _r.clustering_pk)
        .outerjoin(embedding, embedding.c.pk == t.clustering.c.embedding_pk)
        .where(_a.id == identifier)
    )
    with catalog.read() as connection:
        spec, provenance, of = connection.execute(query).one()
    concepts = [fingerprint for fingerprint, _ in spec["concepts"]]
    inputs = {"dataset": spec["dataset"], "embedding": of, "clustering": spec["clustering"][0], "concepts": concepts}
    return {"options": spec["options"], "fingerprints": inputs, "provenance": provenance}


def concepts_of(catalog: Catalog, identifier: str) -> tuple[StoredConcepts, ...]:
    """The concept sets that a result was made with, in their order. Raises NotFound when one was retired."""
    result, used = t.artifact.alias("own"), t.result_concept_set.c
    query = (
        sa.select(t.dataset.c.name, _a.name, _a.version)
        .join_from(t.result_concept_set, result, result.c.pk == used.result_pk)
        .join(t.artifact, _a.pk == used.concept_set_pk)
        .join(t.concept_set, t.concept_set.c.artifact_pk == _a.pk)
        .join(t.dataset, t.dataset.c.pk == t.concept_set.c.dataset_pk)
        .where(result.c.id == identifier)
        .order_by(used.place)
    )
    with catalog.read() as connection:
        rows = connection.execute(query).all()
    return tuple(concept_sets.get(catalog, dataset, name, version) for dataset, name, version in rows)
