"""The page's figures with their words: a title, a caption, and the same numbers as a table for who cannot see them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qrp_store.rendering import figures
from qrp_store.rendering.content import Report
from qrp_store.rendering.ranks import spearman


@dataclass(frozen=True)
class Shown:
    """A figure with its words. `rows` below `columns` say the same in numbers; the ranking has a table of its own."""

    id: str
    title: str
    svg: Any
    caption: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def digits(value: float | None, places: int) -> str:
    """A number as people write it: a minus, not a hyphen, and none before a zero; a dash where there is no number."""
    if value is None:
        return "–"
    text = f"{value:.{places}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def apart(name: str) -> str:
    """A name within a sentence, isolated so that its direction of writing moves nothing around it."""
    return f"\u2068{name}\u2069"


def drawn(report: Report) -> list[Shown]:
    """The figures for which there are numbers, the ranking first."""
    found = [_ranking(report)]
    if report.forward:
        found.append(_forward(report))
    if report.published:
        found.append(_published(report))
    if len({p.clusters for p in report.across_k}) > 1:
        found.append(_across_k(report))
    if report.groups:
        found.append(_groups(report))
    if any(len(run.epochs) > 1 for run in report.histories):
        found.append(_training(report))
    if report.galleries:
        found += [_sizes(report), _shares(report)]
    return found


def _ranking(report: Report) -> Shown:
    caption = (
        "NMI is the share of the clusters' entropy that the concepts explain, on images that the probe has not seen: 1 "
        "when they name every cluster exactly, 0 when they tell nothing, below 0 when they mislead. Large sign and "
        "whiskers: mean and standard deviation over seeds. Dots and thin lines: each seed with its "
        "95\N{NO-BREAK SPACE}% bootstrap interval, given its clustering and split. NMI alone does not compare "
        "backbones whose clusters are unequally balanced: the effective K, exp(H), is "
        f"{report.main.clusters:,} when all clusters are of one size."
    )
    return Shown("ranking", "Ranking", figures.ranking(report.main.rows), caption)


def _forward(report: Report) -> Shown:
    points = report.forward
    pairs = [(p.backbone, p.linear, p.reverse) for p in points]
    asks = "Linear probing asks from the vector to each concept, reverse probing from all concepts to the cluster."
    svg = figures.against("forward", f"linear probe ({points[0].metric})", pairs)
    rows = tuple((p.backbone, digits(p.linear, 3), digits(p.reverse, 3)) for p in points)
    columns = ("Backbone", f"Linear ({points[0].metric})", "Reverse (NMI)")
    return Shown("forward", "Reverse and linear probing", svg, f"{asks} {_order(pairs)}".strip(), columns, rows)


def _published(report: Report) -> Shown:
    points = report.published
    pairs = [(p.backbone, p.top1, p.reverse) for p in points]
    warns = (
        "Top-1 of linear probes on ImageNet as others published it, not measured here: check that it is of the same "
        f"checkpoint. {_order(pairs)}"
    )
    svg = figures.against("published", "published top-1 (%)", pairs)
    rows = tuple((p.backbone, digits(p.top1, 1), digits(p.reverse, 3), p.source) for p in points)
    columns = ("Backbone", "Published top-1 (%)", "Reverse (NMI)", "Source")
    return Shown("published", "Reverse probing and published top-1", svg, warns.strip(), columns, rows)


def _order(pairs: Sequence[tuple[str, float, float]]) -> str:
    """The sentence on how far the two rankings agree; of two backbones it would say nothing."""
    rank = spearman([p[1] for p in pairs], [p[2] for p in pairs]) if len(pairs) > 2 else None
    return "" if rank is None else f"Spearman's rank correlation is {digits(rank, 2)} over {len(pairs)} backbones."


def _across_k(report: Report) -> Shown:
    caption = (
        f"Of concepts “{apart(report.main.concepts)}” and protocol {report.main.protocol}; mean and standard "
        "deviation over seeds. Scores of different K are not comparable: more clusters ask for finer concepts."
    )
    rows = tuple(
        (p.backbone, f"{p.clusters:,}", digits(p.nmi_mean, 3), digits(p.nmi_std, 3))
        for p in sorted(report.across_k, key=lambda p: p.clusters)
    )
    svg = figures.across_k(report.across_k)
    return Shown("across-k", "Score against K", svg, caption, ("Backbone", "K", "NMI", "± std"), rows)


def _groups(report: Report) -> Shown:
    caption = (
        "Full bars: NMI with one concept group alone. Hatched: with all but that group. Dashed: with all of them. A "
        "group that others can stand in for scores high alone and costs little when it is left out."
    )
    rows = tuple(
        (bar.backbone, bar.group, *(digits(value, 3) for value in (bar.alone, bar.without, bar.all)))
        for bar in report.groups
    )
    columns = ("Backbone", "Group", "Alone", "Without it", "All")
    return Shown("groups", "Concept groups", figures.groups(report.groups), caption, columns, rows)


def _training(report: Report) -> Shown:
    caption = "First seed of each backbone. The sign marks the epoch that was taken: the least validation loss."
    rows = tuple(
        (run.backbone, f"{run.epochs[-1]:,}", f"{run.best_epoch:,}", digits(min(run.val), 3), digits(run.val[-1], 3))
        for run in report.histories
        if run.epochs
    )
    columns = ("Backbone", "Epochs", "Taken", "Validation CE there", "at the end")
    return Shown("training", "Training", figures.training(report.histories), caption, columns, rows)


def _sizes(report: Report) -> Shown:
    empty = sum(c.size == 0 for g in report.galleries for c in g.clusters)
    caption = "Of each backbone's first seed." + (f" Empty clusters: {empty:,}." if empty else "")
    rows = tuple(
        (g.backbone, *(f"{value:,.0f}" for value in _five([c.size for c in g.clusters]))) for g in report.galleries
    )
    return Shown("sizes", "Cluster sizes", figures.sizes(report.galleries), caption, _FIVE, rows)


def _shares(report: Report) -> Shown:
    caption = (
        "How many nats the concepts tell about a test image of each cluster, in each backbone's first seed. Below 0 "
        "they mislead. A cluster's share of the MI is this times its share of the images."
    )
    rows = tuple(
        (g.backbone, *(digits(value, 3) for value in _five(figures.per_image(g))))
        for g in report.galleries
        if figures.per_image(g)
    )
    return Shown("shares", "Information by cluster", figures.shares(report.galleries), caption, _FIVE, rows)


_FIVE = ("Backbone", "Least", "Lower quarter", "Median", "Upper quarter", "Most")


def _five(values: Sequence[float]) -> tuple[float, ...]:
    """Least, quartiles and most."""
    if len(values) < 2:
        return (*values,) * 5
    return (min(values), *statistics.quantiles(values, n=4, method="inclusive"), max(values))
