"""The checksums of an artifact's rows: the same in any order, other ones for any other rows, and cheap."""

from __future__ import annotations

import time

import numpy as np
import pytest

from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.entities import clusterings, concept_sets, datasets
from qrp_store.catalog.entities.clusterings import ClusteringRow
from qrp_store.catalog.entities.concept_sets import Vocabulary
from qrp_store.catalog.lifecycle import checksums, lease
from qrp_store.errors import Corrupt
from qrp_store.records import Dataset, Spec


def _dataset(catalog: Catalog, n: int) -> Dataset:
    keys = [f"k{i}" for i in range(n)]
    made = datasets.stage_dataset(catalog, "d", keys, datasets.keys_fingerprint(keys))
    with catalog.write() as connection:
        datasets.publish_dataset(connection, made)
    return made


def _clustering(catalog: Catalog, dataset: Dataset, k: int = 7) -> lease.Claim:
    claimed = lease.claim(catalog, Spec("clustering", "k", "series", {"a": 1}))
    assert isinstance(claimed, lease.Claim)
    row = ClusteringRow("b", k, 0, dataset.n, 4, None, dataset.n, 0, 0, 0, 1.5, (2.0, 1.5), None, None)
    clusters = np.random.default_rng(0).integers(0, k, dataset.n).astype(np.int32)
    rows = np.arange(dataset.n), clusters, (np.arange(dataset.n) % 3).astype(np.uint8)
    clusterings.write(catalog, claimed, dataset, None, row, np.bincount(clusters, minlength=k), rows)
    clusterings.commit(catalog, claimed, {"timings": {"total_s": 2.0}})
    return claimed


def _concepts(catalog: Catalog, dataset: Dataset) -> lease.Claim:
    claimed = lease.claim(catalog, Spec("concepts", "c", "other series", {"a": 1}))
    assert isinstance(claimed, lease.Claim)
    labels = np.arange(dataset.n), (np.arange(dataset.n) % 2).astype(np.int32), np.linspace(0, 1, dataset.n)
    labels[2][3] = np.nan
    vocabulary = Vocabulary(("ä", "'; --"), (None, "g"), (1, 2))
    concept_sets.write(catalog, claimed, dataset, vocabulary, labels, exclusive=False, verified=labels[:2])
    concept_sets.commit(catalog, claimed, {"threshold": 1e-7})
    return claimed


def test_a_sum_does_not_depend_on_order_and_notices_every_change() -> None:
    rng = np.random.default_rng(1)
    columns = np.arange(5000), rng.integers(0, 9, 5000).astype(np.int32), rng.random(5000)
    columns[2][::7] = np.nan
    before = checksums.of_numbers(*columns)
    order = rng.permutation(5000)
    assert checksums.of_numbers(*(column[order] for column in columns)) == before
    seen = {before}
    for at in rng.integers(0, 5000, 200).tolist():
        for column in columns:
            changed = [c.copy() for c in columns]
            mine = next(c for c, own in zip(changed, columns, strict=True) if own is column)
            mine[at] = 0.25 if mine.dtype.kind == "f" else mine[at] ^ (1 << int(rng.integers(0, 20)))
            seen.add(checksums.of_numbers(*changed))
    swapped = columns[1].copy()
    one, other = np.flatnonzero(swapped == 1)[0], np.flatnonzero(swapped == 2)[0]
    swapped[[one, other]] = swapped[[other, one]]
    seen.add(checksums.of_numbers(columns[0], swapped, columns[2]))
    assert len(seen) > 590  # the same change may come twice
    assert checksums.of_numbers(*(column[:0] for column in columns)) == "0" * 16


def test_what_is_read_back_is_what_was_recorded(catalog: Catalog) -> None:
    dataset = _dataset(catalog, 1000)
    for claimed in (_clustering(catalog, dataset), _concepts(catalog, dataset)):
        with catalog.read() as connection:
            recorded = checksums.recorded(connection, claimed.pk)
            assert checksums.compute(connection, claimed.pk) == recorded
        assert checksums.differences(catalog, claimed.pk) == {}


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("UPDATE assignment SET cluster = 1 - cluster WHERE cluster < 2 AND position < 20", "assignment"),
        ("UPDATE assignment SET part = 2 WHERE position = 0", "assignment"),
        ("UPDATE cluster SET size = size + 1 WHERE number = 3", "cluster"),
        ("UPDATE clustering SET seed = 1", "clustering"),
        ("UPDATE clustering SET objective_per_iteration = '[2.0, 1.0]'", "clustering"),
        ("UPDATE label SET concept = 1 - concept WHERE position = 5", "label"),
        ("UPDATE label SET score = 0.5 WHERE position = 3", "label"),
        ("UPDATE label SET score = NULL WHERE position = 9", "label"),
        ("UPDATE verified_pair SET position = 2000 WHERE position = 9", "verified_pair"),
        ("UPDATE concept SET name = 'a' WHERE number = 0", "concept"),
        ("UPDATE concept SET concept_group = 'h' WHERE number = 0", "concept"),
        ("UPDATE concept_set SET exclusive = NOT exclusive", "concept_set"),
        ("UPDATE dataset SET name = 'e'", "concept_set"),
    ],
)
def test_every_edit_is_found(catalog: Catalog, statement: str, table: str) -> None:
    dataset = _dataset(catalog, 100)
    claims = _clustering(catalog, dataset), _concepts(catalog, dataset)
    with catalog.write() as connection:
        connection.exec_driver_sql(statement)
    found = {name for claimed in claims for name in checksums.differences(catalog, claimed.pk) or {}}
    assert table in found
    assert found <= {table, "clustering"}  # both are of the dataset
    if table == "assignment":
        with pytest.raises(Corrupt, match="table assignment"):
            clusterings.assignments(catalog, claims[0].id)
    if table in ("label", "verified_pair", "concept") and "score" not in statement:
        read = {
            "label": concept_sets.labels,
            "verified_pair": concept_sets.verified,
            "concept": concept_sets.vocabulary,
        }
        with pytest.raises(Corrupt, match=f"table {table}"):
            read[table](catalog, claims[1].id)


def test_changed_keys_are_not_given_out(catalog: Catalog) -> None:
    dataset = _dataset(catalog, 100)
    assert len(datasets.keys(catalog, dataset)) == 100
    with catalog.write() as connection:
        connection.exec_driver_sql("UPDATE sample SET key = 'x' WHERE position = 50")
    with pytest.raises(Corrupt, match="keys of dataset 'd'"):
        datasets.keys(catalog, dataset)


def test_old_artifacts_get_theirs_once(catalog: Catalog) -> None:
    claimed = _clustering(catalog, _dataset(catalog, 100))
    with catalog.read() as connection:
        before = checksums.recorded(connection, claimed.pk)
    with catalog.write() as connection:
        connection.exec_driver_sql("UPDATE artifact SET checksums = NULL")
    assert checksums.differences(catalog, claimed.pk) is None
    assert (checksums.fill(catalog), checksums.fill(catalog)) == (1, 0)
    with catalog.read() as connection:
        assert checksums.recorded(connection, claimed.pk) == before


def test_a_checksum_costs_little_beside_the_rows(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = _dataset(catalog, 400_000)
    spent = []
    of_numbers = checksums.of_numbers

    def timed(*columns: np.ndarray) -> str:
        started = time.thread_time()
        value = of_numbers(*columns)
        spent.append(time.thread_time() - started)
        return value

    monkeypatch.setattr(checksums, "of_numbers", timed)
    started = time.perf_counter()
    _clustering(catalog, dataset)
    assert sum(spent) < 0.05 * (time.perf_counter() - started)
