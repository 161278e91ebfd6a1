"""Matched clusters hold the same images."""

from __future__ import annotations

import numpy as np

from qrp_store.rendering.matching import overlaps


def test_each_cluster_meets_the_one_it_overlaps_most() -> None:
    first = np.array([0, 0, 0, 1, 1, 1, 3], np.int32)
    second = np.array([1, 1, 0, 0, 0, 0, 2], np.int32)
    best, share = overlaps(first, second, (4, 3))
    assert best.tolist() == [1, 0, -1, 2]
    np.testing.assert_allclose(share, [2 / 3, 3 / 4, 0, 1])


def test_it_equals_counting_every_pair() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 7, 500).astype(np.int32), rng.integers(0, 5, 500).astype(np.int32)
    best, share = overlaps(first, second, (7, 5))
    for a in range(7):
        jaccard = [((first == a) & (second == b)).sum() / ((first == a) | (second == b)).sum() for b in range(5)]
        assert best[a] == int(np.argmax(jaccard))
        assert share[a] == max(jaccard)
