"""A null distribution beside a score: what chance gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qrp_store.catalog.entities import results
from qrp_store.errors import InvalidInput
from qrp_store.evaluate import evaluate
from qrp_store.evaluate.result import Result
from qrp_store.probing.controls import Null
from qrp_store.store import Store


def score(store: Store, **options: Any) -> Result:
    asked = {"solver": "lbfgs", "weight_decay": 1e-2, "bootstrap": 0, "concepts": ["named"], "imported": ["combined"]}
    report = evaluate(store, dataset="fruit", **{**asked, **options})
    assert report.errors == ()
    (result,) = report.results
    return result


def test_what_concepts_explain_stands_out_of_the_null(apples: Store) -> None:
    result = score(apples, permutations=9)
    null = results.by_id(apples.catalog, result.id).artifact.provenance["null_nmi"]
    assert len(null) == len(set(null)) == result.n_permutations == 9
    assert max(null) < 0.05
    assert result.null_nmi_mean == pytest.approx(np.mean(null))
    assert result.null_nmi_std == pytest.approx(np.std(null, ddof=1))
    assert result.p_value == 0.1
    assert result.nmi_adjusted == pytest.approx((result.nmi - np.mean(null)) / (1 - np.mean(null)))
    (row,) = apples.sql("SELECT n_permutations, p_value, nmi_adjusted FROM results")
    assert row == {"n_permutations": 9, "p_value": 0.1, "nmi_adjusted": result.nmi_adjusted}
    assert len(apples.sql("SELECT * FROM leaderboard")) == 1


def test_what_they_do_not_explain_does_not(apples: Store) -> None:
    result = score(apples, permutations=9, concepts=["loose"])
    assert result.p_value is not None
    assert result.p_value > 0.1
    assert abs(result.nmi_adjusted or 0) < 0.05


def test_a_control_of_the_null_is_what_permute_computes(apples: Store) -> None:
    below, control = score(apples, permutations=1), score(apples, permute=True)
    assert below.null_nmi_mean == pytest.approx(control.nmi, abs=0.05)
    assert below.null_nmi_std is None
    assert (control.n_permutations, control.p_value, control.nmi_adjusted) == (0, None, None)


def test_the_p_value_counts_ties_and_is_never_0() -> None:
    null = Null((0.1, 0.2, 0.3))
    assert [null.p_value(nmi) for nmi in (0.4, 0.3, 0.15, 0.0)] == [0.25, 0.5, 0.75, 1]
    assert null.adjusted(null.mean) == 0
    assert null.adjusted(1) == 1


@pytest.mark.parametrize("options", [{"permutations": -1}, {"permutations": 2, "permute": True}])
def test_what_makes_no_sense_is_refused(apples: Store, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="--permut"):
        score(apples, **options)
