"""The difference of two results on the test samples they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qrp_store.errors import Corrupt, InvalidInput
from qrp_store.evaluate import evaluate
from qrp_store.evaluate.compare import compare
from qrp_store.evaluate.result import Result
from qrp_store.probing.paired import difference_interval
from qrp_store.store import Store

QUICK: dict[str, Any] = {"solver": "lbfgs", "weight_decay": 1e-2, "bootstrap": 0, "k": [9], "concepts": ["named"]}


def results(store: Store, **options: Any) -> list[Result]:
    report = evaluate(store, dataset="fruit", **{**QUICK, **options})
    assert report.errors == ()
    return list(report.results)


def test_a_clear_difference_is_above_0_and_turns_its_sign(apples: Store) -> None:
    blurred, seen = results(apples, backbones=["blurred", "seen"])
    report = compare(apples, seen.id, blurred.id)
    assert report.difference == pytest.approx(report.a.nmi - report.b.nmi)
    assert report.difference == pytest.approx(seen.nmi - blurred.nmi, abs=0.05)
    assert report.ci is not None
    assert 0 < report.ci[0] < report.difference < report.ci[1]
    assert 80 <= report.n_common <= 108
    assert report.differs == ()
    back = compare(apples, blurred.id, seen.id)
    assert back.difference == -report.difference
    assert back.ci == pytest.approx((-report.ci[1], -report.ci[0]), abs=1e-9)


def test_a_result_does_not_differ_from_itself(apples: Store) -> None:
    (result,) = results(apples, backbones=["blurred"])
    report = compare(apples, result.id, result.id)
    assert (report.difference, report.ci, report.n_common) == (0, (0, 0), result.n_test)
    assert report.a.nmi == pytest.approx(result.nmi, abs=1e-6)


def test_another_seed_shares_about_a_fifth(apples: Store) -> None:
    one, two = results(apples, imported=["combined"], seeds=[0, 1])
    assert 5 < compare(apples, one.id, two.id, bootstrap=10).n_common < 45


@pytest.mark.parametrize(
    "options, what",
    [
        ({"concepts": ["loose"]}, "concepts named and loose"),
        ({"protocol": "tight", "solver": None}, "protocol"),
        ({"permute": True}, "permute"),
    ],
)
def test_different_questions_are_refused_unless_told_otherwise(
    apples: Store, options: dict[str, Any], what: str
) -> None:
    asked = {"backbones": ["blurred"]}
    (one,), (two,) = results(apples, **asked), results(apples, **asked, **options)
    with pytest.raises(InvalidInput, match=what):
        compare(apples, one.id, two.id)
    report = compare(apples, one.id, two.id, anyway=True, bootstrap=0)
    assert report.ci is None
    assert report.n_common == one.n_test
    assert any(what in said for said in report.differs)


def test_the_replicates_of_a_score_do_not_matter(apples: Store) -> None:
    (one,), (two,) = results(apples, imported=["combined"]), results(apples, imported=["combined"], bootstrap=20)
    assert compare(apples, one.id, two.id).difference == 0


def test_other_datasets_are_compared_by_key(apples: Store, tmp_path: Path) -> None:
    from qrp_store.ingest import ingest
    from qrp_store.label import label

    keys = [str(i) for i in range(100, 540)]
    (tmp_path / "keys.txt").write_text("\n".join(keys) + "\n")
    rows = np.load(tmp_path / "seen.npy")[100:]
    np.save(tmp_path / "part.npy", rows)
    source, listed = str(tmp_path / "part.npy"), str(tmp_path / "keys.txt")
    ingest(apples, source, dataset="part", backbone="seen", keys=listed)
    table = str(tmp_path / "named.csv")
    label(apples, table, dataset="part", concepts="named", ignore_unknown_keys=True)
    (whole,) = results(apples, backbones=["seen"])
    (part,) = evaluate(apples, dataset="part", backbones=["seen"], **QUICK).results
    with pytest.raises(InvalidInput, match="datasets fruit and part"):
        compare(apples, whole.id, part.id)
    report = compare(apples, whole.id, part.id, anyway=True, bootstrap=0)
    assert 5 < report.n_common < 50


def test_weights_that_do_not_give_the_score_are_corrupt(apples: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (result,) = results(apples, imported=["combined"])
    monkeypatch.setattr("qrp_store.evaluate.compare.TOLERANCE", -1.0)
    with pytest.raises(Corrupt, match="its weights give"):
        compare(apples, result.id, result.id)


def test_the_interval_has_the_width_of_the_delta_method() -> None:
    rng = np.random.default_rng(0)
    log_p = -rng.uniform(1, 3, 4000)
    shared = rng.normal(0, 0.3, 4000)
    first, second = (np.stack([log_p * s + shared + rng.normal(0, 0.05, 4000), log_p], axis=1) for s in (0.5, 0.6))
    low, high = difference_interval(first, second, 2000, 0)
    each = (second[:, 0] - first[:, 0]) / log_p.mean()
    ratio = (second[:, 0] - first[:, 0]).mean() / log_p.mean()
    sd = (each - ratio * log_p / log_p.mean()).std() / np.sqrt(4000)
    assert high - low == pytest.approx(2 * 1.96 * sd, rel=0.1)
    assert low < 0.1 < high
