"""Is a database fit to hold a catalog? What `doctor` asks it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from qrp_store.catalog.database.clock import now_seconds
from qrp_store.catalog.database.engine import Catalog, filesystem, network_filesystem
from qrp_store.catalog.database.schema import state
from qrp_store.catalog.model import tables as t
from qrp_store.catalog.overview.listing import listing
from qrp_store.records import Finding

SKEW_SECONDS = 2.0
_QUICK_BYTES = 1 << 30  # a bigger file takes longer to read than anybody waits for here
_LOW_BYTES = 2 << 30


def examine(catalog: Catalog) -> Iterator[Finding]:
    """Everything that is known to go wrong with a catalog's database, each looked at."""
    yield from _sqlite(catalog) if catalog.sqlite else _postgres(catalog)
    yield _clock(catalog)
    yield _jobs(catalog)


def may_write(catalog: Catalog) -> bool:
    """Whether who asks may make something here; others only look."""
    if catalog.directory is not None:
        return all(os.access(path, os.W_OK) for path in (catalog.directory, catalog.directory / "catalog.db"))
    with catalog.read() as connection:
        return bool(connection.exec_driver_sql("SELECT has_table_privilege('artifact', 'INSERT')").scalar_one())


def free_space(path: Path, what: str) -> Finding:
    """How much room the file system under a folder has."""
    usage = shutil.disk_usage(path)
    free = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB free under {path}"
    if usage.free < _LOW_BYTES or usage.free < usage.total / 50:
        return Finding(f"{what}: free space", "warning", free, "free some: what is half-written is told and resumed")
    return Finding(f"{what}: free space", "ok", free)


def _clock(catalog: Catalog) -> Finding:
    before = time.time()
    with catalog.read() as connection:
        server_time = float(connection.execute(sa.select(now_seconds())).scalar_one())
    skew = server_time - (before + time.time()) / 2
    finding = f"the database's clock is {abs(skew):.2f} s {'ahead' if skew > 0 else 'behind'}"
    if abs(skew) > SKEW_SECONDS:
        advice = "leases go by the database's clock and are safe; dates that are compared with file times are not: NTP"
        return Finding("catalog: clock", "warning", finding, advice)
    return Finding("catalog: clock", "ok", finding)


def _jobs(catalog: Catalog) -> Finding:
    rows = listing(catalog, "jobs")
    states = [str(row[rows.columns.index("state")]) for row in rows.rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))) or "none under way"
    if "abandoned" in states:
        return Finding("catalog: jobs", "warning", counts, "qrp-store ls jobs; the same command takes each one over")
    return Finding("catalog: jobs", "ok", counts)


def _sqlite(catalog: Catalog) -> Iterator[Finding]:
    assert catalog.directory is not None
    kind = filesystem(catalog.directory)
    with catalog.read() as connection:
        mode = str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())
        version = str(connection.exec_driver_sql("SELECT sqlite_version()").scalar_one())
    yield Finding("catalog: database", "ok", f"SQLite {version}, journal mode {mode}")
    if network_filesystem(kind):
        advice = "use it from one host at a time, or --store postgresql://… for several"
        if mode == "wal":
            advice = "WAL does not work there: copy this store to Postgres (qrp-store copy), or to a local disk"
        status = "problem" if mode == "wal" else "warning"
        yield Finding("catalog: file system", status, f"{kind}, a network file system", advice)  # type: ignore[arg-type]
    else:
        yield Finding("catalog: file system", "ok", kind or "unknown")
    yield free_space(catalog.directory, "catalog")
    file = catalog.directory / "catalog.db"
    if file.stat().st_size > _QUICK_BYTES:
        yield Finding("catalog: pages", "ok", f"not read: {file.stat().st_size / 1e9:.1f} GB")
        return
    with catalog.read() as connection:
        answer = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
    if answer == "ok":
        yield Finding("catalog: pages", "ok", "quick_check finds nothing")
    else:
        yield Finding("catalog: pages", "problem", answer, "restore catalog.db from a backup")


_SETTINGS = (
    "server_version",
    "server_encoding",
    "transaction_isolation",
    "transaction_read_only",
    "fsync",
    "data_checksums",
    "synchronous_commit",
    "max_connections",
)


