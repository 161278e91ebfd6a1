"""init: all or nothing, harmless when repeated, never another store's arrays."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qrp_store.errors import InvalidInput, NotFound, QrpStoreError
from qrp_store.store import create_store, open_store


def test_a_root_that_cannot_be_leaves_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(QrpStoreError):
        create_store(str(tmp_path / "store"), str(tmp_path / "file"))
    with pytest.raises(NotFound, match="no store"):
        open_store(str(tmp_path / "store"))
    assert create_store(str(tmp_path / "store")).created


def test_init_where_an_init_died_before_its_commit(tmp_path: Path) -> None:
    first = create_store(str(tmp_path / "store"))
    (tmp_path / "store" / "catalog.db").unlink()
    second = create_store(str(tmp_path / "store"))
    assert second.created
    assert second.uuid != first.uuid
    with open_store(str(tmp_path / "store")) as store:
        assert store.arrays.read_identity() == second.uuid


def test_a_root_with_arrays_is_not_taken_over(tmp_path: Path) -> None:
    create_store(str(tmp_path / "store"))
    with open_store(str(tmp_path / "store")) as store:
        store.arrays.put("embedding/emb-1/e0/x", b"data")
    with pytest.raises(InvalidInput, match="belongs to store"):
        create_store(str(tmp_path / "other"), str(tmp_path / "store" / "arrays"))
    assert not (tmp_path / "other" / "catalog.db").exists()


def test_init_of_a_moved_store_makes_nothing_where_it_was(tmp_path: Path) -> None:
    made = create_store(str(tmp_path / "here"))
    shutil.move(tmp_path / "here", tmp_path / "there")
    again = create_store(str(tmp_path / "there"))
    assert (again.uuid, again.created) == (made.uuid, False)
    assert again.arrays == str(tmp_path / "there" / "arrays")
    assert not (tmp_path / "here").exists()
