"""What a concept says by itself: the table of counts, and never more than the truth."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from qrp_store.probing import alone as module
from qrp_store.probing.alone import alone
from qrp_store.probing.sparse import ConceptMatrix


def scored(world):
    return alone(world.part(0), world.part(1), world.part(2), world.n_clusters)


def test_a_concept_alone_scores_about_its_mutual_information(make_world, dense) -> None:
    world = make_world(40_000, 10, 4)
    held = dense(world.x)
    truth = [mutual_info_score(held[:, j], world.c) for j in range(10)]
    np.testing.assert_allclose(scored(world).mi_nats, truth, atol=0.01)


def test_shares_sum_and_the_ranking_is_by_validation(world, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = scored(world)
    assert (np.diff(scores.val_mi_nats[scores.ranked]) <= 0).all()
    monkeypatch.setattr(module, "_CELLS", 3 * world.n_clusters)
    pieces = scored(world)
    for name in ("mi_nats", "val_mi_nats", "best", "best_mi_nats", "n_train", "n_test"):
        np.testing.assert_allclose(getattr(pieces, name), getattr(scores, name))


def test_a_concept_that_says_nothing_scores_nothing() -> None:
    rng = np.random.default_rng(0)
    x = ConceptMatrix.from_pairs(np.arange(3000), rng.integers(0, 300, 3000), 3000, 302)  # two never hold
    c = rng.integers(0, 50, 3000)
    parts = [(x.take(np.arange(a, b)), c[a:b]) for a, b in ((0, 2000), (2000, 2500), (2500, 3000))]
    scores = alone(*parts, 60)
    assert scores.mi_nats.max() < 0.01
    assert np.isnan(scores.best_mi_nats[50:]).all()
    assert not np.isnan(scores.mi_nats).any()
