"""What gc forgets was left alone for a day, and nobody can take it up while it goes."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from qrp_store.catalog.database import bulk
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.entities import datasets
from qrp_store.catalog.lifecycle import lease, retire
from qrp_store.catalog.model import tables as t
from qrp_store.errors import Busy, NotFound
from qrp_store.records import Spec

SPEC = Spec("concepts", "c", "series", {"a": 1})
TWO_DAYS = 2 * 24 * 3600.0


def claimed_of(found: object) -> lease.Claim:
    assert isinstance(found, lease.Claim)
    return found


def set_all(catalog: Catalog, table: sa.Table, **values: object) -> None:
    with catalog.write() as connection:
        connection.execute(table.update().values(**values))


def test_a_long_job_that_was_let_go_just_now_is_not_forgotten(catalog: Catalog) -> None:
    with pytest.raises(KeyboardInterrupt), lease.held(catalog, claimed_of(lease.claim(catalog, SPEC))):
        raise KeyboardInterrupt
    set_all(catalog, t.artifact, created_at_seconds=t.artifact.c.created_at_seconds - TWO_DAYS)
    assert [kept.fate for kept in retire.survey(catalog)] == ["keep"]
    set_all(catalog, t.artifact, lease_expires=t.artifact.c.lease_expires - TWO_DAYS)
    assert [kept.fate for kept in retire.survey(catalog)] == ["forget"]


def test_what_is_taken_up_again_after_the_survey_stays(catalog: Catalog) -> None:
    claimed_of(lease.claim(catalog, SPEC))
    set_all(catalog, t.artifact, lease_expires=1.0, lease_host="elsewhere")
    (kept,) = retire.survey(catalog)
    assert kept.fate == "forget"
    taken = claimed_of(lease.claim(catalog, SPEC))
    assert not retire.condemn(catalog, kept)
    assert lease.renew(catalog, taken)


def test_what_is_being_forgotten_is_out_of_reach(catalog: Catalog) -> None:
    sleeper = claimed_of(lease.claim(catalog, SPEC))
    set_all(catalog, t.artifact, lease_expires=1.0, lease_host="elsewhere")
    (kept,) = retire.survey(catalog)
    assert retire.condemn(catalog, kept)
    assert not lease.renew(catalog, sleeper)
    newcomer = claimed_of(lease.claim(catalog, SPEC))
    assert newcomer.id != sleeper.id
    assert retire.remove_rows(catalog, kept) == 1
    assert lease.renew(catalog, newcomer)


def test_a_staged_dataset_that_gc_took_is_refused_to_who_found_it_before(catalog: Catalog) -> None:
    found = datasets.stage_dataset(catalog, "d", ["a", "b"], datasets.keys_fingerprint(["a", "b"]))
    set_all(catalog, t.dataset, created_at_seconds=1.0)
    assert retire.remove_staged(catalog, dry_run=True) == 1
    assert datasets.keys(catalog, found) == ["a", "b"]
    assert retire.remove_staged(catalog, dry_run=False) == 1
    assert datasets.stage_dataset(catalog, "d", ["a", "b"], datasets.keys_fingerprint(["a", "b"])).id != found.id
    with catalog.write() as connection, pytest.raises(NotFound, match="meanwhile"):
        datasets.dataset_pk(connection, found.id)


def test_rows_are_cleared_by_the_owner_alone(catalog: Catalog) -> None:
    sleeper = claimed_of(lease.claim(catalog, SPEC))
    set_all(catalog, t.artifact, lease_expires=1.0, lease_host="elsewhere")
    claimed_of(lease.claim(catalog, SPEC))
    with pytest.raises(Busy):
        bulk.clear(catalog, t.label, "concept_set_pk", sleeper.pk, sleeper)
