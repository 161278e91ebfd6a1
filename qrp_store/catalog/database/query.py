"""Read-only SQL for people: the database, not a parser, refuses to write."""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from qrp_store.catalog.database.engine import ROOM, Catalog, add_functions, connect_to_look
from qrp_store.errors import Corrupt, InvalidInput, QrpStoreError, Unavailable
from qrp_store.records import Table

_READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_DESCRIPTIONS = ("table_info", "table_xinfo", "table_list", "index_list", "index_info")
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
_QUERY_CANCELED = "57014"
_VALUE_BYTES = 256 << 20  # the longest value that SQLite may build
_BATCH_ROWS = 10_000  # rows fetched from a Postgres cursor at a time
_ENDING_SECONDS = 3.0  # an interrupted SQLite query ends at its next step, which is rarely this long
_ONLY_QUERIES = "qrp-store sql takes one SELECT, VALUES, TABLE, SHOW or EXPLAIN; it only reads"


@dataclass(frozen=True)
class Answer:
    """The rows of a query. `truncated`: there were more than the limit, and the rest was not read."""

    table: Table
    truncated: bool = False


def query(
    catalog: Catalog,
    sql: str,
    parameters: tuple[Any, ...] = (),
    *,
    limit: int | None = None,
    timeout: float | None = None,
) -> Answer:
    """Return the first `limit` rows (default: all) of one query over the views.

    Raises InvalidInput when the query is wrong, returns no rows or would write; Unavailable when it takes longer than
    `timeout` seconds.
    """
    if "\0" in sql or not sql.strip():
        raise InvalidInput("an empty query" if not sql.strip() else "the query holds a NUL character")
    if limit is not None and not 1 <= limit < 1 << 62:
        raise InvalidInput(f"the limit is {limit}: it must be at least 1 row")
    if timeout is not None and not 0 < timeout <= threading.TIMEOUT_MAX:
        raise InvalidInput(f"the timeout is {timeout:g}: it must be a number of seconds above 0")
    run = _sqlite if catalog.sqlite else _postgres
    return run(catalog, sql, parameters, limit, timeout)


def _sqlite(
    catalog: Catalog, sql: str, parameters: tuple[Any, ...], limit: int | None, timeout: float | None
) -> Answer:
    """Run the query in a thread: SQLite does not return before its next row, and signals reach only Python code."""
    assert catalog.directory is not None
    worker = _SqliteQuery(catalog.directory / "catalog.db", sql, parameters, limit)
    worker.start()
    try:
        if not worker.done.wait(timeout):
            raise _too_long(timeout)
        if worker.error is not None:
            raise worker.error
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise _by_code(catalog, error) from error
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the query is not valid Unicode: {error}") from error
    except OverflowError as error:
        raise InvalidInput("a number in the query has more than 64 bits") from error
    finally:
        worker.stop()
    assert worker.answer is not None
    return worker.answer


class _SqliteQuery(threading.Thread):
    """One query on a connection that belongs to this thread. `done` is set when `answer` or `error` is."""

    def __init__(self, path: Path, sql: str, parameters: tuple[Any, ...], limit: int | None) -> None:
        super().__init__(name="qrp-store sql", daemon=True)
        self._path, self._sql, self._parameters, self._limit = path, sql, parameters, limit
        self._connection: sqlite3.Connection | None = None
        self._stopped = threading.Event()
        self.done = threading.Event()
        self.answer: Answer | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with closing(connect_to_look(self._path)) as connection:
                self._connection = connection
                if not self._stopped.is_set():
                    self.answer = self._ask(connection)
        except BaseException as error:
            self.error = error
        finally:
            self._connection = None
            self.done.set()

    def _ask(self, connection: sqlite3.Connection) -> Answer:
        add_functions(connection)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _VALUE_BYTES)
        connection.execute("PRAGMA query_only = ON")
        connection.set_authorizer(_authorize)
        cursor = connection.execute(self._sql, self._parameters)
        if cursor.description is None:
            raise InvalidInput("the statement returns no rows", hint=_ONLY_QUERIES)
        columns = tuple(name for name, *_ in cursor.description)
        rows = cursor.fetchall() if self._limit is None else cursor.fetchmany(self._limit + 1)
        return _cut(columns, rows, self._limit)

    def stop(self) -> None:
        """End the query if it still runs."""
        self._stopped.set()
        until = time.monotonic() + _ENDING_SECONDS
        while not self.done.is_set() and time.monotonic() < until:
            connection = self._connection
            if connection is not None:
                with suppress(sqlite3.Error):  # closed a moment ago
                    connection.interrupt()
            self.done.wait(0.05)


def _cut(columns: tuple[str, ...], rows: list[tuple[Any, ...]], limit: int | None) -> Answer:
    if limit is None or len(rows) <= limit:
        return Answer(Table(columns, rows))
    return Answer(Table(columns, rows[:limit]), truncated=True)


def _authorize(action: int, first: str | None, second: str | None, database: str | None, inner: str | None) -> int:
    """SQLite's question for each part of a statement: reading is allowed, everything else is not."""
    describes = action == sqlite3.SQLITE_PRAGMA and first in _DESCRIPTIONS
    # SQLite asks this before it lets a query use json_each and the like; an UPDATE of it is refused all the same.
    declares = action == sqlite3.SQLITE_UPDATE and first == "sqlite_master"
    return sqlite3.SQLITE_OK if action in _READS or describes or declares else sqlite3.SQLITE_DENY


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


