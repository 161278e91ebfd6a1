"""Many rows at once: COPY on Postgres, executemany on SQLite, in transactions short enough for everybody else.

One SQLite transaction of millions of rows would hold the only write lock for many seconds; so rows go in under an
artifact that is still `writing`, a chunk a transaction, each fenced by the lease. What a crash leaves behind is
removed the same way before the next try.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.lifecycle.lease import Claim, fence

if TYPE_CHECKING:
    import numpy as np

CHUNK_ROWS = 100_000  # about 0.1 s on SQLite
_STATEMENT_ROWS = 32  # half the time of a statement a row
_COPY_ROWS = 1_000_000  # Postgres keeps nobody waiting
_TEXT_BYTES = 16 << 20
_LINE_POSITIONS = 4096


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
    if not catalog.sqlite and not any(isinstance(column, Sequence) for column in columns.values()):
        _copy_numbers(catalog, table, columns, constants, claimed)
        return
    for start in range(0, n, CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, n)
        lists = [_plain(column[start:stop]) for column in columns.values()]
        fixed = [[value] * (stop - start) for value in constants.values()]
        with catalog.write() as connection:
            if claimed is not None:
                fence(connection, claimed)
            put(connection, table, [*constants, *columns], list(zip(*fixed, *lists, strict=True)))


def _copy_numbers(
    catalog: Catalog,
    table: sa.Table,
    columns: Mapping[str, Sequence[Any] | np.ndarray],
    constants: Mapping[str, Any],
    claimed: Claim | None,
) -> None:
    """Numbers into Postgres: text that Arrow writes, in one COPY a transaction."""
    import pyarrow
    from pyarrow import csv

    n = len(next(iter(columns.values())))
    names = [*constants, *columns]
    options = csv.WriteOptions(include_header=False)
    for start in range(0, n, _COPY_ROWS):
        stop = min(start + _COPY_ROWS, n)
        fixed = [pyarrow.repeat(value, stop - start) for value in constants.values()]
        parts = [*fixed, *(pyarrow.array(c[start:stop], from_pandas=True) for c in columns.values())]
        text = pyarrow.BufferOutputStream()
        csv.write_csv(pyarrow.record_batch(parts, names=names), text, options)
        with catalog.write() as connection:
            if claimed is not None:
                fence(connection, claimed)
            driver: Any = connection.connection.driver_connection
            statement = f"COPY {table.name} ({', '.join(names)}) FROM STDIN (FORMAT csv)"
            with driver.cursor() as cursor, cursor.copy(statement) as copy:
                copy.write(memoryview(text.getvalue()))


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
    into = f"INSERT INTO {table.name} ({columns}) VALUES "
    marks = f"({', '.join('?' * len(names))})"
    whole = len(rows) - len(rows) % _STATEMENT_ROWS
    if whole:
        many = [tuple(chain.from_iterable(rows[i : i + _STATEMENT_ROWS])) for i in range(0, whole, _STATEMENT_ROWS)]
        connection.exec_driver_sql(into + ", ".join([marks] * _STATEMENT_ROWS), many)
    if rows[whole:]:
        connection.exec_driver_sql(into + marks, rows[whole:])


def clear(catalog: Catalog, table: sa.Table, owner: str, pk: int, claimed: Claim | None = None) -> None:
    """Remove an owner's rows from a large table (keyed by position), a chunk a transaction, fenced as in `insert`."""
    owned, at = table.c[owner] == pk, table.c.position
    while True:
        with catalog.write() as connection:
            if claimed is not None:
                fence(connection, claimed)
            upto = connection.execute(sa.select(at).where(owned).order_by(at).offset(CHUNK_ROWS).limit(1)).scalar()
            connection.execute(table.delete().where(owned, sa.true() if upto is None else at <= upto))
        if upto is None:
            return


def fetch(connection: sa.Connection, query: sa.Select[Any], dtypes: Sequence[Any]) -> list[np.ndarray]:
    """The columns of a query as numpy arrays of the given types (NULL becomes NaN in floats)."""
    import numpy as np

    result = connection.execute(query)
    parts: list[list[np.ndarray]] = [[] for _ in dtypes]
    for rows in result.partitions(200_000):
        for into, values, dtype in zip(parts, zip(*rows, strict=True), dtypes, strict=True):
            into.append(np.array(values, dtype=dtype))
    return [np.concatenate(part) if part else np.empty(0, dtype) for part, dtype in zip(parts, dtypes, strict=True)]


def fetch_pairs(
    connection: sa.Connection, table: sa.Table, owner: str, pk: int, n: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """(position int64, concept int32) of an owner's rows in a large table, sorted by position, then concept.

    Positions are in [0, n), concepts in [-1, width). Rows as Python objects would cost ten times the reading. So the
    database writes the numbers as text, which Arrow reads: Postgres by COPY, SQLite both in one number, some thousand
    positions a line. (Arrow's own SQLite driver is hardly faster, and a second copy of SQLite in one process undoes the
    first one's locks.)
    """
    import numpy as np

    parts: list[tuple[np.ndarray, np.ndarray]] = []
    if connection.dialect.name == "sqlite":
        query = (
            f"SELECT CAST(group_concat((position - ?) * {width + 1:d} + concept + 1, char(10)) AS BLOB) "
            f"FROM {table.name} WHERE {owner} = ? AND position >= ? AND position < ?"
        )
        for start in range(0, n, _LINE_POSITIONS):
            values = (start, pk, start, start + _LINE_POSITIONS)
            text = connection.exec_driver_sql(query, values).scalar()
            if text is not None:
                at, concepts = np.divmod(np.sort(_numbers(text, 1)[0]), width + 1)  # a group's order is not promised
                parts.append((at + start, (concepts - 1).astype(np.int32)))
    else:
        query = f"SELECT position, concept FROM {table.name} WHERE {owner} = {pk:d} ORDER BY position, concept"
        for text in _copied(connection, query):
            at, concepts = _numbers(text, 2)
            parts.append((at, concepts.astype(np.int32)))
    positions = np.concatenate([f[0] for f in parts]) if parts else np.empty(0, np.int64)
    numbers = np.concatenate([f[1] for f in parts]) if parts else np.empty(0, np.int32)
    return positions, numbers


def _numbers(text: bytes, width: int) -> list[np.ndarray]:
    """The columns (int64) of lines of comma-separated numbers."""
    import pyarrow
    from pyarrow import csv

    names = [str(i) for i in range(width)]
    table = csv.read_csv(
        pyarrow.BufferReader(text),
        read_options=csv.ReadOptions(column_names=names, use_threads=False),
        convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.int64())),
    )
    return [table[name].to_numpy() for name in names]


def _copied(connection: sa.Connection, query: str) -> Iterator[bytes]:
    """A query's rows as lines of text, some 16 MB at a time."""
    driver: Any = connection.connection.driver_connection
    parts: list[bytes] = []
    size = 0
    with driver.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT csv)") as copy:
        for piece in copy:
            parts.append(bytes(piece))
            size += len(piece)
            if size > _TEXT_BYTES and parts[-1].endswith(b"\n"):
                yield b"".join(parts)
                parts, size = [], 0
    if parts:
        yield b"".join(parts)
