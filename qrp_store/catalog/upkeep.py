"""The catalog's side of verify, rm and gc: what is promised, what depends on what, what nobody needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from qrp_store.catalog import bulk
from qrp_store.catalog import tables as t
from qrp_store.catalog.clock import now_seconds, now_text
from qrp_store.catalog.engine import Catalog
from qrp_store.catalog.owner import Owner, is_gone

GRACE_SECONDS = 24 * 3600.0
_a = t.artifact.c
# Large children first, so that a crash half-way leaves something for the next gc to find.
CHILDREN: dict[str, tuple[tuple[sa.Table, str], ...]] = {
    "embedding": ((t.block, "embedding_pk"),),
    "concepts": ((t.label, "concept_set_pk"), (t.concept, "concept_set_pk")),
    "clustering": ((t.assignment, "clustering_pk"), (t.cluster, "clustering_pk")),
    "result": tuple((table, "result_pk") for table in (*t.BESIDE, *t.SAID)),
}
BULK = {"label": "position", "assignment": "position"}
OWN = {"embedding": t.embedding, "concepts": t.concept_set, "clustering": t.clustering, "result": t.result}


@dataclass(frozen=True)
class Kept:
    """An artifact as gc sees it. `fate`: keep, or collect (retired: rows stay as a tombstone) or forget (all goes)."""

    pk: int
    id: str
    kind: str
    name: str
    path: str
    fate: str


@dataclass(frozen=True)
class Count:
    """A number of rows that the catalog promises, and the number there is."""

    what: str
    expected: int
    found: int


def survey(catalog: Catalog) -> list[Kept]:
    """Every artifact and what gc should do with it."""
    age = (now_seconds() - sa.func.coalesce(_a.lease_expires, _a.created_at_seconds)).label("age")
    with catalog.read() as connection:
        rows = connection.execute(sa.select(t.artifact, age).order_by(_a.pk)).mappings().all()
    return [Kept(r["pk"], r["id"], r["kind"], r["name"], r["path"], _fate(r)) for r in rows]


def _fate(row: sa.RowMapping) -> str:
    if row["state"] in ("ready", "retired"):
        return "keep" if row["state"] == "ready" else "collect"
    alive = False
    if row["state"] == "writing" and row["lease_host"] is not None:
        owner = Owner(row["lease_host"], row["lease_boot"], row["lease_pid"], row["lease_started"])
        alive = row["age"] < 0 and not is_gone(owner)
    return "forget" if not alive and row["age"] > GRACE_SECONDS else "keep"


def remove_rows(catalog: Catalog, kept: Kept) -> int:
    """Delete the rows of an artifact that gc collects or forgets; returns how many."""
    removed = 0
    for table, owner in CHILDREN[kept.kind]:
        with catalog.read() as connection:
            removed += _count(connection, table, owner, kept.pk)
        if table.name in BULK:
            bulk.clear(catalog, table, owner, kept.pk, BULK[table.name])
        else:
            with catalog.write() as connection:
                connection.execute(table.delete().where(table.c[owner] == kept.pk))
    if kept.fate == "forget":
        with catalog.write() as connection:
            own = OWN[kept.kind]
            connection.execute(own.delete().where(own.c.artifact_pk == kept.pk))
            connection.execute(t.artifact.delete().where(_a.pk == kept.pk, _a.state.in_(("writing", "failed"))))
        removed += 1
    return removed


def remove_staged(catalog: Catalog, *, dry_run: bool) -> int:
    """Delete datasets and backbones that were staged long ago and that no embedding came of; returns how many."""
    found = 0
    used = {
        t.dataset: sa.select(t.embedding.c.dataset_pk),
        t.backbone: sa.select(t.embedding.c.backbone_pk),
    }
    for table, users in used.items():
        c = table.c
        stale = sa.and_(c.state != "ready", now_seconds() - c.created_at_seconds > GRACE_SECONDS, c.pk.not_in(users))
        with catalog.read() as connection:
            pks = list(connection.execute(sa.select(c.pk).where(stale)).scalars())
        found += len(pks)
        for pk in [] if dry_run else pks:
            if table is t.dataset:
                bulk.clear(catalog, t.sample, "dataset_pk", pk)
                bulk.clear(catalog, t.image_file, "dataset_pk", pk)
            with catalog.write() as connection:
                connection.execute(table.delete().where(c.pk == pk, stale))
    return found


def _count(connection: sa.Connection, table: sa.Table, owner: str, pk: int) -> int:
    return int(
        connection.execute(sa.select(sa.func.count()).select_from(table).where(table.c[owner] == pk)).scalar_one()
    )


def ready(catalog: Catalog) -> Iterator[dict[str, Any]]:
    """Every ready artifact: pk, id, kind, name."""
    with catalog.read() as connection:
        query = sa.select(_a.pk, _a.id, _a.kind, _a.name).where(_a.state == "ready").order_by(_a.pk)
        rows = connection.execute(query).mappings().all()
    return (dict(row) for row in rows)


def counts(catalog: Catalog, pk: int, kind: str) -> list[Count]:
    """The numbers of rows that an artifact of a kind other than embedding promises."""
    with catalog.read() as connection:
        if kind == "concepts":
            s = t.concept_set.c
            labels, concepts = connection.execute(sa.select(s.n_labels, s.n_concepts).where(s.artifact_pk == pk)).one()
            return [
                Count("labels", labels, _count(connection, t.label, "concept_set_pk", pk)),
                Count("concepts", concepts, _count(connection, t.concept, "concept_set_pk", pk)),
            ]
        if kind == "clustering":
            k = t.clustering.c
            n, clusters = connection.execute(sa.select(k.n, k.clusters).where(k.artifact_pk == pk)).one()
            return [
                Count("assignments", n, _count(connection, t.assignment, "clustering_pk", pk)),
                Count("clusters", clusters, _count(connection, t.cluster, "clustering_pk", pk)),
            ]
        if kind == "result":
            r = t.result.c
            clusters = connection.execute(sa.select(r.clusters).where(r.artifact_pk == pk)).scalar_one()
            return [Count("cluster scores", clusters, _count(connection, t.cluster_score, "result_pk", pk))]
        e = t.embedding.c
        query = sa.select(t.dataset.c.n, e.dataset_pk).join(t.embedding, e.dataset_pk == t.dataset.c.pk)
        n, dataset = connection.execute(query.where(e.artifact_pk == pk)).one()
        return [Count("samples", n, _count(connection, t.sample, "dataset_pk", dataset))]


def saved_arrays(catalog: Catalog, pk: int, kind: str) -> list[tuple[str, str]]:
    """(path, checksum) of the whole arrays that an artifact promises: centroids, weights."""
    if kind == "clustering":
        k = t.clustering.c
        query = sa.select(k.centroids_path, k.centroids_checksum).where(k.artifact_pk == pk)
    elif kind == "result":
        r = t.result.c
        query = sa.select(r.weights_path, r.weights_checksum).where(r.artifact_pk == pk)
    else:
        return []
    with catalog.read() as connection:
        return [(path, checksum) for path, checksum in connection.execute(query) if path is not None]


def dependants(catalog: Catalog, identifier: str) -> list[tuple[str, str, str]]:
    """(id, kind, name) of the ready artifacts made from one, directly or not, those that depend on most first."""
    with catalog.read() as connection:
        pk = connection.execute(sa.select(_a.pk).where(_a.id == identifier)).scalar_one()
        clusterings = sa.select(t.clustering.c.artifact_pk).where(
            sa.or_(t.clustering.c.embedding_pk == pk, t.clustering.c.artifact_pk == pk)
        )
        results = sa.select(t.result.c.artifact_pk).where(
            sa.or_(
                t.result.c.clustering_pk.in_(clusterings),
                t.result.c.artifact_pk.in_(
                    sa.select(t.result_concept_set.c.result_pk).where(t.result_concept_set.c.concept_set_pk == pk)
                ),
            )
        )
        found = []
        for users in (results, clusterings):
            query = sa.select(_a.id, _a.kind, _a.name).where(_a.pk.in_(users), _a.state == "ready", _a.pk != pk)
            found += [(row[0], row[1], row[2]) for row in connection.execute(query.order_by(_a.pk))]
        return found


def retire(catalog: Catalog, identifiers: list[str]) -> None:
    """Make ready artifacts retired, all or none."""
    with catalog.write() as connection:
        connection.execute(
            t.artifact.update()
            .where(_a.id.in_(identifiers), _a.state == "ready")
            .values(state="retired", retired_at=now_text())
        )
