"""The catalog's side of verify, rm and gc: what is promised, what depends on what, what nobody needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from qrp_store.catalog.database import bulk
from qrp_store.catalog.database.clock import now_seconds, now_text
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.lifecycle.lease import Claim, fence
from qrp_store.catalog.lifecycle.owner import Owner, is_gone
from qrp_store.catalog.model import tables as t
from qrp_store.catalog.overview.references import Reference

GRACE_SECONDS = 24 * 3600.0
_a = t.artifact.c
# Large children first, so that a crash half-way leaves something for the next gc to find.
CHILDREN: dict[str, tuple[tuple[sa.Table, str], ...]] = {
    "embedding": ((t.block, "embedding_pk"),),
    "concepts": ((t.label, "concept_set_pk"), (t.verified_pair, "concept_set_pk"), (t.concept, "concept_set_pk")),
    "clustering": ((t.assignment, "clustering_pk"), (t.cluster, "clustering_pk")),
    "result": tuple((table, "result_pk") for table in (*t.BESIDE, *t.SAID)),
}
BULK = ("label", "verified_pair", "assignment")
OWN = {"embedding": t.embedding, "concepts": t.concept_set, "clustering": t.clustering, "result": t.result}


@dataclass(frozen=True)
class Kept:
    """An artifact as gc sees it. `fate`: keep, or collect (retired: rows stay as a tombstone) or forget (all goes)."""

    pk: int
    id: str
    kind: str
    token: str | None
    fate: str


@dataclass(frozen=True)
class Count:
    """A number of rows that the catalog promises, and the number there is."""

    what: str
    expected: int
    found: int


def folders(catalog: Catalog) -> set[str]:
    """KIND/ID of every artifact that has a row, whatever its state: the folders of their arrays."""
    with catalog.read() as connection:
        return {f"{kind}/{identifier}" for kind, identifier in connection.execute(sa.select(_a.kind, _a.id))}


def survey(catalog: Catalog) -> list[Kept]:
    """Every artifact and what gc should do with it."""
    age = (now_seconds() - sa.func.coalesce(_a.lease_expires, _a.created_at_seconds)).label("age")
    with catalog.read() as connection:
        rows = connection.execute(sa.select(t.artifact, age).order_by(_a.pk)).mappings().all()
    return [Kept(r["pk"], r["id"], r["kind"], r["lease_token"], _fate(r)) for r in rows]


def _fate(row: sa.RowMapping) -> str:
    if row["state"] in ("ready", "retired"):
        return "keep" if row["state"] == "ready" else "collect"
    alive = False
    if row["state"] == "writing" and row["lease_host"] is not None:
        owner = Owner(row["lease_host"], row["lease_boot"], row["lease_pid"], row["lease_started"])
        alive = row["age"] < 0 and not is_gone(owner)
    return "forget" if not alive and row["age"] > GRACE_SECONDS else "keep"


def condemn(catalog: Catalog, kept: Kept) -> bool:
    """Take what is to be forgotten out of everybody's reach; False when somebody has taken it up since the survey.

    Whoever asks for the same from now on makes an artifact of its own, and a sleeper that wakes is refused.
    """
    seen = _a.lease_token.is_(None) if kept.token is None else _a.lease_token == kept.token
    mine = sa.and_(_a.pk == kept.pk, _a.state.in_(("writing", "failed")), seen)
    gone = {"state": "failed", "fingerprint": f"forgotten {kept.id}", "lease_token": None, "lease_host": None}
    with catalog.write() as connection:
        return connection.execute(t.artifact.update().where(mine).values(gone)).rowcount == 1


def remove_rows(catalog: Catalog, kept: Kept, *, dry_run: bool = False) -> int:
    """Delete the rows of an artifact that gc collects or forgets; returns how many (a dry run only counts)."""
    removed = int(kept.fate == "forget")
    for table, owner in CHILDREN[kept.kind]:
        with catalog.read() as connection:
            removed += _count(connection, table, owner, kept.pk)
        if not dry_run:
            clear(catalog, table, owner, kept.pk)
    if kept.fate == "forget" and not dry_run:
        with catalog.write() as connection:
            own = OWN[kept.kind]
            connection.execute(own.delete().where(own.c.artifact_pk == kept.pk))
            connection.execute(t.artifact.delete().where(_a.pk == kept.pk, _a.state.in_(("writing", "failed"))))
    return removed


def clear(catalog: Catalog, table: sa.Table, owner: str, pk: int, claimed: Claim | None = None) -> None:
    """Delete an owner's rows from one of its tables, those of a large one in short transactions."""
    if table.name in BULK:
        bulk.clear(catalog, table, owner, pk, claimed)
        return
    with catalog.write() as connection:
        if claimed is not None:
            fence(connection, claimed)
        connection.execute(table.delete().where(table.c[owner] == pk))


