"""The catalog's part of verify, rm and gc: expected rows, dependencies, and artifacts to delete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from qrp_store.catalog.database import bulk
from qrp_store.catalog.database.clock import now_seconds, now_text
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.lifecycle.lease import Claim, fence
from qrp_store.catalog.lifecycle.owner import Owner, is_gone
from qrp_store.catalog.model import tables as t
from qrp_store.catalog.model.kinds import KINDS, Rows
from qrp_store.catalog.overview.references import Reference

GRACE_SECONDS = 24 * 3600.0
_a = t.artifact.c


@dataclass(frozen=True)
class Kept:
    """An artifact in gc. `fate`: keep, collect (retired: a tombstone stays) or forget (everything is deleted)."""

    pk: int
    id: str
    kind: str
    token: str | None
    fate: str


@dataclass(frozen=True)
class Count:
    """Expected and actual number of rows in a table."""

    table: str
    what: str
    expected: int
    found: int


def folders(catalog: Catalog) -> set[str]:
    """Return KIND/ID, the folder of its arrays, of every artifact in any state."""
    with catalog.read() as connection:
        return {f"{kind}/{identifier}" for kind, identifier in connection.execute(sa.select(_a.kind, _a.id))}


def survey(catalog: Catalog) -> list[Kept]:
    """Return every artifact with its fate in gc."""
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
    """Mark an abandoned artifact so that no one resumes it; False if a process has resumed it since the survey.

    The same work then makes another artifact, and a paused writer that resumes is refused.
    """
    seen = _a.lease_token.is_(None) if kept.token is None else _a.lease_token == kept.token
    abandoned = sa.and_(_a.pk == kept.pk, _a.state.in_(("writing", "failed")), seen)
    values = {"state": "failed", "fingerprint": f"forgotten {kept.id}", "lease_token": None, "lease_host": None}
    with catalog.write() as connection:
        return connection.execute(t.artifact.update().where(abandoned).values(values)).rowcount == 1


def remove_rows(catalog: Catalog, kept: Kept, *, dry_run: bool = False) -> int:
    """Delete the rows of an artifact that gc collects or forgets; return their number (a dry run only counts)."""
    removed = int(kept.fate == "forget")
    for rows in KINDS[kept.kind].removable:
        with catalog.read() as connection:
            removed += _count(connection, rows, kept.pk)
        if not dry_run:
            clear(catalog, rows, kept.pk)
    if kept.fate == "forget" and not dry_run:
        with catalog.write() as connection:
            table = KINDS[kept.kind].table
            connection.execute(table.delete().where(table.c.artifact_pk == kept.pk))
            connection.execute(t.artifact.delete().where(_a.pk == kept.pk, _a.state.in_(("writing", "failed"))))
    return removed


def clear(catalog: Catalog, rows: Rows, pk: int, claimed: Claim | None = None) -> None:
    """Delete an artifact's rows from one of its tables, those of a large one in short transactions."""
    if rows.bulk:
        bulk.clear(catalog, rows.table, rows.owner, pk, claimed)
        return
    with catalog.write() as connection:
        if claimed is not None:
            fence(connection, claimed)
        connection.execute(rows.table.delete().where(rows.table.c[rows.owner] == pk))


def remove_staged(catalog: Catalog, *, dry_run: bool) -> int:
    """Delete abandoned staged rows and the samples of retired datasets; return the number of datasets and backbones.

    The row of a retired dataset or backbone stays, because tombstones of results refer to it.
    """
    removed = 0
    owners = sa.union_all(*(sa.select(kind.table.c.dataset_pk) for kind in KINDS.values()))
    for table, users in ((t.dataset, owners), (t.backbone, sa.select(t.embedding.c.backbone_pk))):
        c = table.c
        old = now_seconds() - c.created_at_seconds > GRACE_SECONDS
        stale = sa.and_(c.state != "ready", sa.or_(c.retired_at.is_not(None), old), c.pk.not_in(users))
        emptied = sa.exists().where(t.sample.c.dataset_pk == t.dataset.c.pk)
        removable = sa.or_(stale, sa.and_(c.retired_at.is_not(None), emptied)) if table is t.dataset else stale
        with catalog.read() as connection:
            pks = list(connection.execute(sa.select(c.pk).where(removable)).scalars())
        removed += len(pks)
        for pk in [] if dry_run else pks:
            if table is t.dataset:
                with catalog.write() as connection:  # nobody takes it up again from here on
                    values = {"state": "writing", "retired_at": sa.func.coalesce(c.retired_at, now_text())}
                    if not connection.execute(table.update().where(c.pk == pk, removable).values(values)).rowcount:
                        continue
                bulk.clear(catalog, t.sample, "dataset_pk", pk)
                bulk.clear(catalog, t.image_file, "dataset_pk", pk)
            with catalog.write() as connection:
                connection.execute(table.delete().where(c.pk == pk, stale))
    return removed


def _count(connection: sa.Connection, rows: Rows, pk: int) -> int:
    query = sa.select(sa.func.count()).select_from(rows.table).where(rows.table.c[rows.owner] == pk)
    return int(connection.execute(query).scalar_one())


