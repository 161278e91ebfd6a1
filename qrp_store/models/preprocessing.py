"""Which preprocessing a backbone gets: its architecture's, its checkpoint's family's, its folder's, or the user's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from qrp_store.errors import InvalidInput
from qrp_store.models.network import Preprocessing
from qrp_store.models.recipes import NAMED_STATISTICS, Statistics

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
CROPS = ("center", "squash", "border")


@dataclass(frozen=True)
class PreprocessingOptions:
    """What the user says about preprocessing; None: what the model has.

    `mean`, `std`: one number, three with commas, or a name of `NAMED_STATISTICS`. `resize`: pixels of the shorter side
    (both sides with crop "squash", the longer one with "border"). `crop`: one of `CROPS`, or the side of the crop.
    """

    mean: str | None = None
    std: str | None = None
    resize: int | None = None
    crop: str | None = None
    interpolation: str | None = None

    @property
    def any(self) -> bool:
        return any(value is not None for value in (self.mean, self.std, self.resize, self.crop, self.interpolation))

    def side(self, image_size: int | None) -> int | None:
        """The image size, which `crop` may say too. Raises InvalidInput when the two differ."""
        if self.crop is None or not self.crop.isdecimal():
            return image_size
        if image_size not in (None, int(self.crop)):
            raise InvalidInput(f"--crop {self.crop} and --image-size {image_size}: two sizes of the model's input")
        return int(self.crop)

    def applied(self, base: Preprocessing) -> Preprocessing:
        """The preprocessing with what the user says. Raises InvalidInput."""
        changes: dict[str, Any] = {}
        if self.mean is not None:
            changes["mean"] = _three("mean", self.mean)
        if self.std is not None:
            changes["std"] = _three("std", self.std)
            if min(changes["std"]) <= 0:
                raise InvalidInput(f"--std {self.std}: expected numbers above 0")
        if self.crop is not None and not self.crop.isdecimal():
            if self.crop not in CROPS:
                raise InvalidInput(f"--crop {self.crop!r}: expected {', '.join(CROPS)} or a side in pixels")
            changes["crop_mode"] = self.crop
            if self.crop != base.crop_mode and self.resize is None and self.crop == "squash":
                changes["resize"] = base.image_size
        if self.resize is not None:
            if not 8 <= self.resize <= 8192:
                raise InvalidInput(f"--resize {self.resize}: expected 8 to 8192 pixels")
            changes["resize"] = self.resize
        if self.interpolation is not None:
            if self.interpolation not in INTERPOLATIONS:
                raise InvalidInput(f"--interpolation {self.interpolation!r}: known are {', '.join(INTERPOLATIONS)}")
            changes["interpolation"] = self.interpolation
        return replace(base, **changes)


def _three(name: str, text: str) -> tuple[float, float, float]:
    named = NAMED_STATISTICS.get(text.lower())
    if named is not None:
        return named[0] if name == "mean" else named[1]
    try:
        values = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        values = []
    if len(values) == 1:
        values *= 3
    if len(values) != 3 or not all(abs(v) < 10 for v in values):
        raise InvalidInput(
            f"--{name} {text!r}: expected one number, three with commas, or {', '.join(NAMED_STATISTICS)}",
            hint="values of pixels in [0, 1]: 0.485,0.456,0.406",
        )
    return values[0], values[1], values[2]


def of_timm_folder(config: Mapping[str, Any], base: Preprocessing, image_size: int | None) -> Preprocessing:
    """What a timm folder's config.json says about its model's inputs."""
    inputs = config.get("pretrained_cfg")
    if not isinstance(inputs, Mapping):
        return base
    try:
        side = image_size or int(inputs.get("input_size", (3, base.image_size))[-1])
        percent = inputs.get("crop_pct") or base.image_size / base.resize
        mean, std = (tuple(float(v) for v in inputs.get(k, getattr(base, k))) for k in ("mean", "std"))
        return Preprocessing(
            image_size=side,
            resize=int(side / percent),
            interpolation=inputs.get("interpolation") or base.interpolation,
            mean=(mean[0], mean[1], mean[2]),
            std=(std[0], std[1], std[2]),
            crop_mode=inputs.get("crop_mode") or base.crop_mode,
        )
    except (TypeError, ValueError, IndexError) as error:
        raise InvalidInput(f"config.json: its pretrained_cfg cannot be read ({error})") from error


def statistics_note(arch: str, before: Statistics, after: Statistics, family: str) -> str | None:
    """What is said when a family's statistics are not the architecture's."""
    if before == after:
        return None
    names = {values: name for name, values in NAMED_STATISTICS.items()}
    shown = [names.get(values, f"mean {values[0]} std {values[1]}") for values in (after, before)]
    return f"input statistics: {shown[0]}, as {family} was trained with, not {arch}'s default ({shown[1]})"


def unknown_note(arch: str, statistics: Statistics) -> str:
    """What is said of a file of no known family, when the architecture's statistics are not ImageNet's."""
    mean, std = statistics
    return (
        f"input statistics: {arch}'s default (mean {mean[0]:g}, std {std[0]:g}); the file does not say which it was "
        "trained with. DINO, MAE and DeiT need --mean imagenet --std imagenet"
    )
