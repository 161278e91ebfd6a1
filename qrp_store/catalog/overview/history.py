"""How long things took in this store: what estimates go by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.model import tables as t

_a, _k, _r = t.artifact.c, t.clustering.c, t.result.c
_NEWEST = 20


@dataclass(frozen=True)
class PastClustering:
    """A K-means run that was made here; `seconds` from reading to the last assignment."""

    n: int
    dim: int
    clusters: int
    n_sampled: int
    options: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class PastProbe:
    """A probe that was trained here; `n_labels` of its concept sets together, `seconds` training and validation."""

    clusters: int
    n_train: int
    n_concepts: int
    n_labels: int
    n_samples: int
    epochs: int
    options: Mapping[str, Any]
    seconds: float


def past_clusterings(catalog: Catalog) -> list[PastClustering]:
    """The newest K-means runs, newest first."""
    query = sa.select(_a.provenance, _a.spec, _k.n, _k.dim, _k.clusters, _k.n_sampled)
    query = query.join(t.clustering, _k.artifact_pk == _a.pk).where(_a.state == "ready", _k.n_sampled.is_not(None))
    with catalog.read() as connection:
        rows = connection.execute(query.order_by(_a.pk.desc()).limit(_NEWEST)).mappings().all()
    return [
        PastClustering(row["n"], row["dim"], row["clusters"], row["n_sampled"], row["spec"]["options"], seconds)
        for row in rows
        if (seconds := (row["provenance"].get("timings") or {}).get("total_s"))
    ]


def past_probes(catalog: Catalog) -> list[PastProbe]:
    """The newest results, newest first."""
    used, sets = t.result_concept_set.c, t.concept_set.c
    labels = sa.select(sa.func.sum(sets.n_labels)).join(t.result_concept_set, used.concept_set_pk == sets.artifact_pk)
    labels = labels.where(used.result_pk == _a.pk)
    columns = (_r.clusters, _r.n_train, _r.n_concepts, _r.n_val, _r.n_test, _r.epochs_run, _r.timings, _a.spec)
    query = sa.select(*columns, labels.scalar_subquery().label("n_labels"))
    query = query.join(t.artifact, _a.pk == _r.artifact_pk).where(_a.state == "ready")
    with catalog.read() as connection:
        rows = connection.execute(query.order_by(_a.pk.desc()).limit(_NEWEST)).mappings().all()
    return [
        PastProbe(
            clusters=row["clusters"],
            n_train=row["n_train"],
            n_concepts=row["n_concepts"],
            n_labels=int(row["n_labels"] or 0),
            n_samples=row["n_train"] + row["n_val"] + row["n_test"],
            epochs=row["epochs_run"],
            options=row["spec"]["options"],
            seconds=row["timings"]["train_s"] + row["timings"]["val_s"],
        )
        for row in rows
    ]
