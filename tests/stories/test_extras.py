"""What is scored beside a result: shared, replaced, kept when others write it at once, gone with the result."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qrp_store.catalog.entities import extra_scores as stored
from qrp_store.evaluate import evaluate, extras, further
from qrp_store.ingest import ingest
from qrp_store.label import label
from qrp_store.look import show
from qrp_store.maintenance.gc import gc
from qrp_store.maintenance.removal import retire, verify
from qrp_store.store import Store, create_store, open_store

ASKED: dict[str, Any] = {"dataset": "d", "k": (4,), "epochs": 3, "bootstrap": 0}


@pytest.fixture(params=["sqlite", "postgres"])
def four(
    request: pytest.FixtureRequest, tmp_path: Path, new_database: Callable[[], str], one_thread: None
) -> Iterator[Store]:
    """300 samples of four groups, with concepts that have scores."""
    url = new_database() if request.param == "postgres" else str(tmp_path / "store")
    rng = np.random.default_rng(0)
    group = rng.integers(0, 4, 300)
    np.save(tmp_path / "x.npy", (rng.normal(size=(4, 5))[group] * 3 + rng.normal(size=(300, 5))).astype("f4"))
    with (tmp_path / "c.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("key", "concept", "score"), *((i, f"g{g}", 0.6) for i, g in enumerate(group))])
    create_store(url, str(tmp_path / "arrays"))
    with open_store(url) as store:
        ingest(store, str(tmp_path / "x.npy"), dataset="d", backbone="b", block_rows=70)
        label(store, str(tmp_path / "c.csv"), dataset="d", concepts="c")
        yield store


def test_all_of_it_is_stored_and_found_again(four: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: dict[str, Any] = {"forward": True, "curve": True, "thresholds": (0.5, 0.7), "upper": True, "mdl": True}
    (first,) = evaluate(four, **ASKED, **wanted).results
    assert first.forward
    assert first.curve
    assert first.thresholds
    monkeypatch.setattr(extras, "_computed", None)  # what would compute it anew
    monkeypatch.setattr(extras, "learning_curve", None)
    monkeypatch.setattr(extras, "at_thresholds", None)
    monkeypatch.setattr(further, "load", None)
    (again,) = evaluate(four, **ASKED, **wanted).results
    assert replace(again, cached=False) == first
    assert first.code_length_nats == pytest.approx(first.mdl["entropy_nats"] - first.mdl["saved_nats"])
    assert {row["probe"] for row in show(four, first.id)["forward"]} == {"linear", "knn"}
    (row,) = four.sql("SELECT linear_mean, knn_mean, forward_metric FROM leaderboard")
    values = {f["probe"]: f["value"] for f in first.forward}
    assert row == {"linear_mean": values["linear"], "knn_mean": values["knn"], "forward_metric": "top1"}
    assert values["linear"] > 0.8


def test_another_protocol_shares_the_forward_scores(four: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = evaluate(four, **ASKED, forward=True).results
    evaluate(four, **ASKED, protocol="tight")
    monkeypatch.setattr(extras, "_computed", None)
    (other,) = evaluate(four, **ASKED, protocol="tight", forward=True).results
    assert other.forward == first.forward
    assert len(four.sql("SELECT * FROM forward_scores")) == 4


def test_seeds_of_a_backbone_and_backbones_of_a_seed_are_compared(four: Store, tmp_path: Path) -> None:
    ingest(four, str(tmp_path / "x.npy"), dataset="d", backbone="twin")
    evaluate(four, **ASKED, seeds=(0, 1))
    rows = list(four.sql("SELECT a, b, clusters, seed_a, seed_b, ami, n FROM agreement"))
    assert {(r["a"], r["seed_a"], r["b"], r["seed_b"]) for r in rows} == {
        *(("b", s, "twin", s) for s in (0, 1)),
        *(("twin", s, "b", s) for s in (0, 1)),
        *((name, s, name, 1 - s) for name in ("b", "twin") for s in (0, 1)),
    }
    assert {(r["clusters"], r["n"]) for r in rows} == {(4, 300)}
    assert all(r["ami"] > 0.5 for r in rows)
    evaluate(four, **ASKED, seeds=(0, 1))
    assert list(four.sql("SELECT a, b, clusters, seed_a, seed_b, ami, n FROM agreement")) == rows
    (gone,) = four.sql("SELECT id FROM clusterings WHERE backbone = 'twin' AND seed = 0")
    retire(four, gone["id"], cascade=True, yes=True)
    assert len(four.sql("SELECT * FROM agreement")) == 4
    gc(four)
    assert not verify(four, deep=True).problems


def test_many_may_write_the_same_at_once(four: Store) -> None:
    (result,) = evaluate(four, **ASKED, forward=True).results
    (question,) = {row["question"] for row in _questions(four)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: stored.put_forward(four.catalog, result.id, question, result.forward or ()), range(16)))
    assert len(four.sql("SELECT * FROM forward_scores")) == 2


def _questions(store: Store) -> list[dict[str, Any]]:
    with store.catalog.read() as connection:
        return [dict(row) for row in connection.exec_driver_sql("SELECT question FROM forward_score").mappings()]


def test_what_stands_beside_a_result_goes_with_it(four: Store) -> None:
    (result,) = evaluate(four, **ASKED, forward=True, curve=True, thresholds=(0.7,)).results
    retire(four, result.id, yes=True)
    for view in ("forward_scores", "curve_scores", "threshold_scores", "concept_scores"):
        assert len(four.sql(f"SELECT * FROM {view}")) == 0
    gc(four)
    with four.catalog.read() as connection:
        for table in ("forward_score", "curve_score", "threshold_score", "concept_score"):
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0
