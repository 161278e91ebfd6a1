"""Connections: how a database is opened, how a transaction begins and ends, and what its errors mean.

`Catalog.read()` and `Catalog.write()` are the only places that begin, commit and roll back, and the one seam where
SQLAlchemy's errors become ours.
"""

from __future__ import annotations

import json
import math
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event

from qrp_store.errors import Corrupt, InvalidInput, QrpStoreError, SchemaMismatch, Unavailable
from qrp_store.settings import Location

BUSY_SECONDS = 60.0


class Catalog:
    """An open catalog. Threads may share it: every transaction takes a connection of its own."""

    def __init__(self, location: Location) -> None:
        self.name = location.name
        self.directory = location.directory
        self.engine = _engine(location)
        self._file: tuple[int, int] | None = None  # device and inode of catalog.db, once it was used

    @property
    def sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only looks."""
        with self._transaction() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that writes: commits when the block ends, rolls back when it raises. Keep it short."""
        with self._transaction(qrp_write=True) as connection:
            yield connection

    @contextmanager
    def _transaction(self, **options: bool) -> Iterator[sa.Connection]:
        self._require_same_file()  # before SQLite makes a new file where one was deleted
        with self.translated(), self.engine.connect() as connection:
            connection = connection.execution_options(**options)
            with connection.begin() as transaction:
                try:
                    yield connection
                    transaction.commit()
                    if options:
                        self._require_same_file()
                except (KeyboardInterrupt, SystemExit):
                    # A signal can leave the driver amid a command, where not even a rollback gets through.
                    connection.invalidate()
                    raise

    def _require_same_file(self) -> None:
        """Raise Unavailable when catalog.db is not the file that this catalog has used so far: an open connection goes
        on with a deleted file, and what it commits is nowhere."""
        if self.directory is None:
            return
        try:
            status = (self.directory / "catalog.db").stat()
        except OSError:
            file = None
        else:
            file = (status.st_dev, status.st_ino)
        if self._file not in (None, file):
            raise Unavailable(
                f"the catalog of {self.name} was deleted or replaced while this command used it: what the command "
                "recorded since is lost",
                hint="restore catalog.db from a backup, then run the same command again",
            )
        self._file = file

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """SQLAlchemy's errors as ours, for what is no plain transaction."""
        try:
            yield
        except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
            stopped = _signal_behind(error)
            if stopped is not None:
                raise stopped from None
            raise self._explained(error) from error
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:  # of a JSON column
            raise _unreadable(self.name, str(error)) from error

    def _explained(self, error: Exception) -> QrpStoreError:
        explained = _translate(error, self.name)
        writable = self.directory is not None and os.access(self.directory / "catalog.db", os.W_OK)
        if writable and "readonly" in explained.message and os.access(str(self.directory), os.W_OK):  # see `_can_meet`
            return Unavailable(f"the disk under the catalog of {self.name} is full", hint=ROOM)
        return explained


