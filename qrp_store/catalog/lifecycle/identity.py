"""Which database a catalog is, and when it last changed: what tells a catalog from a copy of it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from qrp_store.catalog.database.clock import now_seconds
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.lifecycle import lease
from qrp_store.catalog.model import tables as t
from qrp_store.errors import QrpStoreError

_SERVER = "SELECT (SELECT system_identifier FROM pg_control_system()), oid, current_schema() FROM pg_database"


def place_of(catalog: Catalog) -> str:
    """The database that a catalog is in: its folder, or the Postgres cluster, database and schema.

    A restored dump or a copied file is in another place than its original.
    """
    if catalog.directory is not None:
        return str(catalog.directory.resolve())
    try:
        with catalog.read() as connection:
            row = connection.exec_driver_sql(f"{_SERVER} WHERE datname = current_database()").one()
        return f"postgresql {row[0]}/{row[1]}/{row[2]}"
    except QrpStoreError:  # a service that hides the control file
        return catalog.name


def clock(catalog: Catalog) -> float:
    """Seconds since 1970 on the database's clock."""
    with catalog.read() as connection:
        return float(connection.execute(sa.select(now_seconds())).scalar_one())


def last_change(catalog: Catalog) -> float:
    """When the catalog was last written, as far as its rows say; seconds since 1970 on the database's clock."""
    a, d, b = t.artifact.c, t.dataset.c, t.backbone.c
    seconds = [a.created_at_seconds, a.lease_expires - lease.LEASE_SECONDS, d.created_at_seconds, b.created_at_seconds]
    texts = [t.store.c.created_at, a.ready_at, a.retired_at, d.retired_at, b.retired_at]
    texts += [table.c.created_at for table in (*t.BESIDE, t.clustering_agreement)]
    with catalog.read() as connection:
        latest = [connection.execute(sa.select(sa.func.max(column))).scalar() for column in (*seconds, *texts)]
        released = sa.select(sa.func.max(a.lease_expires)).where(a.lease_host.is_(None), a.state != "ready")
        latest.append(connection.execute(released).scalar())
    return max(_seconds(latest), default=0.0)


def _seconds(values: Iterable[Any]) -> Iterable[float]:
    for value in values:
        if isinstance(value, str):
            yield datetime.fromisoformat(value).timestamp()
        elif value is not None:
            yield float(value)
