"""Connections: how a database is opened, how a transaction begins and ends, and what its errors mean.

`Catalog.read()` and `Catalog.write()` are the only places that begin, commit and roll back, and the one seam where
SQLAlchemy's errors become ours.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event

from qrp_store.errors import Corrupt, QrpStoreError, SchemaMismatch, Unavailable
from qrp_store.settings import Location

BUSY_SECONDS = 60.0


class Catalog:
    """An open catalog. Threads may share it: every transaction takes a connection of its own."""

    def __init__(self, location: Location) -> None:
        self.name = location.name
        self.directory = location.directory
        self.engine = _engine(location)

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
        with self.translated(), self.engine.connect() as connection:
            connection = connection.execution_options(**options)
            with connection.begin() as transaction:
                try:
                    yield connection
                    transaction.commit()
                except (KeyboardInterrupt, SystemExit):
                    # A signal can leave the driver amid a command, where not even a rollback gets through.
                    connection.invalidate()
                    raise

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """SQLAlchemy's errors as ours, for what is no plain transaction."""
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            stopped = _signal_behind(error)
            if stopped is not None:
                raise stopped from None
            raise _translate(error, self.name) from error


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
            connecting = {"prepare_threshold": None, **_patience(location.catalog)}
            return sa.create_engine(location.catalog, pool_pre_ping=True, connect_args=connecting)
        except (ImportError, sa.exc.ArgumentError) as error:
            if isinstance(error, ImportError):
                raise Unavailable("a Postgres store needs psycopg", hint="pip install 'qrp-store[postgres]'") from error
            raise Unavailable(f"not a database URL: {location.name}") from error
    # Pooled, since closing a database's last connection folds its WAL in, which costs as much as a commit.
    assert location.directory is not None
    path = location.directory / "catalog.db"
    url = sa.URL.create("sqlite", database=str(path))  # not from a text, in which ? and % of a folder's name mean more
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})
    if not os.access(location.directory, os.W_OK):
        engine = sa.create_engine(url, creator=lambda: connect_to_look(path), poolclass=sa.NullPool)
    event.listen(engine, "connect", _sqlite_connect)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def connect_to_look(path: Path) -> sqlite3.Connection:
    """A connection that only reads, also in a folder where we may not write.

    There SQLite cannot make the memory that WAL's users share. While somebody writes it is there to be read; without
    it nobody is writing, and the file can be taken as it is.
    """
    alone = not os.access(path.parent, os.W_OK) and not path.with_name("catalog.db-shm").exists()
    # quoted, since a directory may hold ? or # or %
    uri = f"file:{quote(str(path))}?mode=ro{'&immutable=1' if alone else ''}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def _patience(url: str) -> dict[str, int]:
    """How long to wait for a database that does not answer: libpq's options, unless the URL has its own."""
    own = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "tcp_user_timeout": 60_000}
    return {name: value for name, value in own.items() if name not in sa.make_url(url).query}


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


def _translate(error: sa.exc.SQLAlchemyError, name: str) -> QrpStoreError:
    text = str(getattr(error, "orig", None) or error).strip().splitlines()
    what = text[0] if text else type(error).__name__
    low = what.lower()
    if "not a database" in low or "malformed" in low or "disk image" in low:
        return Corrupt(f"the catalog of {name} is damaged: {what}", hint="restore it from a backup")
    if "no such table" in low or "no such column" in low or "undefinedtable" in low:
        return SchemaMismatch(f"the catalog of {name}: {what}", hint="qrp-store migrate")
    if "locked" in low:
        return Unavailable(f"the catalog of {name} was locked for {BUSY_SECONDS:.0f} s", hint="try again")
    if "permission denied" in low:
        return Unavailable(f"the catalog of {name}: {what}", hint="this takes another role: docs/roles.sql")
    if "readonly" in low or "read-only" in low:
        return Unavailable(f"the catalog of {name} cannot be written: {what}", hint="it is yours to look at only")
    if isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError)):
        return Unavailable(f"the catalog of {name} cannot be used: {what}", hint="check the database and try again")
    return QrpStoreError(f"the catalog of {name}: {what}")