def _signal_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The signal during whose handling the driver failed, if that is why it did."""
    behind = error.__context__
    while behind is not None and not isinstance(behind, KeyboardInterrupt):
        behind = behind.__context__
    return behind


def _engine(location: Location) -> sa.Engine:
    if not location.catalog.startswith("sqlite"):
        try:
            # A pooler gives a connection's transactions to several backends: none knows what another one prepared.
            url, search_path = _without_search_path(sa.make_url(location.catalog))
            connecting = {"prepare_threshold": None, **_patience(location.catalog)}
            engine = sa.create_engine(url, pool_pre_ping=True, connect_args=connecting)
        except ImportError as error:
            raise Unavailable("a Postgres store needs psycopg", hint="pip install 'qrp-store[postgres]'") from error
        except (sa.exc.ArgumentError, ValueError):
            problem = "--store is no database URL (not shown, since it may hold a password)"
            hint = "like postgresql://USER@HOST:5432/DATABASE; the password: PGPASSWORD or ~/.pgpass"
            raise InvalidInput(problem, hint=hint) from None
        event.listen(engine, "connect", lambda driver, record: _require_encoding(driver, location.name), insert=True)
        if search_path is not None:
            _set_search_path(engine, search_path)
        return engine
    # Pooled, since closing a database's last connection folds its WAL in, which costs as much as a commit.
    assert location.directory is not None
    path = location.directory / "catalog.db"
    url = sa.URL.create("sqlite", database=str(path))  # not from a text, in which ? and % of a folder's name mean more
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})
    if not (os.access(path.parent, os.W_OK) and _can_meet(path)):
        engine = sa.create_engine(url, creator=lambda: _connect_as_it_goes(path), poolclass=sa.NullPool)
    event.listen(engine, "connect", _sqlite_connect)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


_SEARCH_PATH = re.compile(r"(?:-c\s*|--)search_path=((?:\\.|\S)*)")


def _without_search_path(url: sa.URL) -> tuple[sa.URL, str | None]:
    """The URL without `options=-csearch_path=…`, and that search path. Poolers refuse `options` at the start."""
    options = url.query.get("options")
    match = _SEARCH_PATH.search(options) if isinstance(options, str) else None
    if match is None or not isinstance(options, str):
        return url, None
    rest = " ".join((options[: match.start()] + options[match.end() :]).split())
    url = url.difference_update_query(["options"])
    return url.update_query_dict({"options": rest}) if rest else url, re.sub(r"\\(.)", r"\1", match[1])


def _set_search_path(engine: sa.Engine, search_path: str) -> None:
    """Set it in each transaction, since behind a pooler a session's settings are anybody's."""

    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SELECT set_config('search_path', %s, true)", (search_path,))

    def connect(driver: Any, record: Any) -> None:
        with driver.cursor() as cursor:
            cursor.execute("SELECT set_config('search_path', %s, true), current_schema()", (search_path,))
            cursor.execute("SELECT current_schema()")
            engine.dialect.default_schema_name = cursor.fetchone()[0]
        driver.rollback()

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", begin)


def _require_encoding(driver: Any, name: str) -> None:
    """Raise InvalidInput for a database that does not know characters, before anything is asked of it."""
    encoding = driver.pgconn.parameter_status(b"server_encoding")
    if encoding == b"SQL_ASCII":
        raise InvalidInput(
            f"the database of {name} has the encoding SQL_ASCII, in which text is bytes",
            hint="make another one: CREATE DATABASE qrp ENCODING 'UTF8' TEMPLATE template0",
        )


def connect_to_look(path: Path) -> sqlite3.Connection:
    """A connection that only reads, also where WAL's users cannot meet: without them nobody is writing, and the file
    can be taken as it is, unless commits wait beside it."""
    alone = not _can_meet(path) and not _bytes(path.with_name("catalog.db-wal"))
    # quoted, since a directory may hold ? or # or %
    uri = f"file:{quote(str(path))}?mode=ro{'&immutable=1' if alone else ''}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def _connect_as_it_goes(path: Path) -> sqlite3.Connection:
    """A connection that only looks, until there is room again (gc makes some)."""
    if os.access(path.parent, os.W_OK) and _can_meet(path):
        return sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
    return connect_to_look(path)


def _can_meet(path: Path) -> bool:
    """Whether the memory that WAL's users share is there or can be made: not in a folder where one may not write, and
    not on a disk without any room left."""
    if _bytes(path.with_name("catalog.db-shm")) >= 32 << 10:  # what a try without room leaves is smaller
        return True
    if not os.access(path.parent, os.W_OK):
        return False
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=BUSY_SECONDS)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        return getattr(error, "sqlite_errorcode", None) not in (sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_FULL)
    return True


def _bytes(path: Path) -> int:
    """A file's size; 0 when it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _patience(url: str) -> dict[str, int]:
    """How long to wait for a database that does not answer: libpq's options, unless the URL has its own."""
    defaults = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "tcp_user_timeout": 60_000}
    return {name: value for name, value in defaults.items() if name not in sa.make_url(url).query}


