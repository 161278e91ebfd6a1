"""The probe's loss and gradient over sparse batches.

Weights are held as (M, K), so that a sample's logits are the sum of a few rows, and the gradient of a concept is the
sum of the residuals of the samples that have it. Both are gathers (`embedding_bag`): the second over the batch's
transpose, so every entry of the gradient is written once and nothing is scattered. No autograd.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qrp_store.probing.device import torch
from qrp_store.probing.sparse import ConceptMatrix

_GROUP_BATCHES = 64
_CHUNK_FLOATS = 1 << 22


@dataclass(frozen=True, eq=False)
class Bags:
    """Lists of rows of some table: bag i is `members[ends[i]:ends[i + 1]]`; int32, on a device."""

    members: torch.Tensor
    ends: torch.Tensor

    def sum(self, table: torch.Tensor) -> torch.Tensor:
        """The sum of each bag's rows of the table; (bags, columns)."""
        return torch.nn.functional.embedding_bag(self.members, table, self.ends, mode="sum", include_last_offset=True)


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples on a device: each one's concepts and cluster (int64 (n,)); if asked for, each concept's samples."""

    concepts: Bags
    clusters: torch.Tensor
    samples: Bags | None

    def __len__(self) -> int:
        return len(self.clusters)


def batches(
    x: ConceptMatrix,
    clusters: NDArray[np.int64],
    size: int,
    device: torch.device,
    *,
    order: NDArray[np.int64] | None = None,
    transposed: bool = False,
) -> Iterator[Batch]:
    """The rows of x, or those that `order` names, in batches of `size`, the last one short.

    Prepared and moved to the device a group of batches at a time: memory stays small at any number of rows.
    """
    n = len(x) if order is None else len(order)
    group = size * _GROUP_BATCHES
    for start in range(0, n, group):
        stop = min(start + group, n)
        at = np.arange(start, stop) if order is None else order[start:stop]
        yield from _cut(x.take(at), clusters[at], size, device, transposed)


def _cut(
    x: ConceptMatrix, clusters: NDArray[np.int64], size: int, device: torch.device, transposed: bool
) -> Iterator[Batch]:
    concepts = torch.from_numpy(x.indices).to(device)
    target = torch.from_numpy(clusters).to(device)
    samples = _by_concept(x, size).to(device) if transposed else None
    for start in range(0, len(x), size):
        stop = min(start + size, len(x))
        first, last = int(x.indptr[start]), int(x.indptr[stop])
        ends = torch.from_numpy((x.indptr[start : stop + 1] - first).astype(np.int32)).to(device)
        by_concept = None
        if samples is not None:
            counts = np.bincount(x.indices[first:last], minlength=x.n_concepts)
            concept_ends = torch.from_numpy(np.concatenate(([0], np.cumsum(counts))).astype(np.int32)).to(device)
            by_concept = Bags(samples[first:last], concept_ends)
        yield Batch(Bags(concepts[first:last], ends), target[start:stop], by_concept)


def _by_concept(x: ConceptMatrix, size: int) -> torch.Tensor:
    """The row within its batch of every entry, ordered by batch, then concept, then row; int32 (nnz,)."""
    row = x.rows()
    # two stable sorts by small integers, which numpy does by radix: the most significant key comes last
    small = np.uint16 if x.n_concepts <= 1 << 16 else np.int32
    order = np.argsort(x.indices.astype(small), kind="stable")
    batch = (row // size).astype(np.uint8)
    order = order[np.argsort(batch[order], kind="stable")]
    return torch.from_numpy((row % size).astype(np.int32)[order])


def chunk_rows(n_clusters: int) -> int:
    """Rows to take at once when the whole of a part is gone through: 16 MB of logits."""
    return max(64, _CHUNK_FLOATS // n_clusters)


def log_probabilities(batch: Batch, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """log q(c | y) of each row, (n, K), at weight (M, K) and bias (K,)."""
    return torch.log_softmax(batch.concepts.sum(weight).add_(bias), dim=1)


def loss_and_gradient(
    batch: Batch, weight: torch.Tensor, bias: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Summed cross-entropy (float64 scalar), and `scale` times its gradient by weight and bias. Needs the transpose."""
    assert batch.samples is not None
    log_q = log_probabilities(batch, weight, bias)
    target = batch.clusters.unsqueeze(1)
    loss = -log_q.gather(1, target).sum(dtype=torch.float64)
    residual = log_q.exp_()
    residual.scatter_add_(1, target, residual.new_full((1, 1), -1.0).expand(len(batch), 1))
    residual.mul_(scale)
    return loss, batch.samples.sum(residual), residual.sum(dim=0)


class Objective:
    """F(W, b) = mean cross-entropy + λ/2 (‖W‖² + ‖b‖²) over a whole part, kept ready on a device."""

    def __init__(self, x: ConceptMatrix, clusters: NDArray[np.int64], n_clusters: int, device: torch.device) -> None:
        self.n = len(x)
        self._batches = list(batches(x, clusters, chunk_rows(n_clusters), device, transposed=True))

    def __call__(
        self, weight: torch.Tensor, bias: torch.Tensor, weight_decay: float
    ) -> tuple[float, torch.Tensor, torch.Tensor]:
        """F in nats, and its gradient by weight (M, K) and by bias (K,); sums in float64."""
        loss = torch.zeros((), dtype=torch.float64, device=weight.device)
        by_weight = weight.to(torch.float64).mul_(weight_decay)
        by_bias = bias.to(torch.float64).mul_(weight_decay)
        penalty = weight_decay / 2 * (_square(weight) + _square(bias))
        for batch in self._batches:
            part, part_weight, part_bias = loss_and_gradient(batch, weight, bias, 1 / self.n)
            loss += part
            by_weight += part_weight
            by_bias += part_bias
        return float(loss) / self.n + penalty, by_weight, by_bias


class CrossEntropy:
    """Mean cross-entropy over a whole part, kept ready on a device."""

    def __init__(self, x: ConceptMatrix, clusters: NDArray[np.int64], n_clusters: int, device: torch.device) -> None:
        self.n = len(x)
        self._batches = list(batches(x, clusters, chunk_rows(n_clusters), device))

    def __call__(self, weight: torch.Tensor, bias: torch.Tensor) -> float:
        """In nats a sample, at weight (M, K) and bias (K,)."""
        loss = torch.zeros((), dtype=torch.float64, device=weight.device)
        for batch in self._batches:
            log_q = log_probabilities(batch, weight, bias)
            loss -= log_q.gather(1, batch.clusters.unsqueeze(1)).sum(dtype=torch.float64)
        return float(loss) / self.n


def _square(values: torch.Tensor) -> float:
    return float(torch.sum(values.to(torch.float64) ** 2))
