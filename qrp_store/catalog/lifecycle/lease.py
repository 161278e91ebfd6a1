"""The life of an artifact: claim it, keep the claim alive, commit it. `writing → ready → retired`, or `failed`.

A claim is a lease on the database's clock, renewed by a heartbeat thread. A process that takes over an expired lease
continues under a new epoch and array path, because a paused owner could resume and write; a dead owner's path is kept.
The commit checks that the lease is still held, so that a worker that was paused past its expiry is refused.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa

from qrp_store.catalog.database.clock import now_seconds, now_text
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.lifecycle import checksums
from qrp_store.catalog.lifecycle.owner import Owner, created_by, is_gone, this_process
from qrp_store.catalog.model import tables as t
from qrp_store.errors import Busy, Interrupted, NotFound, QrpStoreError
from qrp_store.progress import Progress, silent
from qrp_store.records import PREFIX, Artifact, Spec

LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = 10.0
_POLL_SECONDS = 0.5
_a = t.artifact.c


@dataclass(frozen=True)
class Claim:
    """The right to write one artifact. `previous_path` holds the blocks of an expired owner, if there was one."""

    pk: int
    id: str
    token: str
    path: str
    resumed: bool
    previous_path: str | None = None


@dataclass(frozen=True)
class Found:
    """Another process' unfinished artifact of the same fingerprint."""

    pk: int
    id: str
    epoch: int
    path: str
    state: str
    token: str | None
    owner: Owner | None
    since: str | None
    left: float


def artifact_of(row: sa.RowMapping) -> Artifact:
    """Return the record of an artifact's row."""
    return Artifact(
        id=row["id"],
        kind=row["kind"],
        name=row["name"],
        series=row["series"],
        version=row["version"],
        fingerprint=row["fingerprint"],
        state=row["state"],
        spec=row["spec"],
        provenance=row["provenance"],
        path=row["path"],
        created_at=row["created_at"],
        created_by=row["created_by"],
    )


