"""Agreement of two groupings, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score, homogeneity_completeness_v_measure

from qrp_store.probing.agreement import adjusted_mutual_information, agreement


def groupings(n: int, k: int, other: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.full(k, 0.7))
    a = rng.choice(k, n, p=share)
    b = np.where(rng.random(n) < noise, rng.integers(0, other, n), a % other)
    return a, b


@pytest.mark.parametrize(
    ("n", "k", "other", "noise"),
    [(50, 5, 3, 0.5), (1000, 12, 12, 0.2), (1000, 12, 40, 1.0), (3000, 300, 200, 0.9), (20_000, 60, 10, 0.7)],
)
def test_it_is_scikit_learns(n: int, k: int, other: int, noise: float) -> None:
    a, b = groupings(n, k, other, noise, seed=n)
    values = agreement(a, b)
    homogeneity, completeness, _ = homogeneity_completeness_v_measure(a, b)
    assert values.ami == pytest.approx(adjusted_mutual_info_score(a, b), abs=1e-9)
    assert values.homogeneity == pytest.approx(homogeneity)
    assert values.completeness == pytest.approx(completeness)
    table = np.zeros((k, other))
    np.add.at(table, (a, b), 1)
    assert values.purity == table.max(axis=0).sum() / n
    assert adjusted_mutual_information(b, a) == pytest.approx(values.ami, abs=1e-12)


def test_groupings_of_one_group_or_of_single_samples() -> None:
    one, each, two = np.zeros(6, int), np.arange(6), np.arange(6) // 3
    for a, b in ((one, one), (one, two), (two, one), (each, each), (each, two), (two, two)):
        assert agreement(a, b).ami == pytest.approx(adjusted_mutual_info_score(a, b), abs=1e-12), (a, b)


def test_the_names_of_the_groups_do_not_matter() -> None:
    a, b = groupings(500, 6, 6, 0.4, seed=1)
    assert agreement(7 * a + 100, 3 * b) == agreement(a, b)
