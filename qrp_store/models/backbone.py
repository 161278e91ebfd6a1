"""A frozen backbone: architecture, weights and the preprocessing that belongs to them, ready to embed images.

Architectures come from torchvision (`torchvision/resnet50`) and timm (`timm/vit_small_patch16_224`). The vector of an
image is what the classifier would have seen (pooled, before the last linear layer), or the pooled output of `layer`.
Nothing touches the network unless `weights` is "default".
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrp_store import images
from qrp_store.device import Arithmetic, float32_arithmetic, memory_errors, resolve_device
from qrp_store.errors import InvalidInput, NotFound, Unavailable, first_line
from qrp_store.models import architectures, checkpoints
from qrp_store.models.network import (
    POOLINGS,
    Architecture,
    NoVectorError,
    Preprocessing,
    Request,
    seeded,
    vectors_of,
    with_outputs_of,
)
from qrp_store.models.preprocessing import PreprocessingOptions, of_timm_folder, statistics_note, unknown_note
from qrp_store.models.recipes import IMAGENET, published_statistics
from qrp_store.models.weight_files import folder_config, read_weights

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
_CPU_PIECE = 8  # what a layer makes of so many images stays in the caches: half the time of 64 at once


@dataclass(frozen=True)
class BackboneOptions:
    """What the user asks for. `weights` is "default" (published with the architecture), "random" or a file's path.

    `layers` are submodules' dotted names, for tokens with `:cls` or `:patches`; none: what the head sees. `image_size`
    is the side in pixels that the network sees; `seed` counts only for random weights; `device` is auto, cpu, cuda or
    cuda:N; `precision` one of `PRECISIONS`. `container` and `prefix` say where in a checkpoint the tensors are;
    `interpolate_positions`: position embeddings of another image size are interpolated. The rest is as
    `PreprocessingOptions` has it.
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
    container: str | None = None
    prefix: str | None = None
    interpolate_positions: bool = False
    mean: str | None = None
    std: str | None = None
    resize: int | None = None
    crop: str | None = None
    interpolation: str | None = None

    @property
    def preprocessing(self) -> PreprocessingOptions:
        return PreprocessingOptions(self.mean, self.std, self.resize, self.crop, self.interpolation)


@dataclass(frozen=True)
class LoadedBackbone:
    """A model in evaluation mode. Of several layers the vectors stand one beside the other: `widths` are theirs.

    `specs` are the layers' identities (JSON): all that changes their vectors, and nothing else. `provenance` records
    the rest: device, library versions, how the checkpoint was read. `notes` are lines for people.
    """

    widths: tuple[int, ...]
    device: str
    specs: tuple[Mapping[str, Any], ...]
    provenance: Mapping[str, Any]
    notes: tuple[str, ...]
    image_size: int
    _model: torch.nn.Module = field(repr=False)
    _resize: Any = field(repr=False)
    _statistics: tuple[torch.Tensor, torch.Tensor] = field(repr=False)
    _dtype: torch.dtype = field(repr=False)
    _format: torch.memory_format = field(repr=False)
    _arithmetic: Arithmetic = field(default="ieee", repr=False)

    @property
    def dim(self) -> int:
        return sum(self.widths)

    @property
    def provenances(self) -> tuple[Mapping[str, Any], ...]:
        """The provenance of each layer's vectors."""
        return (self.provenance,) * len(self.specs)

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
        """Return features, float32 (b, dim) on the CPU, of a uint8 batch (b, 3, image_size, image_size).

        Raise Unavailable if the memory of the device does not suffice.
        """
        import torch

        task = f"a batch of {len(batch)} images of {self.image_size} × {self.image_size} pixels"
        memory = memory_errors(self.device, task, "choose a smaller --batch-size")
        with torch.inference_mode(), float32_arithmetic(self._arithmetic), memory:
            if self.device != "cpu":
                return self._features(batch.to(self.device)).cpu()
            starts = range(0, len(batch), _CPU_PIECE)
            return torch.cat([self._features(batch[start : start + _CPU_PIECE]) for start in starts])

    def _features(self, batch: torch.Tensor) -> torch.Tensor:
        mean, std = self._statistics
        pixels = batch.float().div_(255).sub_(mean).div_(std)
        features = vectors_of(self._model(pixels.to(self._dtype).contiguous(memory_format=self._format)))
        return features.float()


