"""Weights that users have on disk: which tensors of a checkpoint are the backbone's.

A layout is one row of `RECIPES`: where the tensors are, the one prefix to strip, what to drop. It decides only which
tensors are read; preprocessing comes from the architecture, except where a layout belongs to one published set of
weights. Files are never unpickled beyond tensors and plain values.
"""

from __future__ import annotations

import difflib
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrp_store.errors import InvalidInput, NotFound, first_line
from qrp_store.models.recipes import RECIPES, Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

Tensors = Mapping[str, "Tensor"]


@dataclass(frozen=True)
class Loaded:
    """What was read from a checkpoint: the layout, where in the file, and how many tensors were left out."""

    recipe: Recipe
    container: str
    prefix: str
    n_loaded: int
    n_left_out: int

    def __str__(self) -> str:
        where = f"{self.container or 'the file'}{f', {self.prefix}*' if self.prefix else ''}"
        return f"recipe {self.recipe.name}: {self.n_loaded} tensors from {where}, {self.n_left_out} left out"


@dataclass(frozen=True)
class _Match:
    """How a layout fits: the model's tensors it finds, and what speaks against it."""

    loaded: Loaded
    tensors: Tensors
    missing: tuple[str, ...]
    unmatched: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unmatched or self.misshapen)


def load_state(
    path: Path, model: nn.Module, recipe: str = "auto", classifier: Sequence[str] = (), *, whole: bool = False
) -> Loaded:
    """Load a checkpoint into a model without its classifier; `classifier` names what was removed ("fc").

    `whole`: the model has its classifier, and no layout drops one.

    Every tensor of the model must be found with its shape, and every tensor under the prefix must be used, dropped or
    the classifier's; else InvalidInput shows what does not match. `auto` takes the first layout that fits. Also
    InvalidInput: a file that needs code to be unpickled (never run), is damaged, or comes from another framework.
    NotFound: no such file or recipe.
    """
    if recipe != "auto" and recipe not in RECIPES:
        close = difflib.get_close_matches(recipe, RECIPES, 3, 0.4)
        raise NotFound(f"no recipe {recipe!r}", hint="recipes: auto " + " ".join(close or RECIPES))
    content = _read(path)
    if not isinstance(content, Mapping):
        raise InvalidInput(f"{path}: holds a {type(content).__name__}, expected a state dict")
    wanted = model.state_dict()
    children = [name for name, _ in model.named_children()]
    candidates = [row for row in RECIPES.values() if row.auto] if recipe == "auto" else [RECIPES[recipe]]
    if whole:
        candidates = [replace(row, dropped=()) for row in candidates]
    matches = [m for row in candidates if (m := _match(content, row, wanted, classifier, children)) is not None]
    chosen = next((match for match in matches if match.complete), None)
    if chosen is None:
        raise _mismatch(path, recipe, matches, content, len(wanted))
    model.load_state_dict({**wanted, **chosen.tensors})
    return chosen.loaded


def _match(
    content: Mapping[str, Any], recipe: Recipe, wanted: Tensors, classifier: Sequence[str], children: Sequence[str]
) -> _Match | None:
    """How a layout fits a file, or None when its container, prefix or mark is not there."""
    if any(container in content for container in recipe.unless):
        return None
    for container in recipe.containers:
        state = _tensors_at(content, container)
        if not state or (recipe.by_order is not None and recipe.by_order not in state):
            continue
        prefix = next((p for p in recipe.prefixes if any(name.startswith(p) for name in state)), None)
        if prefix is None:
            continue
        dropped = (*recipe.dropped, *(f"{name}." for name in classifier))
        under = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
        if recipe.numbered:
            under = {_by_name(name, children): tensor for name, tensor in under.items()}
        under = {name: tensor for name, tensor in under.items() if not name.startswith(dropped)}
        if recipe.by_order is not None:
            under = _renamed(under, wanted)
        found = {name: tensor for name, tensor in under.items() if name in wanted}
        misshapen = tuple(
            f"{name} {tuple(tensor.shape)}, model {tuple(wanted[name].shape)}"
            for name, tensor in found.items()
            if tensor.shape != wanted[name].shape
        )
        # Old files lack BatchNorm's counter, which evaluation does not use.
        missing = tuple(n for n in wanted if n not in found and not n.endswith("num_batches_tracked"))
        unmatched = tuple(prefix + name for name in under if name not in wanted)
        loaded = Loaded(recipe, container, prefix, len(found), len(state) - len(found))
        return _Match(loaded, found, missing, unmatched, misshapen)
    return None


