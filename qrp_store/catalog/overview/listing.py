"""What `ls` shows, one query a kind. Every row has an id and a name."""

from __future__ import annotations

import sqlalchemy as sa

from qrp_store.catalog.database.clock import now_seconds
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.lifecycle.owner import Owner, is_gone
from qrp_store.catalog.model import tables as t
from qrp_store.catalog.model.kinds import KINDS
from qrp_store.errors import InvalidInput
from qrp_store.records import Table

_QUERIES = {
    "datasets": """
SELECT d.id, d.name, d.n, d.created_at, d.created_by,
    (SELECT count(*) FROM embeddings e WHERE e.dataset = d.name AND e.is_newest) AS n_embeddings,
    d.image_root
FROM dataset d WHERE d.state = 'ready' ORDER BY d.name
""",
    "backbones": """
SELECT b.id, b.name, b.spec, b.fingerprint, b.created_at, b.created_by
FROM backbone b WHERE b.state = 'ready' ORDER BY b.name
""",
    **{kind.plural: kind.listing for kind in KINDS.values()},
}
_FLAGS = ("is_newest", "is_current", "exclusive", "permuted", "converged")


def listing(catalog: Catalog, what: str) -> Table:
    """The ready things of a kind (`datasets`, `backbones`, …), or the `jobs` under way."""
    if what == "jobs":
        return _jobs(catalog)
    if what not in _QUERIES:
        raise InvalidInput(f"ls {what!r}: known are {', '.join([*_QUERIES, 'jobs'])}")
    with catalog.read() as connection:
        result = connection.exec_driver_sql(_QUERIES[what])
        return with_flags(Table(tuple(result.keys()), [tuple(row) for row in result]))


def with_flags(table: Table) -> Table:
    """SQLite has no booleans: make 0/1 of the known flags true/false."""
    flags = [i for i, name in enumerate(table.columns) if name in _FLAGS]
    if not flags:
        return table
    rows = [tuple(bool(v) if i in flags and v is not None else v for i, v in enumerate(row)) for row in table.rows]
    return Table(table.columns, rows)


def _jobs(catalog: Catalog) -> Table:
    a = t.artifact.c
    blocks = sa.select(sa.func.count()).where(t.block.c.embedding_pk == a.pk).scalar_subquery()
    rows = sa.select(t.embedding.c.n, t.embedding.c.block_rows).where(t.embedding.c.artifact_pk == a.pk)
    query = sa.select(t.artifact, blocks.label("done"), (a.lease_expires - now_seconds()).label("left"))
    query = query.where(a.state.in_(("writing", "failed"))).order_by(a.pk)
    columns = ("id", "name", "kind", "state", "owner", "since", "lease_left_s", "blocks_done", "blocks_total", "error")
    jobs = []
    with catalog.read() as connection:
        for row in connection.execute(query).mappings().all():
            size = connection.execute(rows.where(t.embedding.c.artifact_pk == row["pk"])).first()
            total = -(-size[0] // size[1]) if size else None
            jobs.append(_job(row, total))
    return Table(columns, jobs)


def _job(row: sa.RowMapping, total: int | None) -> tuple[object, ...]:
    state, owner, left = row["state"], None, None
    if row["lease_host"] is not None and state == "writing":
        owner = Owner(row["lease_host"], row["lease_boot"], row["lease_pid"], row["lease_started"])
        left = max(row["left"] or 0.0, 0.0)
        if left == 0 or is_gone(owner):
            state = "abandoned"
    elif state == "writing":
        state = "interrupted"
    return (
        row["id"],
        row["name"],
        row["kind"],
        state,
        str(owner) if owner else None,
        row["lease_since"],
        left,
        row["done"],
        total,
        row["error"],
    )
