"""The life of an artifact: claimed by one, taken over when its owner is gone, committed only by who holds it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.lifecycle import lease
from qrp_store.catalog.lifecycle.owner import Owner, is_gone, this_process
from qrp_store.catalog.model import tables as t
from qrp_store.errors import Busy, Interrupted, QrpStoreError
from qrp_store.records import Artifact, Spec

SPEC = Spec("concepts", "colours", "series-1", {"algorithm": 1, "source": "abc"})


def _commit(catalog: Catalog, claimed: lease.Claim) -> int:
    with catalog.write() as connection:
        return lease.commit(connection, claimed, {"by": "test"})


def _mine(answer: Artifact | lease.Claim) -> lease.Claim:
    assert isinstance(answer, lease.Claim)
    return answer


def _state(catalog: Catalog, claimed: lease.Claim) -> str:
    with catalog.read() as connection:
        return str(connection.execute(sa.select(t.artifact.c.state).where(t.artifact.c.pk == claimed.pk)).scalar_one())


def _own(catalog: Catalog, claimed: lease.Claim, **values: object) -> None:
    with catalog.write() as connection:
        connection.execute(t.artifact.update().where(t.artifact.c.pk == claimed.pk).values(values))


def test_the_same_work_is_found_not_repeated(catalog: Catalog) -> None:
    claimed = _mine(lease.claim(catalog, SPEC))
    assert _commit(catalog, claimed) == 1
    again = lease.claim(catalog, SPEC)
    assert isinstance(again, Artifact)
    assert (again.id, again.version, again.state) == (claimed.id, 1, "ready")


def test_force_makes_the_next_version(catalog: Catalog) -> None:
    _commit(catalog, _mine(lease.claim(catalog, SPEC)))
    assert _commit(catalog, _mine(lease.claim(catalog, SPEC, force=True))) == 2
    found = lease.find(catalog, SPEC)
    assert found is not None
    assert found.version == 2


def test_what_is_asked_again_after_something_else_becomes_the_newest(catalog: Catalog) -> None:
    other = dataclasses.replace(SPEC, document={"algorithm": 1, "source": "other"})
    _commit(catalog, _mine(lease.claim(catalog, SPEC)))
    _commit(catalog, _mine(lease.claim(catalog, other)))
    assert lease.find(catalog, SPEC) is None
    assert _commit(catalog, _mine(lease.claim(catalog, SPEC))) == 3


def test_a_live_owner_is_respected(catalog: Catalog) -> None:
    lease.claim(catalog, SPEC)
    with pytest.raises(Busy, match=r"process \d+ on .* since"):
        lease.claim(catalog, SPEC, wait=False)


def test_who_waits_gets_the_others_result(make: Callable[[], Catalog]) -> None:
    first, second = make(), make()
    claimed = _mine(lease.claim(first, SPEC))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lease.claim, second, SPEC)
        time.sleep(0.8)
        assert not waiting.done()
        _commit(first, claimed)
        answer = waiting.result(timeout=10)
    assert isinstance(answer, Artifact)
    assert answer.id == claimed.id


def test_of_many_who_ask_at_once_one_gets_it(make: Callable[[], Catalog]) -> None:
    catalogs = [make() for _ in range(8)]

    def ask(catalog: Catalog) -> bool:
        try:
            return isinstance(lease.claim(catalog, SPEC, wait=False), lease.Claim)
        except Busy:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, catalogs)) == 1


def test_a_dead_owner_is_taken_over_at_once_on_the_same_path(catalog: Catalog) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    claimed = _mine(lease.claim(catalog, SPEC))
    _own(catalog, claimed, lease_pid=int(gone.stdout), lease_started="1")
    taken = _mine(lease.claim(catalog, SPEC, wait=False))
    assert (taken.id, taken.path, taken.resumed, taken.previous_path) == (claimed.id, claimed.path, True, None)


def test_a_silent_owner_elsewhere_is_taken_over_after_expiry_on_a_new_path(catalog: Catalog) -> None:
    claimed = _mine(lease.claim(catalog, SPEC))
    _own(catalog, claimed, lease_host="elsewhere")
    with pytest.raises(Busy):
        lease.claim(catalog, SPEC, wait=False)
    _own(catalog, claimed, lease_expires=1.0)
    taken = _mine(lease.claim(catalog, SPEC, wait=False))
    assert (taken.id, taken.previous_path) == (claimed.id, claimed.path)
    assert taken.path != claimed.path


def test_a_sleeper_is_refused_at_commit(catalog: Catalog) -> None:
    sleeper = _mine(lease.claim(catalog, SPEC))
    _own(catalog, sleeper, lease_host="elsewhere", lease_expires=1.0)
    taken = _mine(lease.claim(catalog, SPEC))
    with pytest.raises(Busy, match="ran out"):
        _commit(catalog, sleeper)
    assert not lease.renew(catalog, sleeper)
    assert _commit(catalog, taken) == 1


def test_an_error_marks_it_failed_and_the_next_goes_on(catalog: Catalog) -> None:
    claimed = _mine(lease.claim(catalog, SPEC))
    with pytest.raises(QrpStoreError, match="boom"), lease.held(catalog, claimed):
        raise QrpStoreError("boom")
    assert _state(catalog, claimed) == "failed"
    again = _mine(lease.claim(catalog, SPEC, wait=False))
    assert (again.id, again.resumed) == (claimed.id, True)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted("stop", signal=15)])
def test_an_interruption_lets_go(catalog: Catalog, error: BaseException) -> None:
    claimed = _mine(lease.claim(catalog, SPEC))
    with pytest.raises(type(error)), lease.held(catalog, claimed):
        raise error
    assert _state(catalog, claimed) == "writing"
    assert _mine(lease.claim(catalog, SPEC, wait=False)).id == claimed.id


def test_the_heartbeat_keeps_it_and_notices_the_loss(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)
    claimed = _mine(lease.claim(catalog, SPEC))
    _own(catalog, claimed, lease_expires=1.0)
    with pytest.raises(Busy), lease.held(catalog, claimed) as heartbeat:  # noqa: PT012
        time.sleep(0.5)
        with catalog.read() as connection:
            expires = connection.execute(sa.select(t.artifact.c.lease_expires)).scalar_one()
        assert expires > time.time() + 20
        _own(catalog, claimed, lease_token="somebody else's")
        time.sleep(0.5)
        heartbeat.check()
    assert not any(thread.name.startswith("heartbeat") for thread in threading.enumerate())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE artifact SET state = 'writing'",
        "UPDATE artifact SET version = 7",
        "UPDATE artifact SET spec = '{}'",
        "DELETE FROM artifact",
    ],
)
def test_the_database_refuses_to_change_what_is_ready(catalog: Catalog, statement: str) -> None:
    _commit(catalog, _mine(lease.claim(catalog, SPEC)))
    with pytest.raises(QrpStoreError, match="ready"), catalog.write() as connection:
        connection.exec_driver_sql(statement)
    with catalog.write() as connection:
        connection.exec_driver_sql("UPDATE artifact SET state = 'retired'")
    with pytest.raises(QrpStoreError, match="ready"), catalog.write() as connection:
        connection.exec_driver_sql("UPDATE artifact SET state = 'ready'")


def test_who_is_gone() -> None:
    me = this_process()
    assert not is_gone(me)
    assert is_gone(dataclasses.replace(me, started="1"))
    assert is_gone(dataclasses.replace(me, pid=1 << 22))
    assert not is_gone(dataclasses.replace(me, host="elsewhere", pid=1 << 22))
    machine, boot, namespace = me.boot.split("/")
    for other in (f"another/{boot}/{namespace}", f"{machine}/another/{namespace}", f"{machine}/{boot}/pid:[1]", ""):
        assert not is_gone(Owner(me.host, other, 1 << 22, "1"))
    assert not is_gone(Owner(me.host, f"{boot}/{namespace}", 1 << 22, "1"))  # as 0.2 wrote it


def test_a_machine_of_the_same_name_waits_for_the_lease_and_takes_a_new_path(catalog: Catalog) -> None:
    claimed = _mine(lease.claim(catalog, SPEC))
    machine, _, namespace = this_process().boot.split("/")
    _own(catalog, claimed, lease_boot=f"{machine}/another-boot/{namespace}", lease_pid=1 << 22)
    with pytest.raises(Busy):
        lease.claim(catalog, SPEC, wait=False)
    _own(catalog, claimed, lease_expires=1.0)
    taken = _mine(lease.claim(catalog, SPEC, wait=False))
    assert (taken.previous_path, taken.path == claimed.path) == (claimed.path, False)


def test_who_asks_at_the_moment_of_the_commit_makes_nothing_again(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = _mine(lease.claim(catalog, SPEC))
    _own(catalog, claimed, lease_host="elsewhere")
    looked, calls = lease.newest, iter(range(9))
    committing = threading.Thread(target=_commit, args=(catalog, claimed))

    def newest(connection: sa.Connection, series: str) -> Artifact | None:
        found = looked(connection, series)
        if next(calls) == 1:  # the look within the transaction that decides
            committing.start()
            committing.join(1)
        return found

    monkeypatch.setattr(lease, "newest", newest)
    with pytest.raises(Busy):
        lease.claim(catalog, SPEC, wait=False)
    committing.join()
    assert _state(catalog, claimed) == "ready"
    found = lease.claim(catalog, SPEC, wait=False)
    assert isinstance(found, Artifact)
    assert found.id == claimed.id


def test_what_exists_is_found_and_the_rest_is_held_until_the_block_ends(catalog: Catalog) -> None:
    with lease.find_or_hold(catalog, SPEC) as work:
        assert isinstance(work, lease.Held)
        with pytest.raises(Busy), lease.find_or_hold(catalog, SPEC, wait=False):
            pass
        _commit(catalog, work.claim)
    with lease.find_or_hold(catalog, SPEC) as again:
        assert isinstance(again, Artifact)
        assert again.id == work.claim.id
    with pytest.raises(ValueError, match="full"), lease.find_or_hold(catalog, SPEC, force=True) as failing:
        raise ValueError("full")
    with lease.find_or_hold(catalog, SPEC, force=True) as resumed:  # at once: its lease is over
        assert isinstance(resumed, lease.Held)
        assert isinstance(failing, lease.Held)
        assert resumed.claim.id == failing.claim.id
