"""Many rows in, out and away, on each database, a piece at a time."""

from __future__ import annotations

import numpy as np
import pytest
import sqlalchemy as sa

from qrp_store.catalog.database import bulk
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.model import tables as t

N, WIDTH = 23, 5


@pytest.fixture
def pairs(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """The rows of owner 1, in pieces that divide neither the rows nor the positions; owner 2 has one row."""
    monkeypatch.setattr(bulk, "CHUNK_ROWS", 7)
    monkeypatch.setattr(bulk, "_STATEMENT_ROWS", 3)
    monkeypatch.setattr(bulk, "_LINE_POSITIONS", 4)
    held = np.random.default_rng(0).random((N, WIDTH + 1)) < 0.4
    held[4:9] = False  # a whole piece without rows
    held[-1, [0, WIDTH]] = True
    at, column = np.nonzero(held)
    columns = {"position": at.astype(np.int64), "concept": (column - 1).astype(np.int32)}
    bulk.insert(
        catalog, t.verified_pair, {name: values[::-1] for name, values in columns.items()}, {"concept_set_pk": 1}
    )
    bulk.insert(catalog, t.verified_pair, {"position": [3], "concept": [2]}, {"concept_set_pk": 2})
    return columns["position"], columns["concept"]


def test_pairs_come_back_sorted(catalog: Catalog, pairs: tuple[np.ndarray, np.ndarray]) -> None:
    with catalog.read() as connection:
        at, concept = bulk.fetch_pairs(connection, t.verified_pair, "concept_set_pk", 1, N, WIDTH)
        assert (at.dtype, concept.dtype) == (np.int64, np.int32)
        np.testing.assert_array_equal(at, pairs[0])
        np.testing.assert_array_equal(concept, pairs[1])
        assert [len(x) for x in bulk.fetch_pairs(connection, t.verified_pair, "concept_set_pk", 9, N, WIDTH)] == [0, 0]


def test_an_owner_is_cleared_and_the_others_stay(catalog: Catalog, pairs: tuple[np.ndarray, np.ndarray]) -> None:
    bulk.clear(catalog, t.verified_pair, "concept_set_pk", 1)
    with catalog.read() as connection:
        assert [tuple(row) for row in connection.execute(sa.select(t.verified_pair))] == [(2, 3, 2)]


def test_a_score_that_is_not_a_number_is_null(catalog: Catalog) -> None:
    columns = {"position": np.arange(3), "concept": np.arange(3), "score": np.array([0.5, np.nan, 1.0])}
    bulk.insert(catalog, t.label, columns, {"concept_set_pk": 1})
    with catalog.read() as connection:
        assert list(connection.execute(sa.select(t.label.c.score)).scalars()) == [0.5, None, 1.0]