def load_backbone(options: BackboneOptions) -> LoadedBackbone:
    """Build the model and load its weights; the same options give the same vectors to the bit on one machine.

    Raises NotFound (unknown architecture, layer, recipe or file; with near names), InvalidInput (a checkpoint that
    does not match, an impossible size) and Unavailable (a package or device that is not there, weights that cannot be
    downloaded).
    """
    torch = _torch()
    device = resolve_device(options.device)
    built, loaded_weights = _built(options)
    dtype, memory_format = _numbers(options, device)
    model = _with_layers(built, options) if options.layers else built.model
    with memory_errors(device, f"the weights of {options.arch}"):
        model = model.eval().requires_grad_(False).to(device, dtype).to(memory_format=memory_format)
    preprocessing = built.preprocessing
    spec: dict[str, Any] = {
        "arch": built.name or options.arch,
        "weights": loaded_weights.identity,
        "recipe": loaded_weights.recipe,
        "preprocessing": {**preprocessing.document(), "decoding": images.DECODING},
    }
    spec |= built.details
    if loaded_weights.resampled:
        spec["interpolated"] = list(loaded_weights.resampled)
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
        provenance={**loaded_weights.provenance, **_versions(), "device": str(device)},
        notes=(*loaded_weights.notes, f"preprocessing: {preprocessing.line()}"),
        image_size=preprocessing.image_size,
        _model=model,
        _resize=built.resize(),
        _statistics=(statistics[0], statistics[1]),
        _dtype=dtype,
        _format=memory_format,
        _arithmetic="tf32" if options.precision == "tf32" else "ieee",
    )
    return replace(loaded, widths=_widths(loaded, options, built))


def _numbers(options: BackboneOptions, device: torch.device) -> tuple[torch.dtype, torch.memory_format]:
    import torch

    if options.precision not in PRECISIONS:
        raise InvalidInput(f"--precision {options.precision!r}: known are {', '.join(PRECISIONS)}")
    if options.precision == "tf32" and device.type == "cpu":
        raise InvalidInput(
            "--precision tf32 needs a GPU: a CPU has no TF32", hint="--device cuda, or --precision float32"
        )
    dtype: torch.dtype = torch.float32 if options.precision == "tf32" else getattr(torch, options.precision)
    return dtype, torch.channels_last if options.channels_last else torch.contiguous_format


@dataclass(frozen=True)
class _Weights:
    """What is known of a model's weights: their identity, the layout's name, what was interpolated, lines to show."""

    identity: Mapping[str, Any]
    recipe: str | None = None
    resampled: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _built(options: BackboneOptions) -> tuple[Architecture, _Weights]:
    """The model with its weights and its preprocessing."""
    preferred = options.preprocessing
    side = preferred.side(options.image_size)
    if options.weights in ("default", "random"):
        built = _architecture(options, side)
        weights = _without_file(options, built)
    else:
        built, weights = _from_file(options, side)
    preprocessing = preferred.applied(built.preprocessing)
    resized = any(value is not None for value in (preferred.resize, preferred.crop, preferred.interpolation))
    return replace(built, preprocessing=preprocessing, picture=None if resized else built.picture), weights


