"""Many rows at once: COPY on Postgres, executemany on SQLite, in transactions short enough for everybody else.

One SQLite transaction of millions of rows would hold the only write lock for many seconds; so rows go in under an
artifact that is still `writing`, a chunk a transaction, each fenced by the lease. What a crash leaves behind is
removed the same way before the next try.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from qrp_store.catalog.engine import Catalog
from qrp_store.catalog.lease import Claim, fence

if TYPE_CHECKING:
    import numpy as np

CHUNK_ROWS = 100_000  # about 0.2 s on SQLite


def insert(
    catalog: Catalog,
    table: sa.Table,
    columns: dict[str, Sequence[Any] | np.ndarray],
    constants: dict[str, Any] | None = None,
    claimed: Claim | None = None,
) -> None:
    """Insert equally long columns (NaN becomes NULL) with constant values before them."""
    constants = constants or {}
    n = len(next(iter(columns.values())))
    for start in range(0, n, CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, n)
        lists = [_plain(column[start:stop]) for column in columns.values()]
        fixed = [[value] * (stop - start) for value in constants.values()]
        with catalog.write() as connection:
            if claimed is not None:
                fence(connection, claimed)
            put(connection, table, [*constants, *columns], list(zip(*fixed, *lists, strict=True)))


def _plain(column: Sequence[Any] | np.ndarray) -> list[Any]:
    if isinstance(column, Sequence):
        return list(column)
    values: list[Any] = column.tolist()
    return [None if x != x else x for x in values] if column.dtype.kind == "f" else values


def put(connection: sa.Connection, table: sa.Table, names: Sequence[str], rows: list[tuple[Any, ...]]) -> None:
    """Insert rows within the caller's transaction."""
    if not rows:
        return
    columns = ", ".join(names)
    if connection.dialect.name == "postgresql":
        driver: Any = connection.connection.driver_connection
        with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({columns}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        return
    marks = ", ".join("?" * len(names))
    connection.exec_driver_sql(f"INSERT INTO {table.name} ({columns}) VALUES ({marks})", rows)


def clear(catalog: Catalog, table: sa.Table, owner: str, pk: int, by: str = "position") -> None:
    """Remove every row of an owner from a large table, a chunk a transaction."""
    while True:
        with catalog.write() as connection:
            top = connection.execute(
                sa.select(sa.func.max(table.c[by]), sa.func.min(table.c[by])).where(table.c[owner] == pk)
            ).one()
            if top[0] is None:
                return
            upto = min(top[0], top[1] + CHUNK_ROWS)
            connection.execute(table.delete().where(table.c[owner] == pk, table.c[by] <= upto))


def fetch(connection: sa.Connection, query: sa.Select[Any], dtypes: Sequence[Any]) -> list[np.ndarray]:
    """The columns of a query as numpy arrays of the given types (NULL becomes NaN in floats)."""
    import numpy as np

    result = connection.execute(query)
    parts: list[list[np.ndarray]] = [[] for _ in dtypes]
    for rows in result.partitions(200_000):
        for into, values, dtype in zip(parts, zip(*rows, strict=True), dtypes, strict=True):
            into.append(np.array(values, dtype=dtype))
    return [np.concatenate(part) if part else np.empty(0, dtype) for part, dtype in zip(parts, dtypes, strict=True)]
