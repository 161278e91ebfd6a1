"""Render the pages of `qrp-store serve`. They share style, cards, figures and captions with the report."""

from __future__ import annotations

import json
from collections import OrderedDict
from functools import cache
from importlib.resources import files
from threading import Lock
from typing import Any

from qrp_store.rendering.captions import digits
from qrp_store.rendering.content import KPoint, Ranked, SeriesPoint

_FIGURES = 200  # kept in memory, about 20 KB each
_figures: OrderedDict[str, str] = OrderedDict()
_drawing = Lock()  # matplotlib draws one figure at a time


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("qrp_store.rendering", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["digits"] = digits
    environment.filters["count"] = lambda value: "–" if value is None else f"{value:,}"
    environment.filters["bytes"] = _bytes
    return environment


def page(name: str, **content: Any) -> str:
    """Return the HTML of the page `site/NAME.html`. Text from the store is always escaped."""
    return str(_environment().get_template(f"site/{name}.html").render(**content))


def asset(name: str) -> str:
    """Return a style sheet or script: page.css, site.css or site.js."""
    folder = "" if name == "page.css" else "site/"
    return files("qrp_store.rendering").joinpath(f"{folder}{name}").read_text("utf-8")


def ranking_figure(rows: tuple[Ranked, ...]) -> Any:
    """The ranking as inline SVG, drawn once for the same rows."""
    from qrp_store.rendering import figures

    return _drawn(repr(("ranking", rows)), lambda: figures.ranking(rows))


def across_k_figure(points: tuple[KPoint, ...]) -> Any:
    """NMI against K as inline SVG, drawn once for the same points."""
    from qrp_store.rendering import figures

    return _drawn(repr(("across-k", points)), lambda: figures.across_k(points))


def series_figure(points: tuple[SeriesPoint, ...]) -> Any:
    """NMI along series as inline SVG, drawn once for the same points."""
    from qrp_store.rendering import figures

    return _drawn(repr(("series", points)), lambda: figures.series(points))


def _drawn(key: str, draw: Any) -> Any:
    from markupsafe import Markup

    with _drawing:
        svg = _figures.get(key)
        if svg is None:
            svg = _figures[key] = draw()
            while len(_figures) > _FIGURES:
                _figures.popitem(last=False)
        _figures.move_to_end(key)
    return Markup(svg)


def embedded_json(value: object) -> str:
    """Indented JSON for a page to show as text."""
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)


def _bytes(value: float | None) -> str:
    return "–" if value is None else f"{value / 1e6:,.1f} MB"
