"""Architectures by name, without their classifier: one builder for torchvision, one for timm."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from qrp_store.errors import InvalidInput, NotFound, Unavailable, first_line

if TYPE_CHECKING:
    import torch

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an RGB picture before the network sees it; sizes in pixels, mean and std of values in [0, 1].

    `crop_mode` as timm names them: "center" scales the shorter side to `resize` and crops the middle, "squash" scales
    both sides, "border" scales the longer side and pads.
    """

    image_size: int
    resize: int
    interpolation: str
    mean: tuple[float, float, float] = _MEAN
    std: tuple[float, float, float] = _STD
    crop_mode: str = "center"

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "image_size": self.image_size,
            "resize": self.resize,
            "interpolation": self.interpolation,
            "mean": [round(v, 6) for v in self.mean],
            "std": [round(v, 6) for v in self.std],
            "crop_mode": self.crop_mode,
        }

    def line(self) -> str:
        """As one line for people."""
        how = {"squash": "both sides", "border": "longer side"}.get(self.crop_mode, "shorter side")
        cut = "pad to" if self.crop_mode == "border" else "crop the middle"
        numbers = " ".join(f"{name} {_numbers(values)}" for name, values in (("mean", self.mean), ("std", self.std)))
        return f"{how} to {self.resize} ({self.interpolation}), {cut} {self.image_size}; {numbers}"


def _numbers(values: tuple[float, float, float]) -> str:
    same = values[0] == values[1] == values[2]
    return f"{values[0]:g}" if same else "/".join(f"{v:.4g}" for v in values)


@dataclass(frozen=True)
class Architecture:
    """A model that ends before its classifier; `classifier` are the names of what was taken off."""

    model: torch.nn.Module
    classifier: tuple[str, ...]
    preprocessing: Preprocessing
    weights_name: str | None
    channels_last: bool

    def resize(self) -> Callable[[Any], torch.Tensor]:
        """The picture's way to uint8 (3, image_size, image_size): everything but the statistics."""
        from torchvision import transforms
        from torchvision.transforms import InterpolationMode as Mode

        p = self.preprocessing
        if p.crop_mode == "border":
            from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio

            red, green, blue = (round(255 * v) for v in p.mean)
            scale = ResizeKeepRatio(p.resize, interpolation=p.interpolation, longest=1.0)  # type: ignore[no-untyped-call]
            crop: Any = CenterCropOrPad(p.image_size, fill=(red, green, blue))
        else:
            to = (p.resize, p.resize) if p.crop_mode == "squash" else p.resize
            scale = transforms.Resize(to, interpolation=Mode(p.interpolation))
            crop = transforms.CenterCrop(p.image_size)
        steps: Callable[[Any], torch.Tensor] = transforms.Compose([scale, crop, transforms.PILToTensor()])
        return steps


def build(
    arch: str, pretrained: bool, image_size: int | None, options: Mapping[str, Any] = MappingProxyType({})
) -> Architecture:
    """An architecture, with its published weights or as its authors initialise it. `options`: timm's own,
    for a file whose network is built otherwise.

    Raises NotFound with near names, InvalidInput for a size that cannot be, Unavailable when timm is not installed or
    the weights cannot be downloaded.
    """
    if image_size is not None and not 8 <= image_size <= 4096:
        raise InvalidInput(f"image size {image_size}: expected 8 to 4096 pixels")
    library, slash, name = arch.partition("/")
    builder = BUILDERS.get(library)
    if builder is None or not slash or not name:
        raise InvalidInput(f"architecture {arch!r}", hint="expected torchvision/NAME or timm/NAME")
    return builder(name, pretrained, image_size, options)


