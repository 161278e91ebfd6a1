"""evaluate --dry-run: what is there, what would run, and what it would cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WHERE = ("evaluate", "--dataset", "photos", "--backbone", "sharp", "--epochs", 4, "--bootstrap", 50, "--dry-run")


def test_what_is_there_costs_nothing(qrp: Any, world: Any) -> None:
    report = qrp.ok(*WHERE, "-k", 6, store=world.store)
    assert {(line["clustering"], line["result"]) for line in report["plan"]} == {("there", "there")}
    estimate = report["estimate"]
    assert (estimate["results_there"], estimate["results_to_make"], estimate["clusterings_to_make"]) == (2, 0, 0)
    assert (estimate["seconds"], estimate["memory_bytes"], estimate["rows"]) == (0, 0, 0)


def test_what_is_missing_is_counted_once_and_as_it_comes_out(qrp: Any, own: Path, sql: Any) -> None:
    report = qrp.ok(*WHERE, "-k", 12, store=own)
    estimate = report["estimate"]
    assert (estimate["clusterings_to_make"], estimate["results_to_make"]) == (1, 2)
    assert [line["rows"] > 400 for line in report["plan"]] == [True, False]
    assert estimate["rows"] == sum(line["rows"] for line in report["plan"])
    assert estimate["by"] == "earlier runs of this store"
    assert 0 < estimate["seconds"] < 60
    done = qrp.ok(*WHERE[:-1], "-k", 12, store=own)
    marks = tuple(r["id"] for r in done["results"])
    made = len(sql(own, "SELECT 1 FROM assignments WHERE clusters = 12")) + 12
    for view in ("cluster_scores", "cluster_concepts"):
        made += len(sql(own, f"SELECT 1 FROM {view} WHERE result_id IN (?, ?)", *marks))
    assert made <= estimate["rows"] <= 1.5 * made


def test_more_work_is_estimated_longer(qrp: Any, world: Any) -> None:
    def seconds(*more: object) -> float:
        return float(
            qrp.ok(*WHERE, "--concepts", "objects", "--seed", 9, *more, store=world.store)["estimate"]["seconds"]
        )

    plain = seconds("-k", 50, "--epochs", 5000)
    assert seconds("-k", 100, "--epochs", 5000) > 1.5 * plain
    assert seconds("-k", 50, "--epochs", 5000, "--permutations", 3) > 3 * plain
    assert seconds("-k", 50, "--epochs", 5000, "--ablate") > 3 * plain


def test_a_store_without_history_says_that_it_assumes(qrp: Any, store: Path, files: Any) -> None:
    qrp.ok("ingest", files.array([[i, i % 3] for i in range(60)]), "--dataset", "d", "--backbone", "b", store=store)
    qrp.ok(
        "label", files.labels([(i, f"c{i % 3}") for i in range(60)]), "--dataset", "d", "--concepts", "c", store=store
    )
    ran = qrp.run("evaluate", "--dataset", "d", "-k", 3, "--dry-run", store=store)
    assert ran.code == 0, ran.err
    assert "to make: 1 clusterings and 1 results" in ran.out
    assert "nothing has run in this store yet" in ran.out


def test_what_is_wanted_beside_a_result_costs_too(qrp: Any, own: Path, sql: Any) -> None:
    asked = (*WHERE[:-1], "-k", 6, "--concepts", "classes")
    plain = qrp.ok(*asked, "--dry-run", store=own)["estimate"]
    assert plain["seconds"] == 0
    for option in ("--forward", "--curve"):
        report = qrp.ok(*asked, option, "--dry-run", store=own)
        assert {(line["result"], line[option[2:]]) for line in report["plan"]} == {("there", "to make")}
        assert report["estimate"]["seconds"] > 0
        assert report["estimate"]["memory_bytes"] > 0
        qrp.ok(*asked, option, store=own)
        view = {"--forward": "forward_scores", "--curve": "curve_scores"}[option]
        assert report["estimate"]["rows"] == len(sql(own, f"SELECT 1 FROM {view}"))
        again = qrp.ok(*asked, option, "--dry-run", store=own)
        assert (again["plan"][0][option[2:]], again["estimate"]["seconds"]) == ("there", 0)
        forced = qrp.ok(*asked, option, "--force", "--dry-run", store=own)
        assert (forced["plan"][0]["result"], forced["plan"][0][option[2:]]) == ("to make", "to make")


def test_a_dry_run_refuses_what_a_run_would(qrp: Any, own: Path, world: Any, files: Any) -> None:
    made = files.array(world.group, "groups.npy")
    qrp.ok("cluster", "--dataset", "photos", "--import", made, "--name", "hand", store=own)
    message = qrp.fails(
        4, "evaluate", "--dataset", "photos", "--clustering", "hand", "--forward", "--dry-run", store=own
    )
    assert "--forward" in message


def test_thresholds_are_counted(qrp: Any, store: Path, files: Any) -> None:
    qrp.ok("ingest", files.array([[i, i % 3] for i in range(60)]), "--dataset", "d", "--backbone", "b", store=store)
    rows = "key,concept,score\n" + "".join(f"{i},c{i % 3},0.{6 + i % 4}\n" for i in range(60))
    scored = store.parent / "scored.csv"
    scored.write_text(rows)
    qrp.ok("label", scored, "--dataset", "d", "--concepts", "c", store=store)
    plan = ("evaluate", "--dataset", "d", "-k", 3, "--epochs", 100_000, "--dry-run")
    plain = qrp.ok(*plan, store=store)["estimate"]
    three = qrp.ok(*plan, "--thresholds", "0.6,0.7,0.8", store=store)["estimate"]
    assert three["seconds"] > plain["seconds"]
    assert three["rows"] == plain["rows"] + 3


def test_a_grouping_that_was_split_by_another_seed_is_planned_as_it_runs(qrp: Any, own: Path, files: Any) -> None:
    grouping = files.array([i % 5 for i in range(400)], "five.npy")
    qrp.ok("cluster", "--dataset", "photos", "--import", grouping, "--name", "five", store=own)
    line = ("evaluate", "--dataset", "photos", "--clustering", "five", "--concepts", "classes", "--epochs", 2)
    both = (*line, "--bootstrap", 0, "--seed", 0, 1)

    def planned() -> list[tuple[int, str, str]]:
        return [
            (row["seed"], row["clustering"], row["result"]) for row in qrp.ok(*both, "--dry-run", store=own)["plan"]
        ]

    assert planned() == [(0, "imported", "to make"), (1, "imported", "to make")]
    qrp.ok(*both, store=own)
    assert planned() == [(0, "imported", "there"), (1, "imported", "there")]


def test_a_dry_run_refuses_the_options_that_a_run_refuses(qrp: Any, world: Any) -> None:
    for more in (("-k", 401), ("-k", 6, "--niter", 0), ("-k", 6, "--memory", "much")):
        assert qrp.fails(4, *WHERE, *more, store=world.store) == qrp.fails(4, *WHERE[:-1], *more, store=world.store)
