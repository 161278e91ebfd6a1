"""The schema's state, and the one way to make or change it: Alembic from zero.

Checking imports no Alembic: the newest revision is a constant, which a test compares with the scripts.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

from qrp_store.catalog.database.clock import now_text
from qrp_store.catalog.database.engine import Catalog, journal_mode
from qrp_store.catalog.model import tables as t
from qrp_store.catalog.model import views
from qrp_store.errors import InvalidInput, NotFound, SchemaMismatch, Unavailable
from qrp_store.settings import Location

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007")
HEAD = REVISIONS[-1]
VERSION_TABLE = "qrp_alembic_version"
_ONE_AT_A_TIME = 0x5152_5053  # the key of the Postgres lock that serialises schema changes

SchemaState = Literal["empty", "foreign", "older", "current", "newer"]


@dataclass(frozen=True)
class StoreRow:
    """What the catalog says of itself."""

    uuid: str
    arrays_url: str
    created_at: str


def state(connection: sa.Connection) -> tuple[SchemaState, str | None]:
    """Where a database stands, and its revision when it has one."""
    names = set(sa.inspect(connection).get_table_names())
    if VERSION_TABLE not in names:
        return ("foreign" if names else "empty"), None
    revisions = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalars().all()
    if not revisions:
        return "empty", None
    revision = str(revisions[0])
    if revision == HEAD:
        return "current", revision
    return ("older" if revision in REVISIONS else "newer"), revision


def open_catalog(location: Location) -> Catalog:
    """The catalog of an existing store. Raises NotFound, SchemaMismatch, Unavailable or Corrupt; creates nothing."""
    if not _is_there(location):
        raise NotFound(f"there is no store at {location.name}", hint=f"qrp-store init --store {location.name}")
    catalog = Catalog(location)
    try:
        with catalog.read() as connection:
            condition, revision = state(connection)
        _require_current(location.name, condition, revision)
    except BaseException:
        catalog.close()
        raise
    return catalog


def _is_there(location: Location) -> bool:
    """Whether there is a catalog to open; a server is asked by connecting."""
    try:
        return location.directory is None or (location.directory / "catalog.db").is_file()
    except OSError as error:
        raise Unavailable(f"{location.name} cannot be looked into: {error.strerror}") from error


def _require_current(name: str, condition: SchemaState, revision: str | None) -> None:
    if condition == "current":
        return
    if condition == "empty":
        raise NotFound(f"the database of {name} is empty: there is no store", hint=f"qrp-store init --store {name}")
    if condition == "foreign":
        raise SchemaMismatch(
            f"the database of {name} holds other tables and no qrp-store schema",
            hint="name another directory or database; in a shared Postgres: qrp-store init",
        )
    if condition == "older":
        raise SchemaMismatch(
            f"the schema of {name} is {revision}, this version needs {HEAD}", hint=f"qrp-store migrate --store {name}"
        )
    raise SchemaMismatch(
        f"the schema of {name} is {revision}, newer than this version of qrp-store knows ({HEAD})",
        hint="pip install --upgrade qrp-store",
    )


def peek(location: Location) -> StoreRow | None:
    """The store's row where there is one, else None (no database, an empty one, or one with other tables only)."""
    if not _is_there(location):
        return None
    catalog = Catalog(location)
    try:
        with catalog.read() as connection:
            condition, revision = state(connection)
            if condition in ("empty", "foreign"):
                return None
            _require_current(location.name, condition, revision)
            row = connection.execute(sa.select(t.store)).mappings().first()
            return StoreRow(row["uuid"], row["arrays_url"], row["created_at"]) if row else None
    finally:
        catalog.close()


