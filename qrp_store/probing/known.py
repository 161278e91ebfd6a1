"""Generated samples with a known mutual information of cluster and concepts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qrp_store.probing.sparse import ConceptMatrix


@dataclass(frozen=True, eq=False)
class Known:
    """Samples with concepts `x` (n, M) and a group each, int64 (n,); `mi_nats` is the true I(group; concepts)."""

    x: ConceptMatrix
    groups: NDArray[np.int64]
    n_groups: int
    mi_nats: float


def log_linear(n: int, n_concepts: int, n_groups: int, *, per_sample: int = 5, seed: int) -> Known:
    """Generate samples of `per_sample` concepts, each with a group drawn from a softmax of the sum of their weights.

    The truth depends on the drawn concepts and not on the drawn groups: the mean of KL(P(group | y) ‖ P(group)).
    """
    rng = np.random.default_rng(seed)
    concepts = rng.random((n, n_concepts)).argpartition(per_sample, axis=1)[:, :per_sample]
    x = ConceptMatrix.from_pairs(np.repeat(np.arange(n), per_sample), concepts.ravel(), n, n_concepts)
    p = _softmax(rng.normal(0, 2, (n_concepts, n_groups))[concepts].sum(axis=1))
    information = p * np.log(np.maximum(p, np.finfo(float).tiny) / p.mean(axis=0))
    return Known(x, _drawn(p, rng), n_groups, float(information.sum(axis=1).mean()))


def one_concept_each(n: int, n_concepts: int, n_groups: int, *, seed: int) -> Known:
    """Generate samples of one concept. `mi_nats` is that of the contingency table of the drawn concepts and groups."""
    rng = np.random.default_rng(seed)
    concept = rng.integers(0, n_concepts, n)
    groups = _drawn(rng.dirichlet(np.full(n_groups, 0.3), n_concepts)[concept], rng)
    table = np.zeros((n_concepts, n_groups))
    np.add.at(table, (concept, groups), 1 / n)
    independent = np.outer(table.sum(axis=1), table.sum(axis=0))
    present = table > 0
    mi = float((table[present] * np.log(table[present] / independent[present])).sum())
    return Known(ConceptMatrix.from_pairs(np.arange(n), concept, n, n_concepts), groups, n_groups, mi)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    normalised: NDArray[np.float64] = p / p.sum(axis=1, keepdims=True)
    return normalised


def _drawn(p: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw one column number a row, by the probabilities p (n, columns)."""
    below = (p.cumsum(axis=1) < rng.random((len(p), 1))).sum(axis=1)
    drawn: NDArray[np.int64] = np.minimum(below, p.shape[1] - 1)
    return drawn
