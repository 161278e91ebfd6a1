"""The backbones that one ingest makes: one for each checkpoint and each layer, with their places in a series."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qrp_store.errors import InvalidInput, NotFound

_WITHOUT_FILE = ("default", "random")


@dataclass(frozen=True)
class Member:
    """One backbone of an ingest: its weights, its layer (None: the model's output), and its place in a series."""

    name: str
    weights: str
    layer: str | None
    series: str | None = None
    position: int | None = None


def expanded(weights: Sequence[str]) -> tuple[str, ...]:
    """Absolute paths of checkpoints; a pattern gives its files in natural order (epoch_2 before epoch_10).

    Raises NotFound for a pattern without files, InvalidInput for a file that is named twice.
    """
    paths: list[str] = []
    for given in weights:
        if given in _WITHOUT_FILE:
            paths.append(given)
            continue
        path = Path(given).expanduser()
        if path.exists() or not glob.has_magic(given):
            paths.append(str(path.absolute()))
            continue
        matches = sorted(glob.glob(str(path), recursive=True), key=_natural)
        if not matches:
            raise NotFound(f"--weights {given}: no file has such a name")
        paths += [str(Path(match).absolute()) for match in matches]
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise InvalidInput(f"--weights {twice[0]} is given twice")
    if len(paths) > 1 and set(paths) & set(_WITHOUT_FILE):
        raise InvalidInput("--weights default and random are not part of a series", hint="ingest them on their own")
    return tuple(paths)


def members(backbone: str, weights: Sequence[str], layers: Sequence[str]) -> list[Member]:
    """The backbones `B`, `B/STEM`, `B:LAYER` or `B/STEM:LAYER` of an ingest, checkpoint by checkpoint."""
    stems = _stems(weights) if len(weights) > 1 else [""]
    made = []
    for place, (path, stem) in enumerate(zip(weights, stems, strict=True)):
        base = f"{backbone}/{stem}" if stem else backbone
        for depth, layer in enumerate(layers or [None]):
            suffix = f":{layer}" if len(layers) > 1 else ""
            if stem:
                made.append(Member(base + suffix, path, layer, backbone + suffix, place))
            elif suffix:
                made.append(Member(base + suffix, path, layer, backbone, depth))
            else:
                made.append(Member(base, path, layer))
    return made


def _stems(weights: Sequence[str]) -> list[str]:
    """Names of checkpoints without their endings. Raises InvalidInput when two are the same."""
    stems = [re.sub(r"(\.(pth|pt|ckpt|safetensors|tar|bin|torch))+$", "", Path(path).name) for path in weights]
    twice = [stem for stem, count in Counter(stems).items() if count > 1]
    if twice:
        files = ", ".join(path for path, stem in zip(weights, stems, strict=True) if stem == twice[0])
        raise InvalidInput(f"--weights: {files} would be one backbone", hint="rename them")
    return stems


def _natural(path: str) -> list[tuple[int, int, str]]:
    """A sorting key by which numbers in a name count as numbers."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", path) if part]
