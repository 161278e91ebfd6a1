"""A store of every released version still opens, gives its old results and makes new ones (tests/data/README.md)."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

from qrp_store.catalog.database import schema
from qrp_store.errors import InvalidInput, SchemaMismatch
from qrp_store.evaluate import evaluate
from qrp_store.evaluate.rerun import rerun
from qrp_store.maintenance.removal import migrate, verify
from qrp_store.store import open_store

DATA = Path(__file__).resolve().parents[1] / "data"
SCORES = {
    "res-5915e3818eb1": ("sharp", 0, 0.9537),
    "res-6d48803cf454": ("sharp", 1, 0.7675),
    "res-bf48c7ab8ef4": ("noise", 0, -0.001359),
    "res-8e875370d618": ("noise", 1, -0.001013),
}


@pytest.fixture(params=["0.1.0"])
def old(request: pytest.FixtureRequest, tmp_path: Path, one_thread: None) -> str:
    with tarfile.open(DATA / f"store-{request.param}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return str(tmp_path / "store")


def test_an_old_store_names_the_command_and_is_left_alone(old: str) -> None:
    before = (Path(old) / "catalog.db").read_bytes()
    with pytest.raises(SchemaMismatch) as caught:
        open_store(old)
    assert "qrp-store migrate" in str(caught.value.hint)
    assert (Path(old) / "catalog.db").read_bytes() == before


def test_a_migrated_store_gives_its_results_and_makes_new_ones(old: str) -> None:
    report = migrate(old)
    assert (report.before, report.after) == ("0001", schema.HEAD)
    store = open_store(old)
    rows = {row["id"]: row for row in store.sql("SELECT * FROM results")}
    assert {i: (rows[i]["backbone"], rows[i]["seed"], float(f"{rows[i]['nmi']:.4g}")) for i in SCORES} == SCORES
    assert verify(store, deep=True).problems == ()
    few: dict[str, Any] = {"dataset": "photos", "k": [4], "epochs": 5, "bootstrap": 50}
    again = evaluate(store, **few, seeds=[0]).results
    # its algorithm has a newer version, so that the old numbers stay and are never mixed with new ones
    assert not {result.id for result in again} & set(SCORES)
    assert not {result.setting for result in again} & {row["setting"] for row in rows.values()}
    assert not any(result.cached for result in again)
    kept = {row["id"]: row["nmi"] for row in store.sql("SELECT id, nmi FROM result_versions")}
    assert {i: float(f"{kept[i]:.4g}") for i in SCORES} == {i: score for i, (_, _, score) in SCORES.items()}
    with pytest.raises(InvalidInput, match="version 1 of the method"):
        rerun(store, "res-5915e3818eb1")
    new = evaluate(store, **few, seeds=[2], backbones=["sharp"])
    assert [result.cached for result in new.results] == [False]
    assert new.results[0].nmi > 0.25
