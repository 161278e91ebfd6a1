"""`--sample-eval N`: a score from some of the samples, drawn so that clusters and parts keep their shares."""

from __future__ import annotations

import numpy as np
import pytest

from qrp_store.evaluate.data import stratified


def world(seed: int, n: int = 20_000, k: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, k + 1)
    return np.arange(n), rng.choice(k, n, p=share / share.sum()), rng.choice(3, n, p=(0.7, 0.1, 0.2))


@pytest.mark.parametrize("n", [1, 17, 999, 20_000])
def test_every_cluster_keeps_its_share_of_every_part(n: int) -> None:
    positions, clusters, parts = world(0)
    drawn = stratified(positions, clusters, parts, n, 5)
    assert len(drawn) == len(set(drawn.tolist())) == n
    assert (np.diff(drawn) > 0).all()
    sizes = np.bincount(clusters * 3 + parts, minlength=90)
    got = np.bincount(clusters[drawn] * 3 + parts[drawn], minlength=90)
    assert np.abs(got - sizes * n / len(positions)).max() < 1


def test_two_backbones_keep_mostly_the_same_samples() -> None:
    positions, clusters, parts = world(0)
    _, others, _ = world(1)
    one, two = (set(stratified(positions, c, parts, 4_000, 5).tolist()) for c in (clusters, others))
    assert len(one & two) > 0.9 * 4_000  # 800 if each drew by itself
    assert one != set(stratified(positions, clusters, parts, 4_000, 6).tolist())