def _postgres(
    catalog: Catalog, sql: str, parameters: tuple[Any, ...], limit: int | None, timeout: float | None
) -> Answer:
    try:
        with catalog.engine.connect() as connection:
            connection = connection.execution_options(postgresql_readonly=True)
            connection.begin()  # never committed: closing the connection rolls it back
            if not parameters:
                _check_alone(connection, sql)
            deadline = None if timeout is None else time.monotonic() + timeout
            return _fetch(connection, sql, parameters, limit, deadline)
    except sa.exc.SQLAlchemyError as error:
        text = str(getattr(error, "orig", None) or error)
        code = getattr(getattr(error, "orig", None), "sqlstate", None)
        if code == _READ_ONLY_TRANSACTION:
            raise _refused(text) from error
        if code == _QUERY_CANCELED:
            raise _too_long(timeout) from error
        if isinstance(error, sa.exc.OperationalError):
            raise Unavailable(f"the catalog of {catalog.name} cannot be used: {error.orig}") from error
        raise _wrong(text) from error


def _fetch(
    connection: sa.Connection, sql: str, parameters: tuple[Any, ...], limit: int | None, deadline: float | None
) -> Answer:
    """Read through a cursor in the database, which Postgres declares for queries only and for nothing that writes."""
    statement = _psycopg(sql, bool(parameters))
    _allow_time(connection, deadline)
    if _first_word(sql) in ("EXPLAIN", "SHOW"):  # these have no cursor
        result = connection.exec_driver_sql(statement, parameters or None)
        return _cut(tuple(result.keys()), [tuple(row) for row in result], limit)
    if not parameters:
        _check_alone(connection, f"DECLARE qrp_sql NO SCROLL CURSOR FOR\n{sql}", otherwise=_refused)
    connection.exec_driver_sql(f"DECLARE qrp_sql NO SCROLL CURSOR FOR\n{statement}", parameters or None)
    rows: list[tuple[Any, ...]] = []
    while True:
        missing = _BATCH_ROWS if limit is None else min(_BATCH_ROWS, limit + 1 - len(rows))
        _allow_time(connection, deadline)
        result = connection.exec_driver_sql(f"FETCH FORWARD {missing} FROM qrp_sql")
        columns = tuple(result.keys())
        batch = [tuple(row) for row in result]
        rows += batch
        if len(batch) < missing or (limit is not None and len(rows) > limit):
            return _cut(columns, rows, limit)


def _allow_time(connection: sa.Connection, deadline: float | None) -> None:
    """Give the next statement what is left until the deadline."""
    if deadline is not None:
        milliseconds = min(max(1, round((deadline - time.monotonic()) * 1000)), (1 << 31) - 1)
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")


def _first_word(sql: str) -> str:
    """The statement's first word in upper case, behind blanks and comments (which nest in Postgres)."""
    depth, at = 0, 0
    while at < len(sql):
        if sql.startswith("/*", at):
            depth, at = depth + 1, at + 2
        elif depth and sql.startswith("*/", at):
            depth, at = depth - 1, at + 2
        elif depth or sql[at] in " \t\n\r\f\v":
            at += 1
        elif sql.startswith("--", at):
            ends = [end for end in (sql.find("\n", at), sql.find("\r", at)) if end >= 0]
            at = min(ends, default=len(sql))
        else:
            break
    word = re.match(r"[A-Za-z]+", sql[at:])
    return word[0].upper() if word else ""


def _check_alone(connection: sa.Connection, sql: str, otherwise: Callable[[str], InvalidInput] | None = None) -> None:
    """Let Postgres parse the query as one statement; raises InvalidInput when it is wrong, or several.

    Without parameters the driver would send several at once: a COMMIT ends the transaction that only reads, and what
    comes after it writes.
    """
    driver: Any = connection.connection.driver_connection
    try:
        parsed = driver.pgconn.prepare(b"", sql.encode())  # unnamed: gone with the next query
    except connection.dialect.loaded_dbapi.Error as error:
        raise Unavailable(f"the database went away: {error}") from error
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the query is not valid Unicode: {error}") from error
    if parsed.error_message:
        raise (otherwise or _wrong)(parsed.error_message.decode(errors="replace").strip())


def _psycopg(sql: str, with_parameters: bool) -> str:
    """A statement with ? for its parameters in psycopg's words; without parameters nothing in it is special."""
    return sql.replace("%", "%%").replace("?", "%s") if with_parameters else sql.replace("%", "%%")


def _refused(text: str) -> InvalidInput:
    what = text.splitlines()[0] if text else "no reason given"
    return InvalidInput(
        f"the database refused the statement: it is no query that only reads ({what})", hint=_ONLY_QUERIES
    )


def _too_long(timeout: float | None) -> Unavailable:
    if timeout is None:
        return Unavailable("the database cancelled the query", hint="its statement_timeout, or an administrator")
    return Unavailable(f"the query took longer than {timeout:g} s", hint="narrow it, or allow more with --timeout S")


def _wrong(text: str) -> InvalidInput:
    return InvalidInput(f"SQL: {text}", hint='qrp-store sql "SELECT * FROM leaderboard"; docs/sql.md lists the views')
