"""How a layout fits a file: the model's tensors that it yields, what is missing, and what is left over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from qrp_store.models.conversions import Converted, conversions, left_out, unwrapped
from qrp_store.models.recipes import RECIPES, Recipe, Statistics

if TYPE_CHECKING:
    from torch import Tensor, nn

Tensors = Mapping[str, "Tensor"]


@dataclass(frozen=True)
class Loaded:
    """What was read from a checkpoint: the layout, where in the file, and the names that were left out.

    `resampled` are the model's tensors that were interpolated to another image size; `statistics` the inputs' mean and
    standard deviation in the training of the layout's family.
    """

    recipe: Recipe
    container: str
    prefix: str
    n_loaded: int
    left_out: tuple[str, ...]
    resampled: tuple[str, ...] = ()
    statistics: Statistics | None = None

    def __str__(self) -> str:
        where = f"{self.container or 'the file'}{f', {self.prefix}*' if self.prefix else ''}"
        left = f"{len(self.left_out)} left out" + (f" ({grouped(self.left_out)})" if self.left_out else "")
        resized = f", interpolated: {', '.join(self.resampled)}" if self.resampled else ""
        return f"recipe {self.recipe.name}: {self.n_loaded} tensors from {where}, {left}{resized}"


@dataclass(frozen=True)
class Match:
    """How a layout fits: the model's tensors that it yields, and what speaks against it."""

    loaded: Loaded
    tensors: Tensors
    missing: tuple[str, ...]
    unmatched: tuple[str, ...]
    misshapen: tuple[str, ...]
    other_size: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unmatched or self.misshapen or self.other_size)


@dataclass(frozen=True)
class Target:
    """The model that is loaded. `classifier`: names of what was removed from it."""

    model: nn.Module
    wanted: Tensors
    classifier: tuple[str, ...]
    interpolate: bool

    @property
    def children(self) -> list[str]:
        return [name for name, _ in self.model.named_children()]


def has_no_class_token(content: object) -> bool:
    """Whether a checkpoint is I-JEPA's, whose ViT has no class token and is averaged over its patches."""
    if not isinstance(content, Mapping):
        return False
    state = next((s for _, s in _states(content, RECIPES["ijepa"])), {})
    return bool(state) and not any(name.endswith("cls_token") for name in state)


def match_layout(content: Mapping[str, Any], recipe: Recipe, target: Target) -> Match | None:
    """How a layout fits a file as it is, or None when its container, prefix or mark is not in the file."""
    for container, state in _states(content, recipe):
        prefix = next((p for p in recipe.prefixes if any(name.startswith(p) for name in state)), None)
        if prefix is not None:
            return _fit(
                recipe, container, prefix, state, _plain(recipe, _under(state, prefix, recipe, target), target), target
            )
    return None


def match_converted(content: Mapping[str, Any], recipe: Recipe, target: Target) -> Iterator[Match]:
    """How a layout fits a file whose names or shapes are converted."""
    if recipe.by_order is not None or recipe.numbered:
        return
    for container, wrapped in _states(content, recipe):
        state = unwrapped(wrapped)
        prefix = next((p for p in recipe.prefixes if any(name.startswith(p) for name in state)), None)
        if prefix is None:
            continue
        under = _under(state, prefix, recipe, target)
        for converted in conversions(under, target.model, interpolate=target.interpolate):
            yield _fit(recipe, container, prefix, state, converted, target)


def best_match(recipe: Recipe, container: str, prefix: str, state: Tensors, target: Target) -> Match:
    """The first conversion that fits, else the nearest."""
    matches = []
    under = _under(state, prefix, recipe, target)
    for converted in conversions(under, target.model, interpolate=target.interpolate):
        matches.append(_fit(recipe, container, prefix, state, converted, target))
        if matches[-1].complete:
            return matches[-1]
    return max(matches, key=nearness)


def _states(content: Mapping[str, Any], recipe: Recipe) -> Iterator[tuple[str, Tensors]]:
    """The containers of a layout that are in the file, each with its tensors."""
    if any(container in content for container in recipe.unless):
        return
    for container in recipe.containers:
        state = _tensors_at(content, container)
        if not state or (recipe.by_order is not None and recipe.by_order not in state):
            continue
        if recipe.marks and not any(name.startswith(recipe.marks) for name in state):
            continue
        yield container, state


def _under(state: Tensors, prefix: str, recipe: Recipe, target: Target) -> Tensors:
    """The tensors under a prefix, without what the layout drops and without the classifier."""
    dropped = (*recipe.dropped, *(f"{name}." for name in target.classifier))
    under = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
    return {name: t for name, t in under.items() if name in target.wanted or not name.startswith(dropped)}


def _plain(recipe: Recipe, under: Tensors, target: Target) -> Converted:
    """Tensors under the names that the layout says they have in the model."""
    if recipe.numbered:
        return Converted.renamed(under, partial(_by_name, children=target.children))
    if recipe.by_order is not None:
        return Converted.renamed(under, _in_order(under, target.wanted).__getitem__)
    return Converted.renamed(under)


