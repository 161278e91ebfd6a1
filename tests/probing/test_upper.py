"""The upper reference, in worlds whose clusters are no sum of concepts."""

from __future__ import annotations

import numpy as np
import pytest

from qrp_store.options import ProbeOptions
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.probing.train import fit
from qrp_store.probing.upper import frequent_pairs, upper, with_products


def parts(y: np.ndarray, c: np.ndarray):
    rows, columns = np.nonzero(y)
    x = ConceptMatrix.from_pairs(rows, columns, *y.shape)
    cuts = np.split(np.arange(len(c)), [int(0.64 * len(c)), int(0.8 * len(c))])
    return [(x.take(at), c[at]) for at in cuts]


def linear(train, val, k):
    probe = fit(*train, *val, k, ProbeOptions(protocol="tight"), seed=0)
    return np.concatenate([probe.weight, probe.bias[:, None]], axis=1)


@pytest.fixture(scope="module")
def exclusive_or():
    """Four clusters by the XORs of two pairs of concepts among ten; nothing is a sum."""
    rng = np.random.default_rng(0)
    y = rng.random((2000, 10)) < 0.5
    c = 2 * (y[:, 0] ^ y[:, 1]).astype(np.int64) + (y[:, 2] ^ y[:, 3])
    return parts(y, c)


def test_exclusive_or_shows_in_it_and_not_in_the_linear_probe(exclusive_or):
    train, val, test = exclusive_or
    actual = upper(train, val, test, 4, linear(train, val, 4), seed=0)
    nmi = {candidate.model: candidate.nmi for candidate in actual.candidates}
    assert nmi["linear"] < 0.01
    assert nmi["products"] > 0.95
    assert nmi["network"] > 0.8
    assert actual.nmi > 0.95


def test_parity_of_three_shows_in_the_network_alone():
    rng = np.random.default_rng(1)
    y = rng.random((2500, 5)) < 0.5
    train, val, test = parts(y, (y[:, 0] ^ y[:, 1] ^ y[:, 2]).astype(np.int64))
    actual = upper(train, val, test, 2, linear(train, val, 2), seed=0)
    nmi = {candidate.model: candidate.nmi for candidate in actual.candidates}
    assert actual.model == "network"
    assert nmi["products"] < 0.05
    assert actual.nmi > 0.9


def test_where_concepts_add_up_it_is_the_bound(make_world):
    world = make_world(2000, 20, 8)
    train, val, test = (world.part(number) for number in range(3))
    weights = linear(train, val, world.n_clusters)
    actual = upper(train, val, test, world.n_clusters, weights, seed=0)
    nmi = {candidate.model: candidate.nmi for candidate in actual.candidates}
    assert actual.nmi == pytest.approx(nmi["linear"], abs=0.05)


def test_products_are_those_of_a_dense_table():
    rng = np.random.default_rng(2)
    y = rng.random((5000, 8)) < 0.4
    y[:, 7] = y[:, 6]  # a pair that says nothing new
    x = ConceptMatrix.from_pairs(*np.nonzero(y), *y.shape)
    pairs = frequent_pairs(x)
    assert {tuple(pair) for pair in pairs.tolist()} == {(i, j) for j in range(8) for i in range(j)} - {(6, 7)}
    more = with_products(x, pairs)
    dense = np.zeros(more.shape)
    dense[more.rows(), more.indices] = 1
    assert (dense == np.concatenate([y, y[:, pairs[:, 0]] & y[:, pairs[:, 1]]], axis=1)).all()


def test_values_of_soft_concepts_are_multiplied():
    x = ConceptMatrix(np.array([0, 2, 3]), np.array([0, 1, 1]), 2, np.array([0.5, 0.25, 1.0]))
    more = with_products(x, np.array([[0, 1]]))
    assert more.indices.tolist() == [0, 1, 2, 1]
    assert more.values is not None
    assert more.values.tolist() == [0.5, 0.25, 0.125, 1.0]


def test_the_same_seed_gives_the_same_numbers(make_world):
    world = make_world(400, 6, 4)
    train, val, test = (world.part(number) for number in range(3))
    weights = np.zeros((4, 7), np.float32)
    first, again = (upper(train, val, test, 4, weights, seed=3) for _ in range(2))
    assert first == again
