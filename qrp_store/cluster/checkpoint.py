"""The checkpoint of a K-means run, stored next to the unfinished clustering.

One object, replaced whole, at most once in `EVERY_SECONDS`. Only a process that resumes the same clustering reads it,
so the catalog does not list it; a damaged or foreign checkpoint is ignored.
"""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING

import numpy as np

from qrp_store.arrays.root import Root
from qrp_store.errors import NotFound

if TYPE_CHECKING:
    from qrp_store.kmeans.lloyd import KMeansState

NAME = "kmeans.npz"
EVERY_SECONDS = 1.0


class Checkpoint:
    """The checkpoint of one claimed clustering, below its path."""

    def __init__(self, root: Root, path: str) -> None:
        self._root, self._path = root, f"{path}/{NAME}"
        self._saved = time.monotonic()

    def save(self, state: KMeansState) -> None:
        """Write a state, unless one was written less than `EVERY_SECONDS` ago."""
        if time.monotonic() - self._saved < EVERY_SECONDS:
            return
        best = state.best_centroids
        data = io.BytesIO()
        np.savez(
            data,
            allow_pickle=False,
            at=np.array([state.redo, state.iteration]),
            centroids=state.centroids,
            objective=np.array(state.objective, np.float64),
            best_centroids=np.empty((0, 0), np.float32) if best is None else best,
            best_objective=np.array(state.best_objective, np.float64),
            splits=np.array(state.splits, np.int64),
            best_splits=np.array(state.best_splits, np.int64),
        )
        self._root.put(self._path, data.getvalue(), replace=True)
        self._saved = time.monotonic()

    def load(self, k: int, dim: int) -> KMeansState | None:
        """Return the stored state, or None. Reading verifies the checksum of every array in it."""
        from qrp_store.kmeans.lloyd import KMeansState

        try:
            data = self._root.get(self._path)
        except NotFound:
            return None
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                redo, iteration = (int(v) for v in stored["at"])
                best = stored["best_centroids"]
                state = KMeansState(
                    redo,
                    iteration,
                    stored["centroids"],
                    tuple(stored["objective"].tolist()),
                    best if best.size else None,
                    tuple(stored["best_objective"].tolist()),
                    tuple(stored["splits"].tolist()),
                    tuple(stored["best_splits"].tolist()),
                )
        except Exception:  # a damaged archive breaks its readers in many ways
            return None
        return state if state.centroids.shape == (k, dim) else None

    def forget(self) -> None:
        """Delete it once the clustering is finished."""
        self._root.delete(self._path)
