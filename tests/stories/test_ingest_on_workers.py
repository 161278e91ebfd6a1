"""Ingest on the workers of a real Dask cluster: the bits, the bad rows and the resume of one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import LocalCluster
from PIL import Image

from qrp_store.catalog.entities import embeddings
from qrp_store.errors import InvalidInput
from qrp_store.ingest import IngestReport, ingest
from qrp_store.ingest import remote as ingest_remote
from qrp_store.records import Block
from qrp_store.store import Store, create_store, open_store

RESNET: dict[str, Any] = {"arch": "torchvision/resnet18", "weights": "random", "image_size": 32, "batch_size": 4}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as running:
        yield running.scheduler_address


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    create_store(str(tmp_path / "store"))
    with open_store(str(tmp_path / "store")) as opened:
        yield opened


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(22):
        pixels = np.random.default_rng(number).integers(0, 255, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def blocks(store: Store, report: IngestReport) -> tuple[Block, ...]:
    return embeddings.by_id(store.catalog, report.id).blocks


def test_images_have_the_bits_of_one_process_and_an_interrupted_ingest_goes_on(
    store: Store, photos: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, placed = ingest_remote.place_blocks, 0

    def interrupted(*arguments: object) -> Iterator[ingest_remote.PlacedBlock]:
        nonlocal placed
        for made in real(*arguments):  # type: ignore[arg-type]
            if placed == 3:
                raise KeyboardInterrupt
            placed += 1
            yield made

    alone = ingest(store, str(photos), dataset="alone", backbone="b", block_rows=5, **RESNET)
    monkeypatch.setattr("qrp_store.ingest.job.place_blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ingest(store, str(photos), dataset="d", backbone="b", block_rows=5, scheduler=address, **RESNET)
    monkeypatch.undo()
    report = ingest(store, str(photos), dataset="d", backbone="b", block_rows=5, scheduler=address, **RESNET)
    assert report.blocks == {"total": 5, "written": 2, "reused": 3}
    assert blocks(store, report) == blocks(store, alone)
    np.testing.assert_array_equal(store.embedding("d", "b")[:], store.embedding("alone", "b")[:])
    assert ingest(store, str(photos), dataset="d", backbone="b", scheduler=address, **RESNET).cached


def test_bad_images_on_workers_are_all_named(store: Store, photos: Path, address: str) -> None:
    for name in ("03.png", "21.png"):
        (photos / name).write_bytes(b"no image")
    with pytest.raises(InvalidInput) as caught:
        ingest(store, str(photos), dataset="d", backbone="b", block_rows=5, scheduler=address, **RESNET)
    assert "'03.png'" in caught.value.message
    assert "'21.png'" in caught.value.message


def test_arrays_in_another_order_have_the_bits_of_one_process(store: Store, tmp_path: Path, address: str) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 6))
    rows[17] = np.nan
    order = np.random.default_rng(1).permutation(50)
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "mixed.npy", rows[order])
    (tmp_path / "keys.txt").write_text("".join(f"{i}\n" for i in order))
    alone = ingest(store, str(tmp_path / "x.npy"), dataset="d", backbone="a", block_rows=8, skip_bad=True)
    there = ingest(
        store,
        str(tmp_path / "mixed.npy"),
        keys=str(tmp_path / "keys.txt"),
        dataset="d",
        backbone="b",
        block_rows=8,
        skip_bad=True,
        scheduler=address,
    )
    assert there.n_bad == alone.n_bad == 1
    assert blocks(store, there) == blocks(store, alone)


def test_a_worker_that_sees_another_arrays_root_writes_nothing(
    store: Store, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", np.eye(4))
    monkeypatch.setattr(type(store.arrays), "read_identity", lambda self: "another store")
    with pytest.raises(InvalidInput, match=r"worker tcp://.*not the root of the store's arrays"):
        ingest(store, str(tmp_path / "x.npy"), dataset="d", backbone="a", scheduler=address)
    assert not list((tmp_path / "store" / "arrays").rglob("c"))
