"""What verify finds is mended with the same bytes, block by block, or no longer shown."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from qrp_store.evaluate import evaluate
from qrp_store.ingest import ingest
from qrp_store.label import label
from qrp_store.maintenance.removal import verify
from qrp_store.maintenance.repair import repair
from qrp_store.store import Store, create_store, open_store

N = 300


@pytest.fixture(params=["directory", "postgres and s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An evaluated store whose sources are still there; row 7 has no vector, and the keys came in another order."""
    if request.param == "directory":
        create_store(str(tmp_path / "store"))
        store = open_store(str(tmp_path / "store"))
    else:
        database: Callable[[], str] = request.getfixturevalue("new_database")
        bucket: Callable[[], str] = request.getfixturevalue("new_bucket")
        url = database()
        create_store(url, f"{bucket()}/team")
        store = open_store(url)
    group = np.random.default_rng(3).integers(5, size=N)
    rows = (np.random.default_rng(4).normal(size=(N, 6)) + group[:, None]).astype(np.float32)
    rows[7] = np.nan
    np.save(tmp_path / "first.npy", rows)
    ingest(store, str(tmp_path / "first.npy"), dataset="d", backbone="first", block_rows=64, skip_bad=True)
    np.save(tmp_path / "x.npy", rows[::-1].astype(np.float64))
    (tmp_path / "keys.txt").write_text("".join(f"{N - 1 - i}\n" for i in range(N)))
    ingest(
        store, str(tmp_path / "x.npy"), dataset="d", backbone="b", keys=str(tmp_path / "keys.txt"), block_rows=64,
        skip_bad=True, dtype="float16",
    )  # fmt: skip
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("key", "concept"), *((i, f"g{g}") for i, g in enumerate(group))])
    label(store, str(tmp_path / "labels.csv"), dataset="d", concepts="c")
    evaluate(store, dataset="d", backbones=["b"], k=(4,), epochs=2, bootstrap=10)
    with store:
        yield store


def objects(store: Store) -> dict[str, bytes]:
    return {path: store.arrays.get(path) for path in store.arrays.list("")}


def array_of(store: Store, backbone: str = "b") -> str:
    return store.embedding("d", backbone).stored.array.path


def test_blocks_arrays_and_metadata_come_back_as_they_were(store: Store) -> None:
    before = objects(store)
    path = array_of(store)
    whole = before[f"{path}/c/1/0"]
    store.arrays.put(f"{path}/c/1/0", whole[:9] + bytes([whole[9] ^ 4]) + whole[10:], replace=True)
    store.arrays.put(f"{path}/c/0/0", before[f"{path}/c/2/0"], replace=True)
    store.arrays.delete(f"{path}/c/4/0")
    store.arrays.put(f"{path}/zarr.json", b"{}", replace=True)
    for kind in ("clustering", "result"):
        store.arrays.delete(next(p for p in before if p.startswith(kind) and "/c/" in p))
    damaged = verify(store, deep=True).problems
    report = repair(store)
    assert len(damaged) == len(report.mended) == 6
    assert report.failed == report.dropped == report.left == ()
    told = {row["part"]: row["how"] for row in report.mended}
    assert sorted(told) == ["block 0", "block 1", "block 4", "centroids", "weights", "zarr.json"]
    assert told["block 1"].startswith("ingested again from ")
    assert objects(store) == before
    assert verify(store, deep=True).problems == ()
    assert repair(store).mended == ()


def test_what_cannot_be_made_again_is_kept_on_request_and_otherwise_retired(store: Store, tmp_path: Path) -> None:
    first, second = array_of(store, "first"), array_of(store)
    np.save(tmp_path / "x.npy", np.zeros((N, 6)))  # other numbers now
    (tmp_path / "first.npy").unlink()
    for path in (first, second):
        store.arrays.delete(f"{path}/c/1/0")
    kept = repair(store, keep=True)
    assert [row["part"] for row in kept.left] == ["block 1", "block 1"]
    assert [row["why"] for row in kept.left if "has changed since" in row["why"]]
    assert [row["why"] for row in kept.left if "no such file" in row["why"]]
    assert len(store.sql("SELECT * FROM embeddings")) == 2
    report = repair(store)
    assert [row["kind"] for row in report.dropped] == ["embedding", "embedding"]
    assert len(store.sql("SELECT * FROM embeddings")) == len(store.sql("SELECT * FROM leaderboard")) == 0
    assert len(store.sql("SELECT * FROM results")) == 1
    assert verify(store, deep=True).problems == ()


@pytest.mark.parametrize(
    ("statement", "table", "how"),
    [
        ("DELETE FROM label WHERE position < 10", "label", "taken from the arrays next to the set"),
        ("UPDATE label SET position = position + 1000 WHERE position > 290", "label", "taken from the arrays"),
        ("UPDATE assignment SET cluster = 3 - cluster, part = 2", "assignment", "assigned again"),
        ("DELETE FROM assignment WHERE part = 1", "assignment", "assigned again"),
        ("UPDATE cluster SET size = 0", "cluster", "counted again"),
    ],
)
def test_rows_that_are_in_the_arrays_too_come_back(store: Store, statement: str, table: str, how: str) -> None:
    queries = [f"SELECT * FROM {name} ORDER BY 1, 2, 3" for name in ("label", "assignment", "cluster")]
    before = [list(store.sql(query)) for query in queries]
    with store.catalog.write() as connection:
        connection.exec_driver_sql(statement)
    assert len(verify(store, deep=True).problems) == 1
    report = repair(store)
    (row,) = report.mended
    assert (row["part"], row["how"].startswith(how)) == (f"table {table}", True)
    assert report.failed == report.dropped == report.left == ()
    assert [list(store.sql(query)) for query in queries] == before
    assert verify(store, deep=True).problems == ()


def test_lost_rows_that_are_nowhere_else_are_named_and_their_artifact_is_retired(store: Store) -> None:
    with store.catalog.write() as connection:
        connection.exec_driver_sql("DELETE FROM concept WHERE number = 0")
    report = repair(store)
    (row,) = report.failed
    assert (row["part"], row["problem"]) == ("table concept", "4 concepts instead of 5")
    assert [row["kind"] for row in report.dropped] == ["concepts"]


def test_damaged_keys_are_named_and_nothing_is_retired(store: Store) -> None:
    with store.catalog.write() as connection:
        connection.exec_driver_sql("UPDATE sample SET key = 'other' WHERE position = 3")
    report = repair(store)
    assert [row["kind"] for row in report.left] == ["dataset"]
    assert report.dropped == ()
    assert len(store.sql("SELECT * FROM results")) == 1


def test_images_are_embedded_again(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)).save(tmp_path / "images" / f"{i}.png")
    create_store(str(tmp_path / "store"))
    with open_store(str(tmp_path / "store")) as store:
        ingest(
            store, str(tmp_path / "images"), dataset="d", backbone="b", arch="torchvision/resnet18", weights="random",
            image_size=32, seed=5, block_rows=2, device="cpu",
        )  # fmt: skip
        before = objects(store)
        store.arrays.delete(f"{array_of(store)}/c/1/0")
        (row,) = repair(store).mended
        assert row["part"] == "block 1"
        assert objects(store) == before
        # an image that has changed meanwhile is not taken for the old one
        store.arrays.delete(f"{array_of(store)}/c/1/0")
        Image.new("RGB", (24, 24)).save(tmp_path / "images" / "2.png")
        (row,) = repair(store, keep=True).left
        assert "have changed" in row["why"]
