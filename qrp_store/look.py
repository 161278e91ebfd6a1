"""Read a store: listings, the leaderboard, and all details of one artifact."""

from __future__ import annotations

import json
import statistics
from typing import Any

from qrp_store.catalog.entities.datasets import get_dataset
from qrp_store.catalog.model.kinds import KINDS
from qrp_store.catalog.overview import listing as lists
from qrp_store.catalog.overview import references
from qrp_store.errors import NotFound, near_names
from qrp_store.options import LeaderboardOptions, takes
from qrp_store.records import Table, preprocessing_line
from qrp_store.rendering.ranks import spearman, spearman_interval
from qrp_store.store import Store

_TOP = 10
_FEWEST = 5
"""Fewest test images of a cluster that is listed among the best."""
_AGREEMENT = """
SELECT b AS backbone, seed_b AS seed, ami, n, clustering_b AS clustering_id FROM agreement WHERE clustering_a = ?
ORDER BY backbone, seed
"""
_SETTING = ("dataset", "concepts", "clusters", "protocol", "setting")


def listing(store: Store, what: str) -> Table:
    """Return the ready artifacts of a kind (`datasets`, `results`, …), or the running `jobs`."""
    table = lists.listing(store.catalog, what)
    if what != "backbones":
        return table
    spec = table.columns.index("spec")
    specs = [json.loads(row[spec]) if isinstance(row[spec], str) else row[spec] for row in table.rows]  # SQLite: text
    lines = [preprocessing_line(each.get("preprocessing")) for each in specs]
    rows = [(*row, line) for row, line in zip(table.rows, lines, strict=True)]
    return Table((*table.columns, "preprocessing"), rows)


def recipes() -> Table:
    """Return the checkpoint layouts that `ingest --recipe` knows. Needs no store."""
    from qrp_store.models.recipes import RECIPES

    rows: list[tuple[Any, ...]] = [
        (
            r.name,
            r.name,
            r.about,
            r.source,
            ", ".join(c or "the file" for c in r.containers),
            ", ".join(r.prefixes),
            r.auto,
        )
        for r in RECIPES.values()
    ]
    return Table(("id", "name", "about", "source", "container", "prefix", "auto"), rows)


def vocabularies() -> Table:
    """Return the vocabularies that `label --vocabulary` knows by name, with source and licence. Needs no store."""
    from qrp_store.readers.vocabularies import all_shipped

    rows: list[tuple[Any, ...]] = [
        (v.name, v.name, v.about, len(v.terms), len({g for _, g in v.terms if g}), v.source, v.licence)
        for v in all_shipped()
    ]
    return Table(("id", "name", "about", "n_concepts", "n_groups", "source", "licence"), rows)


@takes(LeaderboardOptions)
def leaderboard(
    store: Store,
    dataset: str | None = None,
    *,
    concepts: str | None = None,
    clusters: int | None = None,
    protocol: str | None = None,
    setting: str | None = None,
    series: str | None = None,
) -> Table:
    """Return the view `leaderboard`, best first within each setting. None selects all.

    With `series` only its backbones, in order of the added column `position`; ranks stay those among all backbones.
    Raise NotFound for an unknown dataset, and for other values without results.
    """
    if dataset is not None:
        get_dataset(store.catalog, dataset)
    order = " ORDER BY dataset, concepts, clusters, protocol, setting, rank, backbone"
    where, parameters = (" WHERE dataset = ?", (dataset,)) if dataset is not None else ("", ())
    table = store.sql(f"SELECT * FROM leaderboard{where}{order}", parameters).table
    rows = table.rows
    for name, value in (("concepts", concepts), ("clusters", clusters), ("protocol", protocol), ("setting", setting)):
        if value is not None:
            at = table.columns.index(name)
            known = sorted({row[at] for row in rows})
            rows = [row for row in rows if row[at] == value]
            if not rows:
                hint = near_names(str(value), [str(value) for value in known], "no results; see qrp-store leaderboard")
                raise NotFound(f"the leaderboard has no results of {name} {value!r}", hint=hint)
    board = Table(table.columns, rows)
    return board if series is None else _in_order(store, board, series)


def _in_order(store: Store, board: Table, series: str) -> Table:
    """Return the backbones of a series with its columns `series` and `position`, in order within each setting."""
    places = list(store.sql("SELECT dataset, backbone, series, position FROM series"))
    position = {(p["dataset"], p["backbone"]): p["position"] for p in places if p["series"] == series}
    at = [board.columns.index(name) for name in ("dataset", "backbone")]
    rows = [(*row, series, position[key]) for row in board.rows if (key := (row[at[0]], row[at[1]])) in position]
    if not rows:
        hint = near_names(series, sorted({p["series"] for p in places}), "no series; see docs/backbones.md")
        raise NotFound(f"the leaderboard has no results of series {series!r}", hint=hint)
    columns = (*board.columns, "series", "position")
    setting = [columns.index(name) for name in _SETTING]
    return Table(columns, sorted(rows, key=lambda row: ([row[i] for i in setting], row[-1])))


