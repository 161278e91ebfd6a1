"""Pages about datasets: the list, one dataset, its leaderboard, comparisons and card."""

from __future__ import annotations

from typing import Any

from qrp_store.catalog.overview import listing as lists
from qrp_store.evaluate.compare import compare as compare_results
from qrp_store.evaluate.compare_backbones import BackbonesReport, compare_backbones
from qrp_store.export.elsewhere import card as dataset_card
from qrp_store.rendering import site
from qrp_store.rendering.content import Setting
from qrp_store.report import ranking
from qrp_store.report.claims import claims
from qrp_store.serve.pages import Names, Query, jobs_now, shown
from qrp_store.serve.reader import Reader

_LATEST = 20


def datasets(reader: Reader, names: Names, query: Query) -> str:
    rows = lists.listing(reader.store.catalog, "datasets").named()
    counted = reader.rows("SELECT dataset, count(*) AS n FROM results GROUP BY dataset")
    results = {row["dataset"]: row["n"] for row in counted}
    sets = [c["dataset"] for c in lists.listing(reader.store.catalog, "concepts").named() if c["is_newest"]]
    named = [
        {**row, "n_concept_sets": sets.count(row["name"]), "n_results": results.get(row["name"], 0)} for row in rows
    ]
    return shown(reader, "datasets", datasets=named, jobs=jobs_now(reader))


def dataset(reader: Reader, names: Names, query: Query) -> str:
    owner = reader.dataset(names["dataset"])
    name = owner.name
    embeddings = reader.rows("SELECT * FROM embeddings WHERE dataset = ? AND is_newest ORDER BY backbone", name)
    concepts = [
        c for c in lists.listing(reader.store.catalog, "concepts").named() if c["dataset"] == name and c["is_newest"]
    ]
    latest = reader.rows(
        "SELECT id, backbone, concepts, clusters, seed, nmi, created_at, created_by FROM results "
        f"WHERE dataset = ? AND NOT permuted ORDER BY created_at DESC, id LIMIT {_LATEST}",
        name,
    )
    standing = ranking.standing(reader.store, name)
    best = _leader(standing.settings[0]) if standing.settings else None
    content = {"embeddings": embeddings, "concepts": concepts, "results": latest, "best": best}
    return shown(reader, "dataset", dataset=owner, jobs=jobs_now(reader), **content)


def leaderboard(reader: Reader, names: Names, query: Query) -> str:
    owner = reader.dataset(names["dataset"])
    name, standing = owner.name, ranking.standing(reader.store, owner.name)
    settings = list(standing.settings)
    chosen: dict[str, str] = {}
    choices = []
    for field, label in (("concepts", "Concepts"), ("clusters", "K"), ("protocol", "Protocol"), ("setting", "Setting")):
        options = list(dict.fromkeys(str(getattr(s, field)) for s in settings))
        value = query.get(field, "") if query.get(field, "") in options else (options[0] if options else "")
        chosen[field] = value
        choices.append((field, label, options, value))
        settings = [s for s in settings if str(getattr(s, field)) == value]
    if not settings:
        return shown(reader, "leaderboard", dataset=owner, choices=(), rows=())
    setting = settings[0]
    stored = reader.rows("SELECT * FROM leaderboard WHERE dataset = ? AND setting = ?", name, setting.setting)
    extra = {row["backbone"]: row for row in stored}
    more = ("linear_mean", "knn_mean")
    rows = [
        {**vars(row), "tied": row.tied, **{field: extra.get(row.backbone, {}).get(field) for field in more}}
        for row in setting.rows
    ]
    series = ranking.series(reader.store, name, setting)
    sizes = ranking.across_k(
        ranking.Standing((setting, *(s for s in standing.settings if s != setting)), standing.results)
    )
    return shown(
        reader,
        "leaderboard",
        dataset=owner,
        choices=[choice for choice in choices if len(choice[2]) > 1],
        rows=rows,
        sentence=_leader(setting),
        claims=claims(name, setting, standing.of(setting, setting.rows[0].backbone)),
        series_figure=site.series_figure(series) if len(series) > 1 else None,
        figure=site.ranking_figure(setting.rows),
        k_figure=site.across_k_figure(sizes) if len({point.clusters for point in sizes}) > 1 else None,
        ranked=len(rows) < 2 or any(row["rank_lo"] is not None for row in rows),
    )


def _leader(setting: Setting) -> str:
    """What may be said of the first backbone."""
    first = setting.rows[0]
    spread = "" if first.nmi_std is None else f" ± {first.nmi_std:.3f}"
    seeds = f"{len(first.seeds)} seed{'' if len(first.seeds) == 1 else 's'}"
    text = f"{first.backbone} leads with NMI {first.nmi_mean:.3f}{spread} over {seeds} at K {setting.clusters:,}."
    if len(setting.rows) < 2:
        return text
    second = setting.rows[1]
    if min(len(first.seeds), len(second.seeds)) < 3:
        return f"{text} With fewer than three seeds its lead over {second.backbone} is no tested difference."
    return f"{text} {second.backbone} follows with {second.nmi_mean:.3f}; the rank interval says whether they differ."


