"""Backbones and experts on a GPU give the numbers of the CPU. Run by tests/test_on_a_pretend_gpu.py."""

from __future__ import annotations

import numpy as np
import pretend_gpu
import pytest
import torch
from PIL import Image

from qrp_store.models.backbone import BackboneOptions, load_backbone
from qrp_store.models.experts import ExpertOptions, load_expert
from qrp_store.models.extract import extract
from qrp_store.readers.image_folders import list_images
from qrp_store.samples import ImageFile

SIDE = 64


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImageFile]:
    """Seven images of several sizes; the fourth is cut off."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(7):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (70 + number, 80, 3), dtype=np.uint8)).save(path)
        if number == 3:
            path.write_bytes(path.read_bytes()[:200])
    return list_images(folder)


@pytest.mark.parametrize(
    ("arch", "layers"),
    [
        ("torchvision/resnet18", ()),
        ("timm/vit_tiny_patch16_224", ("blocks.1:cls", "norm:patches")),
    ],
    ids=["convolutions", "tokens"],
)
def test_vectors_are_those_of_the_cpu(images: list[ImageFile], arch: str, layers: tuple[str, ...]) -> None:
    blocks = [images[:4], images[4:]]
    rows = []
    for device in ("cpu", "cuda"):
        model = load_backbone(BackboneOptions(arch, "random", layers=layers, image_size=SIDE, device=device))
        pretend_gpu.reset()
        made = list(extract(model, blocks, batch_size=2, workers=2))
        assert [set(block.bad) for block in made] == [{3}, set()]
        rows.append(np.concatenate([block.rows for block in made]))
    assert pretend_gpu.counts["kernels"] > 0
    assert np.isnan(rows[0][3]).all()
    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["float16", "tf32"])
def test_other_precisions_run_there_too(precision: str) -> None:
    options = {"weights": "random", "image_size": SIDE}
    model = load_backbone(BackboneOptions("torchvision/resnet18", device="cuda", precision=precision, **options))
    plain = load_backbone(BackboneOptions("torchvision/resnet18", device="cpu", **options))
    pixels = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows, expected = model.forward(pixels).numpy(), plain.forward(pixels).numpy()
    assert np.abs(rows - expected).max() <= 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(
    "arch",
    ["torchvision/resnet18", "torchvision/ssdlite320_mobilenet_v3_large", "torchvision/lraspp_mobilenet_v3_large"],
    ids=["classifier", "detector", "segmenter"],
)
def test_scores_are_those_of_the_cpu(arch: str) -> None:
    random = torch.Generator().manual_seed(0)
    pictures = [torch.rand(3, side, 64, generator=random) for side in (64, 48)]  # two sizes: two passes
    scores = []
    for device in ("cpu", "cuda"):
        expert = load_expert(ExpertOptions(arch, "random", device=device))
        scores.append(expert.scores(pictures))
    assert scores[0].shape == (2, len(expert.names))
    assert scores[0].any()
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-3, atol=1e-5)