def remove_staged(catalog: Catalog, *, dry_run: bool) -> int:
    """Delete what was staged long ago and never came to anything, and the samples of retired datasets; returns how
    many datasets and backbones that were. A retired one's own row stays, as what results are a tombstone of."""
    found = 0
    owners = sa.union_all(*(sa.select(own.c.dataset_pk) for own in OWN.values()))
    for table, users in ((t.dataset, owners), (t.backbone, sa.select(t.embedding.c.backbone_pk))):
        c = table.c
        old = now_seconds() - c.created_at_seconds > GRACE_SECONDS
        stale = sa.and_(c.state != "ready", sa.or_(c.retired_at.is_not(None), old), c.pk.not_in(users))
        emptied = sa.exists().where(t.sample.c.dataset_pk == t.dataset.c.pk)
        gone = sa.or_(stale, sa.and_(c.retired_at.is_not(None), emptied)) if table is t.dataset else stale
        with catalog.read() as connection:
            pks = list(connection.execute(sa.select(c.pk).where(gone)).scalars())
        found += len(pks)
        for pk in [] if dry_run else pks:
            if table is t.dataset:
                with catalog.write() as connection:  # nobody takes it up again from here on
                    values = {"state": "writing", "retired_at": sa.func.coalesce(c.retired_at, now_text())}
                    if not connection.execute(table.update().where(c.pk == pk, gone).values(values)).rowcount:
                        continue
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


def is_ready(catalog: Catalog, pk: int) -> bool:
    """Whether an artifact (still) is."""
    with catalog.read() as connection:
        return connection.execute(sa.select(_a.pk).where(_a.pk == pk, _a.state == "ready")).first() is not None


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


def dependants(catalog: Catalog, of: Reference) -> list[tuple[str, str, str]]:
    """(id, kind, name) of the ready artifacts made from a thing, directly or not, those that depend on most first."""
    with catalog.read() as connection:
        clusterings, results = t.clustering.c, t.result.c
        if of.kind == "dataset":
            pk = sa.select(t.dataset.c.pk).where(t.dataset.c.id == of.id).scalar_subquery()
            groups = [sa.select(own.c.artifact_pk).where(own.c.dataset_pk == pk) for own in reversed(OWN.values())]
        else:
            own = sa.select(_a.pk).where(_a.id == of.id)
            if of.kind == "backbone":
                key = sa.select(t.backbone.c.pk).where(t.backbone.c.id == of.id).scalar_subquery()
                own = sa.select(t.embedding.c.artifact_pk).where(t.embedding.c.backbone_pk == key)
            grouped = sa.or_(clusterings.embedding_pk.in_(own), clusterings.artifact_pk.in_(own))
            made = sa.select(clusterings.artifact_pk).where(grouped)
            used = t.result_concept_set.c
            described = sa.select(used.result_pk).where(used.concept_set_pk.in_(own))
            scored = sa.or_(results.clustering_pk.in_(made), results.artifact_pk.in_(described))
            groups = [sa.select(results.artifact_pk).where(scored), made, own]
        found = []
        for users in groups:
            query = sa.select(_a.id, _a.kind, _a.name).where(_a.pk.in_(users), _a.state == "ready", _a.id != of.id)
            found += [(row[0], row[1], row[2]) for row in connection.execute(query.order_by(_a.pk))]
        return found


def retire(catalog: Catalog, identifiers: list[str], owner: Reference | None = None) -> None:
    """Make ready artifacts retired, and with them the dataset or backbone that owns them all: all or none.

    What is being made of a retired dataset fails at its next step.
    """
    with catalog.write() as connection:
        connection.execute(
            t.artifact.update()
            .where(_a.id.in_(identifiers), _a.state == "ready")
            .values(state="retired", retired_at=now_text())
        )
        if owner is None or owner.kind not in ("dataset", "backbone"):
            return
        table, column, state = t.backbone, "backbone_pk", "staged"
        owning = [t.embedding]
        if owner.kind == "dataset":
            table, column, state, owning = t.dataset, "dataset_pk", "writing", list(OWN.values())
        connection.execute(table.update().where(table.c.id == owner.id).values(state=state, retired_at=now_text()))
        key = sa.select(table.c.pk).where(table.c.id == owner.id).scalar_subquery()
        begun = sa.union_all(*(sa.select(own.c.artifact_pk).where(own.c[column] == key) for own in owning))
        error = f"{owner.kind} {owner.name!r} was retired meanwhile"
        connection.execute(
            t.artifact.update().where(_a.pk.in_(begun), _a.state == "writing").values(state="failed", error=error)
        )
