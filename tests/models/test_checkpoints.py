"""Checkpoints: every layout loads the same tensors, and what does not match is refused with the names."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18

from qrp_store.errors import InvalidInput, NotFound
from qrp_store.models.checkpoints import digest_file, digest_state, load_state
from qrp_store.models.recipes import RECIPES

State = dict[str, torch.Tensor]


def state_of(seed: int) -> State:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = resnet18().state_dict()
    return {n: torch.rand_like(t) if t.is_floating_point() else t for n, t in state.items()}


@pytest.fixture(scope="module")
def good() -> State:
    return state_of(1)


@pytest.fixture(scope="module")
def other() -> State:
    """A momentum or student copy, which must not be taken."""
    return state_of(2)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    model = resnet18()
    model.fc = nn.Identity()
    return model


def put(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def body(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def numbered(state: State) -> State:
    """As lightly's tutorials have it: nn.Sequential(*list(resnet.children())[:-1])."""
    places = {name: str(i) for i, (name, _) in enumerate(resnet18().named_children())}
    parts = ((name.partition("."), tensor) for name, tensor in body(state).items())
    return {f"{places[head]}.{rest}": tensor for (head, _, rest), tensor in parts}


HEAD = {"0.weight": torch.zeros(4, 4), "2.bias": torch.zeros(4)}
LAYOUTS: dict[str, tuple[str, Callable[[State, State], Any]]] = {
    "torchvision": ("torchvision", lambda g, o: g),
    "torchvision headless": ("torchvision", lambda g, o: body(g)),
    "moco": (
        "moco-v2",
        lambda g, o: {
            "epoch": 200,
            "arch": "resnet18",
            "optimizer": {"state": {}},
            "state_dict": {
                **put("module.encoder_k.", o),
                **put("module.encoder_q.", body(g)),
                **put("module.encoder_q.fc.", HEAD),
                "module.queue": torch.zeros(4, 8),
            },
        },
    ),
    "moco v3": (
        "moco-v3",
        lambda g, o: {
            "state_dict": {
                **put("module.momentum_encoder.", body(o)),
                **put("module.base_encoder.", body(g)),
                **put("module.base_encoder.fc.", HEAD),
                **put("module.predictor.", HEAD),
            }
        },
    ),
    "simsiam": (
        "simsiam",
        lambda g, o: {
            "state_dict": {
                **put("module.encoder.", body(g)),
                **put("module.encoder.fc.", HEAD),
                **put("module.predictor.", HEAD),
            }
        },
    ),
    "swav": (
        "swav",
        lambda g, o: {
            **put("module.", body(g)),
            **put("module.projection_head.", HEAD),
            "module.prototypes.weight": torch.zeros(3, 4),
        },
    ),
    "swav in training": ("swav", lambda g, o: {"state_dict": put("module.", body(g)), "epoch": 1}),
    "dino": (
        "dino",
        lambda g, o: {
            "student": {**put("module.backbone.", body(o)), **put("module.head.", HEAD)},
            "teacher": {**put("backbone.", body(g)), **put("head.", HEAD)},
            "args": argparse.Namespace(lr=0.1),
            "loss": np.float64(0.5),
        },
    ),
    "dino student": ("dino", lambda g, o: {"student": put("module.backbone.", body(g))}),
    "barlow twins": (
        "barlow-twins",
        lambda g, o: {
            "model": {
                **put("module.backbone.", body(g)),
                **put("module.projector.", HEAD),
                "module.bn.running_mean": torch.zeros(4),
            }
        },
    ),
    "obow": (
        "obow",
        lambda g, o: {"network": {**body(g), "fc.weight": torch.zeros(8192, 512), "fc.bias": torch.zeros(8192)}},
    ),
    "infomin": ("infomin", lambda g, o: {"model": {**put("module.encoder.", body(g)), **put("module.head.", HEAD)}}),
    "infomin average": (
        "infomin",
        lambda g, o: {
            "model": put("module.encoder.", body(o)),
            "model_ema": {**put("encoder.", body(g)), **put("head.", HEAD)},
        },
    ),
    "vissl": (
        "vissl",
        lambda g, o: {
            "classy_state_dict": {
                "base_model": {"model": {"trunk": put("_feature_blocks.", body(g)), "heads": put("0.", HEAD)}}
            }
        },
    ),
    "solo-learn": (
        "solo-learn",
        lambda g, o: {
            "state_dict": {
                **put("momentum_backbone.", body(o)),
                **put("backbone.", body(g)),
                **put("projector.", HEAD),
            }
        },
    ),
    "solo-learn, older": (
        "solo-learn",
        lambda g, o: {"state_dict": {**put("momentum_encoder.", body(o)), **put("encoder.", body(g))}},
    ),
    "lightly": (
        "lightly",
        lambda g, o: {"state_dict": {**put("backbone.", numbered(g)), **put("projection_head.", HEAD)}},
    ),
    "lightly's momentum": (
        "lightly",
        lambda g, o: {"state_dict": {**put("backbone_momentum.", numbered(o)), **put("backbone.", numbered(g))}},
    ),
    "lightly's teacher": (
        "lightly",
        lambda g, o: {"state_dict": {**put("student_backbone.", numbered(o)), **put("teacher_backbone.", numbered(g))}},
    ),
    "timm": ("timm", lambda g, o: {"state_dict": o, "state_dict_ema": g, "arch": "resnet18"}),
    "timm distributed": ("swav", lambda g, o: {"state_dict": put("module.", g)}),
    "timm compiled": ("timm", lambda g, o: {"state_dict": put("_orig_mod.", g)}),
    "timm compiled, several GPUs": (
        "timm",
        lambda g, o: {"model": put("module._orig_mod.", g), "model_ema": put("_orig_mod.module.", g)},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_right_tensors(
    tmp_path: Path, model: nn.Module, good: State, other: State, layout: str
) -> None:
    recipe, make = LAYOUTS[layout]
    torch.save(make(good, other), tmp_path / "c.pth")
    for asked in ("auto", recipe):
        model.load_state_dict(body(other))
        loaded = load_state(tmp_path / "c.pth", model, asked, ("fc",))
        assert loaded.recipe.name == recipe
        torch.testing.assert_close(model.state_dict(), body(good), rtol=0, atol=0)
        assert loaded.n_loaded == len(model.state_dict())
        assert recipe in str(loaded)


COPIES = {
    "moco": "moco-v2-key",
    "moco v3": "moco-v3-momentum",
    "dino": "dino-student",
    "infomin average": "infomin-online",
    "solo-learn": "solo-learn-momentum",
    "lightly's teacher": "lightly-student",
    "timm": "timm-online",
}


@pytest.mark.parametrize("layout", COPIES)
def test_the_other_copy_is_loaded_when_it_is_named(
    tmp_path: Path, model: nn.Module, good: State, other: State, layout: str
) -> None:
    torch.save(LAYOUTS[layout][1](good, other), tmp_path / "c.pth")
    model.load_state_dict(body(good))
    assert load_state(tmp_path / "c.pth", model, COPIES[layout], ("fc",)).recipe.name == COPIES[layout]
    torch.testing.assert_close(model.state_dict(), body(other), rtol=0, atol=0)


def test_every_recipe_has_a_layout_here() -> None:
    known = {recipe for recipe, _ in LAYOUTS.values()} | set(COPIES.values())
    elsewhere = {"ema", "dinov2", "ijepa", "open-clip", "open-clip-siglip", "simclr-v2", "training-loop"}
    assert set(RECIPES) - known == {"mae", "efficientnet-lite-pytorch"} | elsewhere  # test_layouts.py


def test_mae_leaves_its_decoder_out(tmp_path: Path) -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    state = {n: torch.rand_like(t) for n, t in model.state_dict().items()}
    extra = {
        "mask_token": torch.zeros(1, 1, 4),
        "decoder_pos_embed": torch.zeros(4),
        "decoder_blocks.0.x": torch.zeros(4),
    }
    torch.save({"model": {**state, **extra}, "args": argparse.Namespace()}, tmp_path / "c.pth")
    assert load_state(tmp_path / "c.pth", model).recipe.name == "mae"
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)


def test_safetensors_are_read(tmp_path: Path, model: nn.Module, good: State) -> None:
    save_file(good, tmp_path / "c.safetensors")
    load_state(tmp_path / "c.safetensors", model, classifier=("fc",))
    torch.testing.assert_close(model.state_dict(), body(good), rtol=0, atol=0)


def test_old_files_without_counters_are_read(tmp_path: Path, model: nn.Module, good: State) -> None:
    torch.save({n: t for n, t in good.items() if "num_batches" not in n}, tmp_path / "c.pth")
    load_state(tmp_path / "c.pth", model, classifier=("fc",))
    torch.testing.assert_close(model.state_dict()["conv1.weight"], good["conv1.weight"])


def without(state: State, name: str) -> State:
    return {n: t for n, t in state.items() if n != name}


@pytest.mark.parametrize(
    "make, recipe, said",
    [
        (lambda g: put("nobody.knows.", g), "torchvision", "unmatched in the file .*nobody.knows.conv1.weight"),
        (lambda g: {"epoch": 3}, "auto", "nothing matches any known layout; its keys: epoch"),
        (lambda g: {}, "auto", "nothing matches"),
        (lambda g: g, "moco-v2", "nothing matches recipe moco-v2; its keys: conv1.weight"),
        (lambda g: without(g, "layer3.0.conv1.weight"), "auto", r"missing in the file \(1\): layer3.0.conv1.weight"),
        (lambda g: without(g, "bn1.running_var"), "torchvision", r"missing in the file \(1\): bn1.running_var"),
        (lambda g: {**g, "layer5.weight": torch.zeros(2)}, "auto", r"unmatched in the file \(1\): layer5.weight"),
        (
            lambda g: {**g, "conv1.weight": torch.zeros(64, 3, 3, 3)},
            "auto",
            r"other shape .*conv1.weight \(64, 3, 3, 3\)",
        ),
        (lambda g: {"state_dict": put("module.encoder_k.", g)}, "auto", "encoder_k"),
        (lambda g: [1, 2], "auto", "holds a list"),
        (lambda g: torch.zeros(3), "auto", "holds a Tensor"),
    ],
)
def test_what_does_not_match_is_refused_by_name(
    tmp_path: Path, model: nn.Module, good: State, make: Callable[[State], Any], recipe: str, said: str
) -> None:
    torch.save(make(good), tmp_path / "c.pth")
    before = digest_state(model)
    with pytest.raises(InvalidInput, match=said) as caught:
        load_state(tmp_path / "c.pth", model, recipe, ("fc",))
    assert "c.pth" in caught.value.message
    assert digest_state(model) == before


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_code_in_a_checkpoint_never_runs(tmp_path: Path, model: nn.Module, good: State) -> None:
    marker = tmp_path / "ran"
    torch.save({"state_dict": good, "x": Hostile(marker)}, tmp_path / "zip.pth")
    torch.save({"state_dict": good, "x": Hostile(marker)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save(resnet18(), tmp_path / "module.pth")
    (tmp_path / "bare.pkl").write_bytes(pickle.dumps(Hostile(marker)))
    for name in ("zip.pth", "old.pth", "module.pth", "bare.pkl"):
        with pytest.raises(InvalidInput, match="would run code") as caught:
            load_state(tmp_path / name, model)
        assert name in caught.value.message
        assert not marker.exists()


def test_damaged_and_foreign_files_are_refused(tmp_path: Path, model: nn.Module, good: State) -> None:
    torch.save(good, tmp_path / "c.pth")
    whole = (tmp_path / "c.pth").read_bytes()
    contents = {
        "half.pth": whole[: len(whole) // 2],
        "empty.pth": b"",
        "text.pth": b"hello",
        "x.safetensors": b"12345678{",
    }
    contents |= {"byol.npz": b"PK", "simclr.index": b"x"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidInput, match=name):
            load_state(tmp_path / name, model)
    with pytest.raises(NotFound):
        load_state(tmp_path / "absent.pth", model)
    with pytest.raises(NotFound, match="no recipe 'mocov2'") as caught:
        load_state(tmp_path / "c.pth", model, "mocov2")
    assert "moco-v2" in str(caught.value.hint)


def test_digests(tmp_path: Path, model: nn.Module, good: State, other: State) -> None:
    torch.save(good, tmp_path / "a.pth")
    assert digest_file(tmp_path / "a.pth") != digest_file(Path(__file__))
    load_state(tmp_path / "a.pth", model, classifier=("fc",))
    first = digest_state(model)
    assert digest_state(model) == first
    torch.save(other, tmp_path / "b.pth")
    load_state(tmp_path / "b.pth", model, classifier=("fc",))
    assert digest_state(model) != first
