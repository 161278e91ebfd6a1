"""Samples that belong together share a part, so that nothing is tested on what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qrp_store.errors import InvalidInput, NotFound
from qrp_store.evaluate import evaluate
from qrp_store.evaluate.rerun import rerun
from qrp_store.kmeans.split import split_groups
from qrp_store.maintenance.removal import verify
from qrp_store.records import TEST, VAL
from qrp_store.store import Store

QUICK = {"solver": "lbfgs", "weight_decay": 1e-2, "bootstrap": 0, "concepts": ["named"]}


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=60, max_size=200), st.integers(0, 5))
def test_a_group_is_never_torn_and_the_parts_are_20_16_64(sizes: list[int], seed: int) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    parts = split_groups(groups, [f"g{i}" for i in range(len(sizes))], "d", seed)
    for number in range(len(sizes)):
        assert len(set(parts[groups == number])) == 1
    largest = max(sizes)
    assert abs((parts == TEST).sum() - 0.2 * len(parts)) <= largest / 2 + 1
    assert abs((parts == VAL).sum() - 0.16 * len(parts)) <= largest / 2 + 1


def test_groups_of_one_are_divided_exactly() -> None:
    parts = split_groups(np.arange(1000), [str(i) for i in range(1000)], "d", 0)
    assert np.bincount(parts).tolist() == [640, 160, 200]
    assert (parts != split_groups(np.arange(1000), [str(i) for i in range(1000)], "d", 1)).any()


def test_a_group_too_large_for_a_part_trains() -> None:
    groups = np.r_[np.zeros(500, int), np.arange(1, 501)]
    parts = split_groups(groups, [str(i) for i in range(501)], "d", 0)
    assert set(parts[:500]) == {0}
    assert np.bincount(parts).tolist() == [640, 160, 200]


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(InvalidInput, match="2 groups"):
        split_groups(np.repeat([0, 1], 50), ["a", "b"], "d", 0)


def file_of(path: Path, rows: list[tuple[object, object]], header: str = "key,group") -> str:
    path.write_text("\n".join([header, *(f"{key},{group}" for key, group in rows)]) + "\n")
    return str(path)


def parts_of(store: Store, clustering: str) -> dict[int, str]:
    rows = store.sql("SELECT key, part FROM assignments WHERE clustering_id = ?", (clustering,))
    return {int(row["key"]): row["part"] for row in rows}


def test_every_clustering_is_split_alike_by_groups(apples: Store, tmp_path: Path) -> None:
    tens = file_of(tmp_path / "tens.csv", [(i, f"video {i // 10}") for i in range(500)])
    asked: dict[str, Any] = {"dataset": "fruit", "backbones": ["seen", "blurred"], "k": [9], **QUICK}
    plain = evaluate(apples, **asked)
    planned = evaluate(apples, group_by=tens, dry_run=True, **asked)
    assert [row["result"] for row in planned.plan] == ["to make"] * 2
    report = evaluate(apples, group_by=tens, imported=["combined"], **asked)
    assert report.errors == ()
    splits = [parts_of(apples, result.clustering_id) for result in report.results]
    assert splits[0] == splits[1] == splits[2]
    for video in range(50):
        assert len({splits[0][i] for i in range(video * 10, video * 10 + 10)}) == 1
    assert len({splits[0][i] for i in range(500, 540)}) > 1  # those without a group go one by one
    result = report.results[0]
    assert (result.n_test, result.n_val) == (108, 86)
    assert result.setting == report.results[1].setting != plain.results[0].setting
    again = evaluate(apples, group_by=tens, **asked)
    assert [r.id for r in again.results] == [r.id for r in report.results[:2]]
    assert all(r.cached for r in again.results)
    clusters = [
        [r["cluster"] for r in apples.sql("SELECT cluster FROM assignments WHERE clustering_id = ? ORDER BY key", (c,))]
        for c in (plain.results[0].clustering_id, result.clustering_id)
    ]
    assert clusters[0] == clusters[1]
    ranked = apples.sql("SELECT backbone FROM leaderboard WHERE setting = ?", (result.setting,))
    assert {row["backbone"] for row in ranked} == {"seen", "blurred"}


def test_other_groups_make_another_split(apples: Store, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"dataset": "fruit", "imported": ["combined"], **QUICK}
    files = [file_of(tmp_path / f"{n}.csv", [(i, i // n) for i in range(540)]) for n in (5, 6)]
    five, six = (evaluate(apples, group_by=file, **asked).results[0] for file in files)
    assert five.clustering_id != six.clustering_id
    assert five.setting != six.setting


@pytest.mark.parametrize(
    "header, rows, message",
    [
        ("key,group", [("nobody", 1)], "not in dataset"),
        ("key,video", [(1, 1)], "no column group"),
        ("key,group", [(1, 1), (1, 2)], "duplicate key"),
    ],
)
def test_groups_that_do_not_fit(
    apples: Store, tmp_path: Path, header: str, rows: list[tuple[object, object]], message: str
) -> None:
    file = file_of(tmp_path / "groups.csv", rows, header)
    with pytest.raises(InvalidInput, match=message):
        evaluate(apples, dataset="fruit", imported=["combined"], group_by=file, **QUICK)


def test_one_group_of_all_cannot_be_split(apples: Store, tmp_path: Path) -> None:
    file = file_of(tmp_path / "groups.csv", [(i, "one") for i in range(540)])
    report = evaluate(apples, dataset="fruit", imported=["combined"], group_by=file, **QUICK)
    assert "1 groups" in report.errors[0]["message"]
    assert report.exit_kind == "invalid_input"


def test_a_file_that_is_not_there(apples: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        evaluate(apples, dataset="fruit", imported=["combined"], group_by=str(tmp_path / "none.csv"), **QUICK)


def test_interval_and_null_are_over_whole_groups_and_come_out_equal_again(apples: Store, tmp_path: Path) -> None:
    tens = file_of(tmp_path / "tens.csv", [(i, f"video {i // 10}") for i in range(500)])
    asked: dict[str, Any] = {"dataset": "fruit", "backbones": ["blurred"], "k": [9], **QUICK}
    asked |= {"bootstrap": 200, "permutations": 3}
    (plain,) = evaluate(apples, **asked).results
    (result,) = evaluate(apples, group_by=tens, **asked).results
    for permute in (False, True):
        (control,) = evaluate(apples, group_by=tens, **{**asked, "permutations": 0, "permute": permute}).results
        for each in (result, control):
            report = rerun(apples, each.id)
            assert (report.equal, report.differences) == (True, ())
    rows = apples.sql("SELECT key, cluster FROM assignments WHERE clustering_id = ?", (result.clustering_id,))
    number = {int(row["key"]): row["cluster"] for row in rows}
    parts = parts_of(apples, result.clustering_id)
    test = [key for key in sorted(number) if parts[key] == "test"]
    share = np.bincount([number[key] for key in test], minlength=9) / len(test)
    bias = 0.0
    groups = {key: key // 10 if key < 500 else key for key in test}
    for group in set(groups.values()):
        members = [number[key] for key in test if groups[key] == group]
        apart = np.bincount(members, minlength=9) - len(members) * share
        bias += float((apart[share > 0] ** 2 / share[share > 0]).sum()) / (2 * len(test) ** 2)
    assert result.entropy_miller_madow_nats - result.entropy_nats == pytest.approx(bias)
    assert verify(apples, deep=True).problems == ()
    assert plain.setting != result.setting
