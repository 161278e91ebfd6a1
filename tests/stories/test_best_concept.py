"""A red apple is more than red and more than apple: the best single concept beside the whole vector."""

from __future__ import annotations

import math

import pytest

from qrp_store.evaluate import evaluate
from qrp_store.evaluate.rerun import rerun
from qrp_store.look import show
from qrp_store.store import Store


def test_no_single_concept_explains_a_red_apple(apples: Store) -> None:
    report = evaluate(
        apples, dataset="fruit", imported=["combined"], concepts=["named"], solver="lbfgs", weight_decay=1e-4
    )
    (result,) = report.results
    rows = list(apples.sql("SELECT * FROM concept_scores WHERE result_id = ? ORDER BY rank", (result.id,)))
    assert {row["concept"] for row in rows} == {"red", "green", "yellow", "apple", "pear", "plum"}
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5, 6]
    # one of three values is known: H(1/3) of the ln 9 nats
    known = math.log(3) - 2 / 3 * math.log(2)
    assert all(row["nmi"] == pytest.approx(known / math.log(9), abs=0.02) for row in rows)
    assert result.nmi is not None
    assert result.nmi > 0.98 > 3 * rows[0]["nmi"]
    shares = list(apples.sql("SELECT * FROM cluster_scores WHERE result_id = ?", (result.id,)))
    for row in shares:
        colour, fruit = ("red", "green", "yellow")[row["cluster"] // 3], ("apple", "pear", "plum")[row["cluster"] % 3]
        assert row["best_concept"] in (colour, fruit)
        assert row["best_concept_mi_nats"] == pytest.approx(math.log(3) / 9, abs=0.01)
        assert row["mi_nats"] > 1.9 * row["best_concept_mi_nats"]
    assert show(apples, result.id)["best_concepts"][0]["concept"] == rows[0]["concept"]
    assert rerun(apples, result.id).equal
