"""`evaluate --dataset D` and what its numbers promise."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WHERE = ("evaluate", "--dataset", "photos", "-k", 6, "--epochs", 4, "--bootstrap", 50)
ONE = (*WHERE, "--backbone", "sharp", "--concepts", "objects")


def find(results: list[dict[str, Any]], **asked: Any) -> dict[str, Any]:
    (found,) = [r for r in results if all(r[name] == value for name, value in asked.items())]
    return found


def test_all_backbones_and_each_concept_set_alone_by_default(world: Any) -> None:
    asked = {(r["backbone"], r["concepts"], r["seed"]) for r in world.evaluated["results"]}
    assert asked == {(b, c, s) for b in ("sharp", "dull", "noise") for c in ("objects", "classes") for s in (0, 1, 2)}


def test_the_identities_of_the_score(world: Any) -> None:
    for r in world.evaluated["results"] + world.permuted["results"]:
        assert r["mi_nats"] == pytest.approx(r["entropy_nats"] - r["cross_entropy_nats"], abs=1e-9)
        assert r["mi_bits"] == pytest.approx(r["mi_nats"] / math.log(2), rel=1e-9)
        assert r["nmi"] == pytest.approx(1 - r["cross_entropy_nats"] / r["entropy_nats"], abs=1e-9)
        assert 0 < r["entropy_nats"] <= math.log(6) + 1e-9
        assert r["nmi_ci_lo"] <= r["nmi"] <= r["nmi_ci_hi"]
        assert 0 <= r["top1"] <= r["top5"] <= 1
        assert 0 <= r["best_epoch"] <= r["epochs_run"] <= 4
        assert r["protocol"] == "laina2022"


def test_the_entropy_is_that_of_the_test_part(world: Any, sql: Any) -> None:
    for r in world.evaluated["results"]:
        rows = sql(
            world.store,
            "SELECT count(*) AS n FROM assignments WHERE clustering_id = ? AND part = 'test' GROUP BY cluster",
            r["clustering_id"],
        )
        p = np.array([row["n"] for row in rows]) / r["n_test"]
        assert r["entropy_nats"] == pytest.approx(-(p * np.log(p)).sum(), abs=1e-6)


def test_the_parts_are_64_16_20(world: Any) -> None:
    for r in world.evaluated["results"]:
        assert r["n_train"] + r["n_val"] + r["n_test"] == 400
        assert abs(r["n_train"] - 256) <= 6
        assert abs(r["n_val"] - 64) <= 6
        assert abs(r["n_test"] - 80) <= 6


def test_what_people_can_name_scores_above_what_they_cannot(world: Any) -> None:
    def nmi(backbone: str) -> float:
        return float(find(world.evaluated["results"], backbone=backbone, concepts="objects", seed=0)["nmi"])

    assert nmi("sharp") > nmi("dull") > nmi("noise")
    assert nmi("noise") < 0.02
    assert nmi("sharp") > 0.25


def test_the_training_loss_its_gradient_and_converged(world: Any) -> None:
    """The definition of `converged`: what is left is at most grad_norm² / (2 λ), and that is at most 1e-3 nats."""
    for r in world.evaluated["results"]:
        assert r["train_loss"] > 0
        assert r["converged"] == (r["grad_norm"] ** 2 / (2 * r["weight_decay"]) <= 1e-3)


def test_the_same_asked_again_is_cached_whatever_the_order(qrp: Any, world: Any) -> None:
    again = qrp.ok(*WHERE, "--seed", 2, "--backbone", "dull", "--concepts", "classes", store=world.store)
    (result,) = again["results"]
    before = find(world.evaluated["results"], seed=2, backbone="dull", concepts="classes")
    assert result == {**before, "cached": True}


def test_force_makes_the_next_version_with_the_same_numbers(qrp: Any, own: Path, world: Any, sql: Any) -> None:
    before = find(world.evaluated["results"], seed=0, backbone="sharp", concepts="objects")
    (result,) = qrp.ok(*ONE, "--force", store=own)["results"]
    assert (before["version"], result["version"], result["cached"]) == (1, 2, False)
    assert result["id"] != before["id"]
    assert (result["fingerprint"], result["setting"]) == (before["fingerprint"], before["setting"])
    for name in ("nmi", "mi_nats", "nmi_ci_lo", "top1", "train_loss", "n_test"):
        assert result[name] == pytest.approx(before[name], rel=1e-5)
    ids = {r["id"] for r in sql(own, "SELECT id FROM results")}
    assert result["id"] in ids
    assert before["id"] not in ids
    versions = {r["id"] for r in sql(own, "SELECT id FROM result_versions")}
    assert versions == ids | {before["id"]}


def test_joined_concepts(qrp: Any, own: Path, world: Any) -> None:
    words = (*WHERE, "--backbone", "sharp", "--concepts", "objects+classes")
    (result,) = qrp.ok(*words, store=own)["results"]
    assert result["concepts"] == "objects+classes"
    assert result["n_concepts"] == 9 + 3
    assert (
        result["setting"] != find(world.evaluated["results"], backbone="sharp", seed=0, concepts="objects")["setting"]
    )


def test_the_setting_is_equal_across_backbones_and_seeds(world: Any) -> None:
    """The definition of `setting`: backbone and seed are not in it."""
    for concepts in ("objects", "classes"):
        assert len({r["setting"] for r in world.evaluated["results"] if r["concepts"] == concepts}) == 1
    assert len({r["setting"] for r in world.evaluated["results"]}) == 2


OTHER = [
    ("--lr", "1"),
    ("--epochs", "3"),
    ("--batch-size", "64"),
    ("--momentum", "0.5"),
    ("--weight-decay", "0.001"),
    ("--bootstrap", "40"),
    ("--niter", "9"),
    ("--init", "kmeans++"),
    ("--sample", "all"),
    ("--normalize",),
    ("--min-count", "2"),
    ("--labelled-only",),
    ("-k", "7"),
    ("--nredo", "2"),
    ("--spherical",),
    ("--solver", "lbfgs"),
    ("--protocol", "tight"),
    ("--permute",),
    ("--permutations", "1"),
    ("--ablate",),
]


def test_the_setting_differs_across_options(qrp: Any, own: Path, world: Any) -> None:
    """The definition of `setting`: every option of K-means and of the probe is in it."""
    settings = [find(world.evaluated["results"], backbone="sharp", seed=0, concepts="objects")["setting"]]
    for option in OTHER:
        words = ("evaluate", "--dataset", "photos", "--backbone", "sharp", "--concepts", "objects")
        base = {"-k": ("6",), "--epochs": ("4",), "--bootstrap": ("50",)} | {option[0]: option[1:]}
        (result,) = qrp.ok(*words, *(w for name, value in base.items() for w in (name, *value)), store=own)["results"]
        settings.append(result["setting"])
    assert len(set(settings)) == len(OTHER) + 1


def test_the_setting_differs_across_versions_of_the_labels(qrp: Any, own: Path, world: Any, files: Any) -> None:
    """The definition of `setting`: input versions are in it."""
    before = find(world.evaluated["results"], backbone="sharp", seed=0, concepts="classes")
    rows = [(key, f"class {int(g) % 3}") for key, g in zip(world.keys, world.group, strict=True)][1:]
    qrp.ok("label", files.labels(rows), "--dataset", "photos", "--concepts", "classes", "--force", store=own)
    (after,) = qrp.ok(*WHERE, "--backbone", "sharp", "--concepts", "classes", store=own)["results"]
    assert after["version"] == 2
    assert after["setting"] != before["setting"]


def test_what_changes_no_number_changes_no_fingerprint(qrp: Any, world: Any) -> None:
    same = ("--memory", "100MB", "--workers", "1", "--engine", "auto", "--device", "auto")
    (result,) = qrp.ok(*ONE, *same, store=world.store)["results"]
    assert result["cached"]


def test_permute_is_the_control_instead(world: Any) -> None:
    (control,) = world.permuted["results"]
    assert control["permuted"]
    assert control["nmi"] < 0.05
    real = find(world.evaluated["results"], backbone="sharp", concepts="objects", seed=0)
    assert control["id"] != real["id"]
    assert control["clustering_id"] == real["clustering_id"]


def test_lbfgs_reports_the_optimum_and_epochs_does_not_bound_it(qrp: Any, own: Path) -> None:
    words = (*ONE, "--solver", "lbfgs", "--weight-decay", "0.001")
    (result,) = qrp.ok(*words, "--epochs", 1, store=own)["results"]
    (sgd,) = qrp.ok(*ONE, "--weight-decay", "0.001", store=own)["results"]
    assert (result["solver"], sgd["solver"]) == ("lbfgs", "sgd")
    assert result["converged"]
    assert result["grad_norm"] ** 2 / (2 * 0.001) <= 1e-3
    assert result["train_loss"] <= sgd["train_loss"]


def test_tight_is_a_protocol_of_its_own(qrp: Any, own: Path, world: Any) -> None:
    (result,) = qrp.ok(*ONE, "--protocol", "tight", store=own)["results"]
    assert result["protocol"] == "tight"
    assert result["converged"]
    assert (
        result["setting"] != find(world.evaluated["results"], backbone="sharp", seed=0, concepts="objects")["setting"]
    )


def test_top5_is_1_when_k_is_below_5(qrp: Any, own: Path) -> None:
    (result,) = qrp.ok(*ONE, "-k", 4, store=own)["results"][-1:]
    assert result["clusters"] == 4
    assert result["top5"] == 1


def test_only_verified_leaves_out_what_nobody_looked_at(qrp: Any, own: Path, world: Any, files: Any) -> None:
    rows = [(key, i % 2, "" if i else 1, int(i % 3 == 0)) for i, key in enumerate(world.keys[:-20])]
    table = files.labels(rows, ("key", "a", "unknown", "c"))
    qrp.ok("label", table, "--dataset", "photos", "--concepts", "wide", store=own)
    sizes = []
    for more in ((), ("--only-verified",)):
        (result,) = qrp.ok(*WHERE, "--backbone", "sharp", "--concepts", "wide", *more, store=own)["results"]
        sizes.append((sum(result[f"n_{part}"] for part in ("train", "val", "test")), result["n_concepts"]))
    assert sizes == [(len(world.keys), 3), (len(world.keys) - 20, 2)]


def test_labelled_only_and_min_count(qrp: Any, own: Path, world: Any, files: Any) -> None:
    rows = [(key, "often") for key in world.keys[:250:2]] + [(key, "also") for key in world.keys[1:250:2]]
    rows += [(world.keys[0], "rare")]
    qrp.ok("label", files.labels(rows), "--dataset", "photos", "--concepts", "some", store=own)
    words = (*WHERE, "--backbone", "sharp", "--concepts", "some")
    (whole,) = qrp.ok(*words, store=own)["results"]
    (labelled,) = qrp.ok(*words, "--labelled-only", store=own)["results"]
    (frequent,) = qrp.ok(*words, "--min-count", 2, store=own)["results"]
    assert whole["n_train"] + whole["n_val"] + whole["n_test"] == 400
    assert labelled["n_train"] + labelled["n_val"] + labelled["n_test"] == 250
    assert (whole["n_concepts"], frequent["n_concepts"]) == (3, 2)


def test_dry_run_makes_nothing(qrp: Any, own: Path, sql: Any) -> None:
    report = qrp.ok(*ONE, "--seed", 5, "--dry-run", store=own)
    assert report["results"] == []
    assert sql(own, "SELECT * FROM assignments WHERE seed = 5 LIMIT 1") == []
    assert sql(own, "SELECT * FROM results WHERE seed = 5") == []


def test_one_backbones_failure_keeps_the_others(qrp: Any, own: Path, files: Any, world: Any) -> None:
    rows = np.ones((400, 2), np.float32)
    words = ("--keys", files.keys(world.keys), "--dataset", "photos", "--backbone", "constant")
    qrp.ok("ingest", files.array(rows), *words, store=own)
    ran = qrp.run(*WHERE, "--concepts", "objects", "--json", store=own)
    assert ran.code == 4
    assert {r["backbone"] for r in ran.json["results"] if r["nmi"] is not None} == {"sharp", "dull", "noise"}
    (error,) = ran.json["errors"]
    assert (error["backbone"], error["concepts"]) == ("constant", "objects")
    assert error["kind"] == "invalid_input"
    assert "constant" in ran.err


def test_one_concept_sets_failure_keeps_the_others_and_is_named(qrp: Any, own: Path) -> None:
    sets = ("--concepts", "classes", "--concepts", "objects", "--concepts", "classes+objects")
    ran = qrp.run(*WHERE, "--backbone", "sharp", *sets, "--soft", "--json", store=own)
    assert ran.code == 4
    assert [r["concepts"] for r in ran.json["results"]] == [
        "objects",
        "classes+objects",
    ]  # those without a score are sure
    (error,) = ran.json["errors"]
    assert (error["backbone"], error["concepts"]) == ("sharp", "classes")


def test_a_probe_that_no_epoch_helped_is_named(qrp: Any, own: Path) -> None:
    ran = qrp.run(
        *ONE, "--backbone", "noise", "--seed", 3, "--epochs", 1, "--lr", "0.000001", "--batch-size", 100, store=own
    )
    assert re.search(r"K 6, seed 3, objects.*: no epoch beat the model without concepts", ran.err)


@pytest.mark.parametrize(
    "missing", [("--backbone", "nope"), ("--concepts", "nope"), ("--concepts", "objects+nope")], ids=" ".join
)
def test_a_name_that_is_not_there_is_exit_3(qrp: Any, world: Any, missing: tuple[str, str]) -> None:
    ran = qrp.run("evaluate", "--dataset", "photos", "-k", 6, *missing, "--json", store=world.store)
    assert ran.code == 3
    assert "nope" in ran.out


def test_a_sample_of_the_samples_scores_like_all_of_them(qrp: Any, own: Path) -> None:
    tight = (*ONE, "--protocol", "tight")
    (whole,) = qrp.ok(*tight, store=own)["results"]
    (part,) = qrp.ok(*tight, "--sample-eval", 300, store=own)["results"]
    assert part["setting"] != whole["setting"]
    assert sum(part[name] for name in ("n_train", "n_val", "n_test")) == 300
    assert abs(part["nmi"] - whole["nmi"]) < 0.05
    assert part["nmi_ci_hi"] - part["nmi_ci_lo"] > whole["nmi_ci_hi"] - whole["nmi_ci_lo"]
    assert qrp.ok(*tight, "--sample-eval", 300, store=own)["results"][0]["cached"]
    assert "--sample-eval 0: at least 1" in qrp.fails(4, *ONE, "--sample-eval", 0, store=own)
    assert "has no sample left" in qrp.fails(4, *ONE, "--sample-eval", 1, store=own)
