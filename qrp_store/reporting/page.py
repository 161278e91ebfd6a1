"""The page itself: one HTML file with everything in it, and nothing taken for markup that is data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from qrp_store.reporting import figures
from qrp_store.reporting.content import ClusterView, Gallery, Report
from qrp_store.reporting.ranks import spearman

_WITHOUT_SCRIPT = 12
_DIGITS = 4


@dataclass(frozen=True)
class Shown:
    """A figure with its words."""

    id: str
    title: str
    svg: Any
    caption: str


def render(report: Report) -> str:
    """The whole page. It loads nothing, and text from the store stays text wherever it stands."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("qrp_store.reporting", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["digits"] = digits
    own = {name: Markup(_own(name)) for name in ("page.css", "page.js")}
    table = environment.get_template("table.html")
    return environment.get_template("page.html").render(
        report=report,
        verdict=_verdict(report),
        figures=[Shown(f.id, f.title, Markup(f.svg), f.caption) for f in _figures(report)],
        ranking_table=lambda setting: Markup(table.render(setting=setting)),
        first_cards=_extremes(report.galleries[0]) if report.galleries else (),
        data=Markup(embedded(_data(report))),
        css=own["page.css"],
        script=own["page.js"],
    )


def digits(value: float | None, places: int) -> str:
    """A number as people write it: a minus, not a hyphen, and none before a zero; a dash where there is no number."""
    if value is None:
        return "–"
    text = f"{value:.{places}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def embedded(value: object) -> str:
    """JSON that may stand inside a <script>: nothing in it ends the element or begins markup."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _own(name: str) -> str:
    return files("qrp_store.reporting").joinpath(name).read_text("utf-8")


def _apart(name: str) -> str:
    """A name within a sentence, isolated so that its direction of writing moves nothing around it."""
    return f"\u2068{name}\u2069"


def _verdict(report: Report) -> str:
    rows = report.main.rows
    best = rows[0]
    said = (
        f"The {report.n_concepts:,} concepts of “{_apart(report.main.concepts)}” explain {_percent(best.nmi_mean)} of "
        f"the entropy of {_apart(best.backbone)}'s {report.main.clusters:,} clusters over {report.n:,} images"
    )
    return f"{said}; of {_apart(rows[-1].backbone)}'s, {_percent(rows[-1].nmi_mean)}." if len(rows) > 1 else f"{said}."


def _percent(share: float) -> str:
    return f"{digits(100 * share, 1)}\N{NO-BREAK SPACE}%"


def _figures(report: Report) -> list[Shown]:
    rows = report.main.rows
    ranked = "; ".join(f"{r.rank}. {_apart(r.backbone)} {digits(r.nmi_mean, 3)}" for r in rows)
    found = [
        Shown(
            "ranking",
            "Ranking",
            figures.ranking(rows),
            "Large sign and whiskers: mean and standard deviation over seeds. Dots and thin lines: each seed with "
            f"its 95 % bootstrap interval, given its clustering and split. {ranked}.",
        )
    ]
    if report.forward:
        found.append(_forward(report))
    if report.published:
        found.append(_published(report))
    if len({p.clusters for p in report.across_k}) > 1:
        caption = (
            f"Of concepts “{_apart(report.main.concepts)}” and protocol {report.main.protocol}; mean and standard "
            "deviation over seeds. Scores of different K are not comparable: more clusters ask for finer concepts."
        )
        found.append(Shown("across-k", "Score against K", figures.across_k(report.across_k), caption))
    if report.groups:
        caption = (
            "Bars: NMI with one concept group alone, and with all but that group. Dashed: with all of them. A group "
            "that others can stand in for scores high alone and costs little when it is left out."
        )
        found.append(Shown("groups", "Concept groups", figures.groups(report.groups), caption))
    if any(len(run.epochs) > 1 for run in report.histories):
        caption = "First seed of each backbone. The sign marks the epoch that was taken: the least validation loss."
        found.append(Shown("training", "Training", figures.training(report.histories), caption))
    if report.galleries:
        empty = sum(c.size == 0 for g in report.galleries for c in g.clusters)
        sizes = "Of each backbone's first seed." + (f" {empty:,} clusters are empty." if empty else "")
        found.append(Shown("sizes", "Cluster sizes", figures.sizes(report.galleries), sizes))
        told = (
            "How many nats the concepts tell about a test image of each cluster, in each backbone's first seed. Below "
            "0 they mislead. A cluster's share of the MI is this times its share of the images."
        )
        found.append(Shown("shares", "Information by cluster", figures.shares(report.galleries), told))
    return found


def _forward(report: Report) -> Shown:
    points = report.forward
    said = "; ".join(
        f"{_apart(p.backbone)}: {digits(p.linear, 3)} linear, {digits(p.reverse, 3)} reverse" for p in points
    )
    pairs = [(p.backbone, p.linear, p.reverse) for p in points]
    asks = "Linear probing asks from the vector to each concept, reverse probing from all concepts to the cluster."
    drawn = figures.against("forward", f"linear probe ({points[0].metric})", pairs)
    return Shown("forward", "Reverse and linear probing", drawn, f"{asks} {_order(pairs)}{said}.")


def _published(report: Report) -> Shown:
    points = report.published
    pairs = [(p.backbone, p.top1, p.reverse) for p in points]
    said = "; ".join(f"{_apart(p.backbone)}: {p.top1:.1f} % ({_apart(p.source)})" for p in points)
    warns = (
        "Top-1 of linear probes on ImageNet as others published it, not measured here: check that it is of the same "
        "checkpoint. "
    )
    drawn = figures.against("published", "published top-1 (%)", pairs)
    return Shown("published", "Reverse probing and published top-1", drawn, f"{warns}{_order(pairs)}{said}.")


def _order(pairs: Sequence[tuple[str, float, float]]) -> str:
    """The sentence on how far the two rankings agree; of two backbones it would say nothing."""
    rank = spearman([p[1] for p in pairs], [p[2] for p in pairs]) if len(pairs) > 2 else None
    return "" if rank is None else f"Spearman's rank correlation is {digits(rank, 2)} over {len(pairs)} backbones. "


def explainable(gallery: Gallery) -> list[ClusterView]:
    """The clusters that have test images, most explainable (least cross-entropy) first."""
    known = [c for c in gallery.clusters if c.cross_entropy is not None]
    return sorted(known, key=lambda c: (c.cross_entropy or 0.0, c.number))


def _extremes(gallery: Gallery) -> list[ClusterView]:
    """What a reader without scripts sees: the most and the least explainable clusters."""
    ordered = explainable(gallery)
    return ordered if len(ordered) <= 2 * _WITHOUT_SCRIPT else ordered[:_WITHOUT_SCRIPT] + ordered[-_WITHOUT_SCRIPT:]


def _data(report: Report) -> dict[str, Any]:
    """What the script draws the clusters from, in short: see page.js for the order of a cluster's values."""
    concepts: dict[tuple[str, str | None], int] = {}
    for gallery in report.galleries:
        for cluster in gallery.clusters:
            for told in cluster.concepts:
                concepts.setdefault((told.name, told.group), len(concepts))
    groups = {group: i for i, group in enumerate(dict.fromkeys(g for _, g in concepts if g is not None))}
    return {
        "concepts": [[name, None if group is None else groups[group]] for name, group in concepts],
        "groups": list(groups),
        "galleries": [
            {
                "backbone": gallery.backbone,
                "nmi": round(gallery.nmi, _DIGITS),
                "seed": gallery.seed,
                "clusters": [_cluster(cluster, concepts) for cluster in gallery.clusters],
            }
            for gallery in report.galleries
        ],
        "matches": [
            [m.first, m.second, [[c, round(o, 2)] for c, o in zip(m.cluster, m.overlap, strict=True)]]
            for m in report.matches
        ],
        "pictures": [[picture.key, picture.uri] for picture in report.pictures],
    }


def _cluster(cluster: ClusterView, concepts: dict[tuple[str, str | None], int]) -> list[Any]:
    told = [[concepts[c.name, c.group], _rounded(c.weight, 2), _rounded(c.lift, 1), c.n] for c in cluster.concepts]
    numbers = [_rounded(cluster.cross_entropy, 3), _rounded(cluster.top1, 2), _rounded(cluster.mi_nats, _DIGITS)]
    return [cluster.number, cluster.size, cluster.n_test, *numbers, told, list(cluster.pictures)]


def _rounded(value: float | None, places: int) -> float | None:
    return None if value is None else round(value, places)