def _postgres(catalog: Catalog) -> Iterator[Finding]:
    with catalog.read() as connection:
        settings = {name: str(connection.exec_driver_sql(f"SHOW {name}").scalar_one()) for name in _SETTINGS}
        used = int(connection.exec_driver_sql("SELECT count(*) FROM pg_stat_activity").scalar_one())
        may = connection.exec_driver_sql(
            "SELECT current_user, has_table_privilege('artifact', 'INSERT'), "
            "pg_has_role(c.relowner, 'MEMBER'), current_setting('is_superuser') = 'on' "
            "FROM pg_class c WHERE c.oid = 'artifact'::regclass"
        ).one()
    old = int(settings["server_version"].split(".")[0].split(" ")[0]) < 14
    version = f"Postgres {settings['server_version']}"
    yield Finding("catalog: database", "warning" if old else "ok", version, "14 and later are tested" if old else None)
    role = "owner" if may[2] else "writer" if may[1] else "reader"
    if may[3]:
        advice = "its queries can read the server's files and end others' sessions: work under a role of docs/roles.sql"
        yield Finding("catalog: role", "warning", f"{may[0]} is a superuser", advice)
    else:
        yield Finding("catalog: role", "ok", f"{may[0]} is {role}")
    for name, expected, advice in (
        ("server_encoding", "UTF8", "make the database with ENCODING 'UTF8': keys are any text"),
        ("transaction_isolation", "read committed", "ALTER DATABASE … SET default_transaction_isolation = DEFAULT"),
        ("transaction_read_only", "off", "this is a standby or a read-only session: only looking works here"),
        ("fsync", "on", "what is committed may be lost in a power cut: set fsync = on"),
        ("data_checksums", "on", "a damaged page may be read as data: stop the server, pg_checksums --enable"),
    ):  # fmt: skip
        fine = settings[name] == expected
        yield Finding(f"catalog: {name}", "ok" if fine else "warning", settings[name], None if fine else advice)
    lossy = "the last moment's commits may be lost in a crash: set synchronous_commit = on"
    durable = settings["synchronous_commit"] != "off"
    name = "catalog: synchronous_commit"
    yield Finding(name, "ok" if durable else "warning", settings["synchronous_commit"], None if durable else lossy)
    yield from _pages(catalog)
    yield _pooler(catalog)
    most = int(settings["max_connections"])
    full = used > 0.8 * most
    scarce = "every process holds up to 3 connections: raise max_connections or put a pooler before it"
    connections = f"{used} of {most} in use"
    yield Finding("catalog: connections", "warning" if full else "ok", connections, scarce if full else None)


def _pages(catalog: Catalog) -> Iterator[Finding]:
    query = "SELECT coalesce(checksum_failures, 0) FROM pg_stat_database WHERE datname = current_database()"
    with catalog.read() as connection:
        failures = int(connection.exec_driver_sql(query).scalar_one())
    if failures:
        advice = "qrp-store verify --deep names what is damaged; restore it from a backup, on another disk"
        yield Finding("catalog: pages", "problem", f"{failures} pages failed their checksum", advice)


def _pooler(catalog: Catalog) -> Finding:
    """Whether transactions of one connection land on several backends, as behind a transaction pooler."""
    backends: set[int] = set()
    with catalog.translated(), catalog.engine.connect() as one, catalog.engine.connect() as other:
        for _ in range(3):
            # What is given back last is lent first: after this the first connection would be lent the other's backend.
            with one.begin():
                backends.add(int(one.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()))
                second = other.begin()
                other.exec_driver_sql("SELECT 1")
            second.commit()
    if len(backends) == 1:
        return Finding("catalog: pooler", "ok", "each connection keeps its backend: none, or a session pooler")
    advice = "fine: nothing here is kept in a session, and no statement is prepared"
    return Finding(
        "catalog: pooler", "ok", f"a transaction pooler: {len(backends)} backends for one connection", advice
    )


def contents(catalog: Catalog) -> str:
    """The schema's revision and how much there is, in words."""
    with catalog.read() as connection:
        _, revision = state(connection)
        n = connection.execute(sa.select(sa.func.count()).where(t.artifact.c.state == "ready")).scalar_one()
    return f"schema {revision}, {n} artifacts"
