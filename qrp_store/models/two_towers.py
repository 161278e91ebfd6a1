"""Vision-language models as experts: an image tower and a text tower whose vectors are compared.

`open_clip/NAME`, `open_clip/FOLDER` and `hf/FOLDER` (CLIP, SigLIP, SigLIP2). Building, loading and preprocessing are
those of the backbones of the same families. No code of a checkpoint runs, and nothing is downloaded but published
weights that are asked for by their tag.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from qrp_store import images
from qrp_store.device import float32_arithmetic, memory_errors, resolve_device
from qrp_store.errors import InvalidInput, Unavailable, first_line
from qrp_store.models import checkpoints, open_clip_models, transformers_models
from qrp_store.models.network import Pair, Request, seeded
from qrp_store.models.weight_files import read_weights

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

FAMILIES: Mapping[str, Callable[[Request], Pair]] = {
    "open_clip": open_clip_models.build_pair,
    "hf": transformers_models.build_pair,
}
_TEXTS = 256  # texts in one forward pass


@dataclass(frozen=True)
class TwoTowers:
    """A loaded vision-language model. Its vectors have length 1.

    `activation`: "sigmoid" for a model that was trained with a bias (SigLIP), else "softmax" (CLIP). A logit is `scale`
    times the cosine, plus `bias`. `image_spec` and `text_spec` are the towers' identities (JSON): all that changes
    their vectors, and nothing else.
    """

    arch: str
    dim: int
    device: str
    scale: float
    bias: float
    activation: Literal["sigmoid", "softmax"]
    image_spec: Mapping[str, Any]
    text_spec: Mapping[str, Any]
    _pair: Pair = field(repr=False)

    @property
    def width(self) -> int:
        return self.dim

    def prepare(self, image: Image) -> torch.Tensor:
        """Return an RGB picture as the image tower takes it. Safe from several threads."""
        return self._pair.prepare(image)

    def scores(self, pictures: Sequence[torch.Tensor]) -> NDArray[np.float32]:
        """Return the vectors of prepared pictures, float32 (pictures, dim)."""
        import torch

        memory = memory_errors(self.device, f"a batch of {len(pictures)} images", "choose a smaller --batch-size")
        with torch.inference_mode(), float32_arithmetic(), memory:
            return _unit(self._pair.image(torch.stack(list(pictures)).to(self.device)))

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of texts, float32 (texts, dim)."""
        import torch

        memory = memory_errors(self.device, f"a batch of {_TEXTS} texts")
        with torch.inference_mode(), float32_arithmetic(), memory:
            starts = range(0, len(texts), _TEXTS)
            parts = [_unit(self._pair.text(list(texts[i : i + _TEXTS]), self.device)) for i in starts]
        return np.concatenate(parts) if parts else np.empty((0, self.dim), np.float32)


def _unit(vectors: torch.Tensor) -> NDArray[np.float32]:
    vectors = vectors.float()
    unit: NDArray[np.float32] = (vectors / vectors.norm(dim=-1, keepdim=True)).cpu().numpy()
    return unit


def load_two_towers(arch: str, weights: str = "default", *, device: str = "auto", seed: int = 0) -> TwoTowers:
    """Build a vision-language model and load its weights: "default", "random" (from `seed`) or a file's path.

    Raises NotFound (unknown model or file), InvalidInput (weights that do not match, a model without a text tower or
    without a tokenizer) and Unavailable (a package or device that is missing).
    """
    place = resolve_device(device)
    build = FAMILIES[arch.partition("/")[0]]
    kind = weights if weights in ("default", "random") else "file"
    with seeded(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pair = build(Request(arch, kind))
    if kind == "file":
        _load(pair, arch, Path(weights).expanduser())
    with memory_errors(place, f"the weights of {arch}"):
        model: Any = pair.model.eval().requires_grad_(False).to(place)
    digest = checkpoints.digest_state(model)
    names = {"arch": pair.name, "weights": digest}
    images_of = {**names, "preprocessing": {**pair.preprocessing, "decoding": images.DECODING}}
    bias = getattr(model, "logit_bias", None)
    towers = TwoTowers(
        arch=arch,
        dim=0,
        device=str(place),
        scale=float(model.logit_scale.exp()),
        bias=0.0 if bias is None else float(bias),
        activation="softmax" if bias is None else "sigmoid",
        image_spec=images_of,
        text_spec={**names, "tokenizer": dict(pair.tokenizer)},
        _pair=pair,
    )
    return _measured(towers)


def _load(pair: Pair, arch: str, path: Path) -> None:
    """Load a file with both towers, whatever names it has for the text tower's tensors."""
    content = read_weights(path)
    content = pair.renamed(content) if isinstance(content, Mapping) else content
    try:
        checkpoints.load_state(path, pair.model, whole=True, content=content)
    except InvalidInput as error:
        raise InvalidInput(
            error.message,
            hint=f"the file must hold both towers of {arch}; an image tower alone can be a backbone",
        ) from error


def _measured(towers: TwoTowers) -> TwoTowers:
    """Return the model with its vectors' length, after one text and one picture went through it."""
    from PIL import Image

    try:
        of_text = towers.texts(["a photo"])
        of_image = towers.scores([towers.prepare(Image.new("RGB", (64, 48)))])
    except (InvalidInput, Unavailable):
        raise
    except Exception as error:  # a library's own errors for a tokenizer or a configuration that does not fit
        raise InvalidInput(
            f"{towers.arch}: its towers cannot be run ({first_line(error)})",
            hint="weights, configuration and tokenizer must be of one model",
        ) from error
    if of_text.shape != of_image.shape:
        raise InvalidInput(f"{towers.arch}: its images have {of_image.shape[1]} numbers, its texts {of_text.shape[1]}")
    return replace(towers, dim=of_image.shape[1])
