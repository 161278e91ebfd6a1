"""What kind of concept a score comes from: each group alone, all together, all but one."""

from __future__ import annotations

from typing import Any

import pytest

from qrp_store.evaluate import evaluate
from qrp_store.store import Store

OPTIMUM = {"solver": "lbfgs", "weight_decay": 1e-4, "bootstrap": 0}


def scores(store: Store, concepts: str, **options: Any) -> tuple[Any, dict[tuple[str, str], float]]:
    asked = {"imported": ["combined"], "concepts": [concepts], "ablate": True, **OPTIMUM, **options}
    report = evaluate(store, dataset="fruit", **asked)
    assert report.errors == ()
    (result,) = report.results
    rows = store.sql("SELECT * FROM group_scores WHERE result_id = ?", (result.id,))
    return result, {(row["role"], row["concept_group"]): row["nmi"] for row in rows}


def test_a_red_apple_needs_both_groups(apples: Store) -> None:
    result, nmi = scores(apples, "named")
    assert set(nmi) == {
        ("all", "(all)"),
        *((role, group) for role in ("alone", "without") for group in ("colour", "fruit")),
    }
    assert nmi["all", "(all)"] == result.nmi > 0.98
    assert nmi["alone", "colour"] == pytest.approx(0.5, abs=0.03)  # ln 3 of ln 9
    assert nmi["alone", "fruit"] == pytest.approx(0.5, abs=0.03)
    assert nmi["without", "fruit"] == nmi["alone", "colour"]
    assert nmi["without", "colour"] == nmi["alone", "fruit"]


def test_joined_concepts_without_a_group_go_by_the_name_of_their_set(apples: Store) -> None:
    _, joined = scores(apples, "named+loose")
    assert {group for role, group in joined if role == "alone"} == {"colour", "fruit", "loose"}
    assert joined["alone", "loose"] < 0.02
    assert joined["without", "loose"] > 0.98
    _, single = scores(apples, "loose")
    assert set(single) == {("all", "(all)"), ("alone", "(none)"), ("without", "(none)")}
    assert single["alone", "(none)"] == single["all", "(all)"]
    assert single["without", "(none)"] == pytest.approx(0, abs=0.01)


def test_without_ablate_there_are_no_group_scores_and_it_is_another_result(apples: Store) -> None:
    with_groups, _ = scores(apples, "named")
    plain, nothing = scores(apples, "named", ablate=False)
    assert nothing == {}
    assert plain.nmi == with_groups.nmi
    assert plain.setting != with_groups.setting


def test_the_published_schedule_and_a_control_can_be_ablated_too(apples: Store) -> None:
    _, nmi = scores(apples, "named", solver="sgd", epochs=3, permute=True)
    assert max(nmi.values()) < 0.05


def test_selecting_concepts_keeps_rows_and_renumbers() -> None:
    from qrp_store.probing.sparse import ConceptMatrix

    x = ConceptMatrix.from_pairs([0, 0, 1, 3, 3], [0, 2, 1, 1, 2], 4, 3)
    kept = x.select([1, 2])
    assert kept.shape == (4, 2)
    assert kept.indptr.tolist() == [0, 1, 2, 2, 4]
    assert kept.indices.tolist() == [1, 0, 0, 1]
    assert x.select([]).shape == (4, 0)
