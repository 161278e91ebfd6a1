"""The prequential code length, against planted log-linear worlds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qrp_store.probing.codelength import code_length
from qrp_store.probing.sparse import ConceptMatrix


def entropy(clusters: np.ndarray) -> float:
    share = np.bincount(clusters) / len(clusters)
    return float(-(share[share > 0] * np.log(share[share > 0])).sum())


def test_it_approaches_the_true_information_from_below(make_world):
    gained = []
    for n in (1000, 4000, 16_000):
        world = make_world(n, 20, 8)
        gained.append((entropy(world.c) - code_length(world.x, world.c, 8, seed=0)) / world.mi)
    assert gained == sorted(gained)
    assert 0.9 < gained[-1] < 1


def test_useless_concepts_only_lengthen_it():
    rng = np.random.default_rng(0)
    c = rng.integers(0, 10, 3000)
    x = ConceptMatrix.from_pairs(*np.nonzero(rng.random((3000, 200)) < 0.1), 3000, 200)
    assert entropy(c) < code_length(x, c, 10, seed=0) < entropy(c) + 0.05


def test_before_anything_is_learnt_a_sample_costs_ln_k():
    c = np.arange(20) % 5
    x = ConceptMatrix.from_pairs(np.arange(20), c, 20, 5)
    assert code_length(x, c, 5, seed=0) == pytest.approx(math.log(5))


def test_the_same_seed_gives_the_same_length(make_world):
    world = make_world(500, 20, 8)
    first, again, other = (code_length(world.x, world.c, 8, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_near_duplicates_of_one_group_do_not_shorten_the_code():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 10, 300)
    group = np.repeat(np.arange(300), 10)
    concepts = rng.random((300, 200)) < 0.1
    x = ConceptMatrix.from_pairs(*np.nonzero(concepts[group]), 3000, 200)
    plain = code_length(x, kinds[group], 10, seed=0)
    whole = code_length(x, kinds[group], 10, seed=0, groups=group)
    assert plain < entropy(kinds[group]) - 0.3 < entropy(kinds[group]) < whole
