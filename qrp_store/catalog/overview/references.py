"""References that users type: ids, unique prefixes of ids, and names, with or without @N."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.model import tables as t
from qrp_store.errors import InvalidInput, NotFound

_ID = re.compile(r"^(ds|bb|emb|con|clu|res)-[0-9a-f]*$")
VERSION = re.compile(r"[1-9][0-9]{0,8}")
"""The number after the @ of NAME@N."""
_a = t.artifact.c


@dataclass(frozen=True)
class Reference:
    """An artifact, dataset or backbone: its kind, id, name and state."""

    kind: str
    id: str
    name: str
    state: str


def looks_like_id(text: str) -> bool:
    """Return whether a text could be the start of an id."""
    return _ID.match(text) is not None


def resolve(catalog: Catalog, text: str) -> Reference:
    """Return the ready artifact, dataset or backbone that a text names; a retired artifact only by its id.

    Raise NotFound, or InvalidInput for an ambiguous name.
    """
    with catalog.read() as connection:
        matches = _by_id(connection, text) if _ID.match(text) else []
        if not any(match.id == text for match in matches):  # a name may look like the start of an id
            matches += [match for match in _by_name(connection, text) if match not in matches]
        if not matches:
            near = difflib.get_close_matches(text, _names(connection), n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "qrp-store ls"
            raise NotFound(f"nothing here is called {text!r}", hint=hint)
    if len(matches) > 1:
        shown = ", ".join(f"{r.id} ({r.kind} {r.name})" for r in matches[:8])
        raise InvalidInput(f"{text!r} names {len(matches)} things: {shown}", hint="use an id")
    return matches[0]


def _things(where: sa.ColumnElement[bool], table: sa.Table, kind: str) -> sa.Select[Any]:
    columns = (sa.literal(kind), table.c.id, table.c.name, table.c.state)
    return sa.select(*columns).where(table.c.state == "ready", where)


def _reference(row: Any) -> Reference:
    return Reference(row[0], row[1], row[2], row[3])


def _by_id(connection: sa.Connection, text: str) -> list[Reference]:
    matches = []
    for table, kind in ((t.dataset, "dataset"), (t.backbone, "backbone")):
        query = _things(table.c.id.startswith(text, autoescape=True), table, kind)
        matches += [_reference(row) for row in connection.execute(query.limit(9))]
    query = sa.select(_a.kind, _a.id, _a.name, _a.state).where(
        _a.id.startswith(text, autoescape=True), _a.state.in_(("ready", "retired"))
    )
    matches += [_reference(row) for row in connection.execute(query.limit(9))]
    exact = [r for r in matches if r.id == text]
    return exact or matches


def _by_name(connection: sa.Connection, text: str) -> list[Reference]:
    name, _, number = text.rpartition("@")
    if name and VERSION.fullmatch(number):
        query = sa.select(_a.kind, _a.id, _a.name, _a.state).where(_a.name == name, _a.version == int(number))
        return [_reference(row) for row in connection.execute(query.where(_a.state == "ready"))]
    matches = []
    for table, kind in ((t.dataset, "dataset"), (t.backbone, "backbone")):
        matches += [_reference(row) for row in connection.execute(_things(table.c.name == text, table, kind))]
    newest = (
        sa.select(_a.series, sa.func.max(_a.version).label("version"))
        .where(_a.state == "ready", _a.name == text)
        .group_by(_a.series)
        .subquery()
    )
    query = sa.select(_a.kind, _a.id, _a.name, _a.state).join(
        newest, sa.and_(newest.c.series == _a.series, newest.c.version == _a.version)
    )
    return matches + [_reference(row) for row in connection.execute(query)]


def _names(connection: sa.Connection) -> list[str]:
    names: set[str] = set()
    for table in (t.dataset, t.backbone, t.artifact):
        query = sa.select(table.c.name).distinct().where(table.c.state == "ready").limit(1000)
        names.update(connection.execute(query).scalars())
    return sorted(names)
