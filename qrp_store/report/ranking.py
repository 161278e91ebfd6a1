"""The results of a dataset as a report shows them: settings, best first, with the results that make up each mean."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qrp_store.catalog.entities import results
from qrp_store.rendering.content import (
    ForwardPoint,
    GroupBar,
    History,
    KPoint,
    Ranked,
    SeedScore,
    SeriesPoint,
    Setting,
)
from qrp_store.report.claims import interval_over_seeds
from qrp_store.store import Store

Row = dict[str, Any]
_KEY = ("concepts", "clusters", "protocol", "setting")
_MOST_GROUPS = 12
RULE = "most backbones, then most results, then most images a cluster"
"""How the setting that a page leads with is chosen."""


@dataclass(frozen=True)
class Standing:
    """Settings, the one to lead with first (see RULE), and their results by (setting's key, backbone)."""

    settings: tuple[Setting, ...]
    results: dict[tuple[Any, ...], list[Row]]

    def of(self, setting: Setting, backbone: str) -> list[Row]:
        """A backbone's results in a setting, by seed."""
        return self.results[(setting.concepts, setting.clusters, setting.protocol, setting.setting, backbone)]


def standing(
    store: Store,
    dataset: str,
    *,
    backbones: Sequence[str] = (),
    concepts: str | None = None,
    k: int | None = None,
    protocol: str | None = None,
) -> Standing:
    """The selected part of a dataset's leaderboard; no settings when nothing is selected."""
    current = {row["id"] for row in store.sql("SELECT id FROM clusterings WHERE is_current")}
    columns = "id, backbone, concepts, clusters, protocol, setting, seed, nmi, nmi_ci_lo, nmi_ci_hi, entropy_nats"
    columns += ", gap_nats, p_value, n_permutations, n_train + n_val + n_test AS n"
    results: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    query = f"SELECT {columns}, clustering_id, created_at FROM results WHERE dataset = ?"
    for row in store.sql(f"{query} AND nmi IS NOT NULL AND NOT permuted ORDER BY seed, id", (dataset,)):
        if row["clustering_id"] in current:
            results[(*(row[name] for name in _KEY), row["backbone"])].append(row)
    grouped: dict[tuple[Any, ...], list[Ranked]] = defaultdict(list)
    for row in store.sql("SELECT * FROM leaderboard WHERE dataset = ? ORDER BY rank, backbone", (dataset,)):
        key = tuple(row[name] for name in _KEY)
        selected = all(
            choice in (None, row[name])
            for choice, name in ((concepts, "concepts"), (k, "clusters"), (protocol, "protocol"))
        )
        if selected and (not backbones or row["backbone"] in backbones):
            grouped[key].append(_ranked(row, results[(*key, row["backbone"])]))
    settings = [Setting(a, b, c, d, tuple(rows)) for (a, b, c, d), rows in grouped.items()]

    def weight(setting: Setting) -> tuple[Any, ...]:
        counted = [r for row in setting.rows for r in results[(*_key_of(setting), row.backbone)]]
        images = sum(r["n"] for r in counted) / (len(counted) * setting.clusters) if counted else 0.0
        newest = max((r["created_at"] for r in counted), default="")
        return len(setting.rows), len(counted), images, newest, setting.setting

    return Standing(tuple(sorted(settings, key=weight, reverse=True)), dict(results))


def _key_of(setting: Setting) -> tuple[Any, ...]:
    return setting.concepts, setting.clusters, setting.protocol, setting.setting


def _ranked(row: Row, results: list[Row]) -> Ranked:
    seeds = tuple(SeedScore(r["id"], r["seed"], r["nmi"], r["nmi_ci_lo"], r["nmi_ci_hi"]) for r in results)
    scores = ("nmi_mean", "nmi_std", "mi_nats_mean", "top1_mean", "top5_mean")
    names = ("rank", "backbone", *scores, "rank_lo", "rank_hi", "n_failed")
    effective = sum(math.exp(r["entropy_nats"]) for r in results) / len(results)
    return Ranked(**{name: row[name] for name in names}, effective_mean=effective, seeds=seeds)


def series(store: Store, dataset: str, setting: Setting) -> tuple[SeriesPoint, ...]:
    """The backbones of a setting that are part of a series, in order, with a 95 % interval of each score.

    The interval is over seeds where there are three; of a single seed it is its bootstrap interval over images.
    """
    places = store.sql("SELECT series, position, backbone FROM series WHERE dataset = ?", (dataset,))
    rows = {row.backbone: row for row in setting.rows}
    points = [
        SeriesPoint(place["series"], place["position"], row.backbone, row.nmi_mean, *_interval(row))
        for place in places
        if (row := rows.get(place["backbone"])) is not None
    ]
    return tuple(sorted(points, key=lambda point: (point.series, point.position, point.backbone)))


def _interval(row: Ranked) -> tuple[float | None, float | None]:
    if len(row.seeds) == 1:
        return row.seeds[0].lo, row.seeds[0].hi
    return interval_over_seeds([seed.nmi for seed in row.seeds]) or (None, None)


def across_k(standing: Standing) -> tuple[KPoint, ...]:
    """Scores at every K of the first setting's concepts and protocol; of settings with one K the first counts."""
    main = standing.settings[0]
    by_k: dict[int, Setting] = {}
    for setting in standing.settings:
        if (setting.concepts, setting.protocol) == (main.concepts, main.protocol):
            by_k.setdefault(setting.clusters, setting)
    order = [row.backbone for row in main.rows]
    return tuple(
        KPoint(row.backbone, k, row.nmi_mean, row.nmi_std)
        for k, setting in sorted(by_k.items())
        for row in sorted(setting.rows, key=lambda r: order.index(r.backbone) if r.backbone in order else len(order))
    )


def groups(store: Store, standing: Standing) -> tuple[GroupBar, ...]:
    """Scores by concept group, means over seeds, of the first setting that has them with the main one's concepts, K and
    protocol (`--ablate` is an option of its own); the largest groups only."""
    main = standing.settings[0]
    alike = (main.concepts, main.clusters, main.protocol)
    for setting in (s for s in standing.settings if (s.concepts, s.clusters, s.protocol) == alike):
        owners = {r["id"]: row.backbone for row in setting.rows for r in standing.of(setting, row.backbone)}
        means = _group_means(store, owners)
        if means:
            return _bars(means, list(dict.fromkeys(owners.values())))
    return ()


def _group_means(store: Store, owners: dict[str, str]) -> dict[tuple[str, str, str], float]:
    """(backbone, group, role) → mean NMI over these results' seeds."""
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    query = "SELECT concept_group, role, nmi FROM group_scores WHERE result_id = ?"
    for identifier, backbone in owners.items():
        for row in store.sql(query, (identifier,)):
            values[backbone, row["concept_group"], row["role"]].append(row["nmi"])
    return {key: sum(numbers) / len(numbers) for key, numbers in values.items()}


def _bars(means: dict[tuple[str, str, str], float], backbones: list[str]) -> tuple[GroupBar, ...]:
    best: dict[str, float] = {}
    for (_, group, role), value in means.items():
        if role == "alone":
            best[group] = max(best.get(group, value), value)
    shown = sorted(best, key=lambda group: (-best[group], group))[:_MOST_GROUPS]
    whole = {backbone: value for (backbone, _, role), value in means.items() if role == "all"}
    return tuple(
        GroupBar(
            backbone,
            group,
            means.get((backbone, group, "alone")),
            whole.get(backbone),
            means.get((backbone, group, "without")),
        )
        for backbone in backbones
        for group in shown
        if (backbone, group, "alone") in means
    )


def histories(store: Store, standing: Standing) -> tuple[History, ...]:
    """The training run of each backbone's first seed in the first setting."""
    main = standing.settings[0]
    runs = []
    for ranked in main.rows:
        row = results.by_id(store.catalog, standing.of(main, ranked.backbone)[0]["id"]).row
        steps = row["history"]
        runs.append(
            History(
                ranked.backbone,
                tuple(step["epoch"] for step in steps),
                tuple(step["train_loss"] for step in steps),
                tuple(step["val_cross_entropy"] for step in steps),
                row["best_epoch"],
            )
        )
    return tuple(runs)


def forward(store: Store, dataset: str, standing: Standing) -> tuple[ForwardPoint, ...]:
    """Each backbone's linear probe beside its reverse one, both means over seeds; empty unless some have both."""
    main = standing.settings[0]
    query = "SELECT backbone, nmi_mean, linear_mean, forward_metric FROM leaderboard WHERE dataset = ? AND setting = ?"
    rows = {
        row["backbone"]: row
        for row in store.sql(
            f"{query} AND concepts = ? AND clusters = ?", (dataset, main.setting, main.concepts, main.clusters)
        )
        if row["linear_mean"] is not None
    }
    metrics = {row["forward_metric"] for row in rows.values()}
    if len(metrics) != 1:
        return ()
    metric = {"top1": "top-1", "map": "mean average precision"}.get(*metrics, *metrics)
    scored = [rows[ranked.backbone] for ranked in main.rows if ranked.backbone in rows]
    return tuple(ForwardPoint(r["backbone"], r["nmi_mean"], r["linear_mean"], metric) for r in scored)
