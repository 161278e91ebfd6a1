"""Arrays' roots that hold other files, and catalogs that are copies: nothing foreign is deleted, and gc says why."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DAY = 24 * 3600


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "a.npy"
    np.save(path, np.random.default_rng(0).normal(size=(50, 8)).astype("f4"))
    return path


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _age(path: Path, seconds: float) -> None:
    status = path.stat()
    os.utime(path, (status.st_atime - seconds, status.st_mtime - seconds))


def _put(root: Path, name: str, age: float = 0.0) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"precious")
    _age(path, age)
    return path


def _backup(store: Path, folder: Path) -> Path:
    """A copy of the catalog as docs/operations.md makes it, in a folder of its own."""
    folder.mkdir()
    with closing(sqlite3.connect(store / "catalog.db")) as one, closing(sqlite3.connect(folder / "catalog.db")) as two:
        one.backup(two)
    return folder


@pytest.mark.parametrize("name", ["imagenet/val/1.jpg", "embedding/emb-1/e0/notes.txt", ".hidden", "zarr.json"])
def test_init_refuses_a_folder_that_holds_files(qrp: Any, tmp_path: Path, name: str) -> None:
    _put(tmp_path / "data", name)
    message = qrp.fails(4, "init", "--arrays", tmp_path / "data", store=tmp_path / "s")
    assert name in message
    assert "--adopt" in message
    assert not (tmp_path / "s" / "catalog.db").exists()
    assert list(_files(tmp_path / "data")) == [name]


def test_gc_leaves_what_was_in_an_adopted_folder(qrp: Any, tmp_path: Path, rows: Path) -> None:
    store, data = tmp_path / "s", tmp_path / "data"
    old = 3 * DAY
    foreign = [
        *("imagenet/val/1.jpg", "thesis/ch1/t.tex", "embedding/emb-0123456789ab/e0/notes.txt", "embedding/mine/x/y"),
        *("concepts/con-xyz/e0/c/0", "clustering/res-0123456789ab/e0/centroids/c/0/0", ".partial-report.docx"),
        *("photos/.partial-12-0123456789ab", "embedding/emb-0123456789ab/e0/embedding/c/0/0"),
    ]
    for name in foreign:
        _put(data, name, old)
    qrp.ok("init", "--arrays", data, "--adopt", store=store)
    assert qrp.ok("init", "--arrays", data, store=store)["created"] is False
    qrp.ok("ingest", rows, "--dataset", "d", "--backbone", "a", store=store)
    qrp.ok("rm", "d", "--cascade", "--yes", store=store)
    before = {name: (data / name).read_bytes() for name in foreign}
    assert qrp.ok("gc", store=store)["objects"] > 0
    qrp.ok("gc", store=store)
    assert {name: (data / name).read_bytes() for name in foreign} == before
    assert set(_files(data)) == {*foreign, "qrp-store.json"}
    assert qrp.ok("verify", store=store)["foreign"] == 8


def test_gc_takes_what_no_row_names_after_a_day(qrp: Any, tmp_path: Path, rows: Path) -> None:
    store = tmp_path / "s"
    qrp.ok("init", store=store)
    qrp.ok("ingest", rows, "--dataset", "d", "--backbone", "a", store=store)
    fresh = _put(store / "arrays", "embedding/emb-0123456789ab/e0/embedding/c/0/0", 3600)
    stale = _put(store / "arrays", "clustering/clu-0123456789ab/e0/centroids/c/0/0", 2 * DAY)
    checked = qrp.ok("verify", store=store)
    assert checked["unnamed"] == {"arrays": 2, "objects": 2, "bytes": 16}
    assert checked["problems"] == []
    assert "2 arrays that no row names" in qrp.run("verify", store=store).out
    assert qrp.ok("gc", "--dry-run", store=store)["objects"] == 1
    assert stale.exists()
    assert qrp.ok("gc", store=store)["objects"] == 1
    assert fresh.exists()
    assert not stale.exists()
    assert qrp.ok("verify", "--deep", store=store)["problems"] == []


def test_gc_refuses_when_objects_are_newer_than_the_catalog(qrp: Any, tmp_path: Path, rows: Path) -> None:
    store = tmp_path / "s"
    qrp.ok("init", store=store)
    qrp.ok("ingest", rows, "--dataset", "d", "--backbone", "a", store=store)
    backup = _backup(store, tmp_path / "backup")
    qrp.ok("ingest", rows, "--dataset", "d", "--backbone", "b", store=store)
    for file in store.glob("catalog.db*"):
        file.unlink()
    shutil.copy(backup / "catalog.db", store / "catalog.db")
    arrays = _files(store / "arrays")
    for words in (("gc",), ("gc", "--dry-run")):
        message = qrp.fails(4, *words, store=store)
        assert "newer than the last change" in message
        assert "init --adopt" in message
    assert _files(store / "arrays") == arrays
    assert qrp.ok("verify", store=store)["unnamed"]["arrays"] == 1
    qrp.ok("init", "--adopt", store=store)
    assert qrp.ok("gc", store=store)["objects"] == 0  # not a day old yet
    assert set(_files(store / "arrays")) == set(arrays)


def test_a_copied_catalog_does_not_delete_its_originals_arrays(qrp: Any, tmp_path: Path, rows: Path) -> None:
    store, trial = tmp_path / "s", tmp_path / "trial"
    qrp.ok("init", store=store)
    qrp.ok("ingest", rows, "--dataset", "d", "--backbone", "a", store=store)
    _backup(store, trial)
    qrp.ok("rm", "d", "--cascade", "--yes", store=trial)
    before = _files(store / "arrays")
    message = qrp.fails(4, "gc", store=trial)
    assert str(store) in message
    assert "--new-identity" in message
    assert _files(store / "arrays") == before
    assert qrp.ok("verify", "--deep", store=store)["problems"] == []
    assert qrp.ok("gc", store=store)["objects"] == 0


def test_a_copy_gets_an_identity_of_its_own(qrp: Any, tmp_path: Path, rows: Path) -> None:
    store, trial = tmp_path / "s", tmp_path / "trial"
    first = qrp.ok("init", store=store)["uuid"]
    qrp.ok("ingest", rows, "--dataset", "d", "--backbone", "a", store=store)
    _backup(store, trial)
    assert "copy them first" in qrp.fails(4, "migrate", "--new-identity", store=trial)
    originals = ("migrate", "--new-identity", "--arrays", store / "arrays")
    assert "copied from" in qrp.fails(4, *originals, store=trial)
    shutil.copytree(store / "arrays", trial / "arrays")
    uuid = qrp.ok("migrate", "--new-identity", store=trial)["uuid"]
    assert uuid not in (None, first)
    qrp.ok("rm", "d", "--cascade", "--yes", store=trial)
    assert qrp.ok("gc", store=trial)["objects"] > 0
    assert qrp.ok("verify", "--deep", store=store)["checked"]["embedding"] == 1
    assert "another store" in qrp.fails(4, "verify", "--arrays", store / "arrays", store=trial)


def test_a_moved_store_still_deletes(qrp: Any, tmp_path: Path, rows: Path) -> None:
    for name, arrays in (("one", ()), ("two", ("--arrays", tmp_path / "elsewhere"))):
        qrp.ok("init", *arrays, store=tmp_path / name)
        qrp.ok("ingest", rows, "--dataset", "d", "--backbone", "a", store=tmp_path / name)
        shutil.move(tmp_path / name, tmp_path / f"{name} moved")
        moved = tmp_path / f"{name} moved"
        qrp.ok("rm", "d", "--cascade", "--yes", store=moved)
        assert qrp.ok("gc", store=moved)["objects"] > 0
        assert qrp.ok("gc", store=moved)["objects"] == 0


def test_init_refuses_a_prefix_that_holds_objects(qrp: Any, tmp_path: Path, new_bucket: Callable[[], str]) -> None:
    from qrp_store.arrays.location import open_root

    bucket = new_bucket()
    open_root(f"{bucket}/photos").put("val/1.jpg", b"precious")
    env = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    where = {"store": tmp_path / "s", "env": env}
    assert "val/1.jpg" in qrp.fails(4, "init", "--arrays", f"{bucket}/photos", **where)
    qrp.ok("init", "--arrays", f"{bucket}/photos", "--adopt", **where)
    qrp.ok("gc", **where)
    assert open_root(f"{bucket}/photos").get("val/1.jpg") == b"precious"
