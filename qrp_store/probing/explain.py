"""Which concepts define a cluster: the probe's weights, and how often each concept occurs in the cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qrp_store.errors import InvalidInput
from qrp_store.probing.sparse import ConceptMatrix

if TYPE_CHECKING:
    from qrp_store.probing.train import ProbeFit

TOP = 10
"""Number of concepts that are listed of each cluster."""
SUPPORT, SUPPORT_SHARE = 5, 0.1
"""Number and share of a cluster's training images that must have a concept before it may name the cluster."""
_CHUNK_CELLS = 1 << 22


@dataclass(frozen=True, eq=False)
class Explanation:
    """The top concepts of each cluster, best first; arrays (K, top).

    concept   int32; −1 where a cluster has no further concept, and then weight and lift are NaN and n is 0
    weight    float32, W_kj − mean over clusters of W_kj: only such differences mean anything under a softmax
    lift      float64, P(concept | cluster) / P(concept) on the training part
    n         int64, training samples of the cluster that have the concept, at least 1

    Arrays (K,): `supported` int32, the concept of largest weight among those that at least SUPPORT training samples
    and a SUPPORT_SHARE of the cluster have, −1 for none; `n_train` int64, the cluster's training samples.
    """

    concept: NDArray[np.int32]
    weight: NDArray[np.float32]
    lift: NDArray[np.float64]
    n: NDArray[np.int64]
    supported: NDArray[np.int32]
    n_train: NDArray[np.int64]


def explain(fit: ProbeFit, x_train: ConceptMatrix, c_train: ArrayLike, *, top: int = TOP) -> Explanation:
    """Return each cluster's concepts of largest centred weight among those that occur in it; c_train is (n,).

    Raise InvalidInput when the part does not fit the probe.
    """
    c = np.asarray(c_train, dtype=np.int64)
    k, m = fit.n_clusters, fit.n_concepts
    if x_train.n_concepts != m or c.shape != (len(x_train),):
        raise InvalidInput(f"{x_train.shape} concepts and {c.shape} clusters for a probe of {m} concepts")
    explanation = Explanation(
        np.full((k, top), -1, np.int32),
        np.full((k, top), np.nan, np.float32),
        np.full((k, top), np.nan),
        np.zeros((k, top), np.int64),
        np.full(k, -1, np.int32),
        np.bincount(c, minlength=k),
    )
    if m == 0:
        return explanation
    grouped = x_train.take(np.argsort(c, kind="stable"))
    sizes = explanation.n_train
    ends = np.concatenate(([0], np.cumsum(sizes)))
    expected = x_train.counts() / max(len(x_train), 1)
    centre = fit.weight.mean(axis=0, dtype=np.float64).astype(np.float32)
    step = max(1, _CHUNK_CELLS // m)
    for first in range(0, k, step):
        last = min(first + step, k)
        table = _table(grouped, ends[first : last + 1])
        _rank(explanation, slice(first, last), table, fit.weight[first:last] - centre, sizes[first:last], expected)
    return explanation


def _table(grouped: ConceptMatrix, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many rows of each cluster have each concept; (clusters, M). Cluster i is rows ends[i]…ends[i + 1]."""
    m, clusters = grouped.n_concepts, len(ends) - 1
    entries = grouped.indptr[ends]
    cluster = np.repeat(np.arange(clusters), np.diff(entries))
    concept = grouped.indices[entries[0] : entries[-1]]
    return np.bincount(cluster * m + concept, minlength=clusters * m).reshape(clusters, m)


def _rank(
    explanation: Explanation,
    part: slice,
    table: NDArray[np.int64],
    weight: NDArray[np.float32],
    sizes: NDArray[np.int64],
    expected: NDArray[np.float64],
) -> None:
    ranked = np.where(table > 0, weight, -np.inf)
    top = min(explanation.concept.shape[1], table.shape[1])
    best = np.argsort(-ranked, axis=1, kind="stable")[:, :top]
    n = np.take_along_axis(table, best, axis=1)
    present = n > 0
    rate = np.divide(n, sizes[:, None], out=np.full(n.shape, np.nan), where=present)
    explanation.concept[part, :top] = np.where(present, best, -1)
    explanation.weight[part, :top] = np.where(present, np.take_along_axis(weight, best, axis=1), np.nan)
    explanation.lift[part, :top] = np.divide(rate, expected[best], out=np.full(n.shape, np.nan), where=present)
    explanation.n[part, :top] = n
    enough = table >= np.maximum(SUPPORT, SUPPORT_SHARE * sizes)[:, None]
    first = np.where(enough, weight, -np.inf).argmax(axis=1)
    explanation.supported[part] = np.where(enough.any(axis=1), first, -1)
