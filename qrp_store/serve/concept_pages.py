"""Pages about concepts and images."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import numpy as np

from qrp_store.catalog.overview import listing as lists
from qrp_store.errors import NotFound
from qrp_store.export.elsewhere import source_of
from qrp_store.records import Dataset
from qrp_store.serve.pages import Names, Query, picture, shown, sliced, urls
from qrp_store.serve.reader import SMALL_BYTES, Labels, Reader

_PICTURES, _WORDS, _NEAR, _SHARED = 96, 200, 12, 3


def concepts(reader: Reader, names: Names, query: Query) -> str:
    owner = reader.dataset(names["dataset"])
    name = owner.name
    known = lists.listing(reader.store.catalog, "concepts").named()
    sets = [c["name"] for c in known if c["dataset"] == name and c["is_newest"]]
    if not sets:
        raise NotFound(f"dataset {name!r} has no concepts yet", hint="qrp-store label")
    chosen = query.get("set") or sets[0]
    labels = reader.labels(name, chosen)
    folded = query.get("q", "").strip().casefold()
    rows = [
        {"name": word, "group": group, "n": n}
        for word, group, n in zip(labels.words.names, labels.words.groups, labels.words.n_positive, strict=True)
        if folded in f"{word} {group or ''}".casefold()
    ]
    rows.sort(key=lambda c: (-int(c["n"] or 0), c["name"]))
    page = sliced(query, len(rows), _WORDS)
    content = {"dataset": owner, "sets": sets, "chosen": chosen, "q": query.get("q", "")}
    url = urls(f"/dataset/{quote(name, safe='')}/concepts", query)
    return shown(reader, "concepts", concepts=rows[page.span], page=page, url=url, **content)


def concept(reader: Reader, names: Names, query: Query) -> str:
    """Where a concept holds, what it scores alone, which clusters it drives, and its near-duplicates."""
    owner, joined, word = reader.dataset(names["dataset"]), query.get("set", ""), query.get("name", "")
    name = owner.name
    labels = _set_with(reader, name, joined, word)
    number, chosen = labels.number(word), labels.stored.artifact.name
    positions = labels.positions(number)
    page = sliced(query, len(positions), _PICTURES)
    keys = reader.keys(owner, positions[page.span].tolist())
    about = "r.dataset = ? AND NOT r.permuted AND s.concept = ?"
    scores = reader.rows(
        "SELECT s.result_id, r.backbone, r.clusters, r.seed, s.nmi, s.mi_nats FROM concept_scores s "
        f"JOIN results r ON r.id = s.result_id WHERE {about} ORDER BY s.nmi DESC LIMIT {_NEAR}",
        name,
        word,
    )
    drives = reader.rows(
        "SELECT s.result_id, r.backbone, s.cluster, s.weight, s.lift, s.n FROM cluster_concepts s "
        f"JOIN results r ON r.id = s.result_id WHERE {about} AND s.weight > 0 ORDER BY s.weight DESC LIMIT {_NEAR}",
        name,
        word,
    )
    content = {"set": chosen, "word": word, "group": labels.words.groups[number], "n": len(positions)}
    pictures = [picture(p, keys) for p in positions[page.span].tolist()]
    url = urls(f"/dataset/{quote(name, safe='')}/concept", query)
    near = _near_duplicates(labels, number, positions)
    lists_of = {"scores": scores, "drives": drives, "near": near, "pictures": pictures}
    return shown(reader, "concept", dataset=owner, page=page, url=url, **content, **lists_of)


def _set_with(reader: Reader, dataset: str, joined: str, word: str) -> Labels:
    """The first set of a joined name (A+B) that has the concept. Raises NotFound."""
    if not joined:
        raise NotFound("no concept set is named", hint="?set=NAME&name=CONCEPT")
    problem: NotFound | None = None
    for part in joined.split("+"):
        labels = reader.labels(dataset, part.partition("@")[0])
        try:
            labels.number(word)
            return labels
        except NotFound as error:
            problem = error
    assert problem is not None
    raise problem


def _near_duplicates(labels: Labels, number: int, positions: np.ndarray) -> list[dict[str, Any]]:
    """Concepts whose images overlap most (Jaccard) with these."""
    counts = np.asarray(labels.words.n_positive)
    starts, ends = labels.indptr[positions], labels.indptr[positions + 1]
    members = [labels.indices[a:b] for a, b in zip(starts.tolist()[:20_000], ends.tolist()[:20_000], strict=True)]
    both = np.bincount(np.concatenate(members), minlength=len(counts)) if members else np.zeros(len(counts))
    overlap = both / np.maximum(counts + len(positions) - both, 1)
    overlap[number] = 0
    order = np.argsort(-overlap, kind="stable")[:5]
    return [{"name": labels.words.names[j], "overlap": float(overlap[j])} for j in order.tolist() if overlap[j] > 0]


def image(reader: Reader, names: Names, query: Query) -> str:
    """An image's concepts, its cluster under every backbone, and its nearest images."""
    owner, position = reader.dataset(names["dataset"]), names["position"]
    name = owner.name
    if not 0 <= position < owner.n:
        raise NotFound(f"dataset {name!r} has no image {position}", hint=f"positions are 0 to {owner.n - 1}")
    key = reader.keys(owner, [position])[position]
    sets = _concepts_of(reader, owner, position)
    words = {label["concept"] for c in sets for label in c["labels"]}
    clusters = _clusters_of(reader, owner, position, words)
    backbones = []
    for row in reader.rows("SELECT DISTINCT backbone FROM embeddings WHERE dataset = ? ORDER BY backbone", name):
        size = reader.embedding_bytes(name, row["backbone"])
        pictures = None
        if size <= SMALL_BYTES or query.get("nearest") == row["backbone"]:
            near = reader.nearest(name, row["backbone"], position, _NEAR)
            keys = reader.keys(owner, [p for p, _ in near])
            pictures = [picture(p, keys, f"{distance:.3g}") for p, distance in near]
        backbones.append({"name": row["backbone"], "size": size, "pictures": pictures})
    content = {"dataset": owner, "position": position, "key": key, "concepts": sets, "clusters": clusters}
    return shown(reader, "image", backbones=backbones, **content)


