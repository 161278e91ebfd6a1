"""`ingest SOURCE --dataset D --backbone B`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

RESNET = ("--arch", "torchvision/resnet18", "--weights", "random", "--image-size", "32", "--batch-size", "8")
IMAGES = ["b.png", "a/z.PNG", "a/b/c.png", "a.png", "Z.jpg", "a/10.png", "a/9.png"]
WHERE = ("--dataset", "d", "--backbone", "b")


def stored(sql: Any, store: Path, backbone: str = "b") -> np.ndarray:
    """The newest embedding as plain zarr reads it."""
    (row,) = sql(store, "SELECT array_url FROM embeddings WHERE is_newest AND backbone = ?", backbone)
    array = zarr.open_array(row["array_url"], mode="r")
    assert array.metadata.zarr_format == 3
    return np.asarray(array[:])


def test_arrays_without_keys_are_numbered_from_0(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    qrp.ok("ingest", files.array(np.eye(12, dtype=np.float32)), *WHERE, store=store)
    qrp.ok("label", files.labels([(str(i), "x") for i in range(12)]), "--dataset", "d", "--concepts", "c", store=store)
    assert {r["key"] for r in sql(store, "SELECT key FROM labels")} == {str(i) for i in range(12)}


def test_the_array_opens_with_plain_zarr_without_this_package(world: Any, sql: Any) -> None:
    for name, rows in world.rows.items():
        assert np.array_equal(stored(sql, world.store, name), rows)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(24, dtype=np.float64).reshape(8, 3),
        np.arange(24, dtype=np.int32).reshape(8, 3),
        np.asfortranarray(np.arange(24, dtype=np.float32).reshape(8, 3)),
        np.arange(24, dtype=">f4").reshape(8, 3),
        np.arange(24, dtype=np.float16).reshape(8, 3),
    ],
    ids=["float64", "int32", "fortran", "big-endian", "float16"],
)
def test_dtype_float32_is_the_default(qrp: Any, store: Path, files: Any, sql: Any, values: np.ndarray) -> None:
    assert qrp.ok("ingest", files.array(values), *WHERE, store=store)["dtype"] == "float32"
    rows = stored(sql, store)
    assert rows.dtype == np.float32
    assert np.array_equal(rows, np.arange(24).reshape(8, 3))


def test_dtype_float16(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    values = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    assert qrp.ok("ingest", files.array(values), *WHERE, "--dtype", "float16", store=store)["dtype"] == "float16"
    assert np.array_equal(stored(sql, store), values.astype(np.float16))


def test_block_rows(qrp: Any, store: Path, files: Any) -> None:
    report = qrp.ok("ingest", files.array(np.ones((25, 2))), *WHERE, "--block-rows", 10, store=store)
    assert report["blocks"] == {"total": 3, "written": 3, "reused": 0}


def test_field_chooses_an_array_of_an_npz(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    np.savez(files.folder / "two.npz", x=np.ones((4, 2)), y=np.full((4, 3), 2.0))
    told = qrp.fails(4, "ingest", files.folder / "two.npz", *WHERE, store=store)
    assert "--field" in told
    qrp.ok("ingest", files.folder / "two.npz", *WHERE, "--field", "y", store=store)
    assert np.array_equal(stored(sql, store), np.full((4, 3), 2.0))


def test_the_same_asked_again_is_cached(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    words = ("ingest", files.array(np.eye(5)), *WHERE)
    first, second = qrp.ok(*words, store=store), qrp.ok(*words, store=store)
    assert (first["cached"], second["cached"]) == (False, True)
    assert (first["id"], first["fingerprint"]) == (second["id"], second["fingerprint"])
    assert second["blocks"]["written"] == 0
    assert len(sql(store, "SELECT * FROM embeddings")) == 1


def test_force_makes_the_next_version(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    qrp.ok("ingest", files.array(np.eye(5)), *WHERE, store=store)
    other = files.array(np.eye(5) * 2)
    assert "--force" in qrp.fails(4, "ingest", other, *WHERE, store=store)
    qrp.ok("ingest", other, *WHERE, "--force", store=store)
    rows = sql(store, "SELECT version, is_newest FROM embeddings ORDER BY version")
    assert rows == [{"version": 1, "is_newest": 0}, {"version": 2, "is_newest": 1}]
    assert np.array_equal(stored(sql, store), np.eye(5) * 2)


def test_the_first_ingest_makes_the_dataset(qrp: Any, store: Path, files: Any) -> None:
    assert "d" in qrp.fails(3, "evaluate", "--dataset", "d", store=store)
    qrp.ok("ingest", files.array(np.eye(5)), *WHERE, store=store)
    assert [r["name"] for r in qrp.rows("ls", "datasets", store=store)] == ["d"]


def test_keys_in_another_order_are_put_in_the_datasets_order_said_once(
    qrp: Any, own: Path, files: Any, world: Any, sql: Any
) -> None:
    order = np.random.default_rng(1).permutation(len(world.keys))
    rows = np.random.default_rng(2).normal(size=(len(world.keys), 5)).astype(np.float32)
    keys = files.keys([world.keys[i] for i in order])
    words = ("ingest", files.array(rows[order]), "--dataset", "photos", "--backbone", "mixed", "--keys", keys)
    ran = qrp.run(*words, "--block-rows", 77, store=own)
    assert ran.code == 0
    (said,) = ran.err.splitlines()
    assert "order" in said
    assert np.array_equal(stored(sql, own, "mixed"), rows)


@pytest.fixture(scope="module")
def shown(qrp: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An image folder and a store in which it was ingested once."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("shown")
    for number, key in enumerate(IMAGES):
        path = folder / "images" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (24, 24, 3), np.uint8)).save(path)
    (folder / "images" / "readme.txt").write_text("no image")
    qrp.ok("init", store=folder / "store")
    report = qrp.ok("ingest", folder / "images", *WHERE, *RESNET, store=folder / "store")
    assert (report["n"], report["dim"], report["n_bad"]) == (7, 512, 0)
    return folder / "images", folder / "store"


@pytest.fixture
def pictures(shown: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of both, to change."""
    images, store = shown
    return Path(shutil.copytree(images, tmp_path / "images")), Path(shutil.copytree(store, tmp_path / "store"))


