"""leaderboard: filters, columns, rank intervals, and tables for a paper."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest


def test_filters_leave_what_they_name(qrp: Any, world: Any) -> None:
    every = qrp.rows("leaderboard", store=world.store)
    setting = every[0]["setting"]
    for option, name, value in (
        ("--concepts", "concepts", "objects"),
        ("--clusters", "clusters", 6),
        ("-k", "clusters", 6),
        ("--protocol", "protocol", "laina2022"),
        ("--setting", "setting", setting),
    ):
        rows = qrp.rows("leaderboard", option, value, store=world.store)
        assert rows == [row for row in every if row[name] == value]
        assert rows
    message = qrp.fails(3, "leaderboard", "--concepts", "object", store=world.store)
    assert "did you mean objects?" in message
    qrp.fails(3, "leaderboard", "-k", 7, store=world.store)


def test_columns_are_those_that_are_named(qrp: Any, world: Any) -> None:
    rows = qrp.rows("leaderboard", "--columns", "backbone,rank_lo,rank_hi,nmi", store=world.store)
    assert {tuple(row) for row in rows} == {("backbone", "rank_lo", "rank_hi", "nmi")}
    assert all(" ± " in row["nmi"] for row in rows)
    message = qrp.fails(4, "leaderboard", "--columns", "backbone,nmi_maen", store=world.store)
    assert "nmi_maen" in message
    assert "did you mean nmi_mean?" in message


def test_three_seeds_give_every_rank_an_interval(qrp: Any, world: Any) -> None:
    rows = qrp.rows("leaderboard", store=world.store)
    assert rows
    for row in rows:
        assert 1 <= row["rank_lo"] <= row["rank"] <= row["rank_hi"] <= 3
        assert row["nmi_se"] == pytest.approx(row["nmi_std"] / 3**0.5)
        assert 1 < row["effective_clusters_mean"] <= 6
    ran = qrp.run("leaderboard", store=world.store)
    assert "have no interval" not in ran.err


def test_too_few_seeds_give_none_and_one_note(qrp: Any, own: Path) -> None:
    line = ("evaluate", "--dataset", "photos", "--concepts", "objects", "-k", 5, "--epochs", 2, "--bootstrap", 0)
    qrp.ok(*line, "--seed", 0, 1, store=own)
    rows = qrp.rows("leaderboard", "-k", 5, store=own)
    assert {(row["rank_lo"], row["rank_hi"]) for row in rows} == {(None, None)}
    ran = qrp.run("leaderboard", "-k", 5, store=own)
    assert ran.err.count("three common seeds") == 1
    assert "--seed 0 1 2" in ran.err


def test_markdown_and_latex_are_tables_for_a_paper(qrp: Any, world: Any) -> None:
    md = qrp.run("leaderboard", "--format", "md", store=world.store).out
    assert md.count("**dataset photos, concepts ") == 2
    assert md.count("| rank | backbone | nmi |") == 2
    assert "| 1 (" in md
    assert "–" in md
    assert " ± " in md
    latex = qrp.run("leaderboard", "--concepts", "objects", "--format", "latex", store=world.store).out
    assert latex.count("\\begin{tabular}") == latex.count("\\caption{Dataset photos, concepts objects") == 1
    assert "\\toprule" in latex
    assert "$\\pm$" in latex
    assert "\\midrule" in latex


def test_what_did_not_train_is_counted_and_said_once(qrp: Any, own: Path) -> None:
    with closing(sqlite3.connect(own / "catalog.db")) as connection:
        connection.execute("DROP TRIGGER result_keep_update")
        failed = "UPDATE result SET training_failed = backbone = 'noise' WHERE NOT permuted"
        connection.execute(failed)
        connection.commit()
    rows = qrp.rows("leaderboard", store=own)
    assert {(row["backbone"], row["n_failed"]) for row in rows} == {("sharp", 0), ("dull", 0), ("noise", 3)}
    ran = qrp.run("leaderboard", store=own)
    assert ran.err.count("training failed in 6 of 18 results") == 1
    assert "--protocol tight" in ran.err


def test_the_best_clusters_are_chosen_by_validation_and_shown_with_an_interval(qrp: Any, world: Any, sql: Any) -> None:
    result = next(r for r in world.evaluated["results"] if r["backbone"] == "dull" and r["concepts"] == "objects")
    best = qrp.ok("show", result["id"], store=world.store)["best_clusters"]
    query = "SELECT * FROM cluster_scores WHERE result_id = ? AND n_test >= 5 ORDER BY val_cross_entropy_nats"
    rows = sql(world.store, query, result["id"])
    assert [row["cluster"] for row in best] == [row["cluster"] for row in rows]
    for row in best:
        assert row["cross_entropy_lo"] <= row["cross_entropy_nats"] <= row["cross_entropy_hi"]


def test_few_images_for_the_concepts_and_clusters_name_the_protocol_for_them(qrp: Any, own: Path) -> None:
    line = ("evaluate", "--dataset", "photos", "--backbone", "sharp", "--concepts", "objects", "--epochs", 2)
    few = qrp.run(*line, "-k", 60, "--seed", 0, 1, store=own)
    assert few.err.count("--protocol tight is the protocol for this size") == 1
    assert "for this size" not in qrp.run(*line, "-k", 6, "--seed", 5, store=own).err
    assert "for this size" not in qrp.run(*line, "-k", 60, "--protocol", "tight", store=own).err


def test_a_series_is_listed_in_its_order(qrp: Any, own: Path) -> None:
    with closing(sqlite3.connect(own / "catalog.db")) as connection:
        for position, name in enumerate(("noise", "sharp")):
            connection.execute("UPDATE backbone SET series = 'run', position = ? WHERE name = ?", (position, name))
        connection.commit()
    every = {(r["setting"], r["backbone"]): r for r in qrp.rows("leaderboard", store=own)}
    rows = qrp.rows("leaderboard", "--series", "run", "--concepts", "objects", store=own)
    assert [(row["series"], row["position"], row["backbone"]) for row in rows] == [
        ("run", 0, "noise"),
        ("run", 1, "sharp"),
    ]
    for row in rows:
        assert {**every[row["setting"], row["backbone"]], "series": "run", "position": row["position"]} == row
    assert "position" in qrp.run("leaderboard", "--series", "run", store=own).out
    assert "did you mean run?" in qrp.fails(3, "leaderboard", "--series", "rum", store=own)
    page = own.parent / "page.html"
    qrp.ok("report", "--dataset", "photos", "--no-images", "-o", page, store=own)
    assert "Score along a series" in page.read_text("utf-8")


def test_the_smallest_possible_p_value_is_printed(qrp: Any, own: Path) -> None:
    line = ("evaluate", "--dataset", "photos", "--backbone", "sharp", "--concepts", "objects", "--epochs", 2)
    qrp.ok(*line, "-k", 5, "--permutations", 9, "--bootstrap", 0, store=own)
    printed = "9 controls give no p-value below 0.1."
    for form in ("md", "latex"):
        assert qrp.run("leaderboard", "-k", 5, "--format", form, store=own).out.count(printed) == 1
    assert qrp.run("leaderboard", store=own).err.count(printed) == 1
