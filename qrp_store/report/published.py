"""Accuracies that others published for a backbone, to stand beside our scores: the user's table, and what the file name
of a well-known checkpoint tells."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from qrp_store.catalog.entities import embeddings
from qrp_store.errors import InvalidInput, NotFound
from qrp_store.rendering.content import PublishedPoint, Ranked
from qrp_store.samples import shown
from qrp_store.store import Store

Figure = tuple[float, str]
"""ImageNet linear top-1 in percent, and who says so."""

_SWAV, _DINO = "github.com/facebookresearch/swav", "github.com/facebookresearch/dino"
_BY_FILE: dict[str, Figure] = {
    "swav_800ep_pretrain.pth.tar": (75.3, _SWAV),
    "swav_400ep_pretrain.pth.tar": (74.6, _SWAV),
    "swav_200ep_pretrain.pth.tar": (73.9, _SWAV),
    "swav_100ep_pretrain.pth.tar": (72.1, _SWAV),
    "swav_400ep_bs256_pretrain.pth.tar": (74.3, _SWAV),
    "swav_200ep_bs256_pretrain.pth.tar": (72.7, _SWAV),
    "swav_400ep_2x224_pretrain.pth.tar": (70.1, _SWAV),
    "deepclusterv2_800ep_pretrain.pth.tar": (75.2, _SWAV),
    "deepclusterv2_400ep_pretrain.pth.tar": (74.3, _SWAV),
    "deepclusterv2_400ep_2x224_pretrain.pth.tar": (70.2, _SWAV),
    "selav2_400ep_pretrain.pth.tar": (71.8, _SWAV),
    "selav2_400ep_2x224_pretrain.pth.tar": (67.2, _SWAV),
    **{f"dino_resnet50_pretrain{end}": (75.3, _DINO) for end in (".pth", "_full_checkpoint.pth")},
    **{f"dino_deitsmall16_pretrain{end}": (77.0, _DINO) for end in (".pth", "_full_checkpoint.pth")},
    **{f"dino_deitsmall8_pretrain{end}": (79.7, _DINO) for end in (".pth", "_full_checkpoint.pth")},
    **{f"dino_vitbase16_pretrain{end}": (78.2, _DINO) for end in (".pth", "_full_checkpoint.pth")},
    **{f"dino_vitbase8_pretrain{end}": (80.1, _DINO) for end in (".pth", "_full_checkpoint.pth")},
}


def read_published(path: str) -> dict[str, Figure]:
    """A CSV of backbone,top1[,source], top-1 in percent. Raises NotFound, and InvalidInput naming file and line."""
    file = Path(path).expanduser()
    try:
        text = file.read_text("utf-8-sig")
    except FileNotFoundError:
        raise NotFound(f"{file}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file}: cannot be read as text: {error}") from error
    rows = csv.DictReader(text.splitlines(), strict=True)
    figures: dict[str, Figure] = {}
    try:
        if not {"backbone", "top1"} <= set(rows.fieldnames or ()):
            raise InvalidInput(f"{file}: needs the columns backbone and top1", hint="backbone,top1[,source]")
        for row in rows:
            place = f"{file}, line {rows.line_num}"
            name = row["backbone"] or ""
            if name in figures:
                raise InvalidInput(f"{place}: backbone {shown(name)} for the second time")
            figures[name] = (_percent(row["top1"], place), row.get("source") or file.name)
    except csv.Error as error:
        raise InvalidInput(f"{file}, line {rows.reader.line_num}: {error}") from error
    return figures


def _percent(text: str | None, place: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not 1 < value <= 100:
        raise InvalidInput(f"{place}: top1 is {shown(text or '')}", hint="a percentage, such as 75.3")
    return value


def published(
    store: Store, dataset: str, rows: Sequence[Ranked], figures: Mapping[str, Figure]
) -> tuple[PublishedPoint, ...]:
    """The backbones with a published figure: `figures` by name, else by the name of their checkpoint's file.

    Raises NotFound if there are figures but none of these backbones.
    """
    if figures and not any(row.backbone in figures for row in rows):
        names = ", ".join(shown(row.backbone) for row in rows[:10])
        raise NotFound("none of the published figures is about a backbone of this report", hint=f"it has {names}")
    known = set(embeddings.backbones(store.catalog, dataset))
    points = []
    for row in rows:
        figure = figures.get(row.backbone)
        if figure is None and row.backbone in known:
            figure = _by_file(embeddings.get(store.catalog, dataset, row.backbone).artifact.provenance)
        if figure is not None:
            points.append(PublishedPoint(row.backbone, row.nmi_mean, *figure))
    return tuple(points)


def _by_file(provenance: Mapping[str, object]) -> Figure | None:
    name = str(provenance.get("weights_file", ""))
    top1, source = _BY_FILE.get(name, (None, ""))
    return None if top1 is None else (top1, f"{source}, for a file of the name {name}")
