"""Restore damaged rows of the catalog from the arrays: assignments from centroids, labels from their copy.

Restored rows must have the recorded checksums. Other rows exist only in the catalog and cannot be restored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from qrp_store.arrays.blocked import load_array
from qrp_store.catalog.entities import clusterings, concept_sets, datasets, embeddings
from qrp_store.catalog.lifecycle import mending
from qrp_store.cluster.quantize import UsableBlocks, place_for
from qrp_store.embedding import Embedding
from qrp_store.errors import Corrupt
from qrp_store.kmeans.split import split
from qrp_store.label import concept_rows
from qrp_store.options import ClusterOptions, parse_memory
from qrp_store.progress import Progress
from qrp_store.records import derive_seed
from qrp_store.store import Store


def restore_table(store: Store, kind: str, identifier: str, table: str, progress: Progress) -> str:
    """Compute an artifact's rows in a table again; return how. Raise Corrupt, NotFound or InvalidInput."""
    if table not in TABLES.get(kind, {}):
        raise Corrupt(f"rows of table {table} exist nowhere else", hint="restore the catalog from a backup")
    return TABLES[kind][table](store, identifier, progress)


def _assignments(store: Store, identifier: str, progress: Progress) -> str:
    """Assign each row to its nearest centroid, and to its part by the hash of its key."""
    made = clusterings.by_id(store.catalog, identifier)
    of = clusterings.embedding_id(store.catalog, identifier)
    row, provenance = made.row, made.artifact.provenance
    if of is None or row.centroids_path is None or row.centroids_checksum is None:
        raise Corrupt("these assignments were not made from centroids of this store: recompute them with --force")
    centroids = np.asarray(load_array(store.arrays, row.centroids_path, row.centroids_checksum), np.float32)
    stored = embeddings.by_id(store.catalog, of)
    settings = ClusterOptions(
        k=row.clusters,
        seed=row.seed,
        normalize=made.artifact.spec["options"].get("normalize", False),
        engine=provenance["engine"],
        device=provenance["device"],
    )
    keys = datasets.keys(store.catalog, stored.dataset)
    blocks = UsableBlocks(Embedding(store.arrays, stored))
    with place_for(settings) as place:
        labels = place.assign(blocks, keys, centroids, settings, parse_memory(settings.memory), progress).labels
    positions = blocks.positions.tolist()
    parts, _ = split(labels, [keys[i] for i in positions], stored.dataset.name, derive_seed(row.seed, "split"))
    columns = {"position": positions, "cluster": labels.tolist(), "part": parts.tolist()}
    mending.replace_rows(store.catalog, identifier, "assignment", columns)
    return "assigned again to the centroids"


def _sizes(store: Store, identifier: str, progress: Progress) -> str:
    _, clusters, _ = clusterings.assignments(store.catalog, identifier)
    k = clusterings.by_id(store.catalog, identifier).row.clusters
    sizes = np.bincount(clusters, minlength=k).tolist()
    mending.replace_rows(store.catalog, identifier, "cluster", {"number": range(k), "size": sizes})
    return "counted again"


def _labels(store: Store, identifier: str, progress: Progress) -> str:
    """Take the (position, concept) pairs from their copy in the arrays; scores only from rows that still exist."""
    stored = concept_sets.by_id(store.catalog, identifier)
    kept: Mapping[str, str] | None = stored.artifact.provenance.get(concept_rows.MEMBER)
    if kept is None:
        raise Corrupt(
            "this concept set is from a version that stored no copy of its labels as arrays: label again with --force"
        )
    indptr = load_array(store.arrays, f"{kept['path']}/indptr", kept["indptr"])
    indices = load_array(store.arrays, f"{kept['path']}/indices", kept["indices"])
    positions = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)).tolist()
    concepts = indices.tolist()
    known = concept_sets.scores_by_pair(store.catalog, identifier)
    scores = [known.get(pair) for pair in zip(positions, concepts, strict=True)]
    columns = {"position": positions, "concept": concepts, "score": scores}
    mending.replace_rows(store.catalog, identifier, "label", columns)
    return "taken from the arrays next to the set"


TABLES: Mapping[str, Mapping[str, Callable[[Store, str, Progress], str]]] = {
    "clustering": {"assignment": _assignments, "cluster": _sizes},
    "concepts": {"label": _labels},
}
"""By kind of artifact and table: how `repair` computes the rows again."""