def _sqlite_connect(connection: sqlite3.Connection, record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, and which kind
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()
    add_functions(connection)


def add_functions(connection: sqlite3.Connection) -> None:
    """Functions that the views and docs/sql.md need, and that not every SQLite is built with."""
    connection.create_function("sqrt", 1, lambda x: None if x is None or x < 0 else math.sqrt(x), deterministic=True)
    connection.create_function("ln", 1, lambda x: None if x is None or x <= 0 else math.log(x), deterministic=True)
    connection.create_function("exp", 1, lambda x: None if x is None else math.exp(x), deterministic=True)


def _sqlite_begin(connection: sa.Connection) -> None:
    # A deferred transaction that turns into a writer fails at once when somebody else wrote in between.
    write = connection.get_execution_options().get("qrp_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


_NETWORK = ("nfs", "lustre", "gpfs", "cifs", "smb", "beegfs", "fuse.sshfs", "afs", "9p", "ceph", "glusterfs")


def journal_mode(directory: Path) -> str:
    """WAL, unless the directory lies on a network file system, where WAL's shared memory does not work."""
    return "DELETE" if network_filesystem(filesystem(directory)) else "WAL"


def network_filesystem(kind: str) -> bool:
    """Whether a type of file system is shared over a network."""
    return kind.startswith(_NETWORK)


def filesystem(path: Path) -> str:
    """The type of the file system under a path, as /proc/self/mounts says; "" where that cannot be known."""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    resolved, best, kind = path.resolve(), -1, ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        mount = Path(fields[1].replace("\\040", " "))
        if resolved.is_relative_to(mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), fields[2]
    return kind


ROOM = "free some room there (`qrp-store gc`, or what else is on that disk), then run the same command again"


def _unreadable(name: str, reason: str) -> Corrupt:
    return Corrupt(
        f"the catalog of {name} is damaged: a value is no text that was written here ({reason.splitlines()[0][:200]})",
        hint="restore it from a backup",
    )


_CORRUPTED = ("XX001", "XX002")  # Postgres' codes for damaged data and damaged indexes


def _translate(error: Exception, name: str) -> QrpStoreError:
    text = str(getattr(error, "orig", None) or error).strip().splitlines()
    what = text[0] if text else type(error).__name__
    low = what.lower()
    if "could not decode to utf-8" in low or isinstance(getattr(error, "orig", None), UnicodeDecodeError):
        return _unreadable(name, what)
    if getattr(getattr(error, "orig", None), "sqlstate", None) in _CORRUPTED:
        return Corrupt(f"the database of {name} is damaged: {what}", hint="restore it from a backup")
    if "not a database" in low or "malformed" in low or "disk image" in low:
        return Corrupt(f"the catalog of {name} is damaged: {what}", hint="restore it from a backup")
    if "no such table" in low or "no such column" in low or "undefinedtable" in low:
        return SchemaMismatch(f"the catalog of {name}: {what}", hint="qrp-store migrate")
    if "locked" in low:
        return Unavailable(f"the catalog of {name} was locked for {BUSY_SECONDS:.0f} s", hint="try again")
    if "permission denied" in low:
        return Unavailable(
            f"the catalog of {name}: {what}", hint="your database role lacks this privilege: docs/roles.sql"
        )
    if "readonly" in low or "read-only" in low:
        return Unavailable(f"the catalog of {name} cannot be written: {what}", hint="you have read-only access")
    if "is full" in low or "disk i/o" in low or "no space left" in low:
        return Unavailable(f"the catalog of {name} cannot be used: {what}", hint=ROOM)
    if isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError, sqlite3.OperationalError)):
        return Unavailable(f"the catalog of {name} cannot be used: {what}", hint="check the database and try again")
    return QrpStoreError(f"the catalog of {name}: {what}")