def compare(reader: Reader, names: Names, query: Query) -> str:
    """Two backbones over their common seeds, or two results, and what may be claimed of the difference."""
    owner = reader.dataset(names["dataset"])
    options = reader.rows(
        "SELECT id, backbone, concepts, clusters, seed, protocol FROM results WHERE dataset = ? AND NOT permuted "
        "AND nmi IS NOT NULL ORDER BY concepts, clusters, backbone, seed",
        owner.name,
    )
    a, b = query.get("a", ""), query.get("b", "")
    content: dict[str, Any] = {
        "dataset": owner,
        "per_seed": (),
        "options": options,
        "a": a,
        "b": b,
        "sentence": None,
        "facts": (),
    }
    content |= _backbone_choices(options, query)
    if content["one"] and content["two"]:
        content |= _over_seeds(reader, owner.name, content)
    elif a and b:
        done = compare_results(reader.store, a, b, anyway=True)
        content["sentence"] = _difference(done)
        content["facts"] = [
            (label, f"{value:.4f}" if isinstance(value, float) else value)
            for label, value in (
                (f"NMI of {done.a.backbone} on the common images", done.a.nmi),
                (f"NMI of {done.b.backbone} on the common images", done.b.nmi),
                ("Difference", done.difference),
                ("95 % interval", "–" if done.ci is None else f"{done.ci[0]:.4f} to {done.ci[1]:.4f}"),
                ("Common test images", done.n_common),
                ("They differ in", "; ".join(done.differs) or "backbone and seed only"),
            )
        ]
    return shown(reader, "compare", **content)


def _backbone_choices(options: list[dict[str, Any]], query: Query) -> dict[str, Any]:
    """The backbones and questions to choose from, and those that are chosen."""
    questions = {f"{o['concepts']}, K {o['clusters']}, {o['protocol']}": o for o in options}
    question = query.get("of", "")
    return {
        "backbones": sorted({o["backbone"] for o in options}),
        "questions": questions,
        "one": query.get("one", ""),
        "two": query.get("two", ""),
        "of": question if question in questions else next(iter(questions), ""),
    }


def _over_seeds(reader: Reader, dataset: str, content: dict[str, Any]) -> dict[str, Any]:
    """The difference of two backbones over their common seeds, with a row for each seed."""
    question = content["questions"].get(content["of"], {})
    about = {"concepts": question.get("concepts"), "k": question.get("clusters"), "protocol": question.get("protocol")}
    done = compare_backbones(reader.store, content["one"], content["two"], dataset=dataset, **about)
    facts = (
        (f"Mean NMI of {done.a.backbone} on the common images", f"{done.a.nmi_common:.4f}"),
        (f"Mean NMI of {done.b.backbone} on the common images", f"{done.b.nmi_common:.4f}"),
        ("Difference", f"{done.difference:.4f}"),
        ("95 % interval over seeds", "–" if done.ci is None else f"{done.ci[0]:.4f} to {done.ci[1]:.4f}"),
        ("p-value", "–" if done.p_value is None else f"{done.p_value:.3g}"),
        ("To narrow the interval", done.advice),
    )
    return {"sentence": _tested(done), "facts": facts, "per_seed": done.per_seed}


def _tested(done: BackbonesReport) -> str:
    """The sentence that may be printed."""
    leader, other = (done.a, done.b) if done.difference >= 0 else (done.b, done.a)
    size = f"{abs(done.difference):.3f} NMI"
    seeds = f"{done.n_seeds} common seed{'' if done.n_seeds == 1 else 's'}"
    lead = f"{leader.backbone} scores {size} above {other.backbone} over {seeds}"
    if done.ci is None:
        return f"{lead}. A test needs at least three."
    if done.ci[0] <= 0 <= done.ci[1]:
        return f"{lead}, but the interval holds 0: no difference may be claimed."
    lo, hi = sorted(abs(end) for end in done.ci)
    return f"{leader.backbone} exceeds {other.backbone} by {size} (95 % interval {lo:.3f} to {hi:.3f}, {seeds})."


def _difference(done: Any) -> str:
    leader, other = (done.a, done.b) if done.difference >= 0 else (done.b, done.a)
    lead = f"{leader.backbone} scores {abs(done.difference):.3f} NMI above {other.backbone}"
    return (
        f"{lead} on {done.n_common:,} common test images. The interval is conditional on one clustering of each "
        "result, so it is no test of the backbones. Compare them over at least three common seeds."
    )


def card(reader: Reader, names: Names, query: Query) -> str:
    owner = reader.dataset(names["dataset"])
    return shown(reader, "card", dataset=owner, text=dataset_card(reader.store, owner.name))
