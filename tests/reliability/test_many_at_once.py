"""Many processes at the same moment: nobody meets a locked database, and the same work is done once."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qrp_store.catalog.database.schema import HEAD
from qrp_store.maintenance.removal import verify
from qrp_store.store import create_store, open_store

OLD = Path(__file__).resolve().parents[1] / "data" / "store-0.1.0.tar.gz"
TORCH = ("qrp_store.evaluate", "qrp_store.probing.controls", "faiss", "zarr")


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_32_processes_started_together_on_one_sqlite_store(
    lab: Any, tmp_path: Path, rounds: int, figure: Callable[[str], None]
) -> None:
    for number in range(rounds):
        store = tmp_path / f"store{number}"
        create_store(str(store))
        for i in range(8):
            lab.ingest(i)
        lines = [[*lab.ingest(i % 8), "--store", store, "--json"] for i in range(32)]
        said = lab.crowd(lines)
        assert [(s["code"], s["err"]) for s in said if s["code"]] == []
        ids = {json.loads(s["out"])["id"] for s in said}
        with open_store(str(store)) as opened:
            assert len(ids) == len(opened.sql("SELECT * FROM embeddings WHERE version = 1")) == 8
            assert len(opened.sql("SELECT * FROM embeddings")) == 8
            assert verify(opened, deep=True).problems == ()
    figure(f"32 processes on one SQLite store, {rounds} times: none met a locked database, 8 embeddings each time")


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_16_evaluators_on_postgres_share_one_result(
    lab: Any, tmp_path: Path, new_database: Callable[[], str], rounds: int, figure: Callable[[str], None]
) -> None:
    url = new_database()
    create_store(url, str(tmp_path / "arrays"))
    # eight writers of eight embeddings at once: all there
    said = lab.crowd([[*lab.ingest(i), "--store", url] for i in range(8)])
    said += lab.crowd([[*lab.label, "--store", url]])
    assert [s for s in said if s["code"]] == []
    for seed in range(rounds):
        one = [*lab.evaluate, "--backbone", "b3", "--seed", seed, "--store", url, "--json"]
        said = lab.crowd([one] * 16, *TORCH)
        assert [(s["code"], s["err"]) for s in said if s["code"]] == []
        results = [json.loads(s["out"])["results"][0] for s in said]
        assert len({r["id"] for r in results}) == len({r["nmi"] for r in results}) == 1
        assert [r["cached"] for r in results].count(False) == 1
    with open_store(url) as opened:
        assert len(opened.sql("SELECT * FROM embeddings")) == 8
        assert len(opened.sql("SELECT * FROM result_versions")) == rounds
        assert verify(opened, deep=True).problems == ()
    figure(f"16 evaluators on Postgres, {rounds} times: one result each time")


def test_processes_that_init_or_migrate_at_once_are_one(
    lab: Any, tmp_path: Path, new_database: Callable[[], str]
) -> None:
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path, filter="data")
    old = tmp_path / "store"
    said = lab.crowd([["migrate", "--json", "--store", old]] * 4)
    assert [s for s in said if s["code"]] == []
    assert sorted(json.loads(s["out"])["before"] for s in said) == ["0001", HEAD, HEAD, HEAD]
    assert lab.crowd([["verify", "--deep", "--store", old]])[0]["code"] == 0
    url, arrays = new_database(), tmp_path / "arrays"
    for store, more in ((url, ["--arrays", arrays]), (tmp_path / "new", [])):
        said = lab.crowd([["init", "--json", "--store", store, *more]] * 8)
        assert [s for s in said if s["code"]] == []
        told = [json.loads(s["out"]) for s in said]
        assert len({t["uuid"] for t in told}) == 1
        assert [t["created"] for t in told].count(True) == 1
