from __future__ import annotations

import numpy as np
import pytest

from qrp_store.errors import InvalidInput
from qrp_store.probing import explain as module
from qrp_store.probing.explain import explain
from qrp_store.probing.sparse import ConceptMatrix


def test_the_defining_concept_comes_first(make_world):
    rng = np.random.default_rng(0)
    concept = rng.integers(0, 6, 3000)
    noise = rng.integers(6, 30, 3000)
    x = ConceptMatrix.from_pairs(np.tile(np.arange(3000), 2), np.r_[concept, noise], 3000, 30)
    world = type(make_world(10, 3, 2, per_sample=1))(x, concept, 6, 0.0)
    explanation = explain(world.fit(protocol="tight"), *world.part(0))
    assert explanation.concept[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert explanation.lift[:, 0] == pytest.approx([6] * 6, rel=0.2)


def test_every_number_is_that_of_a_plain_count(world, dense):
    probe = world.fit(epochs=3)
    x, c = world.part(0)
    explanation = explain(probe, x, c)
    table = dense(x)
    centred = probe.weight - probe.weight.mean(axis=0)
    assert explanation.concept.shape == (12, 10)
    for k in range(12):
        n = table[c == k].sum(axis=0)
        order = sorted(np.flatnonzero(n), key=lambda j: -centred[k, j])[:10]
        assert explanation.concept[k].tolist() == order
        assert explanation.weight[k] == pytest.approx(centred[k, order], abs=1e-5)
        assert explanation.n[k].tolist() == n[order].tolist()
        assert explanation.lift[k] == pytest.approx(n[order] / (c == k).sum() / table.mean(axis=0)[order])


def test_chunks_of_clusters_change_nothing(world, monkeypatch):
    probe = world.fit(epochs=1)
    whole = explain(probe, *world.part(0))
    monkeypatch.setattr(module, "_CHUNK_CELLS", 100)
    chunked = explain(probe, *world.part(0))
    assert np.array_equal(whole.concept, chunked.concept)
    assert np.array_equal(whole.lift, chunked.lift)


def test_a_cluster_with_few_concepts_is_padded(world):
    probe = world.fit(epochs=1)
    x = ConceptMatrix.from_pairs([0, 0, 1], [7, 8, 7], 3, 40)
    explanation = explain(probe, x, [4, 4, 5])
    assert set(explanation.concept[4, :2]) == {7, 8}
    assert explanation.concept[4, 2:].tolist() == [-1] * 8
    assert np.isnan(explanation.lift[4, 2:]).all()
    assert np.isnan(explanation.weight[4, 2:]).all()
    assert explanation.concept[5].tolist() == [-1] * 10
    assert explanation.n.sum() == 3


def test_another_vocabulary_is_refused(world):
    with pytest.raises(InvalidInput):
        explain(world.fit(epochs=1), ConceptMatrix.from_pairs([], [], 2, 3), [0, 1])
