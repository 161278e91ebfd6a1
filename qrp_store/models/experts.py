"""Labels from expert models: torchvision's classifiers, detectors and segmenters, timm's classifiers.

An expert gives every picture one number in [0, 1] for each of its categories: a classifier its probability, a detector
the confidence of the surest box, a segmenter the share of pixels. Models, weights' own preprocessing and names of the
categories are torchvision's and timm's; nothing touches the network unless `weights` is "default".
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from qrp_store.device import float32_arithmetic, memory_errors, resolve_device
from qrp_store.errors import InvalidInput, Unavailable
from qrp_store.models import checkpoints
from qrp_store.models.architectures import timm_network, timm_package, torchvision_network
from qrp_store.models.network import seeded, unknown
from qrp_store.models.recipes import Statistics

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

Kind = Literal["classifier", "detector", "segmenter"]
_WITHOUT_EPSILON = frozenset(
    ["fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn", "retinanet_resnet50_fpn"]
)
_NO_CATEGORY = frozenset(["__background__", "N/A", "no person"])


@dataclass(frozen=True)
class ExpertOptions:
    """What the user asks for. `weights` is "default", "random" (from `seed`) or a file's path.

    `activation` turns a classifier's logits into probabilities; `names` are the classes in the model's order, when
    they are not those of the published weights; `device` is auto, cpu, cuda or cuda:N.
    """

    arch: str
    weights: str = "default"
    activation: Literal["softmax", "sigmoid"] = "softmax"
    names: tuple[str, ...] | None = None
    device: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class Expert:
    """A model in evaluation mode. `spec` is its identity (JSON): all that changes its scores, and nothing else."""

    kind: Kind
    names: tuple[str, ...]
    device: str
    spec: Mapping[str, Any]
    _model: torch.nn.Module = field(repr=False)
    _transform: Callable[[Image], torch.Tensor] = field(repr=False)
    _columns: NDArray[np.int64] = field(repr=False)
    _width: int = field(repr=False)

    @property
    def arch(self) -> str:
        return str(self.spec["arch"])

    @property
    def width(self) -> int:
        """How many scores a picture has."""
        return len(self.names)

    def prepare(self, image: Image) -> torch.Tensor:
        """An RGB picture as the network takes it: float32 (3, h, w). Safe from several threads."""
        return self._transform(image)

    def scores(self, pictures: Sequence[torch.Tensor]) -> NDArray[np.float32]:
        """One row a picture, one column a name, each in [0, 1]. Pictures of one size go through together."""
        import torch

        out = np.zeros((len(pictures), self._width), np.float32)
        sizes: dict[tuple[int, ...], list[int]] = {}
        for i, picture in enumerate(pictures):
            sizes.setdefault(tuple(picture.shape), []).append(i)
        memory = memory_errors(self.device, f"a batch of {len(pictures)} images", "choose a smaller --batch-size")
        with torch.inference_mode(), float32_arithmetic(), memory:
            for members in sizes.values():
                batch = torch.stack([pictures[i] for i in members]).to(self.device)
                out[members] = _SCORES[self.kind](self, batch)
        return out[:, self._columns]

    def _probabilities(self, batch: torch.Tensor) -> NDArray[np.float32]:
        logits = self._model(batch).float()
        probabilities = logits.sigmoid() if self.spec["activation"] == "sigmoid" else logits.softmax(1)
        return _numbers(probabilities)

    def _confidences(self, batch: torch.Tensor) -> NDArray[np.float32]:
        import torch

        confidences = torch.zeros((len(batch), self._width))
        for row, boxes in enumerate(self._model(list(batch))):
            confidences[row].scatter_reduce_(0, boxes["labels"].cpu(), boxes["scores"].float().cpu(), "amax")
        return _numbers(confidences)

    def _shares(self, batch: torch.Tensor) -> NDArray[np.float32]:
        import torch

        which = self._model(batch)["out"].argmax(1).flatten(1)
        counts = torch.stack([torch.bincount(row, minlength=self._width) for row in which])
        return _numbers(counts.float() / which.shape[1])


_SCORES: Mapping[str, Callable[[Expert, torch.Tensor], NDArray[np.float32]]] = {
    "classifier": Expert._probabilities,
    "detector": Expert._confidences,
    "segmenter": Expert._shares,
}


def _numbers(tensor: torch.Tensor) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = tensor.cpu().numpy().astype(np.float32, copy=False)
    return numbers


@dataclass(frozen=True)
class _Built:
    """A whole model; `transform(mean and std or None)` is its preprocessing, `names` its classes in order."""

    kind: Kind
    model: torch.nn.Module
    transform: Callable[[Statistics | None], Callable[[Image], torch.Tensor]]
    names: tuple[str, ...] | None


def load_expert(options: ExpertOptions) -> Expert:
    """Build an expert and load its weights.

    Raises NotFound (unknown model; with near names), InvalidInput (a checkpoint that does not match, names that are
    not as many as the classes) and Unavailable (a package, a device or a download that is not there).
    """
    device = str(resolve_device(options.device))
    built, statistics = _with_weights(options)
    width = len(options.names or built.names or ())
    if not width:
        raise InvalidInput(f"{options.arch}: the names of its classes are not known", hint="--names FILE, one a line")
    names = _distinct(options.names or built.names or ())
    columns = np.array([i for i, name in enumerate(names) if name not in _NO_CATEGORY], np.int64)
    transform = built.transform(statistics)
    spec = {
        "arch": options.arch,
        "kind": built.kind,
        "weights": checkpoints.digest_state(built.model),
        "activation": options.activation if built.kind == "classifier" else None,
        "names": list(names),
        "preprocessing": " ".join(repr(transform).split()),
    }
    with memory_errors(device, f"the weights of {options.arch}"):
        model = built.model.eval().requires_grad_(False).to(device)
    kept = tuple(names[i] for i in columns)
    return Expert(built.kind, kept, str(device), spec, model, transform, columns, width)


def _with_weights(options: ExpertOptions) -> tuple[_Built, Statistics | None]:
    if options.weights in ("default", "random"):
        return _build(options, aux=False), None
    path = Path(options.weights)
    built = _build(options, aux=False)
    if built.kind == "detector" and path.is_file():
        _as_published(options.arch, built.model, path)
    try:
        return built, checkpoints.load_state(path, built.model, whole=True).statistics
    except InvalidInput:
        if built.kind != "segmenter" or options.arch.endswith("raspp_mobilenet_v3_large"):
            raise
        built = _build(options, aux=True)  # published segmenters keep a second head from their training
        return built, checkpoints.load_state(path, built.model, whole=True).statistics


def _as_published(arch: str, model: torch.nn.Module, path: Path) -> None:
    """torchvision's first COCO detectors were trained without BatchNorm's epsilon: their file needs it to be 0."""
    import hashlib

    from torch import nn
    from torchvision.models import get_model_weights
    from torchvision.ops import FrozenBatchNorm2d

    name = arch.partition("/")[2]
    first = [w for w in get_model_weights(name) if w.name in ("COCO_V1", "COCO_LEGACY")]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if name in _WITHOUT_EPSILON and any(f"-{digest[:8]}.pth" in weights.url for weights in first):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
                module.eps = 0.0


def _build(options: ExpertOptions, *, aux: bool) -> _Built:
    library, slash, name = options.arch.partition("/")
    builder = {"torchvision": _torchvision, "timm": _timm}.get(library)
    if builder is None or not slash or not name:
        raise InvalidInput(f"expert {options.arch!r}", hint="expected torchvision/NAME or timm/NAME")
    with seeded(options.seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return builder(name, options, aux)


def _torchvision(name: str, options: ExpertOptions, aux: bool) -> _Built:
    try:
        from torchvision import models
    except ImportError as error:
        raise Unavailable(f"an expert needs torch and torchvision ({error})", hint="qrp-store[cpu]") from error
    kinds: dict[str, Kind] = dict.fromkeys(models.list_models(module=models), "classifier")
    kinds |= dict.fromkeys(models.list_models(module=models.detection), "detector")
    kinds |= dict.fromkeys(models.list_models(module=models.segmentation), "segmenter")
    if name not in kinds:
        raise unknown(f"torchvision/{name}", [f"torchvision/{known}" for known in kinds])
    kind, published = kinds[name], models.get_model_weights(name).DEFAULT
    more: dict[str, Any] = {} if options.names is None else {"num_classes": len(options.names)}
    if options.weights != "default" and kind != "classifier":
        more["weights_backbone"] = None
    if aux and kind == "segmenter":
        more["aux_loss"] = True
    model = torchvision_network(name, published if options.weights == "default" else None, **more)

    def transform(statistics: Statistics | None) -> Callable[[Image], torch.Tensor]:
        given = {} if statistics is None else {"mean": statistics[0], "std": statistics[1]}
        made: Callable[[Image], torch.Tensor] = published.transforms(**given)
        return made

    return _Built(kind, model, transform, tuple(published.meta["categories"]))


def _timm(name: str, options: ExpertOptions, aux: bool) -> _Built:
    timm = timm_package(name)
    from torchvision.models import ResNet50_Weights

    more: dict[str, Any] = {} if options.names is None else {"num_classes": len(options.names)}
    model = timm_network(name, pretrained=options.weights == "default", **more)

    def transform(statistics: Statistics | None) -> Callable[[Image], torch.Tensor]:
        given = {} if statistics is None else {"mean": statistics[0], "std": statistics[1]}
        config = {**timm.data.config.resolve_model_data_config(model), **given}
        made: Callable[[Image], torch.Tensor] = timm.data.create_transform(**config, is_training=False)
        return made

    # A thousand classes are ImageNet's, in its order, in timm as in torchvision.
    names = tuple(ResNet50_Weights.DEFAULT.meta["categories"]) if model.num_classes == 1000 else None
    return _Built("classifier", model, transform, names)


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Names that several classes share get the class's number (ImageNet has two cranes)."""
    shared = Counter(names)
    return tuple(
        f"{name} ({i})" if shared[name] > 1 and name not in _NO_CATEGORY else name for i, name in enumerate(names)
    )