def newest(connection: sa.Connection, series: str) -> Artifact | None:
    """Return the newest ready version of a series."""
    query = sa.select(t.artifact).where(_a.series == series, _a.state == "ready").order_by(_a.version.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    return artifact_of(row) if row else None


def find(catalog: Catalog, spec: Spec) -> Artifact | None:
    """Return the newest artifact of the series if it has the fingerprint of the spec; it is reused."""
    with catalog.read() as connection:
        artifact = newest(connection, spec.series)
    return artifact if artifact is not None and artifact.fingerprint == spec.fingerprint else None


def claim(
    catalog: Catalog,
    spec: Spec,
    *,
    force: bool = False,
    wait: bool = True,
    progress: Progress = silent,
    identifier: str | None = None,
) -> Artifact | Claim:
    """The artifact when it is there already, else the right to make it; `identifier` is its id, if that is free.

    While somebody else's lease is alive: waits and says for whom, or raises Busy when `wait` is False.
    """
    token = uuid.uuid4().hex
    announced = False
    while True:
        # Looking first keeps those who wait out of the way of those who write.
        with catalog.read() as connection:
            seen = _look(connection, spec, force)
        if isinstance(seen, Artifact):
            return seen
        with catalog.write() as connection:
            answer = _try(connection, spec, token, force, identifier)
        if not isinstance(answer, Found):
            return answer
        busy = f"{spec.kind} {spec.name!r} is being made by {answer.owner} since {answer.since}"
        if not wait:
            raise Busy(f"{busy} (lease: {max(answer.left, 0):.0f} s left)", hint="wait for it, or qrp-store ls jobs")
        if not announced:
            progress.note(f"{busy}; waiting for its result (lease: {max(answer.left, 0):.0f} s left)")
            announced, force = True, False
        time.sleep(_POLL_SECONDS)


def _look(connection: sa.Connection, spec: Spec, force: bool, lock: bool = False) -> Artifact | Found | None:
    # In this order: on Postgres somebody may commit between two queries, and looked for the other way round, what was
    # not ready before and is not unfinished afterwards would not be there at all.
    unfinished = _unfinished(connection, spec, lock)
    if not force:
        artifact = newest(connection, spec.series)
        if artifact is not None and artifact.fingerprint == spec.fingerprint:
            return artifact
    return unfinished


def _unfinished(connection: sa.Connection, spec: Spec, lock: bool) -> Found | None:
    """`lock`: it does not change until this transaction ends."""
    query = (
        sa.select(t.artifact, (_a.lease_expires - now_seconds()).label("left"))
        .where(_a.fingerprint == spec.fingerprint, _a.series == spec.series, _a.state.in_(("writing", "failed")))
        .order_by(_a.pk)
        .limit(1)
    )
    row = connection.execute(query.with_for_update() if lock else query).mappings().first()
    if row is None:
        return None
    owner = None
    if row["lease_host"] is not None:
        owner = Owner(row["lease_host"], row["lease_boot"], row["lease_pid"], row["lease_started"])
    left = row["left"] if row["left"] is not None else -1.0
    return Found(
        row["pk"],
        row["id"],
        row["epoch"],
        row["path"],
        row["state"],
        row["lease_token"],
        owner,
        row["lease_since"],
        left,
    )


def _try(
    connection: sa.Connection, spec: Spec, token: str, force: bool, identifier: str | None
) -> Artifact | Claim | Found:
    one_at_a_time(connection, spec.fingerprint)
    answer = _look(connection, spec, force, lock=True)
    if isinstance(answer, Artifact):
        return answer
    if answer is None:
        return _insert(connection, spec, token, identifier)
    free = answer.owner is None or answer.state == "failed"
    if not free and answer.left > 0 and not is_gone(cast(Owner, answer.owner)):
        return answer
    return _take_over(connection, answer, token, free)


def one_at_a_time(connection: sa.Connection, what: str) -> None:
    """Serialise decisions about the same artifact until this transaction ends. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(what))))


def _lease_values(token: str) -> dict[str, Any]:
    owner = this_process()
    return {
        "lease_token": token,
        "lease_host": owner.host,
        "lease_boot": owner.boot,
        "lease_pid": owner.pid,
        "lease_started": owner.started,
        "lease_since": now_text(),
        "lease_expires": now_seconds() + LEASE_SECONDS,
    }


def new_id(kind: str) -> str:
    """Return a new public id of a kind, like res-7f3a9c21b04e."""
    return f"{PREFIX[kind]}-{uuid.uuid4().hex[:12]}"


def _insert(connection: sa.Connection, spec: Spec, token: str, identifier: str | None) -> Claim:
    if identifier is None or connection.execute(sa.select(_a.pk).where(_a.id == identifier)).first() is not None:
        identifier = new_id(spec.kind)
    path = f"{spec.kind}/{identifier}/e0"
    values = {
        "id": identifier,
        "kind": spec.kind,
        "name": spec.name,
        "series": spec.series,
        "fingerprint": spec.fingerprint,
        "state": "writing",
        "spec": dict(spec.document),
        "provenance": {},
        "path": path,
        "epoch": 0,
        "created_at": now_text(),
        "created_at_seconds": now_seconds(),
        "created_by": created_by(),
        **_lease_values(token),
    }
    pk = connection.execute(t.artifact.insert().values(values).returning(_a.pk)).scalar_one()
    return Claim(pk, identifier, token, path, resumed=False)


def _take_over(connection: sa.Connection, writing: Found, token: str, free: bool) -> Claim:
    # A released, failed or provably dead owner writes no more; one that merely went silent might.
    silent_owner = not free and not is_gone(cast(Owner, writing.owner))
    epoch = writing.epoch + 1 if silent_owner else writing.epoch
    path = f"{writing.path.rsplit('/', 1)[0]}/e{epoch}"
    values = {**_lease_values(token), "state": "writing", "error": None, "epoch": epoch, "path": path}
    connection.execute(t.artifact.update().where(_a.pk == writing.pk).values(values))
    return Claim(writing.pk, writing.id, token, path, True, writing.path if silent_owner else None)


@contextmanager
def held(catalog: Catalog, claimed: Claim) -> Iterator[Heartbeat]:
    """Renew a claim while the block runs. Release it on interruption, to resume at once; else mark it failed."""
    heartbeat = Heartbeat(catalog, claimed)
    heartbeat.start()
    try:
        yield heartbeat
    except BaseException as error:
        heartbeat.stop()
        interrupted = isinstance(error, (Interrupted, KeyboardInterrupt, SystemExit))
        try:
            _let_go(catalog, claimed, None if interrupted else str(error))
        except QrpStoreError:
            pass  # the database is what failed; the lease expires
        raise
    finally:
        heartbeat.stop()


def _let_go(catalog: Catalog, claimed: Claim, error: str | None) -> None:
    # over from now on, not never: gc's grace counts from here
    values: dict[str, Any] = {"lease_token": None, "lease_host": None, "lease_expires": now_seconds()}
    if error is not None:
        values |= {"state": "failed", "error": error[:2000]}
    claim = sa.and_(_a.pk == claimed.pk, _a.lease_token == claimed.token, _a.state == "writing")
    with catalog.write() as connection:
        connection.execute(t.artifact.update().where(claim).values(values))


@dataclass(frozen=True)
class Held:
    """A claim that is renewed while the block of `find_or_hold` runs."""

    claim: Claim
    heartbeat: Heartbeat


@contextmanager
def find_or_hold(
    catalog: Catalog,
    spec: Spec,
    *,
    force: bool = False,
    wait: bool = True,
    progress: Progress = silent,
    identifier: str | None = None,
) -> Iterator[Artifact | Held]:
    """The artifact that a spec means when it exists, otherwise the right to make it, held while the block runs.

    The block computes, writes and commits. Options and errors are those of `claim` and `held`.
    """
    answer = claim(catalog, spec, force=force, wait=wait, progress=progress, identifier=identifier)
    if isinstance(answer, Artifact):
        yield answer
        return
    with held(catalog, answer) as heartbeat:
        yield Held(answer, heartbeat)


class Heartbeat:
    """A thread that renews one lease every 10 s. `check()` raises Busy after the lease was lost."""

    def __init__(self, catalog: Catalog, claimed: Claim) -> None:
        self._catalog, self._claim = catalog, claimed
        self._stop = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._run, name=f"heartbeat {claimed.id}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def check(self) -> None:
        """Raise Busy if another process has taken over the artifact."""
        if self._lost:
            raise lost(self._claim)

    def _run(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                self._lost = not renew(self._catalog, self._claim)
            except QrpStoreError:
                continue  # the next beat may reach the database; the commit decides in any case
            if self._lost:
                return


def renew(catalog: Catalog, claimed: Claim) -> bool:
    """Extend the lease; return False if another process holds it."""
    claim = sa.and_(_a.pk == claimed.pk, _a.lease_token == claimed.token, _a.state == "writing")
    with catalog.write() as connection:
        update = t.artifact.update().where(claim).values(lease_expires=now_seconds() + LEASE_SECONDS)
        return connection.execute(update).rowcount == 1


def lost(claimed: Claim) -> Busy:
    """Return the error of a writer whose lease expired and was taken over."""
    return Busy(f"the lease on {claimed.id} ran out and somebody else took it over", hint="run the command again")


def fence(connection: sa.Connection, claimed: Claim) -> None:
    """Inside a write transaction: raise Busy unless this process still holds the lease."""
    query = sa.select(_a.pk).where(_a.pk == claimed.pk, _a.lease_token == claimed.token, _a.state == "writing")
    if connection.execute(query.with_for_update()).first() is None:
        raise lost(claimed)


def require_inputs(connection: sa.Connection, pks: Iterable[int]) -> None:
    """Inside a write transaction: raise NotFound if an input was retired meanwhile."""
    query = sa.select(_a.kind, _a.name, _a.id).where(_a.pk.in_(list(pks)), _a.state != "ready").limit(1)
    retired = connection.execute(query).first()
    if retired is not None:
        raise NotFound(
            f"{retired.kind} {retired.name!r} ({retired.id}), which this is made from, was retired meanwhile"
        )


def commit(connection: sa.Connection, claimed: Claim, provenance: Mapping[str, Any]) -> int:
    """Make the artifact ready in the caller's transaction; return its version. Raise Busy if the lease was lost."""
    series = _lock_series(connection, claimed)
    top = connection.execute(sa.select(sa.func.max(_a.version)).where(_a.series == series)).scalar()
    version = (top or 0) + 1
    _make_ready(connection, claimed, version, provenance)
    return version


def commit_copy(connection: sa.Connection, claimed: Claim, original: Artifact, provenance: Mapping[str, Any]) -> None:
    """Commit an artifact with the version, date and author that it has in another store."""
    series = _lock_series(connection, claimed)
    same = sa.select(_a.id).where(_a.series == series, _a.version == original.version)
    taken = connection.execute(same).scalar()
    if taken is not None:
        raise Busy(f"version {original.version} of {original.name!r} was made meanwhile ({taken})", hint="copy again")
    made = {"created_at": original.created_at, "created_by": original.created_by}
    _make_ready(connection, claimed, original.version, provenance, **made)


def _lock_series(connection: sa.Connection, claimed: Claim) -> str:
    fence(connection, claimed)
    series: str = connection.execute(sa.select(_a.series).where(_a.pk == claimed.pk)).scalar_one()
    one_at_a_time(connection, series)
    return series


def _make_ready(
    connection: sa.Connection, claimed: Claim, version: int | None, provenance: Mapping[str, Any], **more: str
) -> None:
    values = {"state": "ready", "version": version, "provenance": dict(provenance), **more}
    update = t.artifact.update().where(_a.pk == claimed.pk)
    connection.execute(update.values(**values, ready_at=now_text(), lease_expires=None))
    checksums.seal(connection, claimed.pk)
