"""Samples that belong together: intervals, permutations and the entropy's correction over whole groups."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from qrp_store.options import ProbeOptions
from qrp_store.probing.controls import Trial, null_distribution
from qrp_store.probing.metrics import score
from qrp_store.probing.sparse import ConceptMatrix, permute_rows
from qrp_store.probing.train import ProbeFit, fit
from qrp_store.progress import silent

K, M = 4, 6
OPTIONS = ProbeOptions(solver="lbfgs", weight_decay=1e-2)


def near_duplicates(
    rng: np.random.Generator, n_groups: int, size: int, *, informative: bool
) -> tuple[ConceptMatrix, np.ndarray, np.ndarray]:
    """Concepts, clusters and groups of near-duplicates; `informative`: the concepts depend on the clusters."""
    group = np.repeat(np.arange(n_groups), size)
    center = rng.integers(0, K, n_groups)
    clusters = np.where(rng.random(len(group)) < 0.1, rng.integers(0, K, len(group)), center[group])
    holds = rng.random((n_groups, M)) < 0.3
    if informative:
        holds[:, :K] = rng.random((n_groups, K)) < np.where(np.arange(K) == center[:, None], 0.7, 0.2)
    holds = holds[group] ^ (rng.random((len(group), M)) < 0.03)
    return ConceptMatrix.from_pairs(*np.nonzero(holds), len(group), M), clusters, group


def trained(rng: np.random.Generator) -> ProbeFit:
    x, c, _ = near_duplicates(rng, 2000, 1, informative=True)
    return fit(x, c, x, c, K, OPTIONS, seed=0)


def test_the_interval_over_groups_covers_the_population() -> None:
    """Over samples it is too narrow by about the root of the group's size."""
    rng = np.random.default_rng(0)
    probe = trained(rng)
    population, *_ = (score(probe, *near_duplicates(rng, 60_000, 1, informative=True)[:2], seed=0, bootstrap=0).nmi,)
    covered = {"groups": 0, "samples": 0}
    for trial in range(300):
        x, c, group = near_duplicates(rng, 250, 10, informative=True)
        for name, groups in (("groups", group), ("samples", None)):
            result = score(probe, x, c, seed=trial, bootstrap=200, groups=groups)
            covered[name] += result.nmi_ci_lo <= population <= result.nmi_ci_hi
    assert 0.93 <= covered["groups"] / 300 <= 0.97
    assert covered["samples"] / 300 < 0.7


def test_p_values_over_groups_are_uniform_under_the_null() -> None:
    rng = np.random.default_rng(0)
    p_values: dict[str, list[float]] = {"groups": [], "samples": []}
    for trial in range(150):
        x, c, group = near_duplicates(rng, 90, 8, informative=False)
        parts = np.repeat([0, 1, 2], [60 * 8, 10 * 8, 20 * 8])
        for name, groups in [("groups", group), ("samples", None)][: 2 if trial < 40 else 1]:
            experiment = Trial(c, parts, K, OPTIONS, 0, "cpu", groups)
            null = null_distribution(experiment, x, range(100 * trial, 100 * trial + 19), silent)
            p_values[name].append(null.p_value(experiment.score(x).nmi))
    spread = rng.random(150) / 20  # p is one of twenty values
    assert kstest(np.array(p_values["groups"]) - spread, "uniform").pvalue > 0.01
    assert 1 <= sum(p <= 0.05 for p in p_values["groups"]) <= 15
    assert kstest(np.array(p_values["samples"]) - spread[:40], "uniform").pvalue < 1e-6


def test_whole_groups_change_places_within_their_part() -> None:
    rng = np.random.default_rng(1)
    group = rng.permutation(np.repeat(np.arange(30), 4))
    parts = np.where(group < 12, 0, 2)
    x = ConceptMatrix(np.arange(121), np.arange(120), 120)  # each row is known by its concept
    moved = permute_rows(x, parts, seed=3, groups=group).indices
    assert sorted(moved) == list(range(120))
    assert (parts[moved] == parts).all()
    for number in range(30):
        assert len(set(group[moved[group == number]])) == 1
        assert (np.diff(moved[group == number]) > 0).all()
    assert (group[moved] != group).mean() > 0.8
    np.testing.assert_array_equal(moved, permute_rows(x, parts, seed=3, groups=group).indices)


def test_a_smaller_group_repeats_its_rows() -> None:
    group = np.array([7, 7, 7, 2, 9, 9])
    x = ConceptMatrix(np.arange(7), np.arange(6), 6)
    for seed in range(20):
        moved = permute_rows(x, np.zeros(6, int), seed=seed, groups=group).indices
        for number, members in ((7, [0, 1, 2]), (2, [3]), (9, [4, 5])):
            (donor,) = set(group[moved[members]])
            of = np.flatnonzero(group == donor)
            assert moved[members].tolist() == [of[i % len(of)] for i in range(len(members))], number


@pytest.mark.parametrize("copies", [1, 3])
def test_the_correction_of_the_entropy_counts_groups(copies: int) -> None:
    """Miller and Madow's for groups of one; m times as much for groups of m copies."""
    rng = np.random.default_rng(0)
    x, c, _ = near_duplicates(rng, 400, 1, informative=True)
    rows = np.repeat(np.arange(400), copies)
    result = score(trained(rng), x.take(rows), c[rows], seed=0, bootstrap=0, groups=rows)
    assert result.miller_madow - result.entropy_nats == pytest.approx((K - 1) / (2 * 400), rel=1e-9)


def test_the_correction_is_unbiased_for_near_duplicates() -> None:
    rng = np.random.default_rng(0)
    probe, result = trained(rng), []
    for _ in range(300):
        x, c, group = near_duplicates(rng, 30, 10, informative=True)
        result.append(score(probe, x, c, seed=0, bootstrap=0, groups=group).miller_madow)
    assert np.mean(result) == pytest.approx(np.log(K), abs=0.006)