def _architecture(options: BackboneOptions, side: int | None, **more: Any) -> Architecture:
    with seeded(options.seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = options.weights if options.weights in ("default", "random") else "file"
        statistics = options.mean is not None and options.std is not None
        request = Request(options.arch, weights, side, more, statistics, options.interpolate_positions)
        return architectures.build(request)


def _without_file(options: BackboneOptions, built: Architecture) -> _Weights:
    if options.recipe != "auto" or options.container is not None or options.prefix is not None:
        option = f"recipe {options.recipe!r}" if options.recipe != "auto" else "--container or --prefix"
        raise InvalidInput(f"{option} needs a checkpoint", hint="name one with --weights FILE")
    notes = built.notes
    if built.identity is not None:
        return _Weights(built.identity, notes=notes)
    name = built.weights_name if options.weights == "default" else None
    return _Weights(
        {"kind": options.weights, "name": name, "sha256": checkpoints.digest_state(built.inner)}, notes=notes
    )


def _from_file(options: BackboneOptions, side: int | None) -> tuple[Architecture, _Weights]:
    """A model with the weights of a file or folder, and the preprocessing of the family that the weights are of."""
    path = Path(options.weights)
    content = read_weights(path)
    config = _config(path, options.arch)
    size = config.get("pretrained_cfg", {}).get("input_size", (None,))[-1]
    if options.arch.partition("/")[0] in architectures.PROGRAMS:
        raise InvalidInput(f"{options.arch} has its own weights", hint="leave out --weights")
    built = _architecture(options, side or size)
    if checkpoints.has_no_class_token(content) and getattr(built.model, "cls_token", None) is not None:
        built = _architecture(options, side or size, class_token=False, global_pool="avg", fc_norm=False)
    loaded = _loaded(options, path, built, content)
    architectures.as_published(built, options.arch, path)
    base = built.preprocessing
    usual = (base.mean, base.std)
    family, statistics = loaded.recipe.name, loaded.statistics
    if config:
        base = of_timm_folder(config, base, side)
        family, statistics = "the folder's model", (base.mean, base.std)
    elif options.arch.partition("/")[0] not in ("torchvision", "timm"):
        statistics = usual  # these families know their inputs themselves
    elif statistics is None and (named := published_statistics(path.name)) is not None:
        family, statistics = f"{named[0]} (by the file's name)", named[1]
    notes = [*built.notes, f"checkpoint: {loaded}"]
    if statistics is not None:
        base = replace(base, mean=statistics[0], std=statistics[1])
        notes += [statistics_note(options.arch, usual, statistics, family) or ""]
    elif usual != IMAGENET and options.preprocessing.mean is None and loaded.container in ("", "state_dict", "model"):
        notes.append(unknown_note(options.arch, usual))
    identity = {"kind": "file", "name": None, "sha256": checkpoints.digest_weights(path)}
    provenance = {"weights_file": path.name, "checkpoint": str(loaded)}
    weights = _Weights(identity, loaded.recipe.name, loaded.resampled, provenance, tuple(filter(None, notes)))
    return replace(built, preprocessing=base), weights


def _loaded(options: BackboneOptions, path: Path, built: Architecture, content: object) -> checkpoints.Loaded:
    try:
        return checkpoints.load_state(
            path,
            built.inner,
            options.recipe,
            built.classifier,
            container=options.container,
            prefix=options.prefix,
            interpolate=options.interpolate_positions,
            content=content,
        )
    except InvalidInput as error:
        if "model_type" in folder_config(path):
            raise InvalidInput(error.message, hint=f"a folder of transformers is --arch hf/{path}") from error
        raise


def _config(path: Path, arch: str) -> dict[str, Any]:
    """A timm folder's configuration. Raises InvalidInput when the folder is of another architecture."""
    config = folder_config(path)
    named = config.get("architecture")
    if named is None:
        return {}
    library, _, name = arch.partition("/")
    if library == "timm" and name.split(".")[0] != str(named).split(".")[0]:
        raise InvalidInput(f"{path}: its config.json says {named!r}, not {name!r}", hint=f"--arch timm/{named}")
    return config if library == "timm" else {}


def _widths(loaded: LoadedBackbone, options: BackboneOptions, built: Architecture) -> tuple[int, ...]:
    """Length of each layer's vector, from one black picture: also the proof that size and numbers suit the network."""
    import torch

    size = loaded.image_size
    try:
        features = loaded.forward(torch.zeros((1, 3, size, size), dtype=torch.uint8))
    except NoVectorError as error:
        names = built.outputs or [name for name, _ in built.inner.named_modules() if name]
        raise InvalidInput(
            f"{options.arch} has no pooled output: it gives {error}",
            hint=f"--layer NAME, NAME:cls or NAME:patches; layers: {', '.join(_ends(names))}",
        ) from error
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        other = "image-size" if options.precision == "float32" else "image-size or --precision"
        raise InvalidInput(
            f"{options.arch} cannot embed images of {size} × {size} pixels ({first_line(error)})",
            hint=f"choose another --{other}",
        ) from error
    widths: tuple[int, ...] = loaded._model.widths if options.layers else (features.shape[1],)  # type: ignore[assignment]
    return widths


def _ends(names: Sequence[str], limit: int = 12) -> list[str]:
    """The last layers, which are nearest to the output, last first."""
    shallow = [name for name in names if name.count(".") < 3]
    return [*reversed(shallow[-limit:]), *(["…"] if len(names) > limit else [])]


def _with_layers(built: Architecture, options: BackboneOptions) -> torch.nn.Module:
    names = list(built.outputs or (known for known, _ in built.inner.named_modules() if known))
    outputs = []
    for layer in options.layers:
        name, _, pooling = layer.partition(":")
        if name not in names:
            close = difflib.get_close_matches(name, names, 5, 0.4)
            raise NotFound(f"{options.arch} has no layer {name!r}", hint="near: " + ", ".join(close or names[:20]))
        if pooling and pooling not in POOLINGS:
            raise InvalidInput(f"layer {layer!r}", hint=f"after the colon: {', '.join(POOLINGS)}")
        outputs.append((name, pooling or "mean"))
    return with_outputs_of(built, outputs)


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

    versions = {}
    for package in ("torch", "torchvision", "timm", "pillow"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


__all__ = ["BackboneOptions", "LoadedBackbone", "Preprocessing", "load_backbone"]
