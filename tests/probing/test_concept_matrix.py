from __future__ import annotations

import numpy as np
import pytest

from qrp_store.errors import InvalidInput
from qrp_store.probing.sparse import ConceptMatrix, block_diagonal, permute_rows


@pytest.fixture
def x():
    return ConceptMatrix.from_pairs([2, 0, 2, 0, 0, 3], [1, 4, 0, 2, 4, 3], 5, 6)


def test_pairs_are_sorted_and_repeats_count_once(x):
    assert x.shape == (5, 6)
    assert x.indptr.tolist() == [0, 2, 2, 4, 5, 5]
    assert x.indices.tolist() == [2, 4, 0, 1, 3]
    assert (x.indptr.dtype, x.indices.dtype) == (np.int64, np.int32)
    assert x.counts().tolist() == [1, 1, 1, 1, 1, 0]


def test_sorted_pairs_give_the_same_matrix(x):
    again = ConceptMatrix.from_pairs(x.rows(), x.indices, 5, 6)
    assert again.indptr.tolist() == x.indptr.tolist()
    assert again.indices.tolist() == x.indices.tolist()


def test_a_matrix_without_entries_keeps_its_shape():
    empty = ConceptMatrix.from_pairs([], [], 3, 4)
    assert empty.shape == (3, 4)
    assert empty.take([2, 0]).shape == (2, 4)
    assert empty.counts().tolist() == [0, 0, 0, 0]


def test_take_follows_the_positions_with_repeats(x, dense):
    positions = [3, 0, 0, 4, 2]
    assert np.array_equal(dense(x.take(positions)), dense(x)[positions])


def test_hstack_puts_the_others_concepts_behind(dense):
    rng = np.random.default_rng(0)
    tables = [rng.random((20, m)) < 0.3 for m in (5, 1, 7)]
    matrices = [ConceptMatrix.from_pairs(*np.nonzero(t), *t.shape) for t in tables]
    joined = matrices[0].hstack(matrices[1:])
    assert np.array_equal(dense(joined), np.hstack(tables))
    assert all(np.all(np.diff(joined.indices[a:b]) > 0) for a, b in zip(joined.indptr, joined.indptr[1:], strict=False))


@pytest.mark.parametrize("valued", [False, True])
def test_blocks_stand_on_the_diagonal(valued, dense):
    first = ConceptMatrix.from_pairs([0, 0, 2], [1, 0, 1], 3, 2)
    second = ConceptMatrix([0, 0, 1], [3], 4, np.float32([0.5]) if valued else None)
    joined = block_diagonal([first, second, first])
    assert joined.shape == (8, 8)
    expected = np.zeros((8, 8))
    expected[:3, :2] = expected[5:, 6:] = dense(first)
    expected[3:5, 2:6] = dense(second)
    assert (dense(joined) == expected).all()
    assert joined.weights().tolist() == [1, 1, 1, 0.5 if valued else 1, 1, 1, 1]


def test_hstack_refuses_other_rows(x):
    with pytest.raises(InvalidInput, match="5 and 4 rows"):
        x.hstack([ConceptMatrix.from_pairs([], [], 4, 1)])


@pytest.mark.parametrize(
    "rows, concepts, message",
    [([5], [0], "row 5"), ([-1], [0], "row -1"), ([0], [6], "concept 6"), ([0, 1], [0], "concept pairs")],
)
def test_pairs_outside_are_named(rows, concepts, message):
    with pytest.raises(InvalidInput, match=message):
        ConceptMatrix.from_pairs(rows, concepts, 5, 6)


@pytest.mark.parametrize("position", [-1, 5])
def test_positions_outside_are_named(x, position):
    with pytest.raises(InvalidInput, match=f"position {position}"):
        x.take([position])


@pytest.mark.parametrize(
    "indptr, indices", [([0, 2], [0]), ([1, 1], [0]), ([0, 2, 1], [0]), ([0, 1], [9]), ([0, 1], [-1])]
)
def test_arrays_that_are_no_matrix_are_refused(indptr, indices):
    with pytest.raises(InvalidInput):
        ConceptMatrix(np.array(indptr), np.array(indices), 6)


def test_permuting_moves_rows_within_their_part_only():
    n = 300
    x = ConceptMatrix.from_pairs(np.arange(n), np.arange(n), n, n)
    parts = np.arange(n) % 3
    moved = permute_rows(x, parts, seed=4)
    assert sorted(moved.indices) == list(range(n))
    assert np.array_equal(moved.indices % 3, parts)
    assert np.mean(moved.indices == np.arange(n)) < 0.1
    assert np.array_equal(moved.indices, permute_rows(x, parts, seed=4).indices)
    assert not np.array_equal(moved.indices, permute_rows(x, parts, seed=5).indices)
