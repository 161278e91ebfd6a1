"""Weights that users have on disk: which tensors of a checkpoint are the backbone's.

A layout is one row of `RECIPES`: where the tensors are, the one prefix to strip, what to drop. Files that no row
describes are searched for the one place that holds the whole model. The rule is the same for all: every tensor of the
model is in the file, and every tensor under the prefix is used or on a documented list.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrp_store.errors import InvalidInput, NotFound
from qrp_store.models.conversions import unwrapped
from qrp_store.models.matching import (
    Loaded,
    Match,
    Target,
    best_match,
    counted_prefixes,
    has_no_class_token,
    match_converted,
    match_layout,
    nearness,
    some_of,
)
from qrp_store.models.recipes import RECIPES, Recipe
from qrp_store.models.weight_files import containers, digest_file, digest_state, digest_weights, read_weights

if TYPE_CHECKING:
    from torch import nn


SEARCH = Recipe("search", "found by the names of the model's tensors", "", (), ("",))
# Copies of a network that are loaded only when they are named.
_NEVER = re.compile(r"(^|[._])(encoder_k|momentum\w*|\w+_momentum)[._]")
# Copies of a network that are preferred when a file holds several.
_PREFERRED = re.compile(r"(^|[._])(ema|teacher|target)([._]|$)")


def load_state(
    path: Path,
    model: nn.Module,
    recipe: str = "auto",
    classifier: Sequence[str] = (),
    *,
    whole: bool = False,
    container: str | None = None,
    prefix: str | None = None,
    interpolate: bool = False,
    content: object = None,
) -> Loaded:
    """Load a checkpoint into a model without its classifier; `classifier` names what was removed ("fc").

    `whole`: the model has its classifier, and no layout drops one. `container`, `prefix`: where the tensors are,
    instead of a layout's. `interpolate`: position embeddings of another image size are interpolated.
    `content`: what `read_weights` gave for the path, when it was read before.

    Every tensor of the model must be in the file with its shape, and every tensor under the prefix must be used,
    dropped or the classifier's; else InvalidInput shows what does not match. `auto` takes the first layout that fits.
    Also InvalidInput: a file that needs code to be unpickled (never run), is damaged, or comes from another framework.
    NotFound: no such file or recipe.
    """
    if recipe != "auto" and recipe not in RECIPES:
        close = difflib.get_close_matches(recipe, RECIPES, 3, 0.4)
        raise NotFound(f"no recipe {recipe!r}", hint="recipes: auto " + " ".join(close or RECIPES))
    content = read_weights(path) if content is None else content
    if not isinstance(content, Mapping):
        raise InvalidInput(f"{path}: holds a {type(content).__name__}, expected a state dict")
    target = Target(model, model.state_dict(), tuple(classifier), interpolate)
    candidates = [row for row in RECIPES.values() if row.auto] if recipe == "auto" else [RECIPES[recipe]]
    if whole:
        candidates = [replace(row, dropped=()) for row in candidates]
    if container is not None or prefix is not None:
        chosen = _named(path, content, target, candidates[0] if recipe != "auto" else None, container, prefix)
    else:
        chosen = _chosen(path, content, target, candidates, recipe)
    model.load_state_dict({**target.wanted, **chosen.tensors})
    return chosen.loaded


def _chosen(path: Path, content: Mapping[str, Any], target: Target, candidates: Sequence[Recipe], recipe: str) -> Match:
    """The first layout that fits, as it is or converted; else the only place in the file that fits."""
    matches = [m for row in candidates if (m := match_layout(content, row, target)) is not None]
    chosen = next((match for match in matches if match.complete), None)
    if chosen is not None:
        return chosen
    for row in candidates:
        for match in match_converted(content, row, target):
            if match.complete:
                return match
            matches.append(match)
    if recipe == "auto":
        places = list(_search(content, target))
        complete = [match for match in places if match.complete]
        preferred = [m for m in complete if _PREFERRED.search(f"{m.loaded.container}.{m.loaded.prefix}")]
        if len(complete) > 1 and len(preferred) != 1:
            options = "; ".join(_options(match.loaded) for match in complete[:8])
            raise InvalidInput(f"{path}: holds the model {len(complete)} times", hint=f"choose one: {options}")
        if complete:
            return (preferred or complete)[0]
        matches += places
    raise _mismatch(path, recipe, matches, content, len(target.wanted))


def _options(loaded: Loaded) -> str:
    container = f"--container {loaded.container} " if loaded.container else ""
    return f"{container}--prefix {loaded.prefix or repr('')}"


def _search(content: Mapping[str, Any], target: Target) -> Iterator[Match]:
    """Places of a file where many of the model's names are."""
    for container, wrapped in containers(content):
        state = unwrapped(wrapped)
        prefixes: Counter[str] = Counter()
        for name in state:
            parts = name.split(".")
            prefixes.update(
                ".".join([*parts[:i], ""]) for i in range(len(parts)) if ".".join(parts[i:]) in target.wanted
            )
        for prefix, count in prefixes.items():
            if count * 4 >= len(target.wanted) and not _NEVER.search(prefix):
                yield best_match(SEARCH, container, prefix, state, target)


