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

from qrp_store import images
from qrp_store.device import resolve_device
from qrp_store.errors import InvalidInput, NotFound, Unavailable, first_line
from qrp_store.models import architectures, checkpoints
from qrp_store.models.architectures import Architecture, Preprocessing

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


PRECISIONS = ("float32", "float16", "bfloat16")
_CPU_PIECE = 8  # what a layer makes of so many images stays in the caches: half the time of 64 at once


@dataclass(frozen=True)
class BackboneOptions:
    """What the user asks for. `weights` is "default" (published with the architecture), "random" or a file's path.

    `layers` are submodules' dotted names, for tokens with `:cls` or `:patches`; none: what the head sees. `image_size`
    is the side in pixels that the network sees; `seed` counts only for random weights; `device` is auto, cpu, cuda or
    cuda:N; `precision` one of `PRECISIONS`.
    """

    arch: str
    weights: str = "default"
    recipe: str = "auto"
    layers: tuple[str, ...] = ()
    image_size: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "float32"
    channels_last: bool = True


@dataclass(frozen=True)
class LoadedBackbone:
    """A model in evaluation mode. Of several layers the vectors stand one beside the other: `widths` are theirs.

    `specs` are the layers' identities (JSON): all that changes their vectors, and nothing else. `provenance` says what
    else was so: device, library versions, how the checkpoint was read.
    """

    widths: tuple[int, ...]
    device: str
    specs: tuple[Mapping[str, Any], ...]
    provenance: Mapping[str, Any]
    image_size: int
    _model: torch.nn.Module = field(repr=False)
    _resize: Any = field(repr=False)
    _statistics: tuple[torch.Tensor, torch.Tensor] = field(repr=False)
    _dtype: torch.dtype = field(repr=False)
    _format: torch.memory_format = field(repr=False)

    @property
    def dim(self) -> int:
        return sum(self.widths)

    @property
    def spec(self) -> Mapping[str, Any]:
        """The identity of a model with one output."""
        (only,) = self.specs
        return only

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
        mean, std = self._statistics
        pixels = batch.float().div_(255).sub_(mean).div_(std)
        features: torch.Tensor = self._model(pixels.to(self._dtype).contiguous(memory_format=self._format))
        return features.float()


def load_backbone(options: BackboneOptions) -> LoadedBackbone:
    """Build the model and load its weights; the same options give the same vectors to the bit on one machine.

    Raises NotFound (unknown architecture, layer, recipe or file; with near names), InvalidInput (a checkpoint that
    does not match, an impossible size) and Unavailable (a package or device that is not there, weights that cannot be
    downloaded).
    """
    torch = _torch()
    device = resolve_device(options.device)
    with _own_randomness(options.seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built = architectures.build(options.arch, options.weights == "default", options.image_size)
    weights, recipe, built, notes = _weights(options, built)
    dtype, memory_format = _numbers(options)
    model = _with_layers(built, options) if options.layers else built.model
    model = model.eval().requires_grad_(False).to(device, dtype).to(memory_format=memory_format)
    preprocessing = built.preprocessing
    spec: dict[str, Any] = {
        "arch": options.arch,
        "weights": weights,
        "recipe": recipe,
        "preprocessing": {**preprocessing.document(), "decoding": images.DECODING},
    }
    if options.weights == "random":
        spec["seed"] = options.seed
    if options.precision != "float32":  # what is usual goes without saying
        spec["precision"] = options.precision
    if not options.channels_last:
        spec["memory_format"] = "contiguous"
    statistics = tuple(torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    loaded = LoadedBackbone(
        widths=(),
        device=str(device),
        specs=tuple({**spec, "layer": layer} for layer in options.layers or (None,)),
        provenance={**notes, **_versions(), "device": str(device)},
        image_size=preprocessing.image_size,
        _model=model,
        _resize=built.resize(),
        _statistics=(statistics[0], statistics[1]),
        _dtype=dtype,
        _format=memory_format,
    )
    return replace(loaded, widths=_widths(loaded, options))


def _numbers(options: BackboneOptions) -> tuple[torch.dtype, torch.memory_format]:
    import torch

    if options.precision not in PRECISIONS:
        raise InvalidInput(f"--precision {options.precision!r}: known are {', '.join(PRECISIONS)}")
    dtype: torch.dtype = getattr(torch, options.precision)
    return dtype, torch.channels_last if options.channels_last else torch.contiguous_format


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


def _widths(loaded: LoadedBackbone, options: BackboneOptions) -> tuple[int, ...]:
    """Length of each layer's vector, from one black picture: also the proof that size and numbers suit the network."""
    import torch

    size = loaded.image_size
    try:
        features = loaded.forward(torch.zeros((1, 3, size, size), dtype=torch.uint8))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        other = "image-size" if options.precision == "float32" else "image-size or --precision"
        raise InvalidInput(
            f"{options.arch} cannot embed images of {size} × {size} pixels ({first_line(error)})",
            hint=f"choose another --{other}",
        ) from error
    widths: tuple[int, ...] = loaded._model.widths if options.layers else (features.shape[1],)  # type: ignore[assignment]
    return widths


def _with_layers(built: Architecture, options: BackboneOptions) -> torch.nn.Module:
    names = [known for known, _ in built.model.named_modules() if known]
    wanted = []
    for layer in options.layers:
        name, _, pooling = layer.partition(":")
        if name not in names:
            close = difflib.get_close_matches(name, names, 5, 0.4)
            raise NotFound(f"{options.arch} has no layer {name!r}", hint="near: " + ", ".join(close or names[:20]))
        if pooling and pooling not in architectures.POOLINGS:
            raise InvalidInput(f"layer {layer!r}", hint=f"after the colon: {', '.join(architectures.POOLINGS)}")
        wanted.append((name, pooling or "mean"))
    return architectures.with_outputs_of(built, wanted)


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Initial weights from `seed`, with the process' own random stream left as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


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
