"""From the file to the vectors: a ResNet-18 and a ViT saved in every layout give the bare model's embeddings."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.models import resnet18

from qrp_store.models.backbone import BackboneOptions, load_backbone
from qrp_store.models.extract import extract
from qrp_store.models.recipes import IMAGENET, RECIPES
from qrp_store.readers.image_folders import list_images
from qrp_store.samples import ImageFile

State = Mapping[str, torch.Tensor]
VIT = "vit_tiny_patch16_224"
Layout = Callable[[State, State, State], Any]


def put(prefix: str, state: State) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def trunk(state: State) -> dict[str, Any]:
    return {"base_model": {"model": {"trunk": put("_feature_blocks.", state), "heads": {}}}}


HEAD = {"0.weight": torch.zeros(4, 4), "3.bias": torch.zeros(4)}
# (the right copy with its classifier, the right copy without, the other copy without)
LAYOUTS: Mapping[str, Layout] = {
    "torchvision": lambda whole, good, other: dict(whole),
    "moco-v2": lambda whole, good, other: {
        "state_dict": {
            **put("module.encoder_q.", good),
            **put("module.encoder_q.fc.", HEAD),
            **put("module.encoder_k.", other),
            "module.queue": torch.zeros(4, 4),
        }
    },
    "moco-v3": lambda whole, good, other: {
        "state_dict": {
            **put("module.momentum_encoder.", other),
            **put("module.base_encoder.", good),
            **put("module.base_encoder.head.", HEAD),
            **put("module.predictor.", HEAD),
        }
    },
    "simsiam": lambda whole, good, other: {
        "state_dict": {
            **put("module.encoder.", good),
            **put("module.encoder.fc.", HEAD),
            **put("module.predictor.", HEAD),
        }
    },
    "swav": lambda whole, good, other: {
        **put("module.", good),
        **put("module.projection_head.", HEAD),
        "module.prototypes.weight": torch.zeros(3, 4),
    },
    "dino": lambda whole, good, other: {
        "student": {**put("module.backbone.", other), **put("module.head.", HEAD)},
        "teacher": {**put("backbone.", good), **put("head.", HEAD)},
        "args": argparse.Namespace(lr=1.0),
    },
    "barlow-twins": lambda whole, good, other: {
        "model": {**put("module.backbone.", good), **put("module.projector.", HEAD), "module.bn.bias": torch.zeros(4)}
    },
    "obow": lambda whole, good, other: {"network": {**good, **put("fc.", HEAD)}},
    "infomin": lambda whole, good, other: {
        "model": put("module.encoder.", other),
        "model_ema": {**put("encoder.", good), **put("head.", HEAD)},
    },
    "vissl": lambda whole, good, other: {"classy_state_dict": trunk(good)},
    "solo-learn": lambda whole, good, other: {
        "state_dict": {**put("momentum_backbone.", other), **put("backbone.", good), **put("projector.", HEAD)}
    },
    "timm": lambda whole, good, other: {"state_dict": put("module.", other), "state_dict_ema": put("module.", whole)},
    "mae": lambda whole, good, other: {
        "model": {**good, "mask_token": torch.zeros(1, 1, 4), "decoder_pos_embed": torch.zeros(4)}
    },
    "safetensors": lambda whole, good, other: dict(whole),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImageFile]:
    folder = tmp_path_factory.mktemp("images")
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return list_images(folder)


def vectors(images: list[ImageFile], arch: str, **options: Any) -> np.ndarray:
    model = load_backbone(BackboneOptions(arch, image_size=32, device="cpu", **options))
    return next(iter(extract(model, [images], batch_size=3, workers=1))).rows


def states(arch: str) -> tuple[State, State, State]:
    """(with classifier, without, another one without) of a network as a training script has it."""
    made = []
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            whole = resnet18() if arch == "resnet18" else timm.create_model(VIT, img_size=32, num_classes=10)
        made.append({name: tensor.clone() for name, tensor in whole.state_dict().items()})
    bare = [{n: t for n, t in s.items() if not n.startswith(("fc.", "head."))} for s in made]
    return made[0], bare[0], bare[1]


@pytest.fixture(scope="module", params=["resnet18", VIT])
def network(
    request: pytest.FixtureRequest, images: list[ImageFile]
) -> tuple[str, tuple[State, State, State], Mapping[Any, np.ndarray]]:
    """A network, its states, and the vectors that its bare model gives in a plain loop, by the inputs' statistics."""
    arch = request.param
    whole, good, other = states(arch)
    if arch == "resnet18":
        model: torch.nn.Module = resnet18()
        model.load_state_dict(whole)
        model.fc = torch.nn.Identity()
    else:
        model = timm.create_model(VIT, img_size=32, num_classes=0)
        model.load_state_dict(good)
    name = f"{'torchvision' if arch == 'resnet18' else 'timm'}/{arch}"
    loaded = load_backbone(BackboneOptions(name, "random", image_size=32, device="cpu"))
    usual = tuple(loaded.spec["preprocessing"][k] for k in ("mean", "std"))
    pictures = [loaded.transform(Image.open(io.BytesIO(image.read())).convert("RGB")) for image in images]
    plain = {}
    for statistics, numbers in ((None, usual), (IMAGENET, IMAGENET)):
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in numbers)
        with torch.inference_mode():
            plain[statistics] = model.eval()(torch.stack([(p / 255 - mean) / std for p in pictures])).numpy()
    return name, (whole, good, other), plain


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_gives_the_bare_models_vectors(
    tmp_path: Path, images: list[ImageFile], network: Any, layout: str
) -> None:
    arch, (whole, good, other), plain = network
    path = tmp_path / "c.pth"
    content = LAYOUTS[layout](whole, good, other)
    if layout == "safetensors":
        from safetensors.torch import save_file

        path = tmp_path / "c.safetensors"
        save_file(content, path)
    else:
        torch.save(content, path)
    found = vectors(images, arch, weights=str(path))
    family = RECIPES.get(layout)
    expected = plain[None if family is None else family.statistics]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["byol.pkl", "byol.npz", "simclr.ckpt-0.index", "simclr.pb", "resnet50.msgpack"])
def test_weights_of_jax_and_tensorflow_are_refused_with_the_way_to_convert(tmp_path: Path, name: str) -> None:
    import pickle

    from qrp_store.errors import InvalidInput

    content = pickle.dumps({"experiment_state": np.zeros(3)}) if name.endswith(".pkl") else b"\x00" * 64
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=name) as caught:
        load_backbone(BackboneOptions("torchvision/resnet18", str(tmp_path / name), device="cpu"))
    assert "convert" in str(caught.value.hint)
    assert "JAX" in str(caught.value.hint)
