"""Is one score above another on the same samples? The paired bootstrap of their difference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pairs = NDArray[np.float64]


def plug_in(clusters: NDArray[np.integer]) -> NDArray[np.float64]:
    """ln p̂ of each sample's cluster, (n,): p̂ counted on these samples."""
    counts = np.bincount(clusters)
    found: NDArray[np.float64] = np.log(counts[clusters] / len(clusters))
    return found


def nmi(log_q: NDArray[np.float64], log_p: NDArray[np.float64]) -> float:
    """1 − CE / H, from ln q and ln p̂ of each sample's own cluster."""
    return float(1 - log_q.mean() / log_p.mean())


def difference_interval(first: Pairs, second: Pairs, replicates: int, seed: int) -> tuple[float, float]:
    """The central 95 % of NMI₁ − NMI₂ over resampled samples; `first` and `second` are (n, 2): ln q, ln p̂.

    A replicate draws the same samples for both; p̂ stays fixed.
    """
    rng = np.random.default_rng(seed)
    four = np.concatenate([first, second], axis=1)
    n = len(four)
    found = np.empty(replicates)
    for replicate in range(replicates):
        # how often each sample is drawn: cheaper than gathering them
        drawn = np.bincount(rng.integers(0, n, n, dtype=np.int32), minlength=n)
        q1, p1, q2, p2 = drawn.astype(np.float64) @ four
        found[replicate] = q2 / p2 - q1 / p1
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)
