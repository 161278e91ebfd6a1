"""The page: one self-contained HTML file in which data never becomes markup."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from typing import Any

from qrp_store.rendering.captions import apart, digits, drawn
from qrp_store.rendering.content import FEWEST, ClusterView, Gallery, Report

_WITHOUT_SCRIPT = 12
_DIGITS = 4


def render(report: Report) -> str:
    """Return the page. It loads nothing, and text from the store is always escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("qrp_store.rendering", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["digits"] = digits
    assets = {name: Markup(_asset(name)) for name in ("page.css", "page.js")}
    table = environment.get_template("table.html")
    return environment.get_template("page.html").render(
        report=report,
        verdict=_verdict(report),
        figures=[replace(figure, svg=Markup(figure.svg)) for figure in drawn(report)],
        ranking_table=lambda setting: Markup(table.render(setting=setting)),
        first_cards=_extremes(report.galleries[0]) if report.galleries else (),
        data=Markup(embedded(_data(report))),
        rule=report.rule,
        fewest=FEWEST,
        css=assets["page.css"],
        script=assets["page.js"],
    )


def embedded(value: object) -> str:
    """JSON that is safe inside a <script>: nothing in it ends the element or starts markup."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _asset(name: str) -> str:
    return files("qrp_store.rendering").joinpath(name).read_text("utf-8")


def _verdict(report: Report) -> str:
    rows = report.main.rows
    best = rows[0]
    leader = (
        f"The {report.n_concepts:,} concepts of “{apart(report.main.concepts)}” explain {_percent(best.nmi_mean)} of "
        f"the entropy of {apart(best.backbone)}'s {report.main.clusters:,} clusters over {report.n:,} images"
    )
    if len(rows) == 1:
        return f"{leader}."
    return f"{leader}, and {_percent(rows[-1].nmi_mean)} for {apart(rows[-1].backbone)}."


def _percent(share: float) -> str:
    return f"{digits(100 * share, 1)}\N{NO-BREAK SPACE}%"


def explainable(gallery: Gallery) -> list[ClusterView]:
    """Clusters with test images, most explainable first: chosen by validation (see ClusterView.order)."""
    return sorted((c for c in gallery.clusters if c.cross_entropy is not None), key=lambda c: c.order)


def _extremes(gallery: Gallery) -> list[ClusterView]:
    """The most and the least explainable clusters, for readers without scripts."""
    ordered = explainable(gallery)
    return ordered if len(ordered) <= 2 * _WITHOUT_SCRIPT else ordered[:_WITHOUT_SCRIPT] + ordered[-_WITHOUT_SCRIPT:]


def _data(report: Report) -> dict[str, Any]:
    """The clusters in a compact form for the script; page.js documents the order of a cluster's values."""
    concepts: dict[tuple[str, str | None], int] = {}
    for gallery in report.galleries:
        for cluster in gallery.clusters:
            for concept in cluster.concepts:
                concepts.setdefault((concept.name, concept.group), len(concepts))
    titles = list(dict.fromkeys(c.title for g in report.galleries for c in g.clusters if c.title is not None))
    places = {title: place for place, title in enumerate(titles)}
    groups = {group: i for i, group in enumerate(dict.fromkeys(g for _, g in concepts if g is not None))}
    return {
        "concepts": [[name, None if group is None else groups[group]] for name, group in concepts],
        "groups": list(groups),
        "titles": titles,
        "galleries": [
            {
                "backbone": gallery.backbone,
                "nmi": round(gallery.nmi, _DIGITS),
                "seed": gallery.seed,
                "clusters": [_cluster(cluster, concepts, places) for cluster in gallery.clusters],
            }
            for gallery in report.galleries
        ],
        "matches": [
            [m.first, m.second, [[c, round(o, 2)] for c, o in zip(m.cluster, m.overlap, strict=True)]]
            for m in report.matches
        ],
        "pictures": [[picture.key, picture.uri] for picture in report.pictures],
    }


def _cluster(cluster: ClusterView, concepts: dict[tuple[str, str | None], int], titles: dict[str, int]) -> list[Any]:
    defining = [[concepts[c.name, c.group], _rounded(c.weight, 2), _rounded(c.lift, 1), c.n] for c in cluster.concepts]
    numbers = [_rounded(cluster.cross_entropy, 3), _rounded(cluster.top1, 2), _rounded(cluster.mi_nats, _DIGITS)]
    more = [_rounded(value, 2) for value in (cluster.lo, cluster.hi)] + [_rounded(cluster.val_cross_entropy, 3)]
    title = None if cluster.title is None else titles[cluster.title]
    return [cluster.number, cluster.size, cluster.n_test, *numbers, defining, *more, title, list(cluster.pictures)]


def _rounded(value: float | None, places: int) -> float | None:
    return None if value is None else round(value, places)
