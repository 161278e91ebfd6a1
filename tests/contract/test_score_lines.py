"""`evaluate --ablate --permutations --group-by`, `compare`, `rerun` and `selfcheck`, from outside."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

ONE = ("evaluate", "--dataset", "photos", "-k", 6, "--epochs", 4, "--bootstrap", 50, "--backbone", "sharp")


@pytest.fixture
def pair(world: Any) -> tuple[str, str]:
    """Ids of sharp's and dull's results for the same concepts and seed."""
    found = {r["backbone"]: r["id"] for r in world.evaluated["results"] if (r["concepts"], r["seed"]) == ("objects", 0)}
    return found["sharp"], found["dull"]


def test_ablate_fills_group_scores(qrp: Any, own: Path, sql: Any) -> None:
    (result,) = qrp.ok(*ONE, "--concepts", "objects", "--ablate", store=own)["results"]
    rows = sql(own, "SELECT * FROM group_scores WHERE result_id = ?", result["id"])
    nmi = {(row["role"], row["concept_group"]): row["nmi"] for row in rows}
    assert {group for role, group in nmi if role == "alone"} == {"thing", "trait"}
    assert {group for role, group in nmi if role == "without"} == {"thing", "trait"}
    assert [value for (role, _), value in nmi.items() if role == "all"] == [result["nmi"]]
    assert nmi["alone", "thing"] > 0.25 > nmi["alone", "trait"]
    assert sql(own, "SELECT * FROM group_scores WHERE result_id <> ?", result["id"]) == []


def test_permutations_stand_beside_the_score_and_are_not_ranked(qrp: Any, own: Path, sql: Any) -> None:
    before = sql(own, "SELECT sum(n_seeds) AS n FROM leaderboard")[0]["n"]
    (result,) = qrp.ok(*ONE, "--concepts", "objects", "--permutations", 4, store=own)["results"]
    assert (result["n_permutations"], result["p_value"], result["permuted"]) == (4, 0.2, False)
    assert result["null_nmi_mean"] < 0.05
    assert result["nmi_adjusted"] == pytest.approx(
        (result["nmi"] - result["null_nmi_mean"]) / (1 - result["null_nmi_mean"])
    )
    assert sql(own, "SELECT sum(n_seeds) AS n FROM leaderboard") == [{"n": before + 1}]
    message = qrp.run(*ONE, "--concepts", "objects", "--permutations", 4, "--permute", "--json", store=own)
    assert message.code == 4


def test_group_by_keeps_groups_whole(qrp: Any, own: Path, world: Any, files: Any, sql: Any) -> None:
    rows = [(key, f"video {i // 8}") for i, key in enumerate(world.keys)]
    table = files.labels(rows, ("key", "group"), "groups.csv")
    (result,) = qrp.ok(*ONE, "--concepts", "objects", "--group-by", table, store=own)["results"]
    parts = sql(own, "SELECT key, part FROM assignments WHERE clustering_id = ?", result["clustering_id"])
    video = dict(rows)
    assert len({(video[row["key"]], row["part"]) for row in parts}) == 50
    assert (result["n_train"], result["n_val"], result["n_test"]) == (256, 64, 80)
    unknown = files.labels([("nobody", 1)], ("key", "group"), "unknown.csv")
    ran = qrp.run(*ONE, "--group-by", unknown, "--json", store=own)
    assert ran.code == 4
    assert "nobody" in ran.json["error"]["message"]


def test_compare_says_difference_and_interval(qrp: Any, world: Any, pair: tuple[str, str]) -> None:
    report = qrp.ok("compare", *pair, store=world.store)
    assert set(report) >= {"schema", "difference", "ci", "n_common", "a", "b"}
    assert report["ci"][0] <= report["difference"] <= report["ci"][1]
    assert report["difference"] > 0
    assert 40 <= report["n_common"] <= 80
    assert "difference +" in qrp.run("compare", *pair, store=world.store).out


@pytest.mark.parametrize("form", ["csv", "md", "latex", "jsonl"])
def test_compare_and_show_are_rows_for_a_paper_too(qrp: Any, world: Any, pair: tuple[str, str], form: str) -> None:
    ran = qrp.run("compare", *pair, "--format", form, store=world.store)
    assert ran.code == 0, ran.err
    assert "difference" in ran.out
    assert pair[1] in ran.out
    shown = qrp.run("show", pair[0], "--format", form, store=world.store)
    assert shown.code == 0, shown.err
    assert "fingerprint" in shown.out
    assert (r"\toprule" in ran.out) == (form == "latex")


def test_compare_refuses_other_questions_and_what_is_not_there(qrp: Any, world: Any, pair: tuple[str, str]) -> None:
    (control,) = world.permuted["results"]
    classes = next(r["id"] for r in world.evaluated["results"] if r["concepts"] == "classes")
    for other in (control["id"], classes):
        assert "--anyway" in qrp.fails(4, "compare", pair[0], other, store=world.store)
        assert qrp.ok("compare", pair[0], other, "--anyway", store=world.store)["differs"]
    qrp.fails(3, "compare", pair[0], "res-nothing", store=world.store)


def test_rerun_computes_the_same_again(qrp: Any, world: Any, pair: tuple[str, str]) -> None:
    report = qrp.ok("rerun", pair[0], "--check", store=world.store)
    assert (report["id"], report["equal"], report["differences"]) == (pair[0], True, [])
    assert "are equal" in qrp.run("rerun", pair[0], store=world.store).out
    qrp.fails(3, "rerun", "res-nothing", store=world.store)


def test_rerun_check_is_exit_1_when_a_number_was_changed(qrp: Any, own: Path, pair: tuple[str, str]) -> None:
    with closing(sqlite3.connect(own / "catalog.db")) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE result SET top1 = top1 - 0.25")
        connection.commit()
    ran = qrp.run("rerun", pair[0], "--check", "--json", store=own)
    assert ran.code == 1
    (difference,) = ran.json["differences"]
    assert (difference["name"], difference["difference"]) == ("top1", 0.25)
    assert qrp.run("rerun", pair[0], store=own).code == 0


def test_selfcheck_finds_the_known_answers_and_needs_no_store(qrp: Any, tmp_path: Path) -> None:
    report = qrp.ok("selfcheck", cwd=tmp_path)
    assert report["ok"]
    assert [case["ok"] for case in report["cases"]] == [True] * 4
    assert all(case["truth"] > 0.5 for case in report["cases"][:3])
    assert list(tmp_path.iterdir()) == []
