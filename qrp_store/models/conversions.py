"""Other names and shapes of the same network: what wrappers, old releases and other libraries make of its tensors.

timm converts the published files of many families with functions of its own. They drop tensors without a word, so they
run here on tensors that remember their sources: what no result comes from was dropped, and is checked by name.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Tensors = Mapping[str, "Tensor"]

# FSDP, torch.compile, activation checkpointing and DeepSpeed put these into names, at any level.
_WRAPPERS = re.compile(r"(?:_fsdp_wrapped_module|_orig_mod|_checkpoint_wrapped_module|_forward_module)\.")
_CHUNK = re.compile(r"^blocks\.\d+\.(\d+)\.")
_DENSELAYER = re.compile(r"(denselayer\d+)\.(norm|relu|conv)\.(\d)\.")
# Tensors of pretraining and buffers that no feature depends on; the last name, or the first, of a tensor.
LEFT_OUT = (
    "mask_token",
    "bias_mask",
    "periods",
    "relative_position_index",
    "attn_mask",
    "position_ids",
    "total_ops",
    "total_params",
    "n_averaged",
    "aux1",
    "aux2",
    "AuxLogits",
    "lm_head",
    "local_cls_norm",
    "projectors",
    "pre_logits",
)


@dataclass(frozen=True)
class Converted:
    """Tensors under the model's names. `origin`: the names in the file that each comes from. `resampled`: names whose
    tensor was interpolated to another size."""

    tensors: Tensors
    origin: Mapping[str, frozenset[str]]
    resampled: tuple[str, ...] = ()

    @staticmethod
    def renamed(tensors: Tensors, rename: Callable[[str], str] = str) -> Converted:
        """The same tensors under other names."""
        names = {name: rename(name) for name in tensors}
        return Converted(
            {new: tensors[name] for name, new in names.items()},
            {new: frozenset([name]) for name, new in names.items()},
        )


def left_out(name: str) -> bool:
    """Whether a tensor that the model does not have may be left out: a row of the documented list."""
    parts = name.split(".")
    return parts[-1] in LEFT_OUT or parts[0] in LEFT_OUT


def unwrapped(tensors: Tensors) -> Tensors:
    """Names without what training wrappers put into them."""
    return {_WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}


def conversions(tensors: Tensors, model: nn.Module, *, interpolate: bool) -> Iterator[Converted]:
    """The ways in which a file's tensors may be the model's, simplest first."""
    plain = Converted.renamed(tensors, partial(_CHUNK.sub, r"blocks.\1.") if _in_chunks(tensors) else str)
    yield plain
    library = type(model).__module__.partition(".")[0]
    if library == "torchvision":
        renamed = Converted.renamed(tensors, partial(_DENSELAYER.sub, r"\1.\2\3."))
        yield _positions(renamed, model) if interpolate else renamed
    for function in _filters(model) if library == "timm" else ():
        inputs = [plain]
        if "class_embedding" in tensors:  # timm knows OpenAI's names by the whole model's prefix
            inputs.insert(0, Converted.renamed(tensors, "visual.{}".format))
        for given in inputs:
            with contextlib.suppress(Exception):  # a filter of timm breaks in many ways on a file of another family
                yield _traced(function, given, model)


def _in_chunks(tensors: Tensors) -> bool:
    """DINOv2's training keeps its blocks in chunks: blocks.2.7.… is block 7."""
    blocks = [name for name in tensors if name.startswith("blocks.")]
    return bool(blocks) and all(_CHUNK.match(name) for name in blocks)


def _positions(converted: Converted, model: nn.Module) -> Converted:
    """torchvision's ViT for another size of image."""
    from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

    name = "encoder.pos_embedding"
    if not isinstance(model, VisionTransformer) or name not in converted.tensors:
        return converted
    before = converted.tensors[name].shape
    tensors = interpolate_embeddings(model.image_size, model.patch_size, dict(converted.tensors))
    resampled = (name,) if tensors[name].shape != before else ()
    return Converted(tensors, converted.origin, resampled)


def _filters(model: nn.Module) -> list[Callable[[Any, Any], Any]]:
    """timm's own conversions for the model's family."""
    module = sys.modules[type(model).__module__]
    names = [name for name in ("checkpoint_filter_fn", "_filter_fn") if hasattr(module, name)]
    functions: list[Callable[[Any, Any], Any]] = [getattr(module, name) for name in names]
    if module.__name__.endswith(".vision_transformer"):
        deit: Callable[..., Any] = functions[0]
        functions.append(partial(deit, adapt_layer_scale=True))  # DeiT III
    return functions


def _traced(function: Callable[[Any, Any], Any], file: Converted, model: nn.Module) -> Converted:
    import torch

    class Traced(torch.Tensor):
        """A tensor that knows the names of the file's tensors that it comes from."""

        sources: frozenset[str]
        resampled: bool

        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            with torch._C.DisableTorchFunctionSubclass():
                result = func(*args, **(kwargs or {}))
            inputs = list(_traced_in((args, kwargs or {})))
            sources = frozenset().union(*(tensor.sources for tensor in inputs))
            resampled = func is torch.nn.functional.interpolate or any(tensor.resampled for tensor in inputs)
            if isinstance(result, torch.Tensor):
                return _wrap(result, sources, resampled)
            if isinstance(result, tuple | list) and any(isinstance(part, torch.Tensor) for part in result):
                return type(result)(_wrap(part, sources, resampled) for part in result)
            return result

    def _wrap(tensor: Tensor, sources: frozenset[str], resampled: bool = False) -> Traced:
        wrapped = tensor.as_subclass(Traced)
        wrapped.sources, wrapped.resampled = sources, resampled
        return wrapped

    def _traced_in(value: Any) -> Iterator[Traced]:
        if isinstance(value, Traced):
            yield value
        elif isinstance(value, Mapping):
            yield from (tensor for part in value.values() for tensor in _traced_in(part))
        elif isinstance(value, tuple | list):
            yield from (tensor for part in value for tensor in _traced_in(part))

    given = {name: _wrap(tensor.detach(), file.origin[name]) for name, tensor in file.tensors.items()}
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = function(dict(given), model)
    origin = {name: getattr(tensor, "sources", frozenset([name])) for name, tensor in made.items()}
    plain = {name: tensor.as_subclass(torch.Tensor) for name, tensor in made.items()}
    return Converted(plain, origin, tuple(name for name, tensor in made.items() if getattr(tensor, "resampled", False)))
