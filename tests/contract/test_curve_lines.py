"""`evaluate --curve`, `--thresholds` and `--soft`, from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ONE = ("evaluate", "--dataset", "photos", "-k", 6, "--epochs", 4, "--bootstrap", 50, "--concepts", "objects")


def test_curve_scores_less_data_and_fewer_concepts(qrp: Any, own: Path, sql: Any) -> None:
    report = qrp.ok(*ONE, "--backbone", "sharp", "--backbone", "dull", "--curve", store=own)
    for result in report["results"]:
        assert result["cached"]
        points = {(p["axis"], p["fraction"], p["draw"]): p for p in result["curve"]}
        assert set(points) == {
            *(("samples", fraction, 0) for fraction in (0.25, 0.5, 1)),
            *(("concepts", fraction, draw) for fraction in (0.25, 0.5) for draw in range(3)),
            ("concepts", 1, 0),
        }
        assert points["samples", 1, 0]["nmi"] == points["concepts", 1, 0]["nmi"] == result["nmi"]
        assert points["samples", 0.25, 0]["n_train"] == pytest.approx(result["n_train"] / 4, abs=1)
        assert [points["concepts", f, 0]["n_concepts"] for f in (0.25, 0.5, 1)] == [3, 5, 9]
        rows = sql(own, "SELECT * FROM curve_scores WHERE result_id = ?", result["id"])
        assert {(r["axis"], r["fraction"], r["draw"], r["nmi"]) for r in rows} == {
            (*key, p["nmi"]) for key, p in points.items()
        }
    ranks = sql(own, "SELECT backbone, rank, flips FROM curve_scores WHERE axis = 'samples' AND fraction = 1")
    assert sorted((r["backbone"], r["rank"], r["flips"]) for r in ranks) == [("dull", 2, 0), ("sharp", 1, 0)]
    flipped = sql(own, "SELECT axis, fraction, draw FROM curve_scores WHERE flips AND backbone = 'sharp'")
    assert [{k: f[k] for k in ("axis", "fraction", "draw")} for f in report["flips"]] == flipped
    again = qrp.ok(*ONE, "--backbone", "sharp", "--backbone", "dull", "--curve", store=own)
    assert [r["curve"] for r in again["results"]] == [r["curve"] for r in report["results"]]


def test_a_curve_under_tight_has_a_limit(qrp: Any, own: Path) -> None:
    asked = (*ONE, "--backbone", "dull", "--curve")
    (tight,) = qrp.ok(*asked, "--protocol", "tight", store=own)["results"]
    assert tight["nmi_limit_lo"] <= tight["nmi_limit"] <= tight["nmi_limit_hi"]
    assert tight["nmi_limit"] >= tight["nmi"]
    (again,) = qrp.ok(*asked, "--protocol", "tight", store=own)["results"]
    assert (again["cached"], again["nmi_limit_hi"]) == (True, tight["nmi_limit_hi"])
    climbs = tight["nmi_limit"] - tight["nmi"] > max((tight["nmi_ci_hi"] - tight["nmi_ci_lo"]) / 2, 1e-3)
    said = qrp.run(*asked, "--protocol", "tight", store=own).err
    assert ("the bound is limited by data; 3 times the images" in said) == climbs
    (plain,) = qrp.ok(*asked, store=own)["results"]  # under sgd less data are fewer steps, too
    assert "nmi_limit" not in plain


def test_thresholds_leave_the_surer_labels(qrp: Any, own: Path, sql: Any) -> None:
    (result,) = qrp.ok(*ONE, "--backbone", "sharp", "--thresholds", "0.7,0.85", store=own)["results"]
    low, high = result["thresholds"]
    assert (low["threshold"], high["threshold"]) == (0.7, 0.85)
    assert low["nmi"] == result["nmi"]  # objects have 0.9, traits 0.8
    assert (low["n_concepts"], high["n_concepts"], high["n_labels"]) == (9, 6, 400)
    assert high["nmi"] > 0.25
    (more,) = qrp.ok(*ONE, "--backbone", "sharp", "--thresholds", "0.95", store=own)["results"]
    assert more["cached"]
    assert more["id"] == result["id"]
    assert more["thresholds"][0]["n_labels"] == 0
    assert more["thresholds"][0]["nmi"] == pytest.approx(0, abs=0.05)
    rows = sql(own, "SELECT threshold FROM threshold_scores WHERE result_id = ? ORDER BY threshold", result["id"])
    assert [row["threshold"] for row in rows] == [0.7, 0.85, 0.95]
    assert "--threshold 0.3" in qrp.fails(4, *ONE, "--backbone", "sharp", "--thresholds", "0.3", store=own)
    qrp.fails(4, *ONE, "--backbone", "sharp", "--thresholds", "1.5", store=own)
    assert qrp.run(*ONE, "--thresholds", "0.6;0.7", store=own).code == 2


def test_soft_labels_are_another_setting(qrp: Any, own: Path, world: Any) -> None:
    (soft,) = qrp.ok(*ONE, "--backbone", "sharp", "--soft", "--thresholds", "0.7", store=own)["results"]
    assert soft["thresholds"][0]["nmi"] == soft["nmi"]  # all scores are above it
    hard = next(
        r
        for r in world.evaluated["results"]
        if (r["backbone"], r["concepts"], r["seed"]) == ("sharp", "objects", soft["seed"])
    )
    assert soft["setting"] != hard["setting"]
    assert soft["nmi"] != hard["nmi"]
    assert soft["nmi"] == pytest.approx(hard["nmi"], abs=0.1)
    assert qrp.ok("rerun", soft["id"], "--check", store=own)["equal"]
    assert "soft" in str(qrp.ok("compare", soft["id"], hard["id"], "--anyway", store=own)["differs"])
    message = qrp.fails(4, *ONE[:-1], "classes", "--backbone", "sharp", "--soft", store=own)
    assert "classes" in message
    assert "score" in message
    unscored = qrp.fails(4, *ONE[:-1], "classes", "--backbone", "sharp", "--thresholds", "0.6", store=own)
    assert "classes" in unscored


def test_what_was_asked_for_beside_the_scores_is_printed_with_them(qrp: Any, own: Path, sql: Any) -> None:
    asked = (*ONE, "--backbone", "sharp", "--backbone", "dull", "--permutations", 1, "--curve", "--thresholds", "0.85")
    told = qrp.run(*asked, store=own)
    head = told.out.splitlines()[0]
    for column in ("p_value", "nmi of 25 % samples", "nmi of 50 % samples", "nmi above 0.85"):
        assert column in head
    flips = qrp.ok(*asked, store=own)["flips"]
    assert flips
    for flip in flips:
        where = "objects, K 6, seed 0, {fraction:g} of the {axis}, draw {draw}: ".format(**flip)
        ahead = f"{flip['better']} leads {flip['worse']} by {flip['ahead']:.3f} on all data"
        assert (f"{where}{ahead} but trails by {-flip['by']:.3f} here" in told.err) == (
            min(flip["ahead"], -flip["by"]) >= 0.0005
        )
