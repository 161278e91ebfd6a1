"""Groupings made elsewhere are split, probed and ranked like our own."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qrp_store.catalog.entities import clusterings, datasets
from qrp_store.cluster.grouped import groups_of
from qrp_store.cluster.imported import import_clustering
from qrp_store.errors import InvalidInput, NotFound
from qrp_store.evaluate import evaluate
from qrp_store.ingest import ingest
from qrp_store.label import label
from qrp_store.progress import silent
from qrp_store.store import Store, create_store, open_store

N = 600


@pytest.fixture
def store(tmp_path: Path) -> Store:
    create_store(str(tmp_path / "store"))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(N, 8)).astype(np.float32))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("key", "concept"), *((i, f"group {i % 3}") for i in range(N))])
    opened = open_store(str(tmp_path / "store"))
    ingest(opened, str(tmp_path / "x.npy"), dataset="d", backbone="b")
    label(opened, str(tmp_path / "labels.csv"), dataset="d", concepts="c")
    return opened


def _assigned(store: Store, seed: int = 0) -> dict[str, int]:
    rows = store.sql("SELECT key, cluster FROM assignments WHERE backbone = 'human' AND seed = ?", (seed,))
    return {row["key"]: row["cluster"] for row in rows}


def test_an_array_in_dataset_order(store: Store, tmp_path: Path) -> None:
    clusters = np.arange(N) % 3
    clusters[5] = -1
    np.save(tmp_path / "c.npy", clusters)
    made = import_clustering(store, str(tmp_path / "c.npy"), dataset="d", name="human")
    assert (made.clusters, made.n, made.engine, made.cached) == (3, N - 1, "import", False)
    assert _assigned(store) == {str(i): i % 3 for i in range(N) if i != 5}
    assert import_clustering(store, str(tmp_path / "c.npy"), dataset="d", name="human").cached


@pytest.mark.parametrize("words", [["cat", "dog", "emu"], ["11", "1_1", "²"]])
def test_words_by_key_in_any_order(store: Store, tmp_path: Path, words: list[str]) -> None:
    with (tmp_path / "c.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("cluster", "key"), *((words[i % 3], i) for i in reversed(range(N))), ()])
    made = import_clustering(store, str(tmp_path / "c.csv"), dataset="d", name="human")
    stored = clusterings.by_id(store.catalog, made.id)
    assert stored.artifact.provenance["cluster_names"] == words
    assert _assigned(store) == {str(i): i % 3 for i in range(N)}


def test_nan_and_empty_cells_are_in_no_cluster(store: Store, tmp_path: Path) -> None:
    expected = {str(i): i % 3 for i in range(N) if i % 7}
    clusters = [i % 3 if i % 7 else None for i in range(N)]
    floats = np.array([np.nan if c is None else c for c in clusters])
    np.save(tmp_path / "c.npy", floats)
    pq.write_table(pa.table({"key": [str(i) for i in range(N)], "cluster": floats}), tmp_path / "c.parquet")
    pq.write_table(pa.table({"id": np.arange(N) * 1.0, "Cluster": clusters}), tmp_path / "ids.parquet")
    for name, missing in (("nan", "nan"), ("empty", ""), ("null", "null"), ("NA", "<NA>"), ("minus", "-1.0")):
        lines = ["key,cluster", *(f"{i},{missing if c is None else float(c)}" for i, c in enumerate(clusters))]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    for path in (*tmp_path.glob("*.csv"), *tmp_path.glob("c.*"), tmp_path / "ids.parquet"):
        if path.name != "labels.csv":
            import_clustering(store, str(path), dataset="d", name="human")
            assert _assigned(store) == expected, path


def test_keys_that_differ_in_form_are_explained(store: Store, tmp_path: Path) -> None:
    keys = ["caf\u00e9/1.png", "a/2.png", "0003.jpg"]
    np.save(tmp_path / "y.npy", np.random.default_rng(0).normal(size=(3, 4)))
    (tmp_path / "keys.txt").write_text("\n".join(keys))
    ingest(store, str(tmp_path / "y.npy"), dataset="e", backbone="small", keys=str(tmp_path / "keys.txt"))
    cases = {
        "a\\2.png": "backslashes",
        "A/2.png": "case",
        "a/2.jpeg": "the ending",
        "3.jpg": "zeros",
        "/data/x/0003.jpg": "the folders",
        "8f3c2d1e-0003.jpg": "a hash",
    }
    for key, what in cases.items():
        (tmp_path / "c.csv").write_text(f"key,cluster\n{key},0\n")
        with pytest.raises(InvalidInput, match=what):
            import_clustering(store, str(tmp_path / "c.csv"), dataset="e", name="human")


def test_keys_match_by_unicode_form_blanks_basename_and_stem(store: Store, tmp_path: Path) -> None:
    more = [str(i) for i in range(10, 70)]
    keys = ["caf\u00e9/1.png", "a/2.png", "b/0003.jpg", "b/4.jpg", *(f"m/{name}.jpg" for name in more)]
    np.save(tmp_path / "y.npy", np.random.default_rng(0).normal(size=(len(keys), 4)))
    (tmp_path / "keys.txt").write_text("\n".join(keys))
    ingest(store, str(tmp_path / "y.npy"), dataset="e", backbone="small", keys=str(tmp_path / "keys.txt"))
    owner = datasets.get_dataset(store.catalog, "e")
    ways: dict[str, Any] = {
        "key": ["cafe\u0301/1.png", " a/2.png ", "b/0003.jpg", "b/4.jpg", *keys[4:]],
        "basename": ["x\\1.png", "/data/2.png", "0003.jpg", "z/4.jpg", *(f"{name}.jpg" for name in more)],
        "stem": ["1.jpeg", "2", "q\\0003.tif", "4.png", *more],
    }
    for match, written in ways.items():
        rows = [f"{key};{i % 2}" for i, key in enumerate(written)]
        (tmp_path / "c.csv").write_text("\ufeffsep=;\nkey;cluster\n" + "\n".join(rows) + "\n")
        made = import_clustering(store, str(tmp_path / "c.csv"), dataset="e", name=match, match=match)
        stored = store.sql("SELECT key, cluster FROM assignments WHERE clustering_id = ?", (made.id,))
        assert {row["key"]: row["cluster"] for row in stored} == {key: i % 2 for i, key in enumerate(keys)}, match
        (tmp_path / "g.tsv").write_text("key\tgroup\n" + "\n".join(f"{k}\tg" for k in written[:2]), "utf-16")
        groups = groups_of(store, owner, str(tmp_path / "g.tsv"), match)
        assert groups.of.tolist() == [0, *range(len(keys) - 1)]
    with pytest.raises(InvalidInput, match="differs from") as caught:
        import_clustering(store, str(tmp_path / "c.csv"), dataset="e", name="n")
    assert "--match stem would find them" in str(caught.value.hint)
    (tmp_path / "c.csv").write_text("key,cluster\na/2.png,0\na/2.png ,1\n")
    with pytest.raises(InvalidInput, match=r"both mean the sample .a/2\.png."):
        import_clustering(store, str(tmp_path / "c.csv"), dataset="e", name="n")


def test_a_grouping_that_counts_from_one_is_never_shifted(store: Store, tmp_path: Path) -> None:
    for form in ("{}", "{}.0", "{}.jpg"):
        rows = [f"{form.format(i + 1)},{i % 3}" for i in range(N)]
        (tmp_path / "c.csv").write_text("key,cluster\n" + "\n".join(rows) + "\n")
        with pytest.raises(InvalidInput) as caught:
            import_clustering(store, str(tmp_path / "c.csv"), dataset="d", name="n", match="stem")
        assert "count from 1" in str(caught.value.hint), form


def test_evaluated_for_every_seed(store: Store, tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.arange(N) % 3)
    import_clustering(store, str(tmp_path / "c.npy"), dataset="d", name="human")
    report = evaluate(store, dataset="d", imported=["human"], seeds=(0, 1), epochs=20, bootstrap=0)
    assert report.errors == ()
    assert [(r.backbone, r.clusters, r.engine) for r in report.results] == [("human", 3, "import")] * 2
    assert all(r.nmi > 0.9 for r in report.results)  # the concepts are the grouping
    assert _assigned(store, 0) == _assigned(store, 1)
    (row,) = store.sql("SELECT backbone, n_seeds FROM leaderboard")
    assert row == {"backbone": "human", "n_seeds": 2}
    again = evaluate(store, dataset="d", imported=["human"], seeds=(0, 1), epochs=20, bootstrap=0)
    assert all(r.cached for r in again.results)


@pytest.mark.parametrize(
    "rows, word",
    [
        ([("key", "cluster"), ("nobody", 1), ("1", 0)], "not in dataset"),
        ([("key", "cluster"), ("1", 1), ("1", 0)], "duplicate"),
        ([("key", "group"), ("1", 1)], "no column cluster"),
        ([("key", "cluster"), ("1", 0), ("2", 0)], "expected 2"),
        ([("key", "cluster"), ("1", -7), ("2", 0)], "from -7"),
        ([("key", "cluster")], "no keys"),
    ],
)
def test_rows_that_do_not_fit(store: Store, tmp_path: Path, rows: list[tuple[object, ...]], word: str) -> None:
    with (tmp_path / "c.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(InvalidInput, match=word):
        import_clustering(store, str(tmp_path / "c.csv"), dataset="d", name="human")


def test_a_row_without_a_key_does_not_fit(store: Store, tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["1", None], "cluster": [0, 1]}), tmp_path / "c.parquet")
    with pytest.raises(InvalidInput, match="row 2: the key is empty"):
        import_clustering(store, str(tmp_path / "c.parquet"), dataset="d", name="human")


def test_arrays_that_do_not_fit(store: Store, tmp_path: Path) -> None:
    arrays = {"short": np.arange(5), "floats": np.ones(N), "wide": np.ones((N, 2), int), "below": np.arange(N) - 2}
    arrays["beyond"] = np.arange(N) % 2 * (2**32 + 1)
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(InvalidInput):
            import_clustering(store, str(tmp_path / f"{name}.npy"), dataset="d", name="human")
    for far in (2**40, 2**63 + 5):  # as 32 bits: another cluster
        numbers = np.arange(N, dtype=np.uint64) % 3
        numbers[7] = far
        np.save(tmp_path / "far.npy", numbers)
        with pytest.raises(InvalidInput, match=rf"far\.npy: clusters from 0 to {far}"):
            import_clustering(store, str(tmp_path / "far.npy"), dataset="d", name="human")
    with pytest.raises(NotFound):
        import_clustering(store, str(tmp_path / "none.npy"), dataset="d", name="human")
    with pytest.raises(NotFound):
        evaluate(store, dataset="nope", imported=["human"])


def test_the_name_of_a_backbone_is_warned_about(store: Store, tmp_path: Path) -> None:
    warnings: list[str] = []

    class Warned(type(silent)):  # type: ignore[misc]
        def warn(self, message: str) -> None:
            warnings.append(message)

    np.save(tmp_path / "c.npy", np.arange(N) % 3)
    import_clustering(store, str(tmp_path / "c.npy"), dataset="d", name="human", progress=Warned())
    assert warnings == []
    import_clustering(store, str(tmp_path / "c.npy"), dataset="d", name="b", progress=Warned())
    assert [w for w in warnings if "'b' is a backbone of d, too" in w]