def ready(catalog: Catalog) -> Iterator[dict[str, Any]]:
    """Return pk, id, kind and name of every ready artifact."""
    with catalog.read() as connection:
        query = sa.select(_a.pk, _a.id, _a.kind, _a.name).where(_a.state == "ready").order_by(_a.pk)
        rows = connection.execute(query).mappings().all()
    return (dict(row) for row in rows)


def is_ready(catalog: Catalog, pk: int) -> bool:
    """Whether an artifact is (still) ready."""
    with catalog.read() as connection:
        return connection.execute(sa.select(_a.pk).where(_a.pk == pk, _a.state == "ready")).first() is not None


def counts(catalog: Catalog, pk: int, kind: str) -> list[Count]:
    """Return the expected and actual numbers of rows of an artifact and of its dataset's samples."""
    table, n = KINDS[kind].table, t.dataset.c.n
    with catalog.read() as connection:
        row = connection.execute(sa.select(table).where(table.c.artifact_pk == pk)).mappings().first()
        if row is None:
            return [Count(table.name, kind, 1, 0)]
        result = []
        for rows in KINDS[kind].rows:
            if rows.promised is not None and row[rows.promised[0]] is not None:
                column, words = rows.promised
                result.append(Count(rows.table.name, words, row[column], _count(connection, rows, pk)))
        if kind == "embedding":
            samples = sa.select(sa.func.count()).where(t.sample.c.dataset_pk == row["dataset_pk"]).scalar_subquery()
            promised, stored = connection.execute(
                sa.select(n, samples).where(t.dataset.c.pk == row["dataset_pk"])
            ).one()
            result.append(Count("sample", "samples", promised, stored))
    return result


def saved_arrays(catalog: Catalog, pk: int, kind: str) -> list[tuple[str, str]]:
    """Return (path, checksum) of the whole arrays of an artifact: centroids, groups, weights."""
    table, paths = KINDS[kind].table, []
    with catalog.read() as connection:
        for path, checksum in KINDS[kind].arrays:
            query = sa.select(table.c[path], table.c[checksum]).where(table.c.artifact_pk == pk)
            paths += [(row[0], row[1]) for row in connection.execute(query) if row[0] is not None]
    return paths


def edges(connection: sa.Connection) -> dict[int, set[int]]:
    """Return the direct inputs of each artifact."""
    inputs: dict[int, set[int]] = {}
    for table, made, source in (edge for kind in KINDS.values() for edge in kind.inputs):
        for pk, of in connection.execute(sa.select(table.c[made], table.c[source]).where(table.c[source].is_not(None))):
            inputs.setdefault(pk, set()).add(of)
    return inputs


def closure(chosen: Iterable[int], links: Mapping[int, set[int]]) -> set[int]:
    """Return the given artifacts and everything that the links reach from them."""
    whole = set(chosen)
    waiting = list(whole)
    while waiting:
        new = links.get(waiting.pop(), set()) - whole
        whole |= new
        waiting += new
    return whole


def belonging(connection: sa.Connection, of: Reference) -> set[int]:
    """Return the artifacts of a dataset, the embeddings of a backbone, or the artifact with this id, in any state."""
    if of.kind in ("dataset", "backbone"):
        table, column = (t.dataset, "dataset_pk") if of.kind == "dataset" else (t.backbone, "backbone_pk")
        key = sa.select(table.c.pk).where(table.c.id == of.id).scalar_subquery()
        owned = [kind.table for kind in KINDS.values() if column in kind.table.c]
        queries = [sa.select(table.c.artifact_pk).where(table.c[column] == key) for table in owned]
    else:
        queries = [sa.select(_a.pk).where(_a.id == of.id)]
    return {pk for query in queries for pk in connection.execute(query).scalars()}


def dependants(catalog: Catalog, of: Reference) -> list[tuple[str, str, str]]:
    """Return (id, kind, name) of the ready artifacts made directly or indirectly from it, the most dependent first."""
    with catalog.read() as connection:
        users: dict[int, set[int]] = {}
        for made, sources in edges(connection).items():
            for source in sources:
                users.setdefault(source, set()).add(made)
        whole = closure(belonging(connection, of), users)
        query = sa.select(_a.pk, _a.id, _a.kind, _a.name).where(_a.state == "ready", _a.id != of.id)
        rows = [row for row in connection.execute(query.order_by(_a.pk)) if row.pk in whole]
    order = list(KINDS)
    return [(row.id, row.kind, row.name) for row in sorted(rows, key=lambda row: -order.index(row.kind))]


def retire(catalog: Catalog, identifiers: list[str], owner: Reference | None = None) -> None:
    """Retire ready artifacts, and the dataset or backbone that owns them all, in one transaction.

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
        table, state = (t.dataset, "writing") if owner.kind == "dataset" else (t.backbone, "staged")
        connection.execute(table.update().where(table.c.id == owner.id).values(state=state, retired_at=now_text()))
        column = f"{owner.kind}_pk"
        key = sa.select(table.c.pk).where(table.c.id == owner.id).scalar_subquery()
        owned = [kind.table for kind in KINDS.values() if column in kind.table.c]
        begun = sa.union_all(
            *(sa.select(kind_table.c.artifact_pk).where(kind_table.c[column] == key) for kind_table in owned)
        )
        error = f"{owner.kind} {owner.name!r} was retired meanwhile"
        connection.execute(
            t.artifact.update().where(_a.pk.in_(begun), _a.state == "writing").values(state="failed", error=error)
        )
