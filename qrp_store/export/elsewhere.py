"""Exports for people and other tools: the card of a dataset, and labels for FiftyOne."""

from __future__ import annotations

import os.path
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from qrp_store import __version__
from qrp_store.catalog.entities import clusterings, concept_sets, datasets
from qrp_store.catalog.overview.listing import listing
from qrp_store.errors import InvalidInput
from qrp_store.records import PART_NAMES, preprocessing_line
from qrp_store.samples import shown
from qrp_store.store import Store

_SIGNS = {"\\": "\\\\", "|": "\\|", "<": "&lt;", "\n": " ", "\r": " "}


def fiftyone_labels(store: Store, clustering_id: str) -> dict[str, Any]:
    """Return a clustering as the `labels.json` of FiftyOne's FiftyOneImageClassificationDataset.

    It maps keys without their ending (FiftyOne's convention) to the cluster as label. Attributes are the part and the
    concepts of the dataset's newest concept sets.
    """
    clustering = clusterings.by_id(store.catalog, clustering_id)
    positions, numbers, parts = clusterings.assignments(store.catalog, clustering_id)
    dataset = clusterings.dataset_of(store.catalog, clustering_id)
    keys = datasets.keys(store.catalog, dataset)
    concepts: dict[int, list[str]] = defaultdict(list)
    for name in concept_sets.names(store.catalog, dataset.name):
        stored = concept_sets.get(store.catalog, dataset.name, name)
        words = concept_sets.vocabulary(store.catalog, stored.artifact.id).names
        at, which = concept_sets.labels(store.catalog, stored.artifact.id)
        for position, concept in zip(at.tolist(), which.tolist(), strict=True):
            concepts[position].append(words[concept])
    digits = len(str(clustering.row.clusters - 1))
    labels = {
        os.path.splitext(keys[position])[0]: {
            "label": f"{number:0{digits}}",
            "attributes": {"part": PART_NAMES[part], "concepts": concepts.get(position, []), "key": keys[position]},
        }
        for position, number, part in zip(positions.tolist(), numbers.tolist(), parts.tolist(), strict=True)
    }
    if len(labels) < len(positions):
        seen: dict[str, str] = {}
        for key in (keys[position] for position in positions.tolist()):
            other = seen.setdefault(os.path.splitext(key)[0], key)
            if other != key:
                raise InvalidInput(
                    f"{shown(other)} and {shown(key)} are equal without their endings, which FiftyOne leaves out",
                    hint="export assignments -o FILE.json keeps both",
                )
    return {"classes": None, "labels": labels}


def card(store: Store, dataset: str) -> str:
    """Return the card of a dataset as Markdown: samples, concepts, embeddings, ranking and their provenance."""
    owner = datasets.get_dataset(store.catalog, dataset)
    summary = {row["name"]: row for row in listing(store.catalog, "datasets").named()}[dataset]
    concepts = [
        row for row in listing(store.catalog, "concepts").named() if row["dataset"] == dataset and row["is_newest"]
    ]
    embeddings = [
        row for row in listing(store.catalog, "embeddings").named() if row["dataset"] == dataset and row["is_newest"]
    ]
    query = "SELECT * FROM leaderboard WHERE dataset = ? ORDER BY concepts, clusters, setting, rank"
    board = list(store.sql(query, (dataset,)))
    sections = [
        f"# Dataset {_cell(dataset)}",
        f"{owner.n:,} samples, first ingested {summary['created_at']} by {_cell(summary['created_by'])}"
        + (f" from `{_cell(summary['image_root'])}`" if summary["image_root"] else "")
        + f".\nsha256 of the keys in order: `{owner.fingerprint}`.",
        "## Concepts",
        _table(
            ("name", "version", "concepts", "labels", "labelled samples", "one per sample", "source", "created"),
            [
                (
                    *(c["name"], c["version"], c["n_concepts"], c["n_labels"], c["n_labelled_samples"]),
                    *(
                        "yes" if c["exclusive"] else "no",
                        source_of(store, dataset, c),
                        f"{c['created_at']} by {c['created_by']}",
                    ),
                )
                for c in concepts
            ],
        ),
        "## Embeddings",
        _table(
            ("backbone", "version", "rows", "dim", "dtype", "model", "created"),
            [
                (
                    *(e["backbone"], e["version"], e["n"], e["dim"], e["dtype"]),
                    *(_backbone(store, e["backbone"]), f"{e['created_at']} by {e['created_by']}"),
                )
                for e in embeddings
            ],
        ),
        "## Ranking",
        "NMI of quantized reverse probing, mean and standard deviation over seeds. "
        "Only rows of the same setting are comparable.",
        _table(
            ("concepts", "K", "protocol", "setting", "rank", "backbone", "NMI", "std", "seeds"),
            [
                (
                    *(r["concepts"], r["clusters"], r["protocol"], r["setting"], r["rank"], r["backbone"]),
                    *(f"{r['nmi_mean']:.3f}", "" if r["nmi_std"] is None else f"{r['nmi_std']:.3f}", r["n_seeds"]),
                )
                for r in board
            ],
        ),
        "Method: Laina, Asano and Vedaldi, *Measuring the Interpretability of Unsupervised Representations via "
        f"Quantized Reversed Probing*, ICLR 2022 (arXiv 2209.03268); made with qrp-store {__version__}.",
    ]
    return "\n\n".join(sections) + "\n"


def source_of(store: Store, dataset: str, row: dict[str, Any]) -> str:
    """Return the source of labels: the options, and how the source was read."""
    artifact = concept_sets.get(store.catalog, dataset, row["name"], row["version"]).artifact
    return _plain(
        {**artifact.spec, **artifact.provenance}.items(),
        leave=("dataset", "exclusive", "name", "timings", "algorithm", "rows"),
    )


def _backbone(store: Store, name: str) -> str:
    backbone = datasets.find_backbone(store.catalog, name)
    if backbone is None:
        return ""
    line = preprocessing_line(backbone.spec.get("preprocessing"))
    return _plain({**backbone.spec, "preprocessing": line}.items(), leave=())


def _plain(items: Iterable[tuple[str, Any]], leave: Sequence[str]) -> str:
    parts = []
    for name, value in items:
        if name in leave or value in (None, "", [], {}):
            continue
        if isinstance(value, dict):
            parts += [f"{name}.{k} {v}" for k, v in value.items() if v is not None and not isinstance(v, (dict, list))]
        elif not isinstance(value, (list, tuple)):
            parts.append(f"{name} {shown(value, 200)[1:-1] if isinstance(value, str) else value}")
    return ", ".join(parts)


def _cell(value: object) -> str:
    return "".join(_SIGNS.get(sign, sign) for sign in str(value))


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return "None yet."
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)