def _by_name(name: str, children: Sequence[str]) -> str:
    """A tensor's name with the place of a child of the model replaced by its name: 0.weight is conv1.weight."""
    place, dot, rest = name.partition(".")
    return f"{children[int(place)]}.{rest}" if dot and place.isdecimal() and int(place) < len(children) else name


def _renamed(tensors: Tensors, wanted: Tensors) -> dict[str, Tensor]:
    """Tensors under the model's names, place by place, when number and kinds agree; else as they are."""
    kinds = [[name.rpartition(".")[2] for name in names] for names in (tensors, wanted)]
    if kinds[0] != kinds[1]:
        return dict(tensors)
    return dict(zip(wanted, tensors.values(), strict=True))


def _tensors_at(content: Mapping[str, Any], container: str) -> dict[str, Tensor]:
    from torch import Tensor

    inner: Any = content
    for key in container.split(".") if container else ():
        if not isinstance(inner, Mapping) or key not in inner:
            return {}
        inner = inner[key]
    if not isinstance(inner, Mapping):
        return {}
    return {name: tensor for name, tensor in inner.items() if isinstance(name, str) and isinstance(tensor, Tensor)}


def _mismatch(
    path: Path, recipe: str, matches: list[_Match], content: Mapping[str, Any], n_wanted: int
) -> InvalidInput:
    """The error when no layout fits: the nearest one, and what is wrong with it."""
    hint = "check --arch, and name the layout with --recipe: " + " ".join(RECIPES)
    if not matches:
        wanted = "any known layout" if recipe == "auto" else f"recipe {recipe}"
        return InvalidInput(
            f"{path}: nothing matches {wanted}; its keys: {_some([str(k) for k in content])}", hint=hint
        )
    near = max(matches, key=lambda match: (len(match.tensors) - len(match.misshapen), -len(match.unmatched)))
    parts = [f"{path}: recipe {near.loaded.recipe.name} finds {len(near.tensors)} of the model's {n_wanted} tensors"]
    for title, names in (
        ("missing in the file", near.missing),
        ("unmatched in the file", near.unmatched),
        ("other shape in the file", near.misshapen),
    ):
        if names:
            parts.append(f"{title} ({len(names)}): {_some(names)}")
    return InvalidInput("; ".join(parts), hint=hint)


def _some(names: Sequence[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")


_OTHER_FRAMEWORKS = frozenset(
    (".npz", ".npy", ".msgpack", ".index", ".meta", ".h5", ".hdf5", ".pb", ".tflite", ".onnx")
)


def _read(path: Path) -> object:
    """The content of a PyTorch or safetensors file: containers, tensors and plain values only."""
    if not path.exists():
        raise NotFound(f"{path}: no such file")
    if path.is_dir() or path.suffix.lower() in _OTHER_FRAMEWORKS:
        raise InvalidInput(
            f"{path}: not a PyTorch checkpoint",
            hint="JAX and TensorFlow weights (BYOL, SimCLR) must be converted first",
        )
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    return _read_torch(path)


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidInput(f"{path}: damaged .safetensors file ({first_line(error)})") from error


def _read_torch(path: Path) -> object:
    import argparse
    import pickle

    import numpy as np
    import torch

    # What training scripts put beside the tensors: their options and numbers. None of these runs anything.
    scalar: Any = getattr(np, "_core", np).multiarray.scalar
    allowed: list[Any] = [
        argparse.Namespace,
        np.dtype,
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        *(type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
    ]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InvalidInput(
            f"{path}: not a PyTorch file, or one that would run code to be read ({_blocked(error)})",
            hint="save the tensors alone: torch.save(model.state_dict(), …); convert JAX and TensorFlow weights",
        ) from error
    except Exception as error:  # a damaged file breaks the reader in many ways
        raise InvalidInput(f"{path}: not a PyTorch file, or damaged ({first_line(error)})") from error


def _blocked(error: BaseException) -> str:
    """The line of torch's long message that names what was refused."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line[:200] for line in lines if "GLOBAL" in line or "Unsupported" in line), first_line(error))


def digest_file(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_state(model: nn.Module) -> str:
    """sha256 (hex) of a model's tensors: names, types, shapes and numbers."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
