"""From a batch of concepts to the next weights: the loss, its gradient, and SGD's step on a CPU.

The weights are one table (M + 1, K). Its last row is the bias: a concept that every sample has. The logits of a sample
are the sum of a few rows of the table. The gradient of a row is the sum of the residuals of the samples that have its
concept. Both are gathers, the second over the transposed batch, so every entry of the gradient is written once and
nothing is scattered. There is no autograd, and there are few passes over the logits: at these sizes a step costs
memory traffic and the starting of threads.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qrp_store.options import ProbeOptions
from qrp_store.probing.runtime import torch
from qrp_store.probing.sparse import ConceptMatrix, block_diagonal

_GROUP_BATCHES = 64
_CHUNK_FLOATS = 1 << 20
PIECE = 64
"""The longest bag on a GPU, where one thread sums a column of a bag; the bias alone has a bag of the whole batch."""
_PASS_FLOATS = 1 << 23
"""Logits at once in a full pass: each piece adds a whole gradient in float64, which costs more than it computes."""
_NO_DECAY = 1e-20
"""A `coupling` below this changes no float32 in any number of steps, and its inverse may overflow."""


@dataclass(frozen=True)
class Epoch:
    """One line of a fit's history. Losses in nats a sample.

    `epoch` counts passes over the training part; 0 is the model before the first. `train_loss` is the mean
    cross-entropy of the batches as they were met (sgd) or the objective (lbfgs); None for epoch 0.
    """

    epoch: int
    train_loss: float | None
    val_cross_entropy: float
    weight_decay: float


@dataclass(frozen=True, eq=False)
class Trained:
    """Result of a training: the table (M + 1, K) of weights and bias on its device, and its history.

    `weight_decay` is the one that was used or chosen; `best_epoch` is the pass that gave the table, of `epochs_run`.
    """

    table: torch.Tensor
    weight_decay: float
    epochs_run: int
    best_epoch: int
    history: tuple[Epoch, ...] = field(repr=False)
    train_s: float
    val_s: float


@dataclass(frozen=True, eq=False)
class Bags:
    """Lists of rows of a table: bag i is `members[ends[i]:ends[i + 1]]`; int32, on a device.

    `weights`: the factor of each member, float32; None: 1. `joined`: these bags are pieces, of which it lists those of
    each whole bag.
    """

    members: torch.Tensor
    ends: torch.Tensor
    weights: torch.Tensor | None = None
    joined: Bags | None = None

    def sum(self, table: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum of each bag's rows of the table; (bags, columns)."""
        sums = torch.nn.functional.embedding_bag(
            self.members, table, self.ends, mode="sum", include_last_offset=True, per_sample_weights=self.weights
        )
        return sums if self.joined is None else self.joined.sum(sums)

    def sum_into(self, out: torch.Tensor, table: torch.Tensor, *, keep: float, scale: float) -> None:
        """Set out, (bags, columns), to keep · out + scale · sum(table), in one pass.

        The bits are the same at any number of threads.
        """
        weights = torch.ones(len(self.members), device=table.device) if self.weights is None else self.weights
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
            matrix = torch.sparse_csr_tensor(
                self.ends, self.members, weights, (len(out), len(table)), check_invariants=False
            )
        torch.addmm(out, matrix, table, beta=keep, alpha=scale, out=out)


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples: concepts and cluster (int64 (n,)) of each and, for a gradient, also the samples of each concept."""

    concepts: Bags
    clusters: torch.Tensor
    samples: Bags | None

    def __len__(self) -> int:
        return len(self.clusters)


def with_bias(x: ConceptMatrix) -> ConceptMatrix:
    """Return the same rows with one more concept, number n_concepts, that all of them have."""
    n = len(x)
    bias = ConceptMatrix(np.arange(n + 1), np.zeros(n, np.int32), 1)
    return x.hstack([bias])


def batches(
    x: ConceptMatrix,
    clusters: NDArray[np.int64],
    size: int,
    device: torch.device,
    *,
    order: NDArray[np.int64] | None = None,
    transposed: bool = False,
) -> Iterator[Batch]:
    """Yield the rows of x, or those of `order`, in batches of `size`, the last one short.

    They are prepared and moved to the device a group of batches at a time, so that memory stays small.
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
        by_concept = None
        if transposed:
            bags = Bags(samples[first:last], sample_ends[number], _part(turned, first, last))
            by_concept = in_pieces(bags) if device.type == "cuda" else bags
        yield Batch(by_sample, target[start:stop], by_concept)


