"""Several layers of one model: as many embeddings, from one pass over the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qrp_store.errors import InvalidInput
from qrp_store.ingest import ingest
from qrp_store.ingest.images import ImageRows
from qrp_store.ingest.rows import BlockRows
from qrp_store.records import ArraySpec
from qrp_store.store import Store, create_store, open_store

RESNET: dict[str, Any] = {"arch": "torchvision/resnet18", "weights": "random", "image_size": 32, "batch_size": 4}
LAYERS = ("layer2", "layer3", "layer4")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    create_store(str(tmp_path / "store"))
    with open_store(str(tmp_path / "store")) as opened:
        yield opened


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(14):
        pixels = np.random.default_rng(number).integers(0, 255, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The blocks of every pass over the images; with `stop` in it, the pass after that many is interrupted."""
    seen: list[list[int]] = []
    real = ImageRows.blocks

    def watched(self: ImageRows, layout: ArraySpec, numbers: Sequence[int]) -> Iterator[BlockRows]:
        seen.append(list(numbers))
        return real(self, layout, numbers)

    monkeypatch.setattr(ImageRows, "blocks", watched)
    return seen


def test_each_layer_has_the_bits_that_it_has_alone(store: Store, photos: Path, passes: list[list[int]]) -> None:
    both = ingest(store, str(photos), dataset="d", backbone="r", layer=LAYERS, block_rows=5, **RESNET)
    assert passes == [[0, 1, 2]]
    assert [(one.backbone, one.dim) for one in both.layers] == [("r:layer2", 128), ("r:layer3", 256), ("r:layer4", 512)]
    assert both.id == both.layers[0].id
    for layer in LAYERS:
        ingest(store, str(photos), dataset="d", backbone=f"alone {layer}", layer=layer, block_rows=5, **RESNET)
        alone, together = store.embedding("d", f"alone {layer}"), store.embedding("d", f"r:{layer}")
        np.testing.assert_array_equal(together[:], alone[:])


def test_what_is_there_is_found_and_the_rest_made(store: Store, photos: Path, passes: list[list[int]]) -> None:
    first = ingest(store, str(photos), dataset="d", backbone="r:layer3", layer="layer3", **RESNET)
    both = ingest(store, str(photos), dataset="d", backbone="r", layer=["layer3", "layer4"], **RESNET)
    assert [one.cached for one in both.layers] == [True, False]
    assert both.layers[0].id == first.id
    again = ingest(store, str(photos), dataset="d", backbone="r", layer=["layer4", "layer3"], **RESNET)
    assert [one.id for one in again.layers] == [both.layers[1].id, both.layers[0].id]
    assert passes == [[0], [0]]


def test_an_interrupted_pass_goes_on(
    store: Store, photos: Path, passes: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = ImageRows.blocks

    def interrupted(self: ImageRows, layout: ArraySpec, numbers: Sequence[int]) -> Iterator[BlockRows]:
        yield from list(watched(self, layout, numbers))[:2]
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageRows, "blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ingest(store, str(photos), dataset="d", backbone="r", layer=LAYERS, block_rows=5, **RESNET)
    assert store.sql("SELECT * FROM embeddings").table.rows == []
    monkeypatch.setattr(ImageRows, "blocks", watched)
    report = ingest(store, str(photos), dataset="d", backbone="r", layer=LAYERS, block_rows=5, **RESNET)
    assert passes == [[0, 1, 2], [2]]
    assert [one.blocks for one in report.layers] == [{"total": 3, "written": 1, "reused": 2}] * 3


def test_a_bad_image_leaves_no_layer_behind(store: Store, photos: Path) -> None:
    (photos / "03.png").write_bytes(b"no image")
    with pytest.raises(InvalidInput, match=r"'03\.png'"):
        ingest(store, str(photos), dataset="d", backbone="r", layer=LAYERS, **RESNET)
    assert store.sql("SELECT * FROM embeddings").table.rows == []
    kept = ingest(store, str(photos), dataset="d", backbone="r", layer=LAYERS, skip_bad=True, **RESNET)
    assert [one.n_bad for one in kept.layers] == [1, 1, 1]


def test_a_layer_that_is_named_twice_is_refused(store: Store, photos: Path) -> None:
    with pytest.raises(InvalidInput, match="layer2 is given twice"):
        ingest(store, str(photos), dataset="d", backbone="r", layer=["layer2", "layer2"], **RESNET)