def _concepts_of(reader: Reader, owner: Dataset, position: int) -> list[dict[str, Any]]:
    rows = []
    key = reader.keys(owner, [position]).get(position, "")
    query = "SELECT concept, score FROM labels WHERE dataset = ? AND concepts = ? AND is_newest AND key = ?"
    for c in lists.listing(reader.store.catalog, "concepts").named():
        if c["dataset"] == owner.name and c["is_newest"]:
            labels = reader.labels(owner.name, c["name"])
            numbers = labels.indices[labels.indptr[position] : labels.indptr[position + 1]].tolist()
            scores = {row["concept"]: row["score"] for row in reader.rows(query, owner.name, c["name"], key)}
            words = ((labels.words.names[j], labels.words.groups[j]) for j in numbers)
            held = [{"concept": word, "concept_group": group, "score": scores.get(word)} for word, group in words]
            source = source_of(reader.store, owner.name, c)
            about = {name: c[name] for name in ("created_by", "created_at")}
            rows.append({"set": c["name"], "labels": held, "source": source, **about})
    return rows


def _clusters_of(reader: Reader, owner: Dataset, position: int, words: set[str]) -> list[dict[str, Any]]:
    """The newest clusterings' clusters of an image, with what it shares with each: its concepts that define it."""
    known = reader.rows(
        "SELECT k.id, k.backbone, k.clusters, k.seed, "
        "(SELECT max(r.id) FROM results r WHERE r.clustering_id = k.id AND NOT r.permuted) AS result "
        "FROM clusterings k WHERE k.dataset = ? AND k.is_current "
        "ORDER BY k.backbone, k.clusters, k.seed LIMIT 60",
        owner.name,
    )
    rows = []
    for row in known:
        number = int(reader.clusters(row["id"])[position])
        if number < 0:
            rows.append({**row, "cluster": "none", "part": "–", "top_concept": None, "shared": None, "result": None})
            continue
        defining = reader.rows(
            "SELECT concept, weight, rank FROM cluster_concepts WHERE result_id = ? AND cluster = ? ORDER BY rank",
            row["result"] or "",
            number,
        )
        shared = [d["concept"] for d in defining if d["concept"] in words and d["weight"] > 0][:_SHARED]
        top = defining[0]["concept"] if defining else None
        rows.append(
            {
                **row,
                "cluster": number,
                "part": reader.part(row["id"], position),
                "top_concept": top,
                "shared": ", ".join(shared),
            }
        )
    return rows
