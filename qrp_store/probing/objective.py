"""The probe's loss and gradient over sparse batches.

Weights are held as one table (M + 1, K) whose last row is the bias, a concept that every sample has. So a sample's
logits are the sum of a few rows of the table, and the gradient of a row is the sum of the residuals of the samples that
have its concept. Both are gathers (`embedding_bag`): the second over the batch's transpose, so that every entry of the
gradient is written once and nothing is scattered. No autograd, and few passes over the logits: at these sizes memory
traffic and starting threads are what a step costs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qrp_store.probing.device import torch
from qrp_store.probing.sparse import ConceptMatrix

_GROUP_BATCHES = 64
_CHUNK_FLOATS = 1 << 20
_PASS_FLOATS = 1 << 23
"""Logits at once in a full pass: each piece adds a whole gradient in float64, which costs more than it computes."""


@dataclass(frozen=True, eq=False)
class Bags:
    """Lists of rows of some table: bag i is `members[ends[i]:ends[i + 1]]`; int32, on a device.

    `weights`: what each member counts, float32; None: 1.
    """

    members: torch.Tensor
    ends: torch.Tensor
    weights: torch.Tensor | None = None

    def sum(self, table: torch.Tensor) -> torch.Tensor:
        """The weighted sum of each bag's rows of the table; (bags, columns)."""
        return torch.nn.functional.embedding_bag(
            self.members, table, self.ends, mode="sum", include_last_offset=True, per_sample_weights=self.weights
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples on a device: each one's concepts and cluster (int64 (n,)); if asked for, each concept's samples."""

    concepts: Bags
    clusters: torch.Tensor
    samples: Bags | None

    def __len__(self) -> int:
        return len(self.clusters)


def with_bias(x: ConceptMatrix) -> ConceptMatrix:
    """The same rows, each with one more concept, n_concepts, that all of them have."""
    n = len(x)
    every = ConceptMatrix(np.arange(n + 1), np.zeros(n, np.int32), 1)
    return x.hstack([every])


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
    n = len(x)
    bounds = [*range(0, n, size), n]
    members = torch.from_numpy(x.indices).to(device)
    ends = torch.from_numpy(x.indptr).to(device)
    target = torch.from_numpy(clusters).to(device)
    values = None if x.values is None else torch.from_numpy(x.values).to(device)
    samples, sample_ends, order = _transpose(x, size, device) if transposed else (members, ends, None)
    turned = None if values is None or order is None else values[order]
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        first, last = int(x.indptr[start]), int(x.indptr[stop])
        by_sample = Bags(members[first:last], (ends[start : stop + 1] - first).int(), _part(values, first, last))
        by_concept = Bags(samples[first:last], sample_ends[number], _part(turned, first, last)) if transposed else None
        yield Batch(by_sample, target[start:stop], by_concept)


def _part(values: torch.Tensor | None, first: int, last: int) -> torch.Tensor | None:
    return None if values is None else values[first:last]


def _transpose(x: ConceptMatrix, size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each batch of `size` rows, the rows (counted within it) of each concept, where they end, and from where.

    int32 (nnz,), ordered by batch, then concept, then row; int32 (batches, n_concepts + 1); and the place among x's
    entries that each came from, int64 (nnz,).
    """
    row = x.rows()
    batch = row // size
    # two stable sorts by small integers, which numpy does by radix: the most significant key comes last
    small = np.uint16 if x.n_concepts <= 1 << 16 else np.int32
    order = np.argsort(x.indices.astype(small), kind="stable")
    order = order[np.argsort(batch.astype(np.uint8)[order], kind="stable")]
    members = (row - batch * size).astype(np.int32)[order]
    count = -(-len(x) // size)
    counts = np.bincount(batch * x.n_concepts + x.indices, minlength=count * x.n_concepts)
    ends = np.zeros((count, x.n_concepts + 1), np.int32)
    np.cumsum(counts.reshape(count, -1), axis=1, out=ends[:, 1:])
    return tuple(torch.from_numpy(found).to(device) for found in (members, ends, order))  # type: ignore[return-value]


def chunk_rows(n_clusters: int) -> int:
    """Rows to take at once when the whole of a part is gone through: 4 MB of logits."""
    return max(64, _CHUNK_FLOATS // n_clusters)


def log_probabilities(batch: Batch, table: torch.Tensor) -> torch.Tensor:
    """log q(c | y) of each sample, (n, K)."""
    logits = batch.concepts.sum(table)
    return torch.log_softmax(logits, dim=1, out=logits)


class Gradient:
    """Loss and gradient of transposed batches of up to `rows` samples."""

    def __init__(self, rows: int, n_clusters: int, device: torch.device) -> None:
        self._of_log_q = torch.zeros((rows, n_clusters), device=device)

    def __call__(self, batch: Batch, table: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The summed cross-entropy (float64 scalar), and `scale` times its gradient (M + 1, K)."""
        assert batch.samples is not None
        log_q = log_probabilities(batch, table)
        target = batch.clusters.unsqueeze(1)
        loss = -log_q.gather(1, target).sum(dtype=torch.float64)
        upstream = self._of_log_q[: len(batch)]
        upstream.scatter_(1, target, -scale)
        # the backward pass of log_softmax: scale * (q − 1 at the sample's cluster), in one go and in place
        residual = torch.ops.aten._log_softmax_backward_data.out(upstream, log_q, 1, log_q.dtype, out=log_q)
        upstream.scatter_(1, target, 0.0)
        return loss, batch.samples.sum(residual)


class Objective:
    """F(table) = mean cross-entropy + λ/2 ‖table‖² over a whole part, kept ready on a device."""

    def __init__(self, x: ConceptMatrix, clusters: NDArray[np.int64], n_clusters: int, device: torch.device) -> None:
        self.n = len(x)
        size = min(self.n, max(64, _PASS_FLOATS // n_clusters))
        self._batches = list(batches(with_bias(x), clusters, size, device, transposed=True))
        self._gradient = Gradient(size, n_clusters, device)

    def __call__(self, table: torch.Tensor, weight_decay: float) -> tuple[float, torch.Tensor]:
        """F in nats, and its gradient (M + 1, K); sums in float64."""
        loss = torch.zeros((), dtype=torch.float64, device=table.device)
        gradient = table.to(torch.float64)
        penalty = weight_decay / 2 * square(gradient)
        gradient.mul_(weight_decay)
        for batch in self._batches:
            part, part_gradient = self._gradient(batch, table, 1 / self.n)
            loss += part
            gradient += part_gradient
        return float(loss) / self.n + penalty, gradient


class CrossEntropy:
    """Mean cross-entropy over a whole part, kept ready on a device."""

    def __init__(self, x: ConceptMatrix, clusters: NDArray[np.int64], n_clusters: int, device: torch.device) -> None:
        self.n = len(x)
        self._batches = list(batches(with_bias(x), clusters, chunk_rows(n_clusters), device))

    def __call__(self, table: torch.Tensor) -> float:
        """In nats a sample."""
        loss = torch.zeros((), dtype=torch.float64, device=table.device)
        for batch in self._batches:
            loss -= log_probabilities(batch, table).gather(1, batch.clusters.unsqueeze(1)).sum(dtype=torch.float64)
        return float(loss) / self.n


def square(values: torch.Tensor) -> float:
    """The sum of the squares."""
    return float(torch.linalg.vector_norm(values)) ** 2
