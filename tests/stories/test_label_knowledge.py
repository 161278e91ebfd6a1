"""What nobody looked at is unknown, not absent; and a set's rows are kept beside it, verified, made again when lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from qrp_store.catalog.entities import concept_sets
from qrp_store.cluster.imported import import_clustering
from qrp_store.errors import Corrupt, InvalidInput
from qrp_store.evaluate.data import JoinedConcepts, ProbeRequest, load
from qrp_store.evaluate.verified import known_block
from qrp_store.ingest import ingest
from qrp_store.label import concept_rows, label
from qrp_store.label.numbering import Unknown
from qrp_store.options import ProbeOptions
from qrp_store.store import Store, create_store, open_store

N = 60


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """60 samples in two clusters."""
    where: tuple[str, ...] = (str(tmp_path / "store"),)
    if request.param == "postgres":
        new_database: Callable[[], str] = request.getfixturevalue("new_database")
        where = (new_database(), str(tmp_path / "arrays"))
    create_store(*where)
    opened = open_store(*where)
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).standard_normal((N, 4)).astype("f4"))
    ingest(opened, str(tmp_path / "rows.npy"), dataset="d", backbone="b")
    np.save(tmp_path / "halves.npy", np.arange(N) % 2)
    import_clustering(opened, str(tmp_path / "halves.npy"), dataset="d", name="halves")
    yield opened
    opened.close()


def wide(path: Path, cells: np.ndarray) -> str:
    """A wide CSV of (n, 3) cells, NaN empty, keys 0, 1, …"""
    lines = [",".join([str(i), *("" if np.isnan(c) else str(int(c)) for c in row)]) for i, row in enumerate(cells)]
    path.write_text("key,a,b,c\n" + "\n".join(lines) + "\n")
    return str(path)


def cells() -> np.ndarray:
    found = (np.arange(N)[:, None] % np.array([2, 3, 4]) == 0).astype(float)
    found[:50, 2] = np.nan  # c was looked at for the last ten alone
    found[7, 0] = np.nan
    return found


def test_unknown_pairs_stay_unknown_in_sql(store: Store, tmp_path: Path) -> None:
    label(store, wide(tmp_path / "w.csv", cells()[:55]), dataset="d", concepts="w")
    rows = store.sql("SELECT key, concept FROM verified WHERE concepts = 'w' AND is_newest")
    found = {(int(row["key"]), row["concept"]) for row in rows}
    assert found == {
        *((i, name) for i in range(50) for name in "ab" if (i, name) != (7, "a")),
        *((i, None) for i in range(50, 55)),
    }
    assert concept_sets.get(store.catalog, "d", "w").n_verified == len(found)


def test_a_set_of_which_everything_is_known_says_nothing_of_it(store: Store, tmp_path: Path) -> None:
    label(store, wide(tmp_path / "w.csv", np.nan_to_num(cells())), dataset="d", concepts="w")
    assert concept_sets.get(store.catalog, "d", "w").n_verified is None
    assert len(store.sql("SELECT * FROM verified")) == 0


def request(**more: bool) -> ProbeRequest:
    return ProbeRequest(
        ProbeOptions(), bootstrap=0, permute=False, labelled_only=False, min_count=0, device="cpu", **more
    )


def test_only_verified_leaves_out_the_least_known_until_all_is_known(store: Store, tmp_path: Path) -> None:
    from qrp_store.catalog.entities import clusterings

    label(store, wide(tmp_path / "w.csv", cells()[:58]), dataset="d", concepts="w")
    (tmp_path / "l.csv").write_text("key,concept\n0,other\n")
    label(store, str(tmp_path / "l.csv"), dataset="d", concepts="l")
    parts = tuple(concept_sets.get(store.catalog, "d", name) for name in "wl")
    block = known_block(store, parts, np.arange(N))
    # c goes, known for eight of 58; then sample 7, of which a is unknown; 58 and 59 nobody looked at
    assert np.flatnonzero(~block.samples).tolist() == [7, 58, 59]
    assert block.concepts.tolist() == [True, True, False, True]
    ready = store.sql("SELECT DISTINCT clustering_id FROM assignments")[0]["clustering_id"]
    clustering = clusterings.by_id(store.catalog, ready)
    data = load(store, clustering, JoinedConcepts("w+l", parts), request(only_verified=True))
    assert data.concepts.names == ("a", "b", "other")
    assert len(data.positions) == N - 3
    assert load(store, clustering, JoinedConcepts("w+l", parts), request()).concepts.matrix.shape == (N, 4)


def test_a_concept_that_stands_in_two_joined_sets_says_of_which_it_is(store: Store, tmp_path: Path) -> None:
    from qrp_store.catalog.entities import clusterings

    label(store, wide(tmp_path / "w.csv", np.nan_to_num(cells())), dataset="d", concepts="w")
    for content in ("0,a\n", "1,a\n2,else\n"):
        (tmp_path / "l.csv").write_text("key,concept\n" + content)
        label(store, str(tmp_path / "l.csv"), dataset="d", concepts="l")
    parts = tuple(
        concept_sets.get(store.catalog, "d", name, version) for name, version in (("w", 1), ("l", 1), ("l", 2))
    )
    ready = store.sql("SELECT DISTINCT clustering_id FROM assignments")[0]["clustering_id"]
    data = load(store, clusterings.by_id(store.catalog, ready), JoinedConcepts("w+l@1+l", parts), request())
    assert data.concepts.names == ("a (w)", "b", "c", "a (l@1)", "a (l)", "else")


def test_unknown_keys_are_counted_once_and_not_all_kept() -> None:
    unknown = Unknown()
    for start in range(0, 50_000, 5_000):
        unknown.add([str(i) for i in range(start, start + 10_000)])
    assert (len(unknown), unknown.n_rows, list(unknown.first)) == (55_000, 100_000, [str(i) for i in range(1000)])


def test_nothing_known_together_is_refused(store: Store, tmp_path: Path) -> None:
    only = np.full((1, 3), np.nan)
    only[0, 0] = 1
    label(store, wide(tmp_path / "w.csv", only), dataset="d", concepts="w")
    found = concept_sets.get(store.catalog, "d", "w")
    block = known_block(store, [found], np.arange(N))
    assert (np.flatnonzero(block.samples).tolist(), block.concepts.tolist()) == ([0], [True, False, False])
    with pytest.raises(InvalidInput, match="--only-verified"):
        known_block(store, [found], np.arange(1, N))


def test_older_questions_keep_their_fingerprint() -> None:
    assert "only_verified" not in request().document()
    assert ProbeRequest.of(request(only_verified=True).document(), "cpu").only_verified


def labelled(store: Store, tmp_path: Path) -> tuple[concept_sets.StoredConcepts, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    pairs = sorted({(int(i), int(c)) for i, c in zip(rng.integers(0, N, 400), rng.integers(0, 30, 400), strict=True)})
    lines = [f"{i},c{c:02}" for i, c in rng.permutation(pairs)]
    (tmp_path / "l.csv").write_text("key,concept\n" + "\n".join(lines) + "\n")
    label(store, str(tmp_path / "l.csv"), dataset="d", concepts="l")
    indptr = np.concatenate([[0], np.cumsum(np.bincount([i for i, _ in pairs], minlength=N))])
    return concept_sets.get(store.catalog, "d", "l"), (indptr, np.array([c for _, c in pairs]))


def test_rows_from_the_cache_and_from_the_catalog_are_the_same(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, wanted = labelled(store, tmp_path)
    root = Path(store.arrays.url.removeprefix("file://"))
    folder = root / str(stored.artifact.provenance["rows"]["path"])
    shutil.rmtree(folder / "indices")
    for _ in range(2):  # the first makes the cache anew, the second reads it
        for mine, own in zip(concept_rows.load(store, stored), wanted, strict=True):
            np.testing.assert_array_equal(mine, own)
        monkeypatch.setattr(concept_sets, "labels", None)


def test_labels_that_are_not_those_recorded_are_corrupt(store: Store, tmp_path: Path) -> None:
    stored, _ = labelled(store, tmp_path)
    path = Path(store.arrays.url.removeprefix("file://")) / str(stored.artifact.provenance["rows"]["path"])
    shutil.rmtree(path)
    with store.catalog.write() as connection:
        connection.exec_driver_sql("DELETE FROM label WHERE position = 3")
    with pytest.raises(Corrupt, match="not those that were"):
        concept_rows.load(store, stored)
