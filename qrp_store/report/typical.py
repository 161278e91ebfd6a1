"""Which images stand for a cluster: those nearest to its centroid."""

from __future__ import annotations

import numpy as np

from qrp_store.arrays.blocked import load_array
from qrp_store.catalog.entities import clusterings, embeddings
from qrp_store.catalog.entities.clusterings import StoredClustering
from qrp_store.cluster.quantize import UsableBlocks
from qrp_store.embedding import Embedding
from qrp_store.records import derive_seed
from qrp_store.store import Store

_ROWS = 8192
_Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Labels, positions and distances, each (n,)."""


def typical(store: Store, clustering: StoredClustering, top: int) -> np.ndarray:
    """Positions of the `top` images nearest to each cluster's centroid, nearest first; int64 (K, top), −1 for none.

    Of an imported clustering, which has no centroids, images drawn by its seed. Raises what reading the embedding
    raises: Corrupt, NotFound, Unavailable.
    """
    positions, labels, _ = clusterings.assignments(store.catalog, clustering.artifact.id)
    k = clustering.row.clusters
    of = clusterings.embedding_id(store.catalog, clustering.artifact.id)
    if of is None or clustering.row.centroids_path is None or clustering.row.centroids_checksum is None:
        rng = np.random.default_rng(derive_seed(clustering.row.seed, "typical"))
        distance = rng.random(len(positions), np.float32)
        return _table(_nearest((labels, positions, distance), top), k, top)
    centroids = load_array(store.arrays, clustering.row.centroids_path, clustering.row.centroids_checksum)
    blocks = UsableBlocks(Embedding(store.arrays, embeddings.by_id(store.catalog, of)))
    normalize = bool((clustering.artifact.spec.get("options") or {}).get("normalize"))
    kept: _Rows = (np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float32))
    for index in range(blocks.n_blocks):
        first, count = blocks.rows_of(index)
        part = slice(first, first + count)
        distance = _distances(blocks.read(index), labels[part], centroids, normalize)
        near = _nearest((labels[part], positions[part], distance), top)
        kept = _nearest((_both(kept[0], near[0]), _both(kept[1], near[1]), _both(kept[2], near[2])), top)
    return _table(kept, k, top)


def _distances(rows: np.ndarray, labels: np.ndarray, centroids: np.ndarray, normalize: bool) -> np.ndarray:
    """Squared distance of each row to its own cluster's centroid, float32."""
    out = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        x = rows[part].astype(np.float32)
        if normalize:
            x /= np.linalg.norm(x, axis=1, keepdims=True)
        x -= centroids[labels[part]]
        out[part] = np.einsum("ij,ij->i", x, x)
    return out


def _nearest(rows: _Rows, top: int) -> _Rows:
    """The `top` rows of each label at least distance, by label and distance; among equals the lower position."""
    labels, positions, distance = rows
    order = np.lexsort((positions, distance, labels))
    order = order[_place(labels[order]) < top]
    return labels[order], positions[order], distance[order]


def _both(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.concatenate((first, second))


def _place(labels: np.ndarray) -> np.ndarray:
    """How many of the same label stand before each one; labels are sorted."""
    _, starts, counts = np.unique(labels, return_index=True, return_counts=True)
    place: np.ndarray = np.arange(len(labels)) - np.repeat(starts, counts)
    return place


def _table(rows: _Rows, k: int, top: int) -> np.ndarray:
    out = np.full((k, top), -1, np.int64)
    out[rows[0], _place(rows[0])] = rows[1]
    return out
