"""`ingest SOURCE --arch …` of images that are no folder: the same vectors, keys, and answers to bad input."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

RESNET = ("--arch", "torchvision/resnet18", "--weights", "random", "--image-size", "32", "--batch-size", "8")
KEYS = [f"{c}/{i}.png" for c in "ab" for i in range(4)]
WHERE = ("--dataset", "d", "--backbone", "b")


@pytest.fixture(scope="module")
def photos(qrp: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, the same in a tar, in Parquet and in a list, and a store with the folder's vectors."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    images = folder / "images"
    for number, key in enumerate(KEYS):
        (images / key).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (24, 24, 3), np.uint8)).save(images / key)
    with tarfile.open(folder / "x.tar", "w") as archive:
        for key in reversed(KEYS):
            archive.add(images / key, key)
    pq.write_table(
        pa.table({"key": KEYS, "image": [(images / k).read_bytes() for k in KEYS]}),
        folder / "x.parquet",
        row_group_size=3,
    )
    (folder / "x.txt").write_text("".join(f"{images / key}\n" for key in KEYS))
    qrp.ok("init", store=folder / "store")
    qrp.ok("ingest", images, *WHERE, *RESNET, store=folder / "store")
    return folder


@pytest.mark.parametrize("source", ["x.tar", "x.parquet", "x.txt"])
def test_any_source_gives_the_folders_vectors(qrp: Any, photos: Path, tmp_path: Path, source: str) -> None:
    store = Path(shutil.copytree(photos / "store", tmp_path / "store"))
    more = ("--key-root", photos / "images") if source == "x.txt" else ()
    report = qrp.ok("ingest", photos / source, "--dataset", "d", "--backbone", "b", *RESNET, *more, store=store)
    assert report["cached"], "the same images under the same keys"
    report = qrp.ok("ingest", photos / source, *WHERE, *RESNET, *more, "--force", "--block-rows", 3, store=store)
    assert (report["n"], report["n_bad"], report["blocks"]["written"]) == (8, 0, 3)
    import qrp_store

    with qrp_store.open(store) as opened:
        first, second = opened.embedding("d", "b@1")[:], opened.embedding("d", "b")[:]
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)


def test_changed_bytes_in_a_tar_are_noticed(qrp: Any, photos: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(photos / "store", tmp_path / "store"))
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for key, source in zip(KEYS, [*KEYS[:-1], KEYS[0]], strict=True):
            archive.add(photos / "images" / source, key)
    told = qrp.fails(4, "ingest", tmp_path / "x.tar", "--dataset", "d", "--backbone", "c", *RESNET, store=store)
    assert KEYS[-1] in told
    assert KEYS[1] not in told


def test_bad_images_in_a_tar_are_all_named(qrp: Any, store: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for key in KEYS:
            archive.add(photos / "images" / key, key)
        archive.add(tmp_path / "bad.png", "../../bad.png")
        archive.add(tmp_path / "bad.png", "z/bad.png")
    told = qrp.fails(4, "ingest", tmp_path / "x.tar", *WHERE, *RESNET, store=store)
    assert "'../../bad.png'" in told
    assert "'z/bad.png'" in told
    assert qrp.rows("ls", "datasets", store=store) == []
    report = qrp.ok("ingest", tmp_path / "x.tar", *WHERE, *RESNET, "--skip-bad", store=store)
    assert (report["n"], report["n_bad"]) == (10, 2)


def test_images_need_a_model_and_no_key_file(qrp: Any, store: Path, photos: Path, files: Any) -> None:
    for source in ("images", "x.tar", "x.txt"):
        assert "--arch" in qrp.fails(4, "ingest", photos / source, *WHERE, store=store)
    told = qrp.fails(4, "ingest", photos / "x.tar", *WHERE, *RESNET, "--keys", files.keys(KEYS), store=store)
    assert "--keys" in told


def test_no_image_of_joined_archives_is_lost_and_other_files_are_counted(
    qrp: Any, store: Path, photos: Path, tmp_path: Path
) -> None:
    for number, keys in enumerate((KEYS[:3], KEYS[3:])):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
            for key in keys:
                archive.add(photos / "images" / key, key)
            archive.add(photos / "x.txt", f"notes{number}.heics")
    (tmp_path / "all.tar").write_bytes((tmp_path / "0.tar").read_bytes() + (tmp_path / "1.tar").read_bytes())
    ran = qrp.run("ingest", tmp_path / "all.tar", *WHERE, *RESNET, "--json", store=store)
    assert (ran.json["n"], ran.json["not_taken"]) == (8, {".heics": 2})
    assert "2 files not taken: 2 .heics" in ran.err