def _named(
    path: Path,
    content: Mapping[str, Any],
    target: Target,
    recipe: Recipe | None,
    container: str | None,
    prefix: str | None,
) -> Match:
    """The tensors at a container and under a prefix that the user names; a recipe says the rest."""
    recipe = recipe or SEARCH
    places = dict(containers(content))
    if container is None:
        names = [c for c in recipe.containers if c in places] or list(places)
        with_prefix = [c for c in names if any(n.startswith(prefix or "") for n in unwrapped(places[c]))]
        container = (with_prefix or names or [""])[0]
    if container not in places:
        known = ", ".join(f"{place or 'the file'} ({len(state)} tensors)" for place, state in places.items())
        raise InvalidInput(f"{path}: no tensors at container {container!r}", hint=f"containers in the file: {known}")
    state = unwrapped(places[container])
    if prefix is None:
        # The most specific prefix with the model's names.
        near = [m for m in _search(content, target) if m.loaded.container == container]
        complete = [m for m in near if m.complete]
        prefix = (complete or near)[0].loaded.prefix if near else ""
    elif prefix and not prefix.endswith(".") and any(name.startswith(f"{prefix}.") for name in state):
        prefix += "."
    if not any(name.startswith(prefix) for name in state):
        raise InvalidInput(
            f"{path}: no tensor of {container or 'the file'} begins with {prefix!r}",
            hint=f"prefixes in the file: {counted_prefixes(state)}",
        )
    match = best_match(recipe, container, prefix, state, target)
    if not match.complete:
        raise _mismatch(path, recipe.name, [match], content, len(target.wanted))
    return match


def _mismatch(path: Path, recipe: str, matches: list[Match], content: Mapping[str, Any], n_wanted: int) -> InvalidInput:
    """The error when no layout fits: the nearest one, and what is wrong with it."""
    hint = (
        "check --arch; name the layout with --recipe (qrp-store ls recipes), or its place with --container and --prefix"
    )
    places = dict(containers(content))
    if not matches:
        layout = "any known layout" if recipe == "auto" else f"recipe {recipe}"
        prefixes = "; ".join(f"{place or 'the file'}: {counted_prefixes(state)}" for place, state in places.items())
        return InvalidInput(
            f"{path}: nothing matches {layout}; its keys: {some_of([str(k) for k in content])}"
            + (f"; its prefixes: {prefixes}" if prefixes else ""),
            hint=hint,
        )
    near = max(matches, key=nearness)
    fitting = len(near.tensors) - len(near.misshapen) - len(near.other_size)
    if not (near.missing or near.unmatched or near.misshapen):
        return InvalidInput(
            f"{path}: its position embeddings are of another image size ({some_of(near.other_size)})",
            hint="--interpolate-positions, or the --image-size of the checkpoint",
        )
    parts = [f"{path}: recipe {near.loaded.recipe.name} finds {fitting} of the model's {n_wanted} tensors"]
    for title, names in (
        ("missing in the file", near.missing),
        ("unmatched in the file", near.unmatched),
        ("other shape in the file", near.misshapen),
        ("positions of another image size", near.other_size),
    ):
        if names:
            parts.append(f"{title} ({len(names)}): {some_of(names)}")
    return InvalidInput("; ".join(parts), hint=hint)


__all__ = ["Loaded", "digest_file", "digest_state", "digest_weights", "has_no_class_token", "load_state"]
