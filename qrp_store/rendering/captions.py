"""The page's figures with title, caption, and the same numbers as a table for readers who cannot see them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qrp_store.rendering import figures
from qrp_store.rendering.content import Report
from qrp_store.rendering.ranks import spearman, spearman_interval


@dataclass(frozen=True)
class Shown:
    """A figure with title and caption. `rows` under `columns` give its numbers; the ranking has a separate table."""

    id: str
    title: str
    svg: Any
    caption: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def digits(value: float | None, places: int) -> str:
    """Format a number with a minus sign instead of a hyphen, without a sign before zero; a dash for None."""
    if value is None:
        return "–"
    text = f"{value:.{places}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def apart(name: str) -> str:
    """A name for use in a sentence, isolated so that its writing direction does not affect the text around it."""
    return f"\u2068{name}\u2069"


def drawn(report: Report) -> list[Shown]:
    """The figures that have data, the ranking first."""
    shown = [_ranking(report)]
    if report.forward:
        shown.append(_forward(report))
    if report.published:
        shown.append(_published(report))
    if len({p.clusters for p in report.across_k}) > 1:
        shown.append(_across_k(report))
    if len(report.series) > 1:
        shown.append(_series(report))
    if report.groups:
        shown.append(_groups(report))
    if any(len(run.epochs) > 1 for run in report.histories):
        shown.append(_training(report))
    if report.galleries:
        shown += [_sizes(report), _shares(report)]
    return shown


def _ranking(report: Report) -> Shown:
    caption = (
        "NMI is the share of the cluster entropy that the concepts explain on held-out images. It is 1 when they "
        "identify every cluster exactly, 0 when they carry no information, and negative when the probe overfits. Large "
        "marker and whiskers: mean and standard deviation over seeds. Dots and thin lines: each seed with its "
        "95\N{NO-BREAK SPACE}% bootstrap interval, conditional on its clustering and split. NMI alone does not compare "
        "backbones whose cluster sizes differ; see the effective K, exp(H), which is "
        f"{report.main.clusters:,} when all clusters have the same size."
    )
    return Shown("ranking", "Ranking", figures.ranking(report.main.rows), caption)


def _forward(report: Report) -> Shown:
    points = report.forward
    pairs = [(p.backbone, p.linear, p.reverse) for p in points]
    caption = (
        "A linear probe predicts each concept from the vector; reverse probing predicts the cluster from all concepts."
    )
    svg = figures.against("forward", f"linear probe ({points[0].metric})", pairs)
    rows = tuple((p.backbone, digits(p.linear, 3), digits(p.reverse, 3)) for p in points)
    columns = ("Backbone", f"Linear ({points[0].metric})", "Reverse (NMI)")
    return Shown("forward", "Reverse and linear probing", svg, f"{caption} {_order(pairs)}".strip(), columns, rows)


def _published(report: Report) -> Shown:
    points = report.published
    pairs = [(p.backbone, p.top1, p.reverse) for p in points]
    caption = (
        "Published top-1 of linear probes on ImageNet, not measured here. Check that it belongs to the same "
        f"checkpoint. {_order(pairs)}"
    )
    svg = figures.against("published", "published top-1 (%)", pairs)
    rows = tuple((p.backbone, digits(p.top1, 1), digits(p.reverse, 3), p.source) for p in points)
    columns = ("Backbone", "Published top-1 (%)", "Reverse (NMI)", "Source")
    return Shown("published", "Reverse probing and published top-1", svg, caption.strip(), columns, rows)


def _order(pairs: Sequence[tuple[str, float, float]]) -> str:
    """A sentence on how far the two rankings agree; empty for fewer than three backbones."""
    rank = spearman([p[1] for p in pairs], [p[2] for p in pairs]) if len(pairs) > 2 else None
    if rank is None:
        return ""
    ends = spearman_interval(rank, len(pairs))
    interval = "" if ends is None else f" (95\N{NO-BREAK SPACE}% interval {digits(ends[0], 2)} to {digits(ends[1], 2)})"
    return f"Spearman's rank correlation is {digits(rank, 2)}{interval} over {len(pairs)} backbones."


def _across_k(report: Report) -> Shown:
    caption = (
        f"Concepts “{apart(report.main.concepts)}”, protocol {report.main.protocol}; mean and standard "
        "deviation over seeds. Scores at different K are not comparable: more clusters need finer concepts."
    )
    rows = tuple(
        (p.backbone, f"{p.clusters:,}", digits(p.nmi_mean, 3), digits(p.nmi_std, 3))
        for p in sorted(report.across_k, key=lambda p: p.clusters)
    )
    svg = figures.across_k(report.across_k)
    return Shown("across-k", "Score against K", svg, caption, ("Backbone", "K", "NMI", "± std"), rows)


def _series(report: Report) -> Shown:
    caption = (
        "Score against the position in a series, such as the epochs of one training or the layers of one network. "
        "Whiskers: 95\N{NO-BREAK SPACE}% interval, over seeds where there are at least three, otherwise of a single "
        "seed over images."
    )
    rows = tuple(
        (p.backbone, p.series, str(p.position), digits(p.nmi_mean, 3), digits(p.lo, 3), digits(p.hi, 3))
        for p in report.series
    )
    columns = ("Backbone", "Series", "Position", "NMI", "Lower end", "Upper end")
    return Shown("series", "Score along a series", figures.series(report.series), caption, columns, rows)


def _groups(report: Report) -> Shown:
    caption = (
        "Full bars: NMI with one concept group alone. Hatched: with all groups but that one. Dashed line: with all "
        "groups. A redundant group scores high alone and costs little when it is left out."
    )
    rows = tuple(
        (bar.backbone, bar.group, *(digits(value, 3) for value in (bar.alone, bar.without, bar.all)))
        for bar in report.groups
    )
    columns = ("Backbone", "Group", "Alone", "Without it", "All")
    return Shown("groups", "Concept groups", figures.groups(report.groups), caption, columns, rows)


def _training(report: Report) -> Shown:
    caption = (
        "First seed of each backbone. The marker shows the selected epoch: the one with the lowest validation loss."
    )
    rows = tuple(
        (run.backbone, f"{run.epochs[-1]:,}", f"{run.best_epoch:,}", digits(min(run.val), 3), digits(run.val[-1], 3))
        for run in report.histories
        if run.epochs
    )
    columns = ("Backbone", "Epochs", "Selected", "Validation CE", "CE at the end")
    return Shown("training", "Training", figures.training(report.histories), caption, columns, rows)


def _sizes(report: Report) -> Shown:
    empty = sum(c.size == 0 for g in report.galleries for c in g.clusters)
    caption = "First seed of each backbone." + (f" Empty clusters: {empty:,}." if empty else "")
    rows = tuple(
        (g.backbone, *(f"{value:,.0f}" for value in _five([c.size for c in g.clusters]))) for g in report.galleries
    )
    return Shown("sizes", "Cluster sizes", figures.sizes(report.galleries), caption, _FIVE, rows)


def _shares(report: Report) -> Shown:
    caption = (
        "Information in nats that the concepts give about a test image of each cluster, first seed of each backbone. "
        "A negative value means that the probe misleads. Multiply by its share of images for its share of MI."
    )
    rows = tuple(
        (g.backbone, *(digits(value, 3) for value in _five(figures.per_image(g))))
        for g in report.galleries
        if figures.per_image(g)
    )
    return Shown("shares", "Information by cluster", figures.shares(report.galleries), caption, _FIVE, rows)


_FIVE = ("Backbone", "Minimum", "Lower quartile", "Median", "Upper quartile", "Maximum")


def _five(values: Sequence[float]) -> tuple[float, ...]:
    """Minimum, quartiles and maximum."""
    if len(values) < 2:
        return (*values,) * 5
    return (min(values), *statistics.quantiles(values, n=4, method="inclusive"), max(values))