def create(
    location: Location, arrays_url: str, before_commit: Callable[[str], None] = lambda uuid: None
) -> tuple[Catalog, bool]:
    """Bring an empty database to the schema and name the store. Harmless when repeated; True when it was made now.

    `before_commit` is called with the store's UUID; when it raises, nothing was made.
    """
    if location.directory is not None:
        _make_directory(location.directory)
    catalog = Catalog(location)
    try:
        if catalog.sqlite and location.directory is not None:
            with catalog.read() as connection:
                condition, revision = state(connection)
            if condition != "empty":
                _require_current(location.name, condition, revision)  # before a file that isn't ours is touched
            _set_journal_mode(catalog, journal_mode(location.directory))
        with catalog.write() as connection:
            _lock(connection)
            condition, revision = state(connection)
            if condition != "current":
                if condition != "empty" and not (condition == "foreign" and not catalog.sqlite):
                    _require_current(location.name, condition, revision)
                _refuse_clash(connection, location.name)
                upgrade(connection)
            uuid = connection.execute(sa.select(t.store.c.uuid)).scalar()
            made = uuid is None
            if uuid is None:
                uuid = str(uuids.uuid4())
                connection.execute(
                    t.store.insert().values(pk=1, uuid=uuid, arrays_url=arrays_url, created_at=now_text())
                )
            before_commit(uuid)
    except BaseException:
        catalog.close()
        raise
    return catalog, made


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidInput(f"{directory}: there is a file where the store's directory should be") from error
    except OSError as error:
        raise Unavailable(f"{directory} cannot be made ({error.strerror})", hint="name another --store") from error


def _set_journal_mode(catalog: Catalog, mode: str) -> None:
    with catalog.translated(), catalog.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute(f"PRAGMA journal_mode = {mode}").fetchall()


def _lock(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ONE_AT_A_TIME})")


def _refuse_clash(connection: sa.Connection, name: str) -> None:
    clash = sorted(set(sa.inspect(connection).get_table_names()) & set(t.metadata.tables))
    if clash:
        raise SchemaMismatch(
            f"the database of {name} already holds tables named {', '.join(clash)}",
            hint="use a database or a schema (search_path) of its own",
        )


def upgrade(connection: sa.Connection) -> None:
    """Run every migration that is missing, inside the caller's transaction, and renew the views."""
    from importlib.resources import files

    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(files("qrp_store.migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    views.drop(connection)
    command.upgrade(config, HEAD)
    views.create(connection)


def migrate(location: Location, *, check: bool = False) -> tuple[str | None, str]:
    """Bring an older schema up to date; returns (revision before, revision after). `check` changes nothing."""
    if not _is_there(location):
        raise NotFound(f"there is no store at {location.name}", hint=f"qrp-store init --store {location.name}")
    catalog = Catalog(location)
    try:
        with catalog.write() as connection:
            _lock(connection)
            condition, revision = state(connection)
            if check or condition != "older":
                _require_current(location.name, condition, revision)
                if catalog.sqlite and not check:
                    views.renew(connection)
                return revision, HEAD
            upgrade(connection)
            return revision, HEAD
    finally:
        catalog.close()


def store_row(catalog: Catalog) -> StoreRow:
    """The store's own row."""
    with catalog.read() as connection:
        row = connection.execute(sa.select(t.store)).mappings().first()
    if row is None:
        raise NotFound(f"the store at {catalog.name} was never finished", hint=f"qrp-store init --store {catalog.name}")
    return StoreRow(row["uuid"], row["arrays_url"], row["created_at"])


def move_arrays(catalog: Catalog, arrays_url: str) -> None:
    """Record where the arrays of a directory store are now (it was moved)."""
    if not arrays_url:
        raise InvalidInput("the arrays' root has no name")
    with catalog.write() as connection:
        connection.execute(t.store.update().values(arrays_url=arrays_url))


def rename_store(connection: sa.Connection, uuid: str, arrays_url: str) -> None:
    """Give the store another UUID and another place for its arrays, inside the caller's transaction."""
    connection.execute(t.store.update().values(uuid=uuid, arrays_url=arrays_url))
