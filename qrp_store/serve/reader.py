"""What the pages read: rows of the views, and arrays kept in bounded caches. What is ready never changes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from qrp_store.arrays.blocked import load_array
from qrp_store.catalog.entities import clusterings, concept_sets, datasets, embeddings
from qrp_store.catalog.entities.clusterings import StoredClustering
from qrp_store.catalog.entities.concept_sets import StoredConcepts, Vocabulary
from qrp_store.errors import NotFound
from qrp_store.label import concept_rows
from qrp_store.records import Dataset
from qrp_store.report.typical import typical
from qrp_store.store import Store

T = TypeVar("T")
_CACHE_BYTES = 256 << 20
PARTS = ("train", "val", "test")
SMALL_BYTES = 64 << 20
"""An embedding up to this size is searched while a page is made; a larger one when the reader asks."""


class Cache:
    """Values by key, the least recently used dropped beyond `limit` bytes. Safe for several threads."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()
        self._making: dict[Hashable, Lock] = {}

    def get(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """The value of `key`, made once; other threads that want it wait."""
        with self._lock:
            making = self._making.setdefault(key, Lock())
        with making:
            with self._lock:
                if key in self._values:
                    self._values.move_to_end(key)
                    return self._values[key][0]  # type: ignore[no-any-return]
            value = make()
            with self._lock:
                self._values[key] = value, size(value)
                self._bytes += self._values[key][1]
                while self._bytes > self._limit and len(self._values) > 1:
                    self._bytes -= self._values.popitem(last=False)[1][1]
                self._making.pop(key, None)
            return value


@dataclass(frozen=True)
class Labels:
    """A concept set over its dataset: row i of (indptr, indices) has the numbers of the concepts of position i."""

    stored: StoredConcepts
    words: Vocabulary
    indptr: np.ndarray
    indices: np.ndarray

    def positions(self, concept: int) -> np.ndarray:
        """Positions of the images that have a concept, ascending."""
        return np.searchsorted(self.indptr, np.flatnonzero(self.indices == concept), side="right") - 1

    def number(self, name: str) -> int:
        """The number of a concept. Raises NotFound."""
        try:
            return self.words.names.index(name)
        except ValueError:
            raise NotFound(f"concept set {self.stored.artifact.name!r} has no concept {name!r}") from None

    @property
    def nbytes(self) -> int:
        return int(self.indptr.nbytes + self.indices.nbytes + 100 * len(self.words.names))


class Reader:
    """Reads of one store, for pages that several threads make at once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._cache = Cache(_CACHE_BYTES)

    def rows(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        return list(self.store.sql(statement, parameters))

    def dataset(self, name: str) -> Dataset:
        return datasets.get_dataset(self.store.catalog, name)

    def clusters(self, clustering_id: str) -> np.ndarray:
        """The cluster of each position, int32 (n,), −1 for none."""
        return self._assignments(clustering_id)[0]

    def part(self, clustering_id: str, position: int) -> str:
        """The part of the split that a clustered image is in: train, val or test."""
        return PARTS[int(self._assignments(clustering_id)[1][position])]

    def _assignments(self, clustering_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Cluster, int32 (n,), and part, int8 (n,), of each position; −1 for none."""

        def read() -> tuple[np.ndarray, np.ndarray]:
            positions, clusters, parts = clusterings.assignments(self.store.catalog, clustering_id)
            n = clusterings.dataset_of(self.store.catalog, clustering_id).n
            both = np.full(n, -1, np.int32), np.full(n, -1, np.int8)
            both[0][positions], both[1][positions] = clusters, parts
            return both

        return self._cache.get(("clusters", clustering_id), read, lambda both: both[0].nbytes + both[1].nbytes)

    def clustering(self, clustering_id: str) -> StoredClustering:
        return self._cache.get(
            ("clustering", clustering_id),
            lambda: clusterings.by_id(self.store.catalog, clustering_id),
            lambda stored: 32 * len(stored.sizes),
        )

    def labels(self, dataset: str, name: str) -> Labels:
        """The newest version of a concept set. Raises NotFound."""
        stored = concept_sets.get(self.store.catalog, dataset, name)

        def read() -> Labels:
            words = concept_sets.vocabulary(self.store.catalog, stored.artifact.id)
            indptr, indices = concept_rows.load(self.store, stored)[:2]
            return Labels(stored, words, indptr, indices)

        return self._cache.get(("labels", stored.artifact.id), read, lambda labels: labels.nbytes)

    def typical(self, clustering_id: str, top: int) -> np.ndarray:
        """Positions of images to show for each cluster, (K, top), −1 for none: the nearest to the centroid.

        Of an embedding too large to search at once, the first images of each cluster.
        """

        def read() -> np.ndarray:
            stored = self.clustering(clustering_id)
            source = clusterings.embedding_id(self.store.catalog, clustering_id)
            if source is None or _size(embeddings.by_id(self.store.catalog, source)) <= SMALL_BYTES:
                return typical(self.store, stored, top)
            return _first(self.clusters(clustering_id), stored.row.clusters, top)

        return self._cache.get(("typical", clustering_id, top), read, lambda table: table.nbytes)

    def centroids(self, clustering_id: str) -> np.ndarray | None:
        """Centroids, float32 (K, dim); None for an imported grouping."""
        row = self.clustering(clustering_id).row
        if row.centroids_path is None or row.centroids_checksum is None:
            return None
        path, checksum = row.centroids_path, row.centroids_checksum
        return self._cache.get(
            ("centroids", clustering_id), lambda: load_array(self.store.arrays, path, checksum), lambda c: c.nbytes
        )

    def nearest(self, dataset: str, backbone: str, position: int, top: int) -> list[tuple[int, float]]:
        """The `top` images nearest to one by Euclidean distance of their vectors: (position, distance), exact."""

        def search() -> list[tuple[int, float]]:
            embedding = self.store.embedding(dataset, backbone)
            query = embedding[position].astype(np.float32)
            if not np.isfinite(query).all():
                return []
            kept = np.empty(0), np.empty(0, np.int64)
            for first, rows in embedding.blocks():
                distances = np.square(rows.astype(np.float32) - query).sum(axis=1)
                distances[~np.isfinite(distances)] = np.inf
                both = np.concatenate([kept[0], distances]), np.concatenate([kept[1], first + np.arange(len(rows))])
                order = np.argsort(both[0], kind="stable")[: top + 1]
                kept = both[0][order], both[1][order]
            pairs = zip(kept[1].tolist(), np.sqrt(kept[0]).tolist(), strict=True)
            return [(p, d) for p, d in pairs if p != position and np.isfinite(d)][:top]

        key = ("nearest", self.store.embedding(dataset, backbone).stored.artifact.id, position, top)
        return self._cache.get(key, search, lambda pairs: 100 * len(pairs))

    def embedding_bytes(self, dataset: str, backbone: str) -> int:
        return _size(self.store.embedding(dataset, backbone).stored)

    def keys(self, dataset: Dataset, positions: Sequence[int]) -> dict[int, str]:
        return datasets.keys_at(self.store.catalog, dataset, positions)

    def position(self, dataset: Dataset, key: str) -> int:
        """The position of a key. Raises NotFound."""
        return datasets.position_of(self.store.catalog, dataset, key)


def _size(stored: Any) -> int:
    return sum(block.nbytes for block in stored.blocks)


def _first(labels: np.ndarray, k: int, top: int) -> np.ndarray:
    """The lowest positions of each cluster, (k, top), −1 for none."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    starts = np.searchsorted(ordered, np.arange(k))
    ends = np.searchsorted(ordered, np.arange(k), side="right")
    at = starts[:, None] + np.arange(top)
    return np.where(at < ends[:, None], order[np.minimum(at, len(order) - 1)], -1)
