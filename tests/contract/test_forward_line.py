"""`evaluate --forward`: the usual probes beside the reverse one, from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

FEW = ("--dataset", "photos", "-k", 6, "--epochs", 4, "--bootstrap", 50)


def test_forward_stands_beside_the_results_that_are_there(qrp: Any, own: Path, world: Any, sql: Any) -> None:
    before = sql(own, "SELECT * FROM leaderboard ORDER BY concepts, backbone")
    fingerprints = {r["id"]: (r["fingerprint"], r["setting"]) for r in world.evaluated["results"]}
    results = qrp.ok("evaluate", *FEW, "--forward", store=own)["results"]
    assert len(results) == 6  # of seed 0
    assert all(r["cached"] for r in results)
    assert all(fingerprints[r["id"]] == (r["fingerprint"], r["setting"]) for r in results)
    for result in results:
        found = {(f["concept_group"], f["probe"], f["metric"]): f for f in result["forward"]}
        if result["concepts"] == "classes":  # one a sample
            assert set(found) == {("(all)", "linear", "top1"), ("(all)", "knn", "top1")}
        else:  # objects: things, one a sample, and traits, any number
            assert {key for key in found if key[0] == "(all)"} == {("(all)", "linear", "map"), ("(all)", "knn", "map")}
            assert ("thing", "linear", "top1") in found
            assert ("trait", "knn", "map") in found
        if result["backbone"] == "sharp" and result["concepts"] == "classes":
            assert found["(all)", "linear", "top1"]["value"] > 0.95
            assert found["(all)", "knn", "top1"]["value"] > 0.95
        if result["backbone"] == "noise" and result["concepts"] == "classes":
            assert found["(all)", "linear", "top1"]["value"] < 0.55
    after = sql(own, "SELECT * FROM leaderboard ORDER BY concepts, backbone")
    forward = ("forward_metric", "linear_mean", "knn_mean")
    assert [{k: v for k, v in r.items() if k not in forward} for r in after] == [
        {k: v for k, v in r.items() if k not in forward} for r in before
    ]
    assert all(r["linear_mean"] is not None and r["knn_mean"] is not None for r in after)


def test_the_leaderboard_correlates_the_rankings(qrp: Any, own: Path) -> None:
    qrp.ok("evaluate", *FEW, "--concepts", "classes", "--forward", store=own)
    document = qrp.ok("leaderboard", store=own)
    (linear, knn) = document["rank_correlations"]
    assert (linear["probe"], linear["metric"], linear["n_backbones"]) == ("linear", "top1", 3)
    assert linear["spearman"] == pytest.approx(1, abs=0.51)
    assert knn["concepts"] == "classes"
    shown = qrp.run("leaderboard", store=own).out
    assert "Spearman's correlation of NMI and linear top1 over 3 backbones" in shown
    assert "linear_mean" in shown


def test_the_view_holds_what_the_json_says(qrp: Any, own: Path, sql: Any) -> None:
    asked = ("evaluate", *FEW, "--backbone", "dull", "--concepts", "objects", "--seed", 1, "--forward")
    (result,) = qrp.ok(*asked, "--knn-queries", 30, store=own)["results"]
    rows = sql(own, "SELECT * FROM forward_scores WHERE result_id = ?", result["id"])
    assert {(r["concept_group"], r["probe"], r["metric"], r["value"], r["n_test"]) for r in rows} == {
        (f["concept_group"], f["probe"], f["metric"], f["value"], f["n_test"]) for f in result["forward"]
    }
    assert {(r["dataset"], r["backbone"], r["concepts"], r["seed"], r["clusters"]) for r in rows} == {
        ("photos", "dull", "objects", 1, 6)
    }
    assert {r["n_test"] for r in rows if r["probe"] == "knn"} == {30}
    assert {f["details"]["device"] for f in result["forward"]} == {result["device"]}  # and not "auto"
    (again,) = qrp.ok(*asked, "--knn-queries", 30, store=own)["results"]
    assert again["forward"] == result["forward"]
    (all_of_them,) = qrp.ok(*asked, store=own)["results"]
    assert {f["n_test"] for f in all_of_them["forward"]} == {result["n_test"]}
    assert len(sql(own, "SELECT * FROM forward_scores WHERE result_id = ?", result["id"])) == len(rows)


def test_without_forward_nothing_is_added(world: Any, sql: Any) -> None:
    assert not any("forward" in r for r in world.evaluated["results"])
    assert sql(world.store, "SELECT count(*) AS n FROM forward_scores") == [{"n": 0}]


def test_what_has_no_embedding_is_refused(qrp: Any, own: Path, world: Any, files: Any) -> None:
    made = files.array(world.group, "groups.npy")
    qrp.ok("cluster", "--dataset", "photos", "--import", made, "--name", "hand", store=own)
    message = qrp.fails(4, "evaluate", "--dataset", "photos", "--clustering", "hand", "--forward", store=own)
    assert "hand" in message
    assert "--forward" in message
    qrp.fails(4, "evaluate", *FEW, "--forward", "--knn-queries", -1, store=own)