def _torchvision(name: str, pretrained: bool, image_size: int | None, _: Mapping[str, Any]) -> Architecture:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise _unknown(f"torchvision/{name}", [f"torchvision/{k}" for k in known])
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3") and not pretrained:
        options = {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_") and image_size is not None:
        options = {"image_size": image_size}
    weights = models.get_model_weights(name).DEFAULT if pretrained else None
    try:
        model = models.get_model(name, weights=weights, progress=False, **options)
    except (ValueError, AssertionError) as error:
        raise InvalidInput(f"torchvision/{name}: cannot be built ({first_line(error)})") from error
    except (OSError, RuntimeError) as error:
        raise _not_downloaded(f"torchvision/{name}", error) from error
    preprocessing = Preprocessing(image_size or 224, round((image_size or 224) * 256 / 224), "bilinear")
    if weights is not None:
        own = weights.transforms()
        crop, resize = own.crop_size[0], own.resize_size[0]
        side = image_size or crop
        preprocessing = Preprocessing(
            side, round(side * resize / crop), own.interpolation.value, tuple(own.mean), tuple(own.std)
        )
    classifier = _remove_classifier(model)
    return Architecture(
        model, (classifier,), preprocessing, weights.name if weights is not None else None, name.startswith("swin")
    )


def _remove_classifier(model: torch.nn.Module) -> str:
    """Put the identity in place of the last linear layer (SqueezeNet: convolution) of the head; its name."""
    from torch import nn

    head = next(name for name in ("fc", "classifier", "heads", "head") if hasattr(model, name))
    inside = list(model.get_submodule(head).named_modules(prefix=head))
    linear = [name for name, module in inside if isinstance(module, nn.Linear)]
    convolutions = [name for name, module in inside if isinstance(module, nn.Conv2d)]
    last = str((linear or convolutions)[-1])
    parent, _, own = last.rpartition(".")
    setattr(model.get_submodule(parent), own, nn.Identity())
    return last


def _timm(name: str, pretrained: bool, image_size: int | None, more: Mapping[str, Any]) -> Architecture:
    try:
        import timm
        from timm.data.config import resolve_model_data_config
    except ImportError as error:
        raise Unavailable(f"timm/{name} needs timm", hint="pip install 'qrp-store[cpu]'") from error
    if ":" in name or not timm.is_model(name):
        raise _unknown(f"timm/{name}", [f"timm/{k}" for k in timm.list_models()])
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        base = name.split(".")[0]
        raise _unknown(f"timm/{name}", [f"timm/{k}" for k in timm.list_pretrained(f"{base}.*")]) from error
    if config is None:
        raise _unknown(f"timm/{name}", [])
    if pretrained and not config.has_weights:
        raise NotFound(f"timm/{name} has no published weights", hint="--weights FILE or random")
    options: dict[str, Any] = {"img_size": image_size} if image_size and config.fixed_input_size else {}
    options |= more
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except Exception as error:  # the download goes through several libraries with errors of their own
        if not pretrained:
            raise InvalidInput(f"timm/{name} cannot be built ({first_line(error)})") from error
        raise _not_downloaded(f"timm/{name}", error) from error
    classifier = config.classifier or ()
    return Architecture(
        model,
        (classifier,) if isinstance(classifier, str) else tuple(classifier),
        _of_timm(name, resolve_model_data_config(model), image_size),  # type: ignore[no-untyped-call]
        config.tag or None,
        getattr(model, "output_fmt", "NCHW") == "NHWC",
    )


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


POOLINGS = ("mean", "cls", "patches")


def with_outputs_of(built: Architecture, layers: Sequence[tuple[str, str]]) -> torch.nn.Module:
    """The model that gives the pooled outputs of its layers (name, pooling), one beside the other, from one pass.

    The mean over space, or over tokens. Of tokens, pooling "cls" takes the first one, "patches" the mean of those that
    stand for a piece of the picture. `widths` says, after a first pass, how many columns each layer has.
    """
    import threading

    import torch

    class Taps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = built.model
            self.widths: tuple[int, ...] = ()
            self.mine = threading.local()  # several threads may run the model at once
            for name in {name for name, _ in layers}:
                built.model.get_submodule(name).register_forward_hook(partial(self.keep, name))

        def keep(self, name: str, module: torch.nn.Module, given: object, output: Any) -> None:
            self.mine.__dict__[name] = output[0] if isinstance(output, tuple | list) else output

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            self.mine.__dict__.clear()
            self.whole(batch)
            seen = dict(self.mine.__dict__)
            self.mine.__dict__.clear()
            vectors = [_pooled(built, seen.get(name), name, pooling) for name, pooling in layers]
            self.widths = tuple(v.shape[1] for v in vectors)
            return torch.cat(vectors, 1)

    return Taps()


def _pooled(built: Architecture, seen: object, layer: str, pooling: str) -> torch.Tensor:
    import torch

    if not isinstance(seen, torch.Tensor) or seen.ndim not in (2, 3, 4):
        raise ValueError(f"layer {layer} gives no vectors, maps or tokens")
    if pooling != "mean" and seen.ndim != 3:
        raise ValueError(f"layer {layer} gives no tokens, so {layer}:{pooling} means nothing")
    if seen.ndim == 4:
        return seen.mean((1, 2) if built.channels_last else (2, 3))
    if pooling == "cls":
        return seen[:, 0]
    if pooling == "patches":
        return seen[:, getattr(built.model, "num_prefix_tokens", 1) :].mean(1)
    return seen.mean(1) if seen.ndim == 3 else seen


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


def _unknown(arch: str, known: list[str]) -> NotFound:
    close = difflib.get_close_matches(arch, known, 5, 0.5)
    return NotFound(f"unknown architecture {arch!r}", hint="near: " + ", ".join(close) if close else None)


def _not_downloaded(arch: str, error: BaseException) -> Unavailable:
    return Unavailable(
        f"the published weights of {arch} cannot be downloaded ({first_line(error)})",
        hint="fetch the file elsewhere and name it with --weights FILE, or take --weights random",
    )


BUILDERS: Mapping[str, Callable[[str, bool, int | None, Mapping[str, Any]], Architecture]] = {
    "torchvision": _torchvision,
    "timm": _timm,
}
