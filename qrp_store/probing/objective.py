"""The probe's loss and gradient over sparse batches.

Weights are held as one table (M + 1, K) whose last row is the bias, a concept that every sample has. So a sample's
logits are the sum of a few rows of the table, and the gradient of a row is the sum of the residuals of the samples that
have its concept. Both are gathers: the second over the batch's transpose, so that every entry of the gradient is
written once and nothing is scattered. No autograd, and few passes over the logits: at these sizes memory traffic and
starting threads are what a step costs.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qrp_store.probing.device import torch
from qrp_store.probing.sparse import ConceptMatrix, block_diagonal

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

    def sum_into(self, out: torch.Tensor, table: torch.Tensor, *, keep: float, scale: float) -> None:
        """out = keep · out + scale · sum(table), in one pass over out; (bags, columns). Same bits at any threads."""
        weights = torch.ones(len(self.members), device=table.device) if self.weights is None else self.weights
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
            matrix = torch.sparse_csr_tensor(
                self.ends, self.members, weights, (len(out), len(table)), check_invariants=False
            )
        torch.addmm(out, matrix, table, beta=keep, alpha=scale, out=out)


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
    samples, sample_ends, turned = _transpose(x, size, device) if transposed else (members, ends, None)
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        first, last = int(x.indptr[start]), int(x.indptr[stop])
        by_sample = Bags(members[first:last], (ends[start : stop + 1] - first).int(), _part(values, first, last))
        by_concept = Bags(samples[first:last], sample_ends[number], _part(turned, first, last)) if transposed else None
        yield Batch(by_sample, target[start:stop], by_concept)


def _part(values: torch.Tensor | None, first: int, last: int) -> torch.Tensor | None:
    return None if values is None else values[first:last]


def _transpose(
    x: ConceptMatrix, size: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """For each batch of `size` rows, the rows (counted within it) of each concept, where they end, and their values.

    int32 (nnz,), ordered by batch, then concept, then row; int32 (batches, n_concepts + 1); float32 (nnz,) or None.
    """
    # batch, concept and row in one number: sorting those of 32 bits is several times as fast as any other way
    count, bits = -(-len(x) // size), (size - 1).bit_length()
    kind = np.uint32 if count * x.n_concepts << bits <= 1 << 32 else np.uint64
    batch, within = np.divmod(np.arange(len(x)), size)
    entries = np.repeat(((batch * x.n_concepts << bits) + within).astype(kind), np.diff(x.indptr))
    entries += np.left_shift(x.indices.astype(kind), kind(bits))
    values = None
    if x.values is None:
        entries.sort()
    else:
        order = np.argsort(entries)
        entries, values = entries[order], torch.from_numpy(x.values[order]).to(device)
    members = (entries & kind((1 << bits) - 1)).astype(np.int32)
    entries >>= kind(bits)
    counts = np.bincount(entries.astype(np.int64), minlength=count * x.n_concepts)
    ends = np.zeros((count, x.n_concepts + 1), np.int32)
    np.cumsum(counts.reshape(count, -1), axis=1, out=ends[:, 1:])
    return torch.from_numpy(members).to(device), torch.from_numpy(ends).to(device), values


def chunk_rows(n_clusters: int) -> int:
    """Rows to take at once when the whole of a part is gone through: 4 MB of logits."""
    return max(64, _CHUNK_FLOATS // n_clusters)


def log_probabilities(batch: Batch, table: torch.Tensor) -> torch.Tensor:
    """log q(c | y) of each sample, (n, K). Bags beyond those of the samples are left out."""
    logits = batch.concepts.sum(table)[: len(batch)]
    return torch.log_softmax(logits, dim=1, out=logits)


def residuals(batch: Batch, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each sample's cross-entropy, (n, 1), and their sum's gradient by the logits: q, less 1 at the cluster; (n, K)."""
    log_q = log_probabilities(batch, table)
    target = batch.clusters.unsqueeze(1)
    losses = log_q.gather(1, target).neg_()
    residual = log_q.exp_()
    return losses, residual.scatter_add_(1, target, torch.full((len(batch), 1), -1.0, device=table.device))


