"""Whatever is registered for a kind of artifact names a kind, table or array that exists."""

from __future__ import annotations

from qrp_store.catalog.model.kinds import KINDS
from qrp_store.look import DETAILS
from qrp_store.maintenance.repair import ARRAYS
from qrp_store.maintenance.rows import TABLES


def test_every_kind_has_details() -> None:
    assert set(DETAILS) == set(KINDS)


def test_tables_that_repair_restores_belong_to_the_kind() -> None:
    for kind, tables in TABLES.items():
        assert set(tables) <= {rows.table.name for rows in KINDS[kind].rows}


def test_every_kind_with_whole_arrays_restores_them() -> None:
    assert set(ARRAYS) == {name for name, kind in KINDS.items() if kind.arrays}
