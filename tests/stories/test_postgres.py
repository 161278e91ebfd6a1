"""The same stories on a real Postgres, with the same numbers as on SQLite."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qrp_store.errors import Corrupt, InvalidInput, NotFound
from qrp_store.evaluate import EvaluateReport, evaluate
from qrp_store.ingest import ingest
from qrp_store.label import label
from qrp_store.look import leaderboard, listing, show
from qrp_store.maintenance.gc import gc
from qrp_store.maintenance.removal import retire, verify
from qrp_store.store import create_store, open_store

N = 800


def _run(folder: Path, url: str, arrays: str | None) -> EvaluateReport:
    create_store(url, arrays)
    with open_store(url) as store:
        ingest(store, str(folder / "x.npy"), dataset="d", backbone="b", block_rows=300)
        label(store, str(folder / "labels.csv"), dataset="d", concepts="c")
        return evaluate(store, dataset="d", k=(6,), seeds=(0, 1), epochs=5, bootstrap=50)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    group = rng.integers(5, size=N)
    np.save(tmp_path / "x.npy", (rng.normal(size=(5, 12))[group] * 3 + rng.normal(size=(N, 12))).astype(np.float32))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("key", "concept", "score"), *((i, f"<g {g}%>", 0.9) for i, g in enumerate(group))])
    return tmp_path


def test_postgres_gives_what_sqlite_gives(data: Path, new_database: Callable[[], str]) -> None:
    url = new_database()
    ours = _run(data, url, str(data / "arrays"))
    theirs = _run(data, str(data / "store"), None)
    assert ours.errors == theirs.errors == ()
    for a, b in zip(ours.results, theirs.results, strict=True):
        assert (a.fingerprint, a.nmi, a.nmi_ci_lo, a.train_loss) == (b.fingerprint, b.nmi, b.nmi_ci_lo, b.train_loss)
    with open_store(url) as store, open_store(str(data / "store")) as other:
        assert leaderboard(store).rows == leaderboard(other).rows
        for view in ("assignments", "labels"):
            query = f"SELECT key, {'cluster, part' if view == 'assignments' else 'concept, score'} FROM {view}"
            assert sorted(store.sql(query).table.rows) == sorted(other.sql(query).table.rows)
        for what in ("datasets", "backbones", "embeddings", "concepts", "clusterings", "results", "jobs"):
            assert len(listing(store, what).rows) == len(listing(other, what).rows)
        assert show(store, ours.results[0].id)["nmi"] == ours.results[0].nmi
        assert (store.embedding("d", "b")[:] == other.embedding("d", "b")[:]).all()


def test_postgres_with_s3_gives_the_same_and_is_plain_zarr(
    data: Path, new_database: Callable[[], str], new_bucket: Callable[[], str]
) -> None:
    import zarr
    from obstore.store import S3Store
    from zarr.storage import ObjectStore

    url, bucket = new_database(), new_bucket()
    ours = _run(data, url, f"{bucket}/lab")
    theirs = _run(data, str(data / "store"), None)
    assert ours.errors == ()
    assert [(r.fingerprint, r.nmi) for r in ours.results] == [(r.fingerprint, r.nmi) for r in theirs.results]
    with open_store(url) as store, open_store(str(data / "store")) as other:
        assert (store.embedding("d", "b")[:] == other.embedding("d", "b")[:]).all()
        (where,) = store.sql("SELECT array_url FROM embeddings")
        path = where["array_url"].removeprefix(f"{bucket}/")
        reader = ObjectStore(S3Store(bucket[5:], client_options={"allow_http": True}), read_only=True)
        plain = zarr.open_array(reader, path=path, mode="r")
        assert (np.asarray(plain[:]) == other.embedding("d", "b")[:]).all()
        assert verify(store, deep=True).problems == ()
        store.arrays.put(f"{path.removeprefix('lab/')}/c/1/0", b"damaged", replace=True)
        (problem,) = verify(store).problems
        assert "block 1" in problem["problem"]
        with pytest.raises(Corrupt, match="block 1"):
            store.embedding("d", "b")[:]
    with pytest.raises(InvalidInput, match="another store"):
        open_store(str(data / "store"), f"{bucket}/lab")


def test_postgres_is_kept_up_like_sqlite(data: Path, new_database: Callable[[], str]) -> None:
    url = new_database()
    with pytest.raises(InvalidInput, match="needs a location for its arrays"):
        create_store(url)
    with pytest.raises(NotFound, match="there is no store"):
        open_store(url)
    first = _run(data, url, str(data / "arrays")).results[0]
    with open_store(url) as store:
        with pytest.raises(InvalidInput, match="refused the statement"):
            store.sql("DELETE FROM result")
        assert list(store.sql("SELECT '%' AS sign")) == [{"sign": "%"}]
        assert verify(store, deep=True).problems == ()
        retire(store, "b/k6/s0", cascade=True, yes=True)
        assert [row["seed"] for row in store.sql("SELECT seed FROM results")] == [1]
        report = gc(store)
        assert report.objects > 0
        (tombstone,) = store.sql("SELECT id, nmi FROM result_versions WHERE state = 'retired'")
        assert tombstone == {"id": first.id, "nmi": first.nmi}
        assert verify(store, deep=True).problems == ()
        again = evaluate(store, dataset="d", k=(6,), seeds=(0,), epochs=5, bootstrap=50).results[0]
        assert (again.version, again.nmi) == (2, first.nmi)


@pytest.mark.parametrize("kind", ["directory", "postgres"])
def test_sql_takes_one_statement_so_that_none_ends_the_transaction_that_only_reads(
    tmp_path: Path, new_database: Callable[[], str], kind: str
) -> None:
    url = new_database() if kind == "postgres" else str(tmp_path / "store")
    create_store(url, str(tmp_path / "arrays"))
    with open_store(url) as store:
        ends, writable = "COMMIT; DELETE FROM store; SELECT 1", "SET TRANSACTION READ WRITE; DELETE FROM store; COMMIT"
        for statement in (
            ends,
            writable,
            "SELECT 1; DELETE FROM store",
            f"BEGIN; {ends}",
            "COMMIT",
            "DELETE FROM store",
        ):
            with pytest.raises(InvalidInput):
                store.sql(statement)
            assert len(store.sql("SELECT uuid FROM store;")) == 1
        assert store.sql("SELECT '5 %', '?', 1 AS a, 2 AS a WHERE 1 = 0").columns[2:] == ("a", "a")
        assert store.sql("SELECT '5 %', uuid FROM store WHERE 'x' <> ?", ("%",)).table.rows[0][0] == "5 %"