class Objective:
    """F(table) = mean cross-entropy + λ/2 (‖W‖² + ‖b − b₀‖²) over a whole part, kept ready on a device.

    `bias_decays_to` is b₀, float64 (K,); None: zeros. F is λ-strongly convex for any b₀.
    """

    def __init__(
        self,
        x: ConceptMatrix,
        clusters: NDArray[np.int64],
        n_clusters: int,
        device: torch.device,
        *,
        bias_decays_to: NDArray[np.float64] | None = None,
    ) -> None:
        self.n = len(x)
        self._bias = None if bias_decays_to is None else torch.from_numpy(bias_decays_to).to(device)
        size = min(self.n, max(64, _PASS_FLOATS // n_clusters))
        self._batches = list(batches(with_bias(x), clusters, size, device, transposed=True))

    def __call__(self, table: torch.Tensor, weight_decay: float) -> tuple[float, torch.Tensor]:
        """F in nats, and its gradient (M + 1, K); sums in float64."""
        loss = torch.zeros((), dtype=torch.float64, device=table.device)
        gradient = table.to(torch.float64)
        if self._bias is not None:
            gradient[-1] -= self._bias
        penalty = weight_decay / 2 * square(gradient)
        gradient.mul_(weight_decay)
        for batch in self._batches:
            assert batch.samples is not None
            losses, residual = residuals(batch, table)
            loss += losses.sum(dtype=torch.float64)
            gradient.add_(batch.samples.sum(residual), alpha=1 / self.n)
        return float(loss) / self.n + penalty, gradient


def log_frequencies(clusters: NDArray[np.int64], n_clusters: int) -> NDArray[np.float64]:
    """ln of each cluster's share of these samples, with half a sample added to each cluster; (K,)."""
    counts = np.bincount(clusters, minlength=n_clusters) + 0.5
    shares: NDArray[np.float64] = np.log(counts / counts.sum())
    return shares


class CrossEntropy:
    """Mean cross-entropy over the whole part of one probe, or of each of several, kept ready on a device."""

    def __init__(
        self, parts: Sequence[tuple[ConceptMatrix, NDArray[np.int64]]], n_clusters: int, device: torch.device
    ) -> None:
        self._sizes, self._rows = [len(x) for x, _ in parts], chunk_rows(n_clusters)
        x = block_diagonal([with_bias(x) for x, _ in parts])
        clusters = np.concatenate([clusters for _, clusters in parts])
        self._batches = list(batches(x, clusters, self._rows, device))

    def __call__(self, table: torch.Tensor) -> float:
        """That of the only part, in nats a sample."""
        (mean,) = self.each(table)
        return mean

    def each(self, table: torch.Tensor) -> list[float]:
        """That of each part under its own rows of the table, which holds the probes' tables one below the other."""
        # to the host first: summing there by part is cheaper than starting kernels for each
        parts = torch.split(self.samples(table), self._sizes)
        return [_sum(part, self._rows) / len(part) for part in parts]

    def samples(self, table: torch.Tensor) -> torch.Tensor:
        """The cross-entropy of each sample of all parts, float32 (n,), on the host."""
        own = table.new_empty((sum(self._sizes), 1))  # before the large arrays: see `metrics`
        for batch, part in zip(self._batches, torch.split(own, self._rows), strict=True):
            torch.gather(log_probabilities(batch, table), 1, batch.clusters.unsqueeze(1), out=part)
        return own.cpu().neg_().squeeze(1)


def _sum(values: torch.Tensor, rows: int) -> float:
    """So many rows at a time, whatever they were computed together with."""
    return sum((float(piece.sum(dtype=torch.float64)) for piece in torch.split(values, rows)), 0.0)


def square(values: torch.Tensor) -> float:
    """The sum of the squares."""
    return float(torch.linalg.vector_norm(values)) ** 2
