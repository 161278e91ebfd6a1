"""Match the clusters of two clusterings by the images that they share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def overlaps(
    first: NDArray[np.int32], second: NDArray[np.int32], k: tuple[int, int]
) -> tuple[Ints, NDArray[np.float64]]:
    """Return, for each of the k[0] clusters of `first`, the cluster of `second` that overlaps it most, and the overlap.

    `first` and `second`, shape (n,), hold the clusters of the same images. Overlap is images in both / images in either
    (Jaccard). An empty cluster matches −1. Ties go to the lower number.
    """
    both, counts = np.unique(first.astype(np.int64) * k[1] + second, return_counts=True)
    a, b = both // k[1], both % k[1]
    sizes = np.bincount(first, minlength=k[0]), np.bincount(second, minlength=k[1])
    jaccard = counts / (sizes[0][a] + sizes[1][b] - counts)
    best = np.full(k[0], -1, np.int64)
    overlap = np.zeros(k[0])
    order = np.lexsort((b, -jaccard, a))
    clusters, where = np.unique(a[order], return_index=True)
    best[clusters], overlap[clusters] = b[order][where], jaccard[order][where]
    return best, overlap
