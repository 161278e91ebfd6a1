"""Files of training loops and published transformers: the model's features come back, and the rule still holds."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.distributed import checkpoint

from qrp_store.errors import InvalidInput
from qrp_store.models.checkpoints import load_state
from qrp_store.models.recipes import CLIP, HALF, IMAGENET, UNIT

State = dict[str, torch.Tensor]
SIZE = {"img_size": 28, "patch_size": 14, "embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 0}


def filled(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every tensor drawn anew, so that no initial value can be right by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.1 + 0.01)
    return model.eval()


def vit(**options: Any) -> nn.Module:
    return VisionTransformer(**{**SIZE, **options})


def put(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def registers(state: State) -> State:
    """DINOv2 with registers as published: one position for the class token, `register_tokens`."""
    names = {name: name.replace("reg_token", "register_tokens") for name in state}
    positions = torch.cat([torch.full((1, 1, 24), 0.25), state["pos_embed"]], 1)
    return {
        **{names[name]: tensor for name, tensor in state.items()},
        "cls_token": state["cls_token"] - 0.25,
        "pos_embed": positions,
        "mask_token": torch.zeros(1, 24),
    }


def chunks(state: State) -> State:
    number = lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}."  # noqa: E731
    return {re.sub(r"^blocks\.(\d+)\.", number, name): tensor for name, tensor in state.items()}


def dinov3(state: State) -> State:
    names = (("reg_token", "storage_tokens"), ("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma"))
    made: State = {"mask_token": torch.zeros(1, 24), "rope_embed.periods": torch.ones(3)}
    for name, tensor in state.items():
        for ours, theirs in names:
            name = name.replace(ours, theirs)
        made[name] = tensor
    for block in range(4):
        made[f"blocks.{block}.attn.qkv.bias"] = torch.zeros(72)
        made[f"blocks.{block}.attn.qkv.bias_mask"] = torch.ones(72)
    return made


def openai(state: State) -> State:
    """CLIP's own names."""
    swaps = (
        ("patch_embed.proj", "conv1"),
        ("norm_pre", "ln_pre"),
        ("blocks.", "transformer.resblocks."),
        (".norm1", ".ln_1"),
        (".norm2", ".ln_2"),
        ("attn.qkv.", "attn.in_proj_"),
        ("attn.proj", "attn.out_proj"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
        ("pos_embed", "positional_embedding"),
    )
    made: State = {
        "visual.proj": torch.zeros(24, 8),
        "logit_scale": torch.tensor(1.0),
        "ln_final.weight": torch.ones(8),
    }
    for name, tensor in state.items():
        for ours, theirs in swaps:
            name = name.replace(ours, theirs)
        name = "class_embedding" if name == "cls_token" else re.sub(r"^norm\.", "ln_post.", name)
        made[f"visual.{name}"] = tensor.flatten() if name == "class_embedding" else tensor
    made["visual.positional_embedding"] = made["visual.positional_embedding"][0]
    return made


def densenet(state: State) -> State:
    return {re.sub(r"(denselayer\d+)\.(norm|relu|conv)(\d)\.", r"\1.\2.\3.", n): t for n, t in state.items()}


def average(state: State) -> State:
    return {name: tensor * 0 for name, tensor in state.items()}


Build = Callable[[], nn.Module]
Make = Callable[[State], Any]
SCALED = {"init_values": 1.0}
resnet: Build = lambda: torchvision.models.resnet18(num_classes=5)  # noqa: E731
eva: Build = lambda: Eva(  # noqa: E731
    img_size=32,
    patch_size=16,
    embed_dim=24,
    depth=4,
    num_heads=2,
    num_classes=0,
    qkv_bias=False,
    init_values=1.0,
    use_rot_pos_emb=True,
    use_abs_pos_emb=False,
    rope_type="dinov3",
    num_reg_tokens=4,
)
# the model, what is saved, the recipe that takes it, the statistics of its family
LAYOUTS: dict[str, tuple[Build, Make, str, Any]] = {
    "Lightning, model": (resnet, lambda s: {"epoch": 1, "state_dict": put("model.", s)}, "training-loop", None),
    "Lightning, with a loss": (
        resnet,
        lambda s: {"state_dict": {**put("net.", s), "criterion.weight": torch.ones(3)}},
        "training-loop",
        None,
    ),
    "Lightning, any attribute": (resnet, lambda s: {"state_dict": put("a.feature_extractor.", s)}, "search", None),
    "Lightning, moving average": (
        resnet,
        lambda s: {"state_dict": {**put("model.", average(s)), **put("ema_model.module.", s)}},
        "training-loop",
        None,
    ),
    "DeepSpeed": (resnet, lambda s: {"module": s, "ds_version": "0.15"}, "training-loop", None),
    "DeepSpeed, wrapped": (resnet, lambda s: {"module": put("_forward_module.model.", s)}, "training-loop", None),
    "FSDP": (resnet, lambda s: {"state_dict": put("_fsdp_wrapped_module.", s)}, "timm", None),
    "FSDP, layers": (
        resnet,
        lambda s: {"model": {re.sub(r"^(layer\d)\.", r"\1._fsdp_wrapped_module.", n): t for n, t in s.items()}},
        "mae",
        None,
    ),
    "compiled": (resnet, lambda s: put("_orig_mod.", s), "timm", None),
    "pytorch.org": (
        resnet,
        lambda s: {"model_state_dict": s, "optimizer_state_dict": {}},
        "training-loop",
        None,
    ),
    "net": (resnet, lambda s: {"net": s, "acc": 1.0}, "training-loop", None),
    "ema and model": (resnet, lambda s: {"model": average(s), "ema": s}, "ema", None),
    "average of weights": (resnet, lambda s: {"n_averaged": torch.tensor(3), **put("module.", s)}, "swav", None),
    "paths in the options": (resnet, lambda s: {"state_dict": s, "cfg": pathlib.PosixPath("/x")}, "timm", None),
    "timm": (resnet, lambda s: {"state_dict": average(s), "state_dict_ema": s, "arch": "resnet18"}, "timm", None),
    "SimCLR-v2": (resnet, lambda s: {"resnet": s, "head": {}}, "simclr-v2", UNIT),
    "DenseNet of 2017": (lambda: torchvision.models.densenet121(num_classes=5), densenet, "torchvision", None),
    "DINO": (vit, lambda s: {"teacher": put("backbone.", s), "student": {}}, "dino", IMAGENET),
    "MAE": (vit, lambda s: {"model": s}, "mae", IMAGENET),
    "DINOv2": (lambda: vit(**SCALED), lambda s: {**s, "mask_token": torch.zeros(1, 24)}, "dinov2", IMAGENET),
    "DINOv2, registers": (
        lambda: vit(**SCALED, reg_tokens=4, no_embed_class=True),
        registers,
        "dinov2",
        IMAGENET,
    ),
    "DINOv2, one's own in chunks": (
        lambda: vit(**SCALED),
        lambda s: {
            "teacher": {
                **put("backbone.", chunks(s)),
                "backbone.mask_token": torch.zeros(1, 24),
                "dino_head.mlp.0.weight": torch.zeros(2, 2),
            }
        },
        "dinov2",
        IMAGENET,
    ),
    "DINOv3": (eva, dinov3, "dinov2", IMAGENET),
    "I-JEPA": (
        lambda: vit(class_token=False, global_pool="avg", fc_norm=False),
        lambda s: {"encoder": put("module.", average(s)), "target_encoder": put("module.", s), "predictor": {}},
        "ijepa",
        IMAGENET,
    ),
    "open_clip, timm's tower": (
        vit,
        lambda s: {**put("visual.trunk.", s), "logit_scale": torch.tensor(1.0), "text.weight": torch.ones(2)},
        "open-clip",
        CLIP,
    ),
    "open_clip's SigLIP": (
        vit,
        lambda s: {**put("visual.trunk.", s), "logit_bias": torch.tensor(1.0), "text.weight": torch.ones(2)},
        "open-clip-siglip",
        HALF,
    ),
    "OpenAI's CLIP": (lambda: vit(pre_norm=True), openai, "open-clip", CLIP),
}


def headless(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    name = next((n for n in ("fc", "classifier") if isinstance(getattr(model, n, None), nn.Linear)), None)
    if name is not None:
        setattr(model, name, nn.Identity())
    return model.eval(), (name,) if name else ("head",)


def features(model: nn.Module) -> torch.Tensor:
    size = getattr(getattr(model, "patch_embed", None), "img_size", (64, 64))
    with torch.inference_mode():
        return model(torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_the_features_of_its_model(tmp_path: Path, layout: str) -> None:
    build, make, recipe, statistics = LAYOUTS[layout]
    original = filled(build())
    torch.save(make({n: t.clone() for n, t in original.state_dict().items()}), tmp_path / "c.pth")
    expected = features(headless(original)[0])
    model, classifier = headless(filled(build(), seed=1))
    loaded = load_state(tmp_path / "c.pth", model, classifier=classifier)
    torch.testing.assert_close(features(model), expected, rtol=1e-5, atol=1e-5)
    assert loaded.recipe.name == recipe
    if statistics is not None:
        assert loaded.statistics == statistics


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_are_left_out(tmp_path: Path, name: str) -> None:
    build = getattr(torchvision.models, name)
    original = build(aux_logits=True, init_weights=False)
    torch.save(original.state_dict(), tmp_path / "c.pth")
    model = build(aux_logits=False, init_weights=False)
    model.fc = nn.Identity()
    loaded = load_state(tmp_path / "c.pth", model, classifier=("fc",))
    last = "Mixed_7c.branch_pool.conv.weight" if name == "inception_v3" else "inception5b.branch4.1.conv.weight"
    torch.testing.assert_close(model.state_dict()[last], original.state_dict()[last], rtol=0, atol=0)
    assert "fc.weight" in loaded.left_out
    assert "left out (" in str(loaded)


def shards(state: State, folder: Path) -> Path:
    names = list(state)
    halves = {"a.safetensors": names[:60], "b.safetensors": names[60:]}
    for file, some in halves.items():
        save_file({name: state[name].contiguous() for name in some}, folder / file)
    places = {name: file for file, some in halves.items() for name in some}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def distributed(state: State, folder: Path) -> Path:
    checkpoint.save({"model": state, "epoch": 3}, checkpoint_id=folder, no_dist=True)
    return folder


def single(state: State, folder: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("write", [shards, distributed, single])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_folder_of_weights(tmp_path: Path, write: Callable[[State, Path], Path]) -> None:
    original = filled(resnet())
    path = write(original.state_dict(), tmp_path)
    model, classifier = headless(filled(resnet(), seed=1))
    load_state(path, model, classifier=classifier)
    torch.testing.assert_close(features(model), features(headless(original)[0]), rtol=0, atol=0)


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pathlib.os.mkdir, (str(self.marker),)  # type: ignore[attr-defined]


def test_code_in_a_distributed_checkpoint_never_runs(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "dcp").mkdir()
    (tmp_path / "dcp" / ".metadata").write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
    with pytest.raises(InvalidInput, match=r"would run code.*mkdir"):
        load_state(tmp_path / "dcp", resnet())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content, options, message",
    [
        (lambda s: {"state_dict": put("model.", s)}, {"prefix": "net."}, r"begins with 'net\.'.*prefixes in the file"),
        (lambda s: {"a": s, "b": s}, {}, "holds the model 2 times.*--container a.*--container b"),
        (lambda s: {"a": s, "b": s}, {"container": "c"}, r"container 'c'.*a \(122 tensors\), b \(122 tensors\)"),
        (lambda s: {**put("x.", s), "x.extra": torch.ones(2)}, {}, r"unmatched in the file \(1\): x.extra"),
        (lambda s: {**put("x.", s), "x.extra": torch.ones(2)}, {"prefix": "x."}, r"unmatched.*\(1\): x.extra"),
    ],
)
def test_a_place_that_is_not_clear_is_refused(
    tmp_path: Path, content: Make, options: dict[str, str], message: str
) -> None:
    torch.save(content(resnet().state_dict()), tmp_path / "c.pth")
    model, classifier = headless(resnet())
    with pytest.raises(InvalidInput) as caught:
        load_state(tmp_path / "c.pth", model, classifier=classifier, **options)
    assert re.search(message, f"{caught.value.message} | {caught.value.hint}")


def test_a_container_and_a_prefix_choose_a_copy(tmp_path: Path) -> None:
    original = filled(resnet())
    state = original.state_dict()
    torch.save({"a": put("m.", average(state)), "b": {**put("m.", state), "loss": torch.ones(1)}}, tmp_path / "c.pth")
    model, classifier = headless(filled(resnet(), seed=1))
    loaded = load_state(tmp_path / "c.pth", model, classifier=classifier, container="b", prefix="m")
    torch.testing.assert_close(features(model), features(headless(original)[0]), rtol=0, atol=0)
    assert (loaded.container, loaded.prefix, "loss" in loaded.left_out) == ("b", "m.", True)


@pytest.mark.parametrize("make", [lambda s: {**s, "mask_token": torch.zeros(1, 24)}, dict])
def test_positions_of_another_size_are_interpolated_when_asked(tmp_path: Path, make: Make) -> None:
    torch.save(make(filled(vit()).state_dict()), tmp_path / "c.pth")
    larger = filled(vit(img_size=56), seed=1)
    with pytest.raises(InvalidInput, match="position embeddings are of another image size") as caught:
        load_state(tmp_path / "c.pth", larger)
    assert "--interpolate-positions" in str(caught.value.hint)
    assert load_state(tmp_path / "c.pth", larger, interpolate=True).resampled == ("pos_embed",)
    with pytest.raises(InvalidInput, match=r"other shape.*patch_embed"):
        load_state(tmp_path / "c.pth", vit(patch_size=7, img_size=14), interpolate=True)
