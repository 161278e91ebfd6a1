"""Read-only SQL for people: the database, not a parser, refuses to write."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import sqlalchemy as sa

from qrp_store.catalog.database.engine import ROOM, Catalog, add_functions, connect_to_look
from qrp_store.errors import Corrupt, InvalidInput, QrpStoreError, Unavailable
from qrp_store.records import Table

_REFUSED = {
    sqlite3.SQLITE_ATTACH,
    sqlite3.SQLITE_DETACH,
    sqlite3.SQLITE_PRAGMA,
}
_WRITES = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH}
_AWAY = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_READ_ONLY_TRANSACTION = "25006"  # Postgres' code for a write in one


def query(catalog: Catalog, sql: str, parameters: tuple[Any, ...] = ()) -> Table:
    """The rows of one SELECT over the views. InvalidInput when it is wrong or would write."""
    if "\0" in sql or not sql.strip():
        raise InvalidInput("an empty query" if not sql.strip() else "the query holds a NUL character")
    return _sqlite(catalog, sql, parameters) if catalog.sqlite else _postgres(catalog, sql, parameters)


def _sqlite(catalog: Catalog, sql: str, parameters: tuple[Any, ...]) -> Table:
    assert catalog.directory is not None
    try:
        with closing(connect_to_look(catalog.directory / "catalog.db")) as connection:
            add_functions(connection)
            connection.execute("PRAGMA query_only = ON")
            connection.set_authorizer(_authorize)
            cursor = connection.execute(sql, parameters)
            if cursor.description is None:
                raise InvalidInput("the statement returns no rows", hint="qrp-store sql takes one SELECT")
            return Table(tuple(d[0] for d in cursor.description), cursor.fetchall())
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise _by_code(catalog, error) from error
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the query is not valid Unicode: {error}") from error
    except OverflowError as error:
        raise InvalidInput("a number asked for has more than 64 bits") from error


def _authorize(action: int, first: str | None, second: str | None, database: str | None, inner: str | None) -> int:
    if action == sqlite3.SQLITE_PRAGMA and second is None and first in ("table_info", "table_list", "index_list"):
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY if action in _REFUSED else sqlite3.SQLITE_OK


def _by_code(catalog: Catalog, error: Exception) -> QrpStoreError:
    """What SQLite's error means: by its code, since the text also holds the query's own words."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte: the rest says more
    if code in _WRITES:
        return _refused(str(error))
    if code in _AWAY:
        return Unavailable(f"the catalog cannot be read: {error}", hint=ROOM if code == sqlite3.SQLITE_FULL else None)
    if code in _DAMAGED:
        return Corrupt(f"the catalog of {catalog.name} is damaged: {error}", hint="restore it from a backup")
    return _wrong(str(error))


def _postgres(catalog: Catalog, sql: str, parameters: tuple[Any, ...]) -> Table:
    try:
        with catalog.engine.connect() as connection:
            connection = connection.execution_options(postgresql_readonly=True)
            if not parameters:
                _check_alone(connection, sql)
            result = connection.exec_driver_sql(_psycopg(sql, bool(parameters)), parameters or None)
            if not result.returns_rows:
                raise InvalidInput("the statement returns no rows", hint="qrp-store sql takes one SELECT")
            return Table(tuple(result.keys()), [tuple(row) for row in result])
    except sa.exc.OperationalError as error:
        raise Unavailable(f"the catalog of {catalog.name} cannot be used: {error.orig}") from error
    except sa.exc.SQLAlchemyError as error:
        text = str(getattr(error, "orig", None) or error)
        code = getattr(getattr(error, "orig", None), "sqlstate", None)
        raise (_refused(text) if code == _READ_ONLY_TRANSACTION else _wrong(text)) from error


def _check_alone(connection: sa.Connection, sql: str) -> None:
    """Let Postgres parse the query as one statement; raises InvalidInput when it is wrong, or several.

    Without parameters the driver would send several at once: a COMMIT ends the transaction that only reads, and what
    comes after it writes.
    """
    driver: Any = connection.connection.driver_connection
    try:
        parsed = driver.pgconn.prepare(b"", sql.encode())  # unnamed: gone with the next query
    except connection.dialect.loaded_dbapi.Error as error:
        raise Unavailable(f"the database went away: {error}") from error
    if parsed.error_message:
        raise _wrong(parsed.error_message.decode(errors="replace").strip())


def _psycopg(sql: str, with_parameters: bool) -> str:
    """A statement with ? for its parameters in psycopg's words; without parameters nothing in it is special."""
    return sql.replace("%", "%%").replace("?", "%s") if with_parameters else sql.replace("%", "%%")


def _refused(text: str) -> InvalidInput:
    return InvalidInput(f"the database refused to write: {text}", hint="qrp-store sql only reads")


def _wrong(text: str) -> InvalidInput:
    return InvalidInput(f"SQL: {text}", hint='qrp-store sql "SELECT * FROM leaderboard"; docs/sql.md lists the views')
