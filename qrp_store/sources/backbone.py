"""A frozen backbone: architecture, weights and the preprocessing that belongs to them, ready to embed images.

Architectures come from torchvision (`torchvision/resnet50`) and timm (`timm/vit_small_patch16_224`). The vector of an
image is what the classifier would have seen (pooled, before the last linear layer), or the pooled output of `layer`.
Nothing touches the network unless `weights` is "default".
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrp_store.errors import InvalidInput, NotFound, Unavailable
from qrp_store.sources import architectures, checkpoints, images
from qrp_store.sources.architectures import Architecture, Preprocessing

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


_CPU_PIECE = 8  # what a layer makes of so many images stays in the caches: half the time of 64 at once


@dataclass(frozen=True)
class BackboneOptions:
    """What the user asks for. `weights` is "default" (published with the architecture), "random" or a file's path.

    `layer` is a submodule's dotted name, for tokens with `:cls` or `:patches`; `image_size` the side in pixels that the
    network sees; `seed` counts only for random weights; `device` is auto, cpu, cuda or cuda:N.
    """

    arch: str
    weights: str = "default"
    recipe: str = "auto"
    layer: str | None = None
    image_size: int | None = None
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class LoadedBackbone:
    """A model in evaluation mode. `spec` is its identity (JSON): all that changes its vectors, and nothing else.

    `provenance` says what else was so: device, library versions, how the checkpoint was read.
    """

    dim: int
    device: str
    spec: Mapping[str, Any]
    provenance: Mapping[str, Any]
    image_size: int
    _model: torch.nn.Module = field(repr=False)
    _resize: Any = field(repr=False)
    _statistics: tuple[torch.Tensor, torch.Tensor] = field(repr=False)

    def transform(self, image: Image) -> torch.Tensor:
        """An RGB picture resized and cropped: uint8 (3, image_size, image_size). Safe from several threads.

        Raises InvalidInput for a picture so elongated that it would be huge once its shorter side fits.
        """
        if max(image.size) / min(image.size) * self.image_size**2 > images.MAX_PIXELS:
            raise InvalidInput(f"too elongated: {image.width} × {image.height} pixels")
        pixels: torch.Tensor = self._resize(image)
        return pixels

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Features, float32 (b, dim) on the CPU, of a uint8 batch (b, 3, image_size, image_size)."""
        import torch

        with torch.inference_mode():
            if self.device != "cpu":
                return self._features(batch.to(self.device)).cpu()
            starts = range(0, len(batch), _CPU_PIECE)
            return torch.cat([self._features(batch[start : start + _CPU_PIECE]) for start in starts])

    def _features(self, batch: torch.Tensor) -> torch.Tensor:
        import torch

        mean, std = self._statistics
        pixels = batch.float().div_(255).sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)
        features: torch.Tensor = self._model(pixels)
        return features.float()


def load_backbone(options: BackboneOptions) -> LoadedBackbone:
    """Build the model and load its weights; the same options give the same vectors to the bit on one machine.

    Raises NotFound (unknown architecture, layer, recipe or file; with near names), InvalidInput (a checkpoint that
    does not match, an impossible size) and Unavailable (a package or device that is not there, weights that cannot be
    downloaded).
    """
    torch = _torch()
    device = _device(options.device)
    with _own_randomness(options.seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built = architectures.build(options.arch, options.weights == "default", options.image_size)
    weights, recipe, built, notes = _weights(options, built)
    model = built.model if options.layer is None else _layer(built, options.arch, options.layer)
    model = model.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
    preprocessing = built.preprocessing
    spec: dict[str, Any] = {
        "arch": options.arch,
        "weights": weights,
        "recipe": recipe,
        "layer": options.layer,
        "preprocessing": {**preprocessing.document(), "decoding": images.DECODING},
    }
    if options.weights == "random":
        spec["seed"] = options.seed
    statistics = tuple(torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    loaded = LoadedBackbone(
        dim=0,
        device=str(device),
        spec=spec,
        provenance={**notes, **_versions(), "device": str(device)},
        image_size=preprocessing.image_size,
        _model=model,
        _resize=built.resize(),
        _statistics=(statistics[0], statistics[1]),
    )
    return replace(loaded, dim=_dimension(loaded, options))


def _weights(
    options: BackboneOptions, built: Architecture
) -> tuple[dict[str, Any], str | None, Architecture, dict[str, Any]]:
    """The weights' identity, the layout's name, the architecture with what the layout knows, and notes."""
    if options.weights in ("default", "random"):
        if options.recipe != "auto":
            raise InvalidInput(f"recipe {options.recipe!r} needs a checkpoint", hint="name one with --weights FILE")
        name = built.weights_name if options.weights == "default" else None
        digest = checkpoints.digest_state(built.model)
        return {"kind": options.weights, "name": name, "sha256": digest}, None, built, {}
    path = Path(options.weights)
    loaded = checkpoints.load_state(path, built.model, options.recipe, built.classifier)
    if loaded.recipe.statistics is not None:
        mean, std = loaded.recipe.statistics
        built = replace(built, preprocessing=replace(built.preprocessing, mean=mean, std=std))
    identity = {"kind": "file", "name": None, "sha256": checkpoints.digest_file(path)}
    return identity, loaded.recipe.name, built, {"weights_file": path.name, "checkpoint": str(loaded)}


def _dimension(loaded: LoadedBackbone, options: BackboneOptions) -> int:
    """Length of a vector, from one black picture: also the proof that the size suits the network."""
    import torch

    size = loaded.image_size
    try:
        features = loaded.forward(torch.zeros((1, 3, size, size), dtype=torch.uint8))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise InvalidInput(
            f"{options.arch} cannot embed images of {size} × {size} pixels ({said})", hint="choose another --image-size"
        ) from error
    return features.shape[1]


def _layer(built: Architecture, arch: str, layer: str) -> torch.nn.Module:
    name, _, pooling = layer.partition(":")
    names = [known for known, _ in built.model.named_modules() if known]
    if name not in names:
        close = difflib.get_close_matches(name, names, 5, 0.4)
        raise NotFound(f"{arch} has no layer {name!r}", hint="near: " + ", ".join(close or names[:20]))
    if pooling and pooling not in architectures.POOLINGS:
        raise InvalidInput(f"layer {layer!r}", hint=f"after the colon: {', '.join(architectures.POOLINGS)}")
    return architectures.with_output_of(built, name, pooling or "mean")


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Initial weights from `seed`, with the process' own random stream left as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidInput(f"unknown device {name!r}", hint="auto, cpu or cuda") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise Unavailable(f"device {name!r}: no such GPU here", hint="--device cpu")
    if device.type not in ("cpu", "cuda"):
        raise InvalidInput(f"unknown device {name!r}", hint="auto, cpu or cuda")
    return device


def _torch() -> Any:
    try:
        import torch
        import torchvision  # noqa: F401
    except ImportError as error:
        raise Unavailable(
            f"embedding images needs torch and torchvision ({error})", hint="pip install 'qrp-store[cpu]'"
        ) from error
    return torch


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("torch", "torchvision", "timm", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


__all__ = ["BackboneOptions", "LoadedBackbone", "Preprocessing", "load_backbone"]
