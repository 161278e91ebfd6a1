"""Odd concepts, odd samples and a learning rate that is too high, from outside."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

FEW = ("evaluate", "--dataset", "photos", "-k", 6, "--epochs", 4, "--bootstrap", 50, "--backbone", "sharp")


def test_a_diverging_learning_rate_names_epoch_and_advice_and_leaves_no_result(qrp: Any, own: Path, sql: Any) -> None:
    before = sql(own, "SELECT count(*) AS n FROM result_versions")
    message = qrp.fails(1, *FEW, "--concepts", "objects", "--lr", "1e12", store=own)
    assert "diverged in epoch 2" in message
    assert "lower the learning rate" in message
    assert sql(own, "SELECT count(*) AS n FROM result_versions") == before
    assert qrp.ok(*FEW, "--concepts", "objects", store=own)["results"][0]["cached"]


def test_concepts_that_always_or_hardly_ever_hold_are_kept_and_harmless(
    qrp: Any, own: Path, world: Any, files: Any
) -> None:
    rows = [(key, f"object-{world.group[i]}") for i, key in enumerate(world.keys)]
    rows += [(key, "always") for key in world.keys] + [(world.keys[0], "once")]
    qrp.ok("label", files.labels(rows), "--dataset", "photos", "--concepts", "odd", store=own)
    (result,) = qrp.ok(*FEW, "--concepts", "odd", "--solver", "lbfgs", "--weight-decay", "1e-4", store=own)["results"]
    assert result["n_concepts"] == 8
    assert result["nmi"] > 0.8
    assert math.isfinite(result["train_loss"])
    (more,) = qrp.ok(*FEW, "--concepts", "odd", "--min-count", 2, store=own)["results"]
    assert more["n_concepts"] == 7


def test_samples_without_any_concept_are_kept_unless_told_otherwise(
    qrp: Any, own: Path, world: Any, files: Any
) -> None:
    rows = [(key, f"object-{world.group[i]}") for i, key in enumerate(world.keys) if i % 2]
    qrp.ok("label", files.labels(rows), "--dataset", "photos", "--concepts", "half", store=own)
    (every,) = qrp.ok(*FEW, "--concepts", "half", store=own)["results"]
    assert sum(every[f"n_{part}"] for part in ("train", "val", "test")) == len(world.keys)
    (labelled,) = qrp.ok(*FEW, "--concepts", "half", "--labelled-only", store=own)["results"]
    assert sum(labelled[f"n_{part}"] for part in ("train", "val", "test")) == len(rows)


def test_fewer_samples_than_classes_is_harmless(qrp: Any, own: Path, world: Any, files: Any) -> None:
    rows = [(key, f"own {i}") for i, key in enumerate(world.keys)] + [(world.keys[0], "own 399b")]
    qrp.ok("label", files.labels(rows), "--dataset", "photos", "--concepts", "own", store=own)
    (result,) = qrp.ok(*FEW, "--concepts", "own", "--forward", "--protocol", "tight", store=own)["results"]
    assert result["n_concepts"] == len(world.keys) + 1
    assert result["nmi"] == pytest.approx(0, abs=0.05)  # no concept of a test sample was ever trained
    found = {f["probe"]: f for f in result["forward"]}
    assert found["linear"]["metric"] == "map"  # one sample has two
    seen = found["linear"]["n_concepts"] - found["linear"]["n_left_out"]
    assert seen in (result["n_test"], result["n_test"] + 1)


def test_the_certificate_is_gradient_squared_by_twice_the_weight_decay(qrp: Any, own: Path) -> None:
    for options in (("--lr", "0.01"), ("--solver", "lbfgs", "--weight-decay", "1e-3"), ("--protocol", "tight")):
        (result,) = qrp.ok(*FEW, "--concepts", "objects", *options, store=own)["results"]
        assert result["converged"] == (result["grad_norm"] ** 2 / (2 * result["weight_decay"]) <= 1e-3)
        assert result["converged"] == ("--lr" not in options)