def test_an_image_folder_is_read_recursively_with_sorted_posix_keys(
    qrp: Any, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    _, store = pictures
    out = tmp_path / "x.parquet"
    qrp.ok("export", "embedding", "--dataset", "d", "--backbone", "b", "-o", out, store=store)
    import pyarrow.parquet as pq

    table = pq.read_table(out)
    assert table.column("key").to_pylist() == sorted(IMAGES)
    vectors = np.array(table.column("embedding").to_pylist())
    assert len(np.unique(vectors.round(4), axis=0)) == 7


def test_the_same_images_again_are_cached_and_other_weights_are_refused(qrp: Any, pictures: tuple[Path, Path]) -> None:
    images, store = pictures
    assert qrp.ok("ingest", images, *WHERE, *RESNET, store=store)["cached"]
    told = qrp.fails(4, "ingest", images, *WHERE, *RESNET, "--seed", 1, store=store)
    assert "seed" in told or "weights" in told
    told = qrp.fails(4, "ingest", images, *WHERE, *RESNET, "--image-size", 48, store=store)
    assert "48" in told


def test_several_layers_are_as_many_backbones(qrp: Any, pictures: tuple[Path, Path], sql: Any) -> None:
    images, store = pictures
    words = ("ingest", images, *WHERE, *RESNET, "--layer", "layer3", "--layer", "layer4")
    told = qrp.ok(*words, store=store)
    assert [(one["backbone"], one["dim"]) for one in told["layers"]] == [("b:layer3", 256), ("b:layer4", 512)]
    assert told["id"] == told["layers"][0]["id"]
    names = {row["name"] for row in qrp.rows("ls", "backbones", store=store)}
    assert names == {"b", "b:layer3", "b:layer4"}
    np.testing.assert_allclose(stored(sql, store, "b:layer4"), stored(sql, store), rtol=1e-4, atol=1e-5)
    assert [one["cached"] for one in qrp.ok(*words, store=store)["layers"]] == [True, True]


def test_precision_and_memory_format_belong_to_the_backbone(qrp: Any, pictures: tuple[Path, Path], sql: Any) -> None:
    images, store = pictures
    line = ("ingest", images, "--dataset", "d", *RESNET)
    for more in (("--precision", "bfloat16"), ("--contiguous",)):
        assert more[-1].strip("-") in qrp.fails(4, *line, "--backbone", "b", *more, store=store)
    qrp.ok(*line, "--backbone", "half", "--precision", "bfloat16", store=store)
    whole, half = stored(sql, store), stored(sql, store, "half")
    assert 0 < np.abs(whole - half).max() < 0.05 * np.abs(whole).max()


def test_changed_image_bytes_under_an_old_key_are_exit_4_with_the_key(
    qrp: Any, pictures: tuple[Path, Path], sql: Any
) -> None:
    from PIL import Image

    images, store = pictures
    Image.new("RGB", (24, 24), "red").save(images / "a" / "9.png")
    told = qrp.fails(4, "ingest", images, "--dataset", "d", "--backbone", "c", *RESNET, store=store)
    assert "a/9.png" in told
    assert "b.png" not in told
    assert len(sql(store, "SELECT * FROM embeddings")) == 1


def test_images_that_cannot_be_read_are_all_listed_and_nothing_is_committed(
    qrp: Any, store: Path, shown: tuple[Path, Path], tmp_path: Path
) -> None:
    images = Path(shutil.copytree(shown[0], tmp_path / "images"))
    whole = (images / "b.png").read_bytes()
    (images / "b.png").write_bytes(whole[: len(whole) // 2])
    (images / "a" / "9.png").write_text("<html>not an image</html>")
    (images / "a" / "empty.jpg").write_bytes(b"")
    told = qrp.fails(4, "ingest", images, *WHERE, *RESNET, store=store)
    for key in ("b.png", "a/9.png", "a/empty.jpg"):
        assert repr(key) in told
    assert "--skip-bad" in told
    for what in ("datasets", "backbones", "embeddings"):
        assert qrp.rows("ls", what, store=store) == []
    report = qrp.ok("ingest", images, *WHERE, *RESNET, "--skip-bad", store=store)
    assert (report["n"], report["n_bad"]) == (8, 3)
    assert "5 usable rows" in qrp.fails(4, "cluster", *WHERE, "-k", 6, store=store)
