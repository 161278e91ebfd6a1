"""Pages about a result: its clusters, and one cluster with its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrp_store.errors import InvalidInput, NotFound, QrpStoreError
from qrp_store.look import show
from qrp_store.rendering import site
from qrp_store.rendering.matching import overlaps
from qrp_store.serve.pages import Names, Query, picture, shown, sliced, urls
from qrp_store.serve.reader import Reader

_CARDS, _PICTURES, _CONCEPTS = 24, 96, 6
_SORTS = (
    ("best", "most explainable first"),
    ("worst", "least explainable first"),
    ("share", "most information first"),
    ("large", "largest first"),
    ("number", "by number"),
)


def result(reader: Reader, names: Names, query: Query) -> str:
    row = _result(reader, names["id"])
    other = query.get("with", "")
    second = _result(reader, other) if other else None
    words = query.get("q", "").strip()
    sort = query.get("sort", "best")
    scores = _ordered(reader, row, sort, words)
    page = sliced(query, len(scores), _CARDS)
    clusters = scores[page.span]
    _add_content(reader, row, clusters)
    if second is not None:
        _add_matches(reader, row, second, clusters)
    others = reader.rows(
        "SELECT id, backbone, seed FROM results WHERE dataset = ? AND concepts = ? AND clusters = ? AND protocol = ? "
        "AND id <> ? AND NOT permuted ORDER BY backbone, seed",
        *(row[name] for name in ("dataset", "concepts", "clusters", "protocol", "id")),
    )
    made = site.embedded_json(show(reader.store, row["id"]))
    content = {"r": row, "q": words, "sort": sort, "sorts": _SORTS, "other": other, "others": others, "second": second}
    url = urls(f"/result/{row['id']}", query)
    return shown(reader, "result", clusters=clusters, page=page, url=url, made=made, **content)


def _result(reader: Reader, identifier: str) -> dict[str, Any]:
    """A result of any version; retired ones keep their row. Raises NotFound with the newest names."""
    rows = reader.rows("SELECT * FROM results WHERE id = ?", identifier)
    rows = rows or reader.rows("SELECT * FROM result_versions WHERE id = ? AND state = 'ready'", identifier)
    if rows:
        return rows[0]
    if reader.rows("SELECT id FROM result_versions WHERE id = ?", identifier):
        raise NotFound(f"result {identifier} was retired", hint="its row is in the view result_versions")
    near = reader.rows("SELECT id FROM results ORDER BY created_at DESC, id LIMIT 3")
    hint = "the newest are " + ", ".join(r["id"] for r in near) if near else "the store has no results yet"
    raise NotFound(f"no result {identifier[:60]!r}", hint=hint)


def _ordered(reader: Reader, row: Mapping[str, Any], sort: str, words: str) -> list[dict[str, Any]]:
    """The clusters of a result, in order; only those with `words` in a concept's name when there are some."""
    orders = {
        "best": "cross_entropy_nats IS NULL, cross_entropy_nats, cluster",
        "worst": "cross_entropy_nats IS NULL, cross_entropy_nats DESC, cluster",
        "share": "mi_nats DESC, cluster",
        "number": "cluster",
        "large": "cluster",
    }
    if sort not in orders:
        raise InvalidInput(f"no order {sort[:40]!r}", hint=f"one of {', '.join(orders)}")
    scores = reader.rows(
        "SELECT cluster, n_test, cross_entropy_nats, top1, mi_nats, top_concept FROM cluster_scores "
        f"WHERE result_id = ? ORDER BY {orders[sort]}",
        row["id"],
    )
    sizes = reader.clustering(row["clustering_id"]).sizes
    for score in scores:
        score["size"] = sizes[score["cluster"]]
    if sort == "large":
        scores.sort(key=lambda score: -score["size"])
    if words:
        hits = reader.rows(
            "SELECT cluster, concept, concept_group FROM cluster_concepts WHERE result_id = ?", row["id"]
        )
        folded = words.casefold()
        chosen = {h["cluster"] for h in hits if folded in f"{h['concept']} {h['concept_group'] or ''}".casefold()}
        scores = [score for score in scores if score["cluster"] in chosen]
    return scores


