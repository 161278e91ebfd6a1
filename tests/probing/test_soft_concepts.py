"""Concepts that hold to a degree: kept through every cut, and trained as the dense matrix would be."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from qrp_store.errors import InvalidInput
from qrp_store.options import ProbeOptions
from qrp_store.probing.sparse import ConceptMatrix, permute_rows
from qrp_store.probing.train import fit


def soft(x: ConceptMatrix, seed: int = 0) -> ConceptMatrix:
    values = np.random.default_rng(seed).uniform(0.5, 1, len(x.indices))
    return ConceptMatrix(x.indptr, x.indices, x.n_concepts, values)


def dense(x: ConceptMatrix) -> np.ndarray:
    y = np.zeros(x.shape)
    y[x.rows(), x.indices] = x.weights()
    return y


def test_values_go_with_their_rows_and_concepts(world) -> None:
    x = soft(world.x)
    at = np.array([5, 3, 3, 70])
    np.testing.assert_array_equal(dense(x.take(at)), dense(x)[at])
    np.testing.assert_array_equal(dense(x.select([1, 4, 7])), dense(x)[:, [1, 4, 7]])
    both = x.hstack([world.x])
    np.testing.assert_array_equal(dense(both), np.hstack([dense(x), dense(world.x)]))
    np.testing.assert_array_equal(dense(x.above(0.8)), dense(x) > np.float32(0.8))
    np.testing.assert_array_equal(dense(x.above(0.8, soft=True)), dense(x) * (dense(x) > np.float32(0.8)))
    parts = np.zeros(len(x))
    assert sorted(dense(permute_rows(x, parts, seed=1)).sum(axis=1)) == pytest.approx(sorted(dense(x).sum(axis=1)))
    with pytest.raises(InvalidInput, match="values"):
        ConceptMatrix(x.indptr, x.indices, x.n_concepts, x.weights()[1:])


def test_the_optimum_is_scikit_learns(world) -> None:
    x, c = world.part(0)
    x = soft(x)
    options = ProbeOptions(solver="lbfgs", weight_decay=1e-3)
    ours = fit(x, c, x, c, world.n_clusters, options, seed=0)
    theirs = LogisticRegression(C=1 / (1e-3 * len(c)), tol=1e-10, max_iter=5000, fit_intercept=False)
    theirs.fit(np.hstack([dense(x), np.ones((len(x), 1))]), c)
    loss = -theirs.predict_log_proba(np.hstack([dense(x), np.ones((len(x), 1))]))[np.arange(len(c)), c].mean()
    assert ours.train_loss == pytest.approx(loss + 5e-4 * (theirs.coef_**2).sum(), abs=1e-4)


def test_sgd_learns_from_degrees(world) -> None:
    x, c = world.part(0)
    hard = fit(x, c, x, c, world.n_clusters, ProbeOptions(epochs=3, lr=0.5), seed=0)
    ones = ConceptMatrix(x.indptr, x.indices, x.n_concepts, np.ones(len(x.indices)))
    same = fit(ones, c, ones, c, world.n_clusters, ProbeOptions(epochs=3, lr=0.5), seed=0)
    np.testing.assert_allclose(same.weight, hard.weight, atol=1e-5)
    other = fit(soft(x), c, soft(x), c, world.n_clusters, ProbeOptions(epochs=3, lr=0.5), seed=0)
    assert not np.allclose(other.weight, hard.weight, atol=1e-2)
