"""Architectures by name: the registry of families, and the two that build torch networks without their classifier."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrp_store.errors import InvalidInput, NotFound, Unavailable, first_line
from qrp_store.models import open_clip_models, programs, python_models, transformers_models
from qrp_store.models.network import Architecture, Preprocessing, Request, not_downloaded, unknown

if TYPE_CHECKING:
    import torch


def build(request: Request) -> Architecture:
    """Return an architecture with the weights that come with it, or as its authors initialise it.

    Raises NotFound with near names, InvalidInput for a size that cannot be, Unavailable when a package is not installed
    or the weights cannot be downloaded.
    """
    size = request.image_size
    if size is not None and not 8 <= size <= 4096:
        raise InvalidInput(f"image size {size}: expected 8 to 4096 pixels")
    builder = FAMILIES.get(request.arch.partition("/")[0])
    if builder is None or not request.name:
        raise InvalidInput(f"architecture {request.arch!r}", hint="expected " + ", ".join(FORMS))
    return builder(request)


def located(arch: str) -> str:
    """Return an architecture with an absolute path, where it names a file or folder."""
    family, _, name = arch.partition("/")
    path = Path(name).expanduser()
    if family in PATHS and name and path.exists():
        return f"{family}/{path.absolute()}"
    return arch


def _torchvision(request: Request) -> Architecture:
    name, pretrained, image_size = request.name, request.published, request.image_size
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown(f"torchvision/{name}", [f"torchvision/{k}" for k in known])
    options = {"image_size": image_size} if name.startswith("vit_") and image_size is not None else {}
    weights = models.get_model_weights(name).DEFAULT if pretrained else None
    model = torchvision_network(name, weights, **options)
    preprocessing = Preprocessing(image_size or 224, round((image_size or 224) * 256 / 224), "bilinear")
    if weights is not None:
        transforms = weights.transforms()
        crop, resize = transforms.crop_size[0], transforms.resize_size[0]
        side = image_size or crop
        preprocessing = Preprocessing(
            side,
            round(side * resize / crop),
            transforms.interpolation.value,
            tuple(transforms.mean),
            tuple(transforms.std),
        )
    classifier = _remove_classifier(model)
    return Architecture(
        model, (classifier,), preprocessing, weights.name if weights is not None else None, name.startswith("swin")
    )


def torchvision_network(name: str, weights: Any, **options: Any) -> torch.nn.Module:
    """Build a torchvision model of any kind, with its classifier. `weights` is torchvision's enum member or None.

    Raises InvalidInput when it cannot be built so, Unavailable when the weights cannot be downloaded.
    """
    from torchvision import models

    if weights is None and name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    try:
        model: torch.nn.Module = models.get_model(name, weights=weights, progress=False, **options)
    except (ValueError, TypeError, AssertionError) as error:
        raise InvalidInput(f"torchvision/{name}: cannot be built ({first_line(error)})") from error
    except (OSError, RuntimeError) as error:
        raise not_downloaded(f"torchvision/{name}", error) from error
    return model


def _remove_classifier(model: torch.nn.Module) -> str:
    """Put the identity in place of the last linear layer (SqueezeNet: convolution) of the head; its name."""
    from torch import nn

    head = next(name for name in ("fc", "classifier", "heads", "head") if hasattr(model, name))
    inside = list(model.get_submodule(head).named_modules(prefix=head))
    linear = [name for name, module in inside if isinstance(module, nn.Linear)]
    convolutions = [name for name, module in inside if isinstance(module, nn.Conv2d)]
    last = str((linear or convolutions)[-1])
    parent, _, child = last.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return last


def _timm(request: Request) -> Architecture:
    name, pretrained, image_size = request.name, request.published, request.image_size
    timm = timm_package(name)
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        base = name.split(".")[0]
        raise unknown(f"timm/{name}", [f"timm/{k}" for k in timm.list_pretrained(f"{base}.*")]) from error
    if config is None:
        raise unknown(f"timm/{name}", [])
    if pretrained and not config.has_weights:
        raise NotFound(f"timm/{name} has no published weights", hint="--weights FILE or random")
    options: dict[str, Any] = {"img_size": image_size} if image_size and config.fixed_input_size else {}
    options |= request.options
    model = timm_network(name, pretrained=pretrained, num_classes=0, **options)
    classifier = config.classifier or ()
    return Architecture(
        model,
        (classifier,) if isinstance(classifier, str) else tuple(classifier),
        _of_timm(name, timm.data.config.resolve_model_data_config(model), image_size),
        config.tag or None,
        getattr(model, "output_fmt", "NCHW") == "NHWC",
    )


def timm_package(name: str) -> Any:
    """Import timm. Raises Unavailable without it, and NotFound with near names when it has no model of that name."""
    try:
        import timm
        import timm.data.config
    except ImportError as error:
        raise Unavailable(f"timm/{name} needs timm", hint="pip install 'qrp-store[cpu]'") from error
    if ":" in name or not timm.is_model(name):
        raise unknown(f"timm/{name}", [f"timm/{k}" for k in timm.list_models()])
    return timm


def timm_network(name: str, *, pretrained: bool, **options: Any) -> Any:
    """Build a timm model. Raises InvalidInput when it cannot be built, Unavailable when it cannot be downloaded."""
    import timm

    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:  # the download goes through several libraries with errors of their own
        if not pretrained:
            raise InvalidInput(f"timm/{name} cannot be built ({first_line(error)})") from error
        raise not_downloaded(f"timm/{name}", error) from error


def _of_timm(name: str, config: Mapping[str, Any], image_size: int | None) -> Preprocessing:
    """timm's own evaluation preprocessing, as `timm.data.create_transform` does it."""
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise InvalidInput(f"timm/{name}: takes inputs {tuple(config['input_size'])}, expected square RGB")
    side = image_size or height
    return Preprocessing(
        image_size=side,
        resize=int(side / (config["crop_pct"] or 0.875)),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        crop_mode=config["crop_mode"] or "center",
    )


def as_published(built: Architecture, arch: str, path: Path) -> None:
    """Give torchvision's first GoogLeNet and Inception files the input transform that they were trained with."""
    name = arch.partition("/")[2]
    if name not in ("googlenet", "inception_v3") or not arch.startswith("torchvision/"):
        return
    from torchvision.models import get_model_weights

    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if any(f"-{digest[:8]}.pth" in weights.url for weights in get_model_weights(name)):
        built.model.transform_input = True  # type: ignore[assignment]


FAMILIES: Mapping[str, Callable[[Request], Architecture]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "hf": transformers_models.build,
    "open_clip": open_clip_models.build,
    "torchscript": programs.build_torchscript,
    "export": programs.build_export,
    "onnx": programs.build_onnx,
    "python": python_models.build,
}
# Families whose name is a file or folder, or may be one.
PATHS = frozenset(["hf", "open_clip", "torchscript", "export", "onnx"])
# Families whose file is the whole program, weights included.
PROGRAMS = frozenset(["torchscript", "export", "onnx"])
FORMS = (
    "torchvision/NAME",
    "timm/NAME",
    "hf/FOLDER-or-NAME",
    "open_clip/NAME",
    "torchscript/FILE",
    "export/FILE",
    "onnx/FILE",
    "python/MODULE:FACTORY",
)
