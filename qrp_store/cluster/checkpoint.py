"""Where K-means stood when it was last seen, kept beside the clustering that is being made.

One object, replaced whole, at most once in `EVERY_SECONDS`. It is only ever read by whoever goes on with the same
clustering, so nothing in it needs a catalog entry; a damaged or foreign one is simply not used.
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
        """Keep a state, unless one was kept a moment ago."""
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
        """The state that was kept, or None. Every array in it carries a checksum that reading verifies."""
        from qrp_store.kmeans.lloyd import KMeansState

        try:
            data = self._root.get(self._path)
        except NotFound:
            return None
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as kept:
                redo, iteration = (int(v) for v in kept["at"])
                best = kept["best_centroids"]
                state = KMeansState(
                    redo,
                    iteration,
                    kept["centroids"],
                    tuple(kept["objective"].tolist()),
                    best if best.size else None,
                    tuple(kept["best_objective"].tolist()),
                    tuple(kept["splits"].tolist()),
                    tuple(kept["best_splits"].tolist()),
                )
        except Exception:  # a damaged archive breaks its readers in many ways
            return None
        return state if state.centroids.shape == (k, dim) else None

    def forget(self) -> None:
        """Remove it: the clustering is finished."""
        self._root.delete(self._path)