def in_pieces(bags: Bags) -> Bags:
    """Return the same bags, each cut into pieces of at most PIECE members; an empty bag is one empty piece."""
    lengths = bags.ends.diff().long()
    pieces = ((lengths + PIECE - 1) // PIECE).clamp(min=1)
    joined_ends = torch.nn.functional.pad(pieces.cumsum(0), (1, 0))
    bag = torch.repeat_interleave(torch.arange(len(pieces), device=pieces.device), pieces)
    piece = torch.arange(len(bag), device=pieces.device)
    starts = bags.ends[bag] + PIECE * (piece - joined_ends[bag])
    ends = torch.cat([starts, bags.ends[-1:]]).int()
    return Bags(bags.members, ends, bags.weights, Bags(piece.int(), joined_ends.int()))


def _part(values: torch.Tensor | None, first: int, last: int) -> torch.Tensor | None:
    return None if values is None else values[first:last]


def _transpose(
    x: ConceptMatrix, size: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return the rows of each concept in each batch of `size` rows, the ends of these lists, and the values.

    int32 (nnz,) row numbers within the batch, ordered by batch, concept and row; int32 (batches, n_concepts + 1);
    float32 (nnz,) or None.
    """
    # batch, concept and row in one number: sorting numbers of 32 bits is several times faster than any other way
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
    """Return how many rows a pass over a whole part takes at once: 4 MB of logits."""
    return max(64, _CHUNK_FLOATS // n_clusters)


def log_probabilities(batch: Batch, table: torch.Tensor) -> torch.Tensor:
    """Return log q(c | y) of each sample, (n, K). Bags behind those of the samples are padding and ignored."""
    logits = batch.concepts.sum(table)[: len(batch)]
    return torch.log_softmax(logits, dim=1, out=logits)


def residuals(batch: Batch, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cross-entropy of each sample, (n, 1), and the gradient of their sum by the logits, (n, K).

    That gradient is q, less 1 at the sample's cluster.
    """
    log_q = log_probabilities(batch, table)
    target = batch.clusters.unsqueeze(1)
    losses = log_q.gather(1, target).neg_()
    residual = log_q.exp_()
    return losses, residual.scatter_add_(1, target, torch.full((len(batch), 1), -1.0, device=table.device))


class Descent(Protocol):
    """SGD of one probe or of several, each over its own training part, from zeros."""

    @property
    def table(self) -> torch.Tensor:
        """The current weights and bias, float32 (M + 1, K) for each probe, one below the other."""

    def epoch(self, orders: Sequence[NDArray[np.int64]], lr: float) -> list[float]:
        """Take each probe over all its samples in its order. Return the summed cross-entropy of its batches."""


class Sgd:
    """The update of a table: momentum and weight decay as in `torch.optim.SGD`, in two passes over the table a step.

    With gradient g, momentum μ, weight decay λ and learning rate η, a step is m ← μ m + g + λ W, W ← W − η m. The term
    λ W would cost a pass of its own. But where c solves η μ c² − (1 − μ − η λ) c + λ = 0, the vector U = W − m / c
    moves without reading W:

        U ← μ (1 + η c) U − (1 + η c) / c g        W ← W + η c / (1 + η c) (U − W)

    W is the same in exact arithmetic, and as exact in float32: U is as much larger than m as it counts less. Where no
    such c exists (λ = 0, or a large η λ), the step is the plain one.

    g is the sum over the batch divided by `batch_size`, so a short last batch counts by its share. Divided by its own
    size, a batch of a few samples would take a full step at a high learning rate, and the score would depend on n
    modulo `batch_size`.

    `moving` is m; where c is above 0, it is U. A step is moving ← keep · moving + scale · (sum over the batch), then
    `move`.
    """

    def __init__(self, table: torch.Tensor, options: ProbeOptions) -> None:
        self.table, self.moving, self._options = table, torch.zeros_like(table), options
        self.lr = self.keep = self.scale = self._c = 0.0

    def use(self, lr: float) -> None:
        """Continue with this learning rate."""
        keep, scale = self._options.momentum, 1 / self._options.batch_size
        self._change(coupling(lr, keep, self._options.weight_decay))
        growth = 1 + lr * self._c
        self.lr, self.keep = lr, keep * growth
        self.scale = -scale * growth / self._c if self._c > 0 else scale

    def move(self, rows: slice = slice(None)) -> None:
        """Update these rows of the table from `moving`."""
        table, moving = self.table[rows], self.moving[rows]
        if self._c > 0:
            reach = self.lr * self._c
            table.lerp_(moving, reach / (1 + reach))
        else:
            moving.add_(table, alpha=self._options.weight_decay)
            table.add_(moving, alpha=-self.lr)

    def _change(self, c: float) -> None:
        """Continue with another c."""
        if c == self._c:
            return
        if self._c > 0:
            self.moving.sub_(self.table).mul_(-self._c)
        if c > 0:
            self.moving.mul_(-1 / c).add_(self.table)
        self._c = c


class CpuDescent:
    """SGD of a single probe on a CPU. The sum over the batch goes straight into `Sgd.moving`: g is never written."""

    def __init__(self, x: ConceptMatrix, clusters: NDArray[np.int64], n_clusters: int, options: ProbeOptions) -> None:
        self._x, self._clusters, self._size = with_bias(x), clusters, options.batch_size
        self.table = torch.zeros((x.n_concepts + 1, n_clusters))
        self._sgd = Sgd(self.table, options)

    def epoch(self, orders: Sequence[NDArray[np.int64]], lr: float) -> list[float]:
        (order,) = orders
        sgd, cpu = self._sgd, self.table.device
        sgd.use(lr)
        loss = torch.zeros((), dtype=torch.float64)
        for batch in batches(self._x, self._clusters, self._size, cpu, order=order, transposed=True):
            assert batch.samples is not None
            losses, residual = residuals(batch, self.table)
            loss += losses.sum(dtype=torch.float64)
            batch.samples.sum_into(sgd.moving, residual, keep=sgd.keep, scale=sgd.scale)
            sgd.move()
        return [float(loss)]


def coupling(lr: float, momentum: float, weight_decay: float) -> float:
    """Return the smaller solution c of the equation in `Sgd`; 0 where there is none or the weight decay is tiny."""
    slope = 1 - momentum - lr * weight_decay
    inside = slope * slope - 4 * lr * momentum * weight_decay
    if slope <= 0 or inside < 0:
        return 0.0
    c = 2 * weight_decay / (slope + math.sqrt(inside))
    return c if c > _NO_DECAY else 0.0


class Objective:
    """F(table) = mean cross-entropy + λ/2 (‖W‖² + ‖b − b₀‖²) over a whole part, whose batches stay on a device.

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
        """Return F in nats and its gradient (M + 1, K); sums in float64."""
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
    """Return the log of each cluster's share of these samples, with half a sample added to each cluster; (K,)."""
    counts = np.bincount(clusters, minlength=n_clusters) + 0.5
    shares: NDArray[np.float64] = np.log(counts / counts.sum())
    return shares


class CrossEntropy:
    """Mean cross-entropy over a whole part, of one probe or of each of several; the batches stay on a device."""

    def __init__(
        self, parts: Sequence[tuple[ConceptMatrix, NDArray[np.int64]]], n_clusters: int, device: torch.device
    ) -> None:
        self._sizes, self._rows = [len(x) for x, _ in parts], chunk_rows(n_clusters)
        x = block_diagonal([with_bias(x) for x, _ in parts])
        clusters = np.concatenate([clusters for _, clusters in parts])
        self._batches = list(batches(x, clusters, self._rows, device))

    def __call__(self, table: torch.Tensor) -> float:
        """Return that of the only part, in nats a sample."""
        (mean,) = self.each(table)
        return mean

    def each(self, table: torch.Tensor) -> list[float]:
        """Return that of each part. The table holds the probes' tables one below the other."""
        # to the host first: summing the parts there is cheaper than starting kernels for each
        parts = torch.split(self.samples(table), self._sizes)
        return [_sum(part, self._rows) / len(part) for part in parts]

    def samples(self, table: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of each sample of all parts, float32 (n,), on the host."""
        log_q = table.new_empty((sum(self._sizes), 1))  # before the large arrays: see `metrics`
        for batch, part in zip(self._batches, torch.split(log_q, self._rows), strict=True):
            torch.gather(log_probabilities(batch, table), 1, batch.clusters.unsqueeze(1), out=part)
        return log_q.cpu().neg_().squeeze(1)


def _sum(values: torch.Tensor, rows: int) -> float:
    """Return the sum, so many rows at a time, so that it does not depend on what was computed together."""
    return sum((float(piece.sum(dtype=torch.float64)) for piece in torch.split(values, rows)), 0.0)


def square(values: torch.Tensor) -> float:
    """Return the sum of the squares."""
    return float(torch.linalg.vector_norm(values)) ** 2
