"""The page's figures as inline SVG. Text stays text; colours are CSS variables, for light and dark pages.

matplotlib draws with placeholder colours, which become CSS variables. Series differ in colour (the palette of Okabe and
Ito, safe for colour-blind readers), marker and line style.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qrp_store.rendering.content import Gallery, GroupBar, History, KPoint, Ranked, SeriesPoint
from qrp_store.samples import width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _SOFT = "#010203", "#010204"
_SERIES = tuple(f"#0102{n:02x}" for n in range(0x10, 0x18))
_MARKERS = "osD^vPX*"
_LINES = ("-", "--", "-.", ":")
_WIDTH = 5.2
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a name is a $
    "axes.unicode_minus": True,
    "font.size": 11.5,  # readable on a phone, where the figure is 340 pixels wide
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.grid": True,
    "grid.color": _SOFT,
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 10.5,
}
_VARIABLES = {_INK: "var(--ink)", _SOFT: "var(--rule)"} | {c: f"var(--c{i})" for i, c in enumerate(_SERIES)}
_PLAIN = {"Date": None, "Creator": None, "Format": None, "Type": None}


def ranking(rows: Sequence[Ranked]) -> str:
    """Mean and standard deviation over seeds, each seed with its interval; best backbone on top."""

    def draw(axes: Axes) -> None:
        for place, row in enumerate(rows):
            colour = _SERIES[place % 8]
            for offset, seed in zip(_spread(len(row.seeds)), row.seeds, strict=True):
                if seed.lo is not None and seed.hi is not None:
                    axes.plot([seed.lo, seed.hi], [place + offset] * 2, color=colour, linewidth=1)
                axes.plot(seed.nmi, place + offset, ".", color=colour, markersize=5)
            axes.errorbar(
                *(row.nmi_mean, place),
                xerr=row.nmi_std or 0,
                fmt=_marker(place),
                color=colour,
                markersize=8,
                capsize=3,
            )
        axes.set_yticks(range(len(rows)), [_short(row.backbone) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.axvline(0, color=_INK, linewidth=0.8)
        axes.set_xlabel("NMI (share of entropy explained)")
        axes.grid(False, axis="y")

    return _draw("ranking", draw, height=1.0 + 0.42 * len(rows))


def across_k(points: Sequence[KPoint]) -> str:
    """Score against the number of clusters."""

    def draw(axes: Axes) -> None:
        for number, name in enumerate(dict.fromkeys(p.backbone for p in points)):
            series = sorted((p for p in points if p.backbone == name), key=lambda p: p.clusters)
            axes.errorbar(
                [p.clusters for p in series],
                [p.nmi_mean for p in series],
                yerr=[p.nmi_std or 0 for p in series],
                label=_short(name),
                capsize=2,
                **_look(number),
            )
        ks = sorted({p.clusters for p in points})
        axes.set_xscale("log")
        axes.set_xticks(ks, [str(k) for k in ks])
        axes.minorticks_off()
        axes.set_xlabel("K, clusters (log scale)")
        axes.set_ylabel("NMI")

    return _draw("across-k", draw, named=len({p.backbone for p in points}))


def series(points: Sequence[SeriesPoint]) -> str:
    """Score against the position, a line for each series."""
    names = list(dict.fromkeys(p.series for p in points))

    def draw(axes: Axes) -> None:
        for number, name in enumerate(names):
            line = sorted((p for p in points if p.series == name), key=lambda p: p.position)
            ends = [(p.nmi_mean if p.lo is None else p.lo, p.nmi_mean if p.hi is None else p.hi) for p in line]
            axes.errorbar(
                [p.position for p in line],
                [p.nmi_mean for p in line],
                yerr=[
                    [max(0.0, p.nmi_mean - lo) for p, (lo, _) in zip(line, ends, strict=True)],
                    [max(0.0, hi - p.nmi_mean) for p, (_, hi) in zip(line, ends, strict=True)],
                ],
                label=_short(name),
                capsize=2,
                **_look(number),
            )
        places = sorted({p.position for p in points})
        labels = _labels(points)
        axes.set_xticks(places, labels if labels else [str(place) for place in places], rotation=30 if labels else 0)
        axes.set_xlabel("position in the series")
        axes.set_ylabel("NMI")

    return _draw("series", draw, named=len(names))


def _labels(points: Sequence[SeriesPoint]) -> list[str] | None:
    """What the backbones' names add to their series' name, by position; None where series differ, or beyond twelve."""
    tails: dict[int, set[str]] = {}
    for p in points:
        tails.setdefault(p.position, set()).add(p.backbone.removeprefix(p.series).strip("/ "))
    labels = [tail.pop() if len(tail) == 1 else "" for _, tail in sorted(tails.items())]
    return [_short(label, 12) for label in labels] if all(labels) and len(labels) <= 12 else None


def groups(bars: Sequence[GroupBar]) -> str:
    """One figure per backbone, all with one scale: each concept group alone, all groups without it, and all groups."""
    values = [v for bar in bars for v in (bar.alone, bar.without, bar.all, 0.0) if v is not None]
    room = 0.04 * (max(values) - min(values) or 1.0)

    def draw(axes: Axes) -> None:
        for place, bar in enumerate(shown):
            axes.barh(place - 0.19, bar.alone or 0, 0.36, color=_SERIES[0])
            axes.barh(place + 0.19, bar.without or 0, 0.36, color="none", edgecolor=_SERIES[1], hatch="///")
        if shown[0].all is not None:
            axes.axvline(shown[0].all, color=_INK, linestyle="--", linewidth=1.2)
        axes.set_yticks(range(len(shown)), [_short(bar.group, 22) for bar in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(min(values) - room, max(values) + room)
        axes.set_title(_short(name), loc="left", fontsize=11.5)
        axes.grid(False, axis="y")
        axes.set_xlabel("NMI")

    figures = []
    for number, name in enumerate(dict.fromkeys(bar.backbone for bar in bars)):
        shown = [bar for bar in bars if bar.backbone == name]
        figures.append(_draw(f"groups-{number}", draw, height=0.9 + 0.34 * len(shown)))
    return "".join(figures)


def training(runs: Sequence[History]) -> str:
    """Cross-entropy on the validation part by epoch, with a marker at the selected epoch."""

    def draw(axes: Axes) -> None:
        for number, run in enumerate(runs):
            look = _look(number) | {"marker": None, "linestyle": _LINES[number % 4]}
            axes.plot(run.epochs, run.val, label=_short(run.backbone), **look)
            if run.best_epoch in run.epochs:
                at = run.epochs.index(run.best_epoch)
                axes.plot(run.epochs[at], run.val[at], _marker(number), color=look["color"], markersize=7)
        axes.set_xlabel("epoch, or step along the path of λ")
        axes.set_ylabel("validation CE (nats)")

    return _draw("training", draw, named=len(runs))


def sizes(galleries: Sequence[Gallery]) -> str:
    """Cluster sizes, largest first."""
    from matplotlib.ticker import LogLocator

    def draw(axes: Axes) -> None:
        for number, gallery in enumerate(galleries):
            values = sorted((c.size for c in gallery.clusters if c.size), reverse=True)
            axes.plot(_percent(values), values, label=_short(gallery.backbone), **_look(number, len(values)))
        axes.set_yscale("log", subs=[])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")  # 100 instead of matplotlib's formula
        axes.set_xlabel("% of the clusters, largest first")
        axes.set_ylabel("images in the cluster (log scale)")

    return _draw("sizes", draw, named=len(galleries))


def shares(galleries: Sequence[Gallery]) -> str:
    """MI per test image of each cluster (its share of the MI / p̂), best first."""

    def draw(axes: Axes) -> None:
        for number, gallery in enumerate(galleries):
            values = sorted(per_image(gallery), reverse=True)
            axes.plot(_percent(values), values, label=_short(gallery.backbone), **_look(number, len(values)))
        axes.axhline(0, color=_INK, linewidth=0.8)
        axes.set_xlabel("% of the clusters, best explained first")
        axes.set_ylabel("MI per test image (nats)")

    return _draw("shares", draw, named=len(galleries))


def per_image(gallery: Gallery) -> list[float]:
    """MI per test image, in nats, of each cluster that has test images."""
    total = sum(c.n_test for c in gallery.clusters)
    return [c.mi_nats * total / c.n_test for c in gallery.clusters if c.n_test]


def against(name: str, axis: str, points: Sequence[tuple[str, float, float]]) -> str:
    """Reverse probing against another number. `points`: (backbone, that number, NMI)."""

    def draw(axes: Axes) -> None:
        for number, (backbone, other, reverse) in enumerate(points):
            look = _look(number) | {"linestyle": "none"}
            axes.plot(other, reverse, label=_short(backbone), **look)
        axes.set_xlabel(axis)
        axes.set_ylabel("reverse probe (NMI)")

    return _draw(name, draw, named=len(points))


def _draw(name: str, draw: Any, *, height: float = 2.9, named: int = 0) -> str:
    """The figure, `height` inches high, with a legend of `named` series above it in two columns."""
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {**_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that matplotlib's font lacks; the browser has them
        figure = Figure(figsize=(_WIDTH, height + 0.21 * ((named + 1) // 2)), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        if named:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2)
        return _svg(figure, name)


def _svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element for a page, with unique ids."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=_PLAIN)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^<>]*>", lambda tag: _restyled(tag[0], name), svg)  # only tags: names in the text stay as they are
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def _restyled(tag: str, name: str) -> str:
    """A tag with the page's font and colours, and ids that begin with the figure's name."""
    tag = re.sub(r' xmlns(:\w+)?="[^"]*"', "", tag)
    tag = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", tag)
    tag = re.sub(r"(?<= id=\")|(?<=url\(#)|(?<=href=\"#)", f"{name}-", tag)
    return re.sub(r"#[0-9a-f]{6}", lambda colour: _VARIABLES.get(colour[0], colour[0]), tag)


def _look(number: int, n: int = 1) -> dict[str, Any]:
    """Colour, marker and line of a series; about eight markers on a line of n points."""
    return {
        "color": _SERIES[number % 8],
        "marker": _marker(number),
        "linestyle": _LINES[number // 8 % 4],
        "markersize": 5,
        "markevery": max(1, n // 8),
    }


def _marker(number: int) -> str:
    """A marker that changes each time a colour repeats."""
    return _MARKERS[(number + number // 8 * 3) % 8]


def _spread(n: int) -> list[float]:
    """Vertical offsets of n seeds around their backbone's line."""
    return [0.0] * n if n < 2 else [-0.25 + 0.5 * i / (n - 1) for i in range(n)]


def _percent(values: Sequence[float]) -> list[float]:
    return [100 * (i + 0.5) / len(values) for i in range(len(values))]


def _short(text: str, most: int = 26) -> str:
    """Shorten the text to at most `most` columns by cutting its middle, since names often differ at their ends."""
    shown = "".join(c if c.isprintable() else "�" for c in text[:1000])
    if width(shown) <= most:
        return shown
    tail = _fitting(shown[::-1], most * 2 // 5)[::-1]
    return f"{_fitting(shown, most - 1 - width(tail))}…{tail}"


def _fitting(text: str, most: int) -> str:
    """The longest prefix of the text that fits into `most` columns."""
    used = 0
    for end, sign in enumerate(text):
        used += width(sign)
        if used > most:
            return text[:end]
    return text
