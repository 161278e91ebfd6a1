"""Extra scores of a result, computed with it or later: forward probes, learning curves, thresholds, references.

All rows of one result are written in one transaction; two processes that compute them at once write the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from qrp_store.catalog.database.clock import now_text
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.lifecycle import checksums
from qrp_store.catalog.lifecycle.owner import created_by
from qrp_store.catalog.model import tables as t
from qrp_store.errors import NotFound

Rows = Sequence[Mapping[str, Any]]
_a, _f = t.artifact.c, t.forward_score.c
_TABLES = {
    "curve": t.curve_score,
    "thresholds": t.threshold_score,
    "numbers": t.further_number,
    "references": t.reference_score,
}
_SHOWN = ("concept_group", "probe", "metric", "value", "n_test", "n_concepts", "n_left_out", "seed", "details")


def forward(catalog: Catalog, question: str, *, of: str | None = None) -> list[dict[str, Any]]:
    """The forward scores that answer a question, of one result or of any ready one; whole vocabulary first."""
    query = sa.select(_a.id, *(_f[name] for name in _SHOWN)).join(t.artifact, _a.pk == _f.result_pk)
    query = query.where(_f.question == question, _a.state == "ready")
    if of is not None:
        query = query.where(_a.id == of)
    query = query.order_by(_a.pk, _f.concept_group != "(all)", _f.concept_group, _f.probe.desc())
    with catalog.read() as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
    return [{name: row[name] for name in _SHOWN} for row in rows if row["id"] == rows[0]["id"]]


def put_forward(catalog: Catalog, result: str, question: str, rows: Rows) -> None:
    """Store a result's forward scores, in place of those that answered another question. Raises NotFound."""
    with catalog.write() as connection:
        pk = _ready(connection, result)
        fixed = {"result_pk": pk, "question": question, "created_by": created_by()}
        connection.execute(t.forward_score.delete().where(_f.result_pk == pk))
        for row in rows:
            connection.execute(t.forward_score.insert().values(**fixed, **row, created_at=now_text()))
        checksums.seal_later(connection, pk, t.forward_score)


def points(catalog: Catalog, what: str, result: str) -> list[dict[str, Any]]:
    """Return the stored points of a result's `curve`, `thresholds`, `numbers` or `references`, in order."""
    table = _TABLES[what]
    shown = [c for c in table.c if c.name not in ("result_pk", "created_at")]
    query = sa.select(*shown).join(t.artifact, _a.pk == table.c.result_pk)
    query = query.where(_a.id == result, _a.state == "ready")
    query = query.order_by(shown[0].desc(), *shown[1:3]) if what == "curve" else query.order_by(shown[0])
    with catalog.read() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def put_points(catalog: Catalog, what: str, result: str, rows: Rows) -> None:
    """Store points of a result's `curve`, `thresholds`, `numbers` or `references`, in place of those of the same key.

    Raises NotFound.
    """
    table = _TABLES[what]
    key_columns = [c.name for c in table.primary_key if c.name != "result_pk"]
    with catalog.write() as connection:
        pk = _ready(connection, result)
        for row in rows:
            same = [table.c[name] == row[name] for name in key_columns]
            connection.execute(table.delete().where(table.c.result_pk == pk, *same))
            connection.execute(table.insert().values(result_pk=pk, **row, created_at=now_text()))
        checksums.seal_later(connection, pk, table)


def bring(source: Catalog, target: Catalog, source_id: str, target_id: str) -> int:
    """Copy the extra scores of a result to the same result in another catalog; return the number of rows.

    Rows stay as they are, with date and author. What the target has of its own stays, unless it is older: forward
    scores as a whole (they answer one question), points one by one. Raises NotFound when the result was removed.
    """
    new = 0
    for table in t.BESIDE:
        ours = _rows(source, table, source_id)
        if not ours:
            continue
        with target.write() as connection:
            pk = _ready(connection, target_id)
            known = [dict(row) for row in connection.execute(_whole(table, target_id)).mappings()]
            same = [c.name for c in table.primary_key if c.name != "result_pk"]
            if table is t.forward_score:
                missing = ours if _newest(ours) > _newest(known) else []
                drop = known if missing else []
            else:
                dates = {tuple(row[name] for name in same): row["created_at"] for row in known}
                missing = [r for r in ours if r["created_at"] > dates.get(tuple(r[name] for name in same), "")]
                drop = missing
            for row in drop:
                same_row = [table.c[name] == row[name] for name in same]
                connection.execute(table.delete().where(table.c.result_pk == pk, *same_row))
            if missing:
                connection.execute(table.insert(), [{**row, "result_pk": pk} for row in missing])
            checksums.seal_later(connection, pk, table)
        new += len(missing)
    return new


def _rows(catalog: Catalog, table: sa.Table, result: str) -> list[dict[str, Any]]:
    with catalog.read() as connection:
        return [dict(row) for row in connection.execute(_whole(table, result)).mappings()]


def _whole(table: sa.Table, result: str) -> sa.Select[Any]:
    return sa.select(table).join(t.artifact, _a.pk == table.c.result_pk).where(_a.id == result)


def _newest(rows: Iterable[Mapping[str, Any]]) -> str:
    return max((str(row["created_at"]) for row in rows), default="")


def _ready(connection: sa.Connection, result: str) -> int:
    # locked, so that who asks the same at once waits and then replaces the same rows; SQLite's writers always wait
    query = sa.select(_a.pk).where(_a.id == result, _a.state == "ready").with_for_update()
    pk = connection.execute(query).scalar()
    if pk is None:
        raise NotFound(f"no result {result!r}: it was removed meanwhile", hint="qrp-store ls results")
    return int(pk)
