"""The score of each single concept. Where the whole vector does not beat the best one, combinations explain nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qrp_store.probing.sparse import ConceptMatrix

STRENGTHS = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
"""Number of images with the plain frequencies that are added; the validation part chooses for each concept."""
_CELLS = 1 << 20

Part = tuple[ConceptMatrix, ArrayLike]
Table = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Alone:
    """Scores of the probes of one concept each; arrays (M,) or (K,).

    mi_nats        H − CE on the test part, (M,)
    val_mi_nats    the same on the validation part; it ranks the concepts
    n_train        training samples that have the concept; n_test likewise
    best           int, the concept that explains each cluster best on training and validation part, (K,)
    best_mi_nats   the cluster's share of that concept's `mi_nats`, p̂_k (−ln p̂_k − CE_k), (K,); NaN without test sample
    """

    mi_nats: Table
    val_mi_nats: Table
    n_train: NDArray[np.int64]
    n_test: NDArray[np.int64]
    best: NDArray[np.int64]
    best_mi_nats: Table

    @property
    def ranked(self) -> NDArray[np.int64]:
        """Return the concepts, best on the validation part first."""
        return np.argsort(-self.val_mi_nats, kind="stable")


def alone(train: Part, val: Part, test: Part, n_clusters: int) -> Alone:
    """Score q(c | y_j) for every concept j alone; each part is (concepts (n, M), clusters (n,)).

    The optimal probe of one concept is a table, q(c | y_j) = (n_jc + s f_c) / (n_j + s): counts of the training part,
    smoothed by its frequencies f with the strength s of least validation cross-entropy.
    """
    m = train[0].n_concepts
    counted = [_Counted(part, n_clusters) for part in (train, val, test)]
    frequency = (counted[0].clusters + 0.5) / (counted[0].clusters.sum() + n_clusters / 2)
    mi, val_mi = np.empty(m), np.empty(m)
    best, best_fitted, best_share = np.zeros(n_clusters, np.int64), np.full(n_clusters, -np.inf), np.zeros(n_clusters)
    step = max(1, _CELLS // n_clusters)
    for first in range(0, m, step):
        last = min(first + step, m)
        tables = [part.table(first, last) for part in counted]
        log_q = _chosen(tables[0], tables[1], counted, frequency)
        shares = [part.shares(table, log_q) for part, table in zip(counted, tables, strict=True)]
        val_mi[first:last], mi[first:last] = shares[1].sum(axis=1), shares[2].sum(axis=1)
        sizes = [part.clusters.sum() for part in counted]
        fitted = shares[0] * sizes[0] + shares[1] * sizes[1]
        top = fitted.argmax(axis=0)
        cluster = np.arange(n_clusters)
        better = fitted[top, cluster] > best_fitted
        best_fitted = np.where(better, fitted[top, cluster], best_fitted)
        best = np.where(better, top + first, best)
        best_share = np.where(better, shares[2][top, cluster], best_share)
    best_share[counted[2].clusters == 0] = np.nan
    return Alone(mi, val_mi, train[0].counts(), test[0].counts(), best, best_share)


class _Counted:
    """Counts of a part's samples by concept and cluster."""

    def __init__(self, part: Part, n_clusters: int) -> None:
        x, c = part[0], np.asarray(part[1], np.int64)
        self.clusters = np.bincount(c, minlength=n_clusters).astype(np.float64)
        order = np.argsort(x.indices, kind="stable")
        self._cluster = c[x.rows()[order]]
        self._ends = np.concatenate(([0], np.cumsum(x.counts())))

    def table(self, first: int, last: int) -> Table:
        """Return how many samples of each cluster have each of these concepts; (concepts, K)."""
        k, ends = len(self.clusters), self._ends[first : last + 1]
        concept = np.repeat(np.arange(last - first), np.diff(ends))
        counts = np.bincount(concept * k + self._cluster[ends[0] : ends[-1]], minlength=(last - first) * k)
        return counts.reshape(last - first, k).astype(np.float64)

    def shares(self, table: Table, log_q: tuple[Table, Table]) -> Table:
        """Return each cluster's share of the score, (concepts, K); `log_q` is with and without the concept."""
        n = self.clusters.sum()
        share = self.clusters / n
        log_p = np.log(share, out=np.zeros_like(share), where=share > 0)
        shares: Table = (table * log_q[0] + (self.clusters - table) * log_q[1]) / n - share * log_p
        return shares


def _chosen(train: Table, val: Table, counted: list[_Counted], frequency: Table) -> tuple[Table, Table]:
    """Return ln q with and without each concept, (concepts, K), smoothed by the strength that validates best."""
    n, n_j = counted[0].clusters.sum(), train.sum(axis=1, keepdims=True)
    best_loss, log_q = np.full((len(train), 1), np.inf), (np.empty_like(train), np.empty_like(train))
    for strength in STRENGTHS:
        held = np.log((train + strength * frequency) / (n_j + strength))
        not_held = np.log((counted[0].clusters - train + strength * frequency) / (n - n_j + strength))
        loss = -(val * held + (counted[1].clusters - val) * not_held).sum(axis=1, keepdims=True)
        for target, values in zip(log_q, (held, not_held), strict=True):
            np.copyto(target, values, where=loss < best_loss)
        best_loss = np.minimum(best_loss, loss)
    return log_q
