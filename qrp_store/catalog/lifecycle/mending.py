"""Put the rows of a ready artifact back: only when they have the checksums that were recorded with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from qrp_store.catalog.database import bulk
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.lifecycle import checksums
from qrp_store.catalog.model import tables as t
from qrp_store.catalog.model.kinds import KINDS
from qrp_store.errors import Corrupt

_a = t.artifact.c


def replace_rows(catalog: Catalog, identifier: str, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
    """Replace an artifact's rows in one of its tables, in one transaction.

    Raises Corrupt, and changes nothing, when the new rows are not those that were written.
    """
    with catalog.write() as connection:
        row = connection.execute(sa.select(_a.pk, _a.kind, _a.checksums).where(_a.id == identifier)).one()
        (rows,) = [rows for rows in KINDS[row.kind].rows if rows.table.name == table]
        connection.execute(rows.table.delete().where(rows.table.c[rows.owner] == row.pk))
        names = [rows.owner, *columns]
        n = len(next(iter(columns.values())))
        for start in range(0, n, bulk.CHUNK_ROWS):
            parts = [column[start : start + bulk.CHUNK_ROWS] for column in columns.values()]
            held = [(row.pk, *values) for values in zip(*parts, strict=True)]
            bulk.put(connection, rows.table, names, held)
        if rows.bulk:
            values = checksums.of_large_table(connection, rows, row.pk)
        else:
            values = {table: checksums.of_table(connection, rows, row.pk)}
        if not all((row.checksums or {}).get(name) == value for name, value in values.items()):
            raise Corrupt(f"the rows of table {table} come out otherwise")
