"""What a family of networks hands over: a model, its preprocessing, and the layers whose outputs become vectors."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from qrp_store.errors import NotFound, Unavailable, first_line
from qrp_store.models.recipes import IMAGENET
from qrp_store.records import preprocessing_line

if TYPE_CHECKING:
    import torch

_MEAN, _STD = IMAGENET


@dataclass(frozen=True)
class Request:
    """Which architecture is wanted. `weights`: "default" (those that come with it), "random" or "file" (loaded later).

    `options`: timm's own, for a file whose network is built otherwise. `statistics`: whether the user gives mean and
    standard deviation. `interpolate`: whether position embeddings may be interpolated to `image_size`.
    """

    arch: str
    weights: str
    image_size: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    statistics: bool = False
    interpolate: bool = False

    @property
    def name(self) -> str:
        return self.arch.partition("/")[2]

    @property
    def published(self) -> bool:
        return self.weights == "default"


class NoVectorError(ValueError):
    """The model's output is not one vector per image; the message says what it is."""


def vectors_of(output: object) -> torch.Tensor:
    """A model's output, when it is one vector per image. Raises NoVectorError."""
    import torch

    if not isinstance(output, torch.Tensor):
        raise NoVectorError(f"a {type(output).__name__}")
    if output.ndim == 4 and output.shape[2:] == (1, 1):
        output = output.flatten(1)
    if output.ndim != 2:
        raise NoVectorError(f"an array of shape {tuple(output.shape)}")
    return output


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
        """Return it as one line for people."""
        return preprocessing_line(vars(self)) or ""


@dataclass(frozen=True)
class Architecture:
    """A model that ends before its classifier; `classifier` are the names of what was removed.

    `network` has the weights and the layers, where `model` only adapts its inputs and outputs. `identity`: that of
    weights which come with the architecture. `name`: the architecture in the backbone's identity, where the user's
    words name a path. `details`: what else changes the vectors. `picture`: the library's own way from an RGB picture to
    uint8 pixels. `outputs`: names that `--layer` may take instead of submodules. `prefix_tokens`: tokens before those
    of the patches.
    """

    model: torch.nn.Module
    classifier: tuple[str, ...]
    preprocessing: Preprocessing
    weights_name: str | None = None
    channels_last: bool = False
    network: torch.nn.Module | None = None
    identity: Mapping[str, Any] | None = None
    name: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    picture: Callable[[Any], torch.Tensor] | None = None
    outputs: tuple[str, ...] | None = None
    prefix_tokens: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def inner(self) -> torch.nn.Module:
        return self.model if self.network is None else self.network

    def resize(self) -> Callable[[Any], torch.Tensor]:
        """The picture's way to uint8 (3, image_size, image_size): everything but the statistics."""
        if self.picture is not None:
            return self.picture

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


@dataclass(frozen=True)
class Pair:
    """An image tower and a text tower with vectors that can be compared.

    `prepare`: an RGB picture as a tensor that can be stacked. `image`: a batch of those to vectors. `text`: texts, and
    a device, to vectors. `preprocessing` and `tokenizer` are parts of the towers' identities (JSON). `renamed`: the
    tensors of a file under the names that `model` has for them.
    """

    name: str
    model: torch.nn.Module
    preprocessing: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    prepare: Callable[[Any], torch.Tensor]
    image: Callable[[torch.Tensor], torch.Tensor]
    text: Callable[[list[str], str], torch.Tensor]
    renamed: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict


def normalised(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Return uint8 pixels (b, 3, h, w) as float32 with these statistics."""
    import torch

    of_mean, of_std = (torch.tensor(tuple(v), device=pixels.device).view(1, 3, 1, 1) for v in (mean, std))
    return pixels.float().div_(255).sub_(of_mean).div_(of_std)


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
                built.inner.get_submodule(name).register_forward_hook(partial(self.keep, name))

        def keep(self, name: str, module: torch.nn.Module, given: object, output: Any) -> None:
            self.mine.__dict__[name] = output[0] if isinstance(output, tuple | list) else output

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            self.mine.__dict__.clear()
            self.whole(batch)
            seen = dict(self.mine.__dict__)
            self.mine.__dict__.clear()
            vectors = [pooled(built, seen.get(name), name, pooling) for name, pooling in layers]
            self.widths = tuple(v.shape[1] for v in vectors)
            return torch.cat(vectors, 1)

    return Taps()


def pooled(built: Architecture, seen: object, layer: str, pooling: str) -> torch.Tensor:
    import torch

    if not isinstance(seen, torch.Tensor) or seen.ndim not in (2, 3, 4):
        raise ValueError(f"layer {layer} gives no vectors, maps or tokens")
    if pooling != "mean" and seen.ndim != 3:
        raise ValueError(f"layer {layer} gives no tokens, so {layer}:{pooling} means nothing")
    if seen.ndim == 4:
        return seen.mean((1, 2) if built.channels_last else (2, 3))
    if pooling == "cls" and built.prefix_tokens == 0:
        raise ValueError(f"the model has no class token, so {layer}:cls means nothing")
    if pooling == "cls":
        return seen[:, 0]
    if pooling == "patches":
        prefix = built.prefix_tokens
        return seen[:, (getattr(built.model, "num_prefix_tokens", 1) if prefix is None else prefix) :].mean(1)
    return seen.mean(1) if seen.ndim == 3 else seen


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from `seed`, and leave the process' random stream as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def unknown(arch: str, known: list[str]) -> NotFound:
    """Return the error for a model that no library has, with near names."""
    close = difflib.get_close_matches(arch, known, 5, 0.5)
    return NotFound(f"unknown architecture {arch!r}", hint="near: " + ", ".join(close) if close else None)


def not_downloaded(arch: str, error: BaseException) -> Unavailable:
    """Return the error for published weights that cannot be downloaded."""
    return Unavailable(
        f"the published weights of {arch} cannot be downloaded ({first_line(error)})",
        hint="fetch the file elsewhere and name it with --weights FILE, or take --weights random",
    )
