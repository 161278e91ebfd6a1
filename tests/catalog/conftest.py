"""Every catalog test runs on SQLite and on a real Postgres."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qrp_store.catalog.database import schema
from qrp_store.catalog.database.engine import Catalog
from qrp_store.settings import Location, resolve


@pytest.fixture(params=["sqlite", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty place for a catalog."""
    if request.param == "sqlite":
        return resolve(str(tmp_path / "store"))
    database: Callable[[], str] = request.getfixturevalue("new_database")
    return resolve(database())


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
