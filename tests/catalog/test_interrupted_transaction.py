"""A signal anywhere in the driver: the transaction is undone or done, and the catalog goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count
from types import FrameType
from typing import Any

import pytest
import sqlalchemy as sa

from qrp_store.catalog.database import bulk, schema
from qrp_store.catalog.database.engine import Catalog
from qrp_store.settings import resolve

PLACE = sa.Table("place", sa.MetaData(), sa.Column("position", sa.Integer), sa.Column("note", sa.Text))


class Stopped(KeyboardInterrupt):
    """What the signal of these tests raises."""


def copied(connection: sa.Connection) -> None:
    bulk.put(connection, PLACE, ["position", "note"], [(1, "one"), (2, "two")])


def executed(connection: sa.Connection) -> None:
    connection.execute(PLACE.insert().values(position=1, note="one"))


def stop_at(call: int) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that raises Stopped as the n-th frame of psycopg is entered: where Python looks for signals."""
    calls = count(1)

    def entered(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if "/psycopg/" in code.co_filename and code.co_name != "__del__" and next(calls) == call:
            sys.settrace(None)
            raise Stopped

    return entered


@pytest.mark.filterwarnings("ignore:Exception ignored in. <function BaseConnection.__del__")  # stopped amid connecting
@pytest.mark.parametrize("statement", [copied, executed])
def test_stopped_anywhere_in_the_driver(
    new_database: Callable[[], str], statement: Callable[[sa.Connection], None]
) -> None:
    catalog: Catalog = schema.create(resolve(new_database()), "/arrays")[0]
    with catalog.write() as connection:
        PLACE.create(connection)
    stopped = 0
    for call in count(1):
        before = sys.gettrace()
        sys.settrace(stop_at(call))
        try:
            with catalog.write() as connection:
                statement(connection)
            break
        except Stopped:
            stopped += 1
        finally:
            sys.settrace(before)
        with catalog.write() as connection:
            assert len(connection.execute(sa.select(PLACE)).all()) in (0, 1 + (statement is copied)), call
            connection.execute(PLACE.delete())
    assert stopped > 20
    assert catalog.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    catalog.close()