def _fit(recipe: Recipe, container: str, prefix: str, state: Tensors, converted: Converted, target: Target) -> Match:
    """Compare tensors under the model's names with the model."""
    expected = target.wanted
    tensors = {name: tensor for name, tensor in converted.tensors.items() if name in expected}
    shapes = {
        name: f"{name} {tuple(tensor.shape)}, model {tuple(expected[name].shape)}"
        for name, tensor in tensors.items()
        if tensor.shape != expected[name].shape
    }
    resampled = tuple(name for name in converted.resampled if name in expected)
    misshapen = [shape for name, shape in shapes.items() if not _is_position(name)]
    misshapen += [f"{name}, resampled" for name in tensors if _is_resampled(name, converted, state, prefix)]
    misshapen += [f"{name}, interpolated" for name in resampled if not _is_position(name)]
    other_size = [shape for name, shape in shapes.items() if _is_position(name)]
    other_size += [name for name in resampled if _is_position(name) and not target.interpolate]
    # Old files lack BatchNorm's counter, which evaluation does not use.
    missing = tuple(n for n in expected if n not in tensors and not n.endswith("num_batches_tracked"))
    names = [name[len(prefix) :] for name in state if name.startswith(prefix)]
    used = _origins(converted, tensors)
    dropped = (*recipe.dropped, *(f"{name}." for name in target.classifier))
    of_head = _origins(converted, [name for name in converted.tensors if name.startswith(dropped)])
    extra = [name for name in _under(state, prefix, recipe, target) if name not in used | of_head]
    unmatched = dict.fromkeys(prefix + n for n in extra if not left_out(n) and not _is_zero_bias(n, prefix, state))
    left = tuple(name for name in state if not (name.startswith(prefix) and name[len(prefix) :] in used))
    evident = not recipe.evidence or any(name.startswith(recipe.evidence) for name in names)
    statistics = recipe.statistics if evident else None
    loaded = Loaded(recipe, container, prefix, len(tensors), left, resampled, statistics)
    return Match(loaded, tensors, missing, tuple(unmatched), tuple(misshapen), tuple(other_size))


def _origins(converted: Converted, names: Iterable[str]) -> set[str]:
    """The names in the file that these tensors come from."""
    return {source for name in names for source in converted.origin[name]}


def _is_position(name: str) -> bool:
    return "pos" in name.rpartition(".")[2]


def _is_resampled(name: str, converted: Converted, state: Tensors, prefix: str) -> bool:
    """Whether a tensor comes from one of another size alone: a patch embedding of other patches, for instance."""
    sources = converted.origin[name]
    if len(sources) != 1 or _is_position(name):
        return False
    (source,) = sources
    shared = sum(sources <= others for others in converted.origin.values())
    tensor = state.get(prefix + source)
    return shared == 1 and tensor is not None and tensor.numel() != converted.tensors[name].numel()


def _is_zero_bias(name: str, prefix: str, state: Tensors) -> bool:
    """A bias of zeros changes nothing: DINOv3's distilled networks have them, timm's architecture does not."""
    tensor = state.get(prefix + name)
    return name.endswith("bias") and tensor is not None and not tensor.any()


def _by_name(name: str, children: Sequence[str]) -> str:
    """A tensor's name with the place of a child of the model replaced by its name: 0.weight is conv1.weight."""
    place, dot, rest = name.partition(".")
    return f"{children[int(place)]}.{rest}" if dot and place.isdecimal() and int(place) < len(children) else name


def _in_order(tensors: Tensors, expected: Tensors) -> dict[str, str]:
    """The model's name of each tensor, place by place, when number and kinds agree; else the tensor's name."""
    kinds = [[name.rpartition(".")[2] for name in names] for names in (tensors, expected)]
    return dict(zip(tensors, expected if kinds[0] == kinds[1] else tensors, strict=True))


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


def nearness(match: Match) -> tuple[int, int]:
    return len(match.tensors) - len(match.misshapen), -len(match.unmatched)


def some_of(names: Sequence[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")


def grouped(names: Sequence[str], limit: int = 4) -> str:
    """Few names as they are, many by what they begin with: "head.* (6)"."""
    return ", ".join(names) if len(names) <= limit else counted_prefixes(dict.fromkeys(names))


def counted_prefixes(names: Mapping[str, object], limit: int = 8) -> str:
    """What names begin with, with counts; further parts of a name while all names share them."""
    counts: Counter[str] = Counter()
    for name in names:
        head, dot, _ = name.partition(".")
        counts[f"{head}{dot}"] += 1
    if len(counts) == 1 and (only := next(iter(counts))).endswith("."):
        rest = {name[len(only) :]: None for name in names}
        return ", ".join(only + part for part in counted_prefixes(rest, limit).split(", "))
    parts = [f"{head}* ({n})" if head.endswith(".") else head for head, n in counts.most_common()]
    return some_of(parts, limit)
