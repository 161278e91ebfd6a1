"""compare of two backbones, over seeds and images together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

LINE = ("compare", "sharp", "dull", "--dataset", "photos", "--concepts", "objects")


def test_the_interval_is_students_over_the_seeds(qrp: Any, world: Any) -> None:
    report = qrp.ok(*LINE, "-k", 6, "--protocol", "laina2022", "--width", 0.001, store=world.store)
    assert report["schema"] == "qrp-store/compare/2"
    seeds = report["per_seed"]
    assert [seed["seed"] for seed in seeds] == [0, 1, 2]
    differences = [seed["difference"] for seed in seeds]
    assert report["difference"] == pytest.approx(np.mean(differences))
    assert report["sd_seeds"] == pytest.approx(np.std(differences, ddof=1))
    test = stats.ttest_1samp(differences, 0)
    assert report["ci"] == pytest.approx(list(test.confidence_interval(0.95)))
    assert report["p_value"] == pytest.approx(test.pvalue)
    assert (report["n_seeds"], report["conditional"]) == (3, False)
    assert report["se_images"] == pytest.approx(np.sqrt(np.mean([seed["se_images"] ** 2 for seed in seeds])))
    n = report["n_seeds_for_width"]
    sd = report["sd_seeds"]
    wide = [2 * stats.t.ppf(0.975, s - 1) * sd / s**0.5 for s in (n - 1, n)]
    assert wide[0] > 0.001 >= wide[1]
    assert f"takes about {n} seeds" in report["advice"]
    back = qrp.ok("compare", "dull", "sharp", *LINE[3:], store=world.store)
    assert back["difference"] == pytest.approx(-report["difference"])


def test_each_seed_is_compared_on_its_common_test_images(qrp: Any, world: Any) -> None:
    (first, *_) = qrp.ok(*LINE, store=world.store)["per_seed"]
    two = qrp.ok("compare", first["a"], first["b"], store=world.store)
    assert two["difference"] == pytest.approx(first["difference"])
    assert two["n_common"] == first["n_common"]
    assert two["a"]["nmi_common"] == pytest.approx(first["nmi_common_a"])
    assert two["conditional"] is True
    assert first["se_images"] == pytest.approx((two["ci"][1] - two["ci"][0]) / 3.92, rel=0.2)
    assert "conditional on one clustering" in qrp.run("compare", first["a"], first["b"], store=world.store).out


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_two_seeds_or_fewer_give_no_interval_but_the_command_to_get_one(qrp: Any, own: Path, seeds: Any) -> None:
    line = ("evaluate", "--dataset", "photos", "--concepts", "objects", "-k", 5, "--epochs", 2, "--bootstrap", 0)
    qrp.ok(*line, "--seed", *seeds, store=own)
    report = qrp.ok(*LINE, "-k", 5, store=own)
    assert (report["ci"], report["p_value"], report["n_seeds"]) == (None, None, len(seeds))
    assert report["conditional"] == (len(seeds) == 1)
    assert "qrp-store evaluate --dataset photos --backbone sharp --backbone dull" in report["advice"]
    assert "--seed 0 1 2" in qrp.run(*LINE, "-k", 5, store=own).out


def test_two_concept_sets_are_compared_under_one_backbone(qrp: Any, world: Any) -> None:
    line = ("compare", "objects", "classes", "--dataset", "photos", "--backbone", "sharp")
    report = qrp.ok(*line, store=world.store)
    assert (report["a"]["concepts"], report["b"]["concepts"], report["n_seeds"]) == ("objects", "classes", 3)
    assert report["a"]["backbone"] == report["b"]["backbone"] == "sharp"
    assert "several comparisons" in qrp.fails(4, *line[:-2], store=world.store)


def test_what_cannot_be_compared_says_why(qrp: Any, world: Any) -> None:
    assert "did you mean sharp?" in qrp.fails(3, "compare", "shrap", "dull", *LINE[3:], store=world.store)
    assert "several comparisons" in qrp.fails(4, *LINE[:5], store=world.store)
    qrp.fails(3, *LINE, "-k", 7, store=world.store)
    qrp.fails(4, *LINE, "--width", 0, store=world.store)
    qrp.fails(4, "compare", "sharp", "sharp", *LINE[3:], store=world.store)