def _add_content(reader: Reader, row: Mapping[str, Any], clusters: Sequence[dict[str, Any]]) -> None:
    """Give each cluster its concepts and its typical pictures."""
    numbers = [c["cluster"] for c in clusters]
    marks = ", ".join("?" * len(numbers)) or "NULL"
    concepts = reader.rows(
        "SELECT cluster, concept, concept_group, weight, lift, n FROM cluster_concepts WHERE result_id = ? "
        f"AND cluster IN ({marks}) AND rank <= {_CONCEPTS} AND (weight > 0 OR rank = 1) ORDER BY cluster, rank",
        row["id"],
        *numbers,
    )
    owner = reader.dataset(row["dataset"])
    try:
        table = reader.typical(row["clustering_id"], 6)
    except QrpStoreError:  # the embedding is gone or damaged: the page goes without pictures
        table = None
    chosen = {n: [] if table is None else [p for p in table[n].tolist() if p >= 0] for n in numbers}
    keys = reader.keys(owner, [p for positions in chosen.values() for p in positions])
    for cluster in clusters:
        cluster["concepts"] = [c for c in concepts if c["cluster"] == cluster["cluster"]]
        cluster["pictures"] = [picture(p, keys) for p in chosen[cluster["cluster"]]]


def _add_matches(
    reader: Reader, row: Mapping[str, Any], second: Mapping[str, Any], clusters: Sequence[dict[str, Any]]
) -> None:
    """Give each cluster the one of `second` that overlaps it most."""
    if row["dataset"] != second["dataset"]:
        raise InvalidInput("the two results are of different datasets")
    first, other = (reader.clusters(r["clustering_id"]) for r in (row, second))
    both = (first >= 0) & (other >= 0)
    best, share = overlaps(first[both], other[both], (row["clusters"], second["clusters"]))
    scores = {score["cluster"]: score for score in _ordered(reader, second, "number", "")}
    matched = [scores[int(best[c["cluster"]])] for c in clusters if best[c["cluster"]] >= 0]
    _add_content(reader, second, list({m["cluster"]: m for m in matched}.values()))
    for cluster in clusters:
        number = int(best[cluster["cluster"]])
        cluster["match"] = scores.get(number) if number >= 0 else None
        cluster["overlap"] = float(share[cluster["cluster"]])


def cluster(reader: Reader, names: Names, query: Query) -> str:
    row, number = _result(reader, names["id"]), names["cluster"]
    if not 0 <= number < row["clusters"]:
        raise NotFound(f"result {row['id']} has no cluster {number}", hint=f"clusters are 0 to {row['clusters'] - 1}")
    owner = reader.dataset(row["dataset"])
    positions = np.flatnonzero(reader.clusters(row["clustering_id"]) == number)
    page = sliced(query, len(positions), _PICTURES)
    members = positions[page.span].tolist()
    keys = reader.keys(owner, members)
    concepts = reader.rows(
        "SELECT concept, concept_group, weight, lift, n FROM cluster_concepts WHERE result_id = ? AND cluster = ? "
        "ORDER BY rank",
        row["id"],
        number,
    )
    score = reader.rows("SELECT * FROM cluster_scores WHERE result_id = ? AND cluster = ?", row["id"], number)
    content = {"number": number, "size": len(positions), "concepts": concepts, "s": score[0] if score else None}
    pictures = [picture(p, keys, reader.part(row["clustering_id"], p)) for p in members]
    url = urls(f"/result/{row['id']}/cluster/{number}", query)
    neighbours = _neighbours(reader, row, number)
    return shown(reader, "cluster", r=row, page=page, url=url, pictures=pictures, neighbours=neighbours, **content)


def _neighbours(reader: Reader, row: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    """The clusters whose centroids are nearest."""
    centroids = reader.centroids(row["clustering_id"])
    if centroids is None:
        return []
    distances = np.linalg.norm(centroids.astype(np.float64) - centroids[number], axis=1)
    distances[number] = np.inf
    order = np.argsort(distances, kind="stable")[:5]
    names = {
        r["cluster"]: r["top_concept"]
        for r in reader.rows("SELECT cluster, top_concept FROM cluster_scores WHERE result_id = ?", row["id"])
    }
    return [
        {"cluster": c, "distance": float(distances[c]), "concept": names.get(c)}
        for c in order.tolist()
        if np.isfinite(distances[c])
    ]