def permuted_controls(store: Store, board: Table) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return, for each setting with permuted controls, the largest p-value of its results and the smallest possible."""
    settings = {tuple(row[name] for name in _SETTING) for row in board.named()}
    names = ", ".join(_SETTING)
    query = (
        f"SELECT {names}, max(p_value) AS p_value_max, min(n_permutations) AS n_permutations FROM results "
        f"WHERE n_permutations > 0 AND NOT permuted AND p_value IS NOT NULL GROUP BY {names}"
    )
    rows = ((tuple(row[name] for name in _SETTING), row) for row in store.sql(query))
    return {key: {**row, "p_value_min": 1 / (1 + row["n_permutations"])} for key, row in rows if key in settings}


def rank_correlations(board: Table) -> list[dict[str, Any]]:
    """Return Spearman's correlation of NMI and forward probes, for each setting with both.

    `spearman` is None for fewer than two backbones, or if all values of one side are equal. `spearman_lo` and
    `spearman_hi` are its approximate 95 % interval over backbones, None for fewer than four.
    """
    settings: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in board.named():
        settings.setdefault(tuple(row[name] for name in _SETTING), []).append(row)
    correlations = []
    for setting, rows in settings.items():
        for name in ("linear", "knn"):
            both = [row for row in rows if row[f"{name}_mean"] is not None]
            if both:
                about = {"probe": name, "metric": both[0]["forward_metric"], "n_backbones": len(both)}
                rho = spearman([row["nmi_mean"] for row in both], [row[f"{name}_mean"] for row in both])
                lo, hi = spearman_interval(rho, len(both)) or (None, None)
                scores = {"spearman": rho, "spearman_lo": lo, "spearman_hi": hi}
                correlations.append({**dict(zip(_SETTING, setting, strict=True)), **about, **scores})
    return correlations


def show(store: Store, reference: str) -> dict[str, Any]:
    """Return all details of the artifact, dataset or backbone with this name, id or unique prefix. Raise NotFound."""
    target = references.resolve(store.catalog, reference)
    table = lists.listing(store.catalog, KINDS[target.kind].plural if target.kind in KINDS else f"{target.kind}s")
    matching = (row for row in table.named() if row["id"] == target.id)
    known: dict[str, Any] = next(matching, {"id": target.id, "name": target.name})
    if isinstance(known.get("spec"), str):  # JSON text in listings
        known["spec"] = json.loads(known["spec"])
    if target.kind == "backbone" and isinstance(known.get("spec"), dict):
        known["preprocessing"] = preprocessing_line(known["spec"].get("preprocessing"))
    if target.kind == "dataset":
        known["fingerprint"] = get_dataset(store.catalog, target.name).fingerprint
    # the inputs of a retired artifact may be deleted; a result keeps its rows
    complete = target.state == "ready" or target.kind == "result"
    details = DETAILS[target.kind](store, target.id) if complete and target.kind in DETAILS else {}
    return {"kind": target.kind, "state": target.state, **known, **details}


def _result(store: Store, identifier: str) -> dict[str, Any]:
    from qrp_store.catalog.entities.extra_scores import points
    from qrp_store.catalog.entities.results import origin

    (row,) = lists.with_flags(store.sql("SELECT * FROM result_versions WHERE id = ?", (identifier,)).table).named()
    best = store.sql(
        # chosen on the validation part and shown on the test part: choosing on the test part would be biased
        "SELECT cluster, n_test, mi_nats, cross_entropy_nats, cross_entropy_lo, cross_entropy_hi, top_concept "
        "FROM cluster_scores WHERE result_id = ? AND n_test >= ? "
        "ORDER BY coalesce(val_cross_entropy_nats, cross_entropy_nats) LIMIT ?",
        (identifier, _FEWEST, _TOP),
    )
    alone = store.sql(
        "SELECT concept, concept_group, nmi, mi_nats FROM concept_scores WHERE result_id = ? ORDER BY rank LIMIT ?",
        (identifier, _TOP),
    )
    forward = store.sql(
        "SELECT concept_group, probe, metric, value, n_test, n_concepts, n_left_out FROM forward_scores "
        "WHERE result_id = ? ORDER BY concept_group, probe DESC",
        (identifier,),
    )
    scores: dict[str, Any] = {"best_clusters": list(best), "best_concepts": list(alone), "forward": list(forward)}
    numbers = {p["name"]: p["details"] for p in points(store.catalog, "numbers", identifier)}
    scores |= {"upper": numbers.get("nmi_upper"), "mdl": numbers.get("code_length_nats")}
    scores["references"] = points(store.catalog, "references", identifier)
    return {**row, **origin(store.catalog, identifier), **scores}


def _concepts(store: Store, identifier: str) -> dict[str, Any]:
    from qrp_store.label.vocabulary import describe

    return describe(store, identifier)


def _clustering(store: Store, identifier: str) -> dict[str, Any]:
    from qrp_store.catalog.entities.clusterings import by_id

    stored = by_id(store.catalog, identifier)
    sizes = sorted(stored.sizes)
    return {
        "objective_per_iteration": stored.row.objective_per_iteration,
        "sizes": {"min": sizes[0], "median": statistics.median(sizes), "max": sizes[-1], "empty": sizes.count(0)},
        "imbalance": stored.imbalance,
        "agreement": list(store.sql(_AGREEMENT, (identifier,))),
        "fingerprint": stored.artifact.fingerprint,
        "options": stored.artifact.spec.get("options"),
        "provenance": stored.artifact.provenance,
    }


def _embedding(store: Store, identifier: str) -> dict[str, Any]:
    from qrp_store.catalog.entities.embeddings import by_id

    stored = by_id(store.catalog, identifier)
    return {
        "block_rows": stored.array.block_rows,
        "n_blocks": len(stored.blocks),
        "bytes": sum(b.nbytes for b in stored.blocks),
        "n_bad": len(stored.bad),
        "fingerprint": stored.artifact.fingerprint,
        "backbone_spec": stored.backbone.spec,
        "preprocessing": preprocessing_line(stored.backbone.spec.get("preprocessing")),
        "provenance": stored.artifact.provenance,
    }


DETAILS = {"embedding": _embedding, "concepts": _concepts, "clustering": _clustering, "result": _result}
"""By kind of artifact: what `show` adds to its row of `ls`."""
