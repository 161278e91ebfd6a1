"""An upper reference for the linear bound: what probes recover that are not linear in the concepts.

The linear probe says that concepts add up: it captures "red and apple", not "exactly one of red and apple". Where a
probe of products of concepts or a two-layer network scores higher, the clusters hold such combinations. No probe
bounds the information from above; this one only shows how much a linear probe leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qrp_store.device import resolve_device
from qrp_store.options import ProbeOptions
from qrp_store.probing.descent import Batch, batches, chunk_rows, log_frequencies, with_bias
from qrp_store.probing.metrics import log_likelihood
from qrp_store.probing.runtime import torch, using_threads
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.probing.train import fit
from qrp_store.progress import Progress, silent

Part = tuple[ConceptMatrix, NDArray[np.int64]]
LINEAR, PRODUCTS, NETWORK = "linear", "products", "network"
_FACTORS = 256
"""The most frequent concepts of which products are formed."""
_PRODUCTS = 2000
_SUPPORT = 5
"""Training samples that a product must hold for."""
_COUNTED = 20_000
"""Training samples by which products are chosen."""
_CHUNK = 4096
_HIDDEN = 128
_DROPOUT = 0.2
_RATE, _DECAY = 5e-3, 1e-4
_EPOCHS, _PATIENCE, _STEPS = 100, 5, 20_000
_GAIN = 1e-3
"""Nats of validation cross-entropy that an epoch must gain for the patience to begin anew."""
_SMALL = 1 << 18
"""Floats of a step's weights up to which a second thread gains nothing."""


@dataclass(frozen=True)
class Candidate:
    """A model, its mean −ln q on the validation part, and its NMI on the test part."""

    model: str
    val_cross_entropy_nats: float
    nmi: float


@dataclass(frozen=True)
class Upper:
    """The candidate of least validation cross-entropy, its NMI on the test part, and all candidates."""

    model: str
    nmi: float
    candidates: tuple[Candidate, ...]


def upper(
    train: Part,
    val: Part,
    test: Part,
    n_clusters: int,
    linear: NDArray[np.float32],
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress = silent,
) -> Upper:
    """Return the best of three probes by validation: the linear one, products of two concepts, a two-layer network.

    `linear` holds the weights (K, M + 1) of the probe whose bound is to be compared, the bias as last column. The test
    part has at least two clusters. Products are fitted under the protocol tight; without any that holds for enough
    training samples, there is no such candidate.
    """
    train, val, test = ((x, np.asarray(c, np.int64)) for x, c in (train, val, test))
    shares = np.bincount(test[1], minlength=n_clusters) / len(test[1])
    entropy = float(-(shares[shares > 0] @ np.log(shares[shares > 0])))
    candidates: list[Candidate] = []

    def add(model: str, log_q: Callable[[Part], NDArray[np.float64]]) -> None:
        on_val, on_test = (-float(log_q(part).mean()) for part in (val, test))
        candidates.append(Candidate(model, on_val, 1 - on_test / entropy))

    add(LINEAR, lambda part: log_likelihood(linear, *part, device=device))
    pairs = frequent_pairs(train[0])
    if len(pairs):
        add(PRODUCTS, _products(train, val, pairs, n_clusters, seed, device, progress))
    add(NETWORK, _network(train, val, n_clusters, seed, device, progress))
    best = min(candidates, key=lambda candidate: candidate.val_cross_entropy_nats)
    return Upper(best.model, best.nmi, tuple(candidates))


def frequent_pairs(x: ConceptMatrix) -> NDArray[np.int64]:
    """Return the pairs of concepts that most samples have together, (P, 2); at most 2,000, in ascending order.

    Counted over at most 20,000 evenly spaced samples and the 256 most frequent concepts. A pair that all samples of one
    of its concepts share says nothing new, and is left out.
    """
    step = max(1, -(-len(x) // _COUNTED))
    sample = x.take(np.arange(0, len(x), step))
    factors = np.sort(np.argsort(-sample.counts(), kind="stable")[:_FACTORS])
    together = np.zeros((len(factors), len(factors)))
    for start in range(0, len(sample), _CHUNK):
        block = _dense(sample.take(np.arange(start, min(start + _CHUNK, len(sample)))), factors) > 0
        together += block.T.astype(np.float32) @ block.astype(np.float32)
    alone = np.minimum.outer(np.diag(together), np.diag(together))
    first, second = np.triu_indices(len(factors), 1)
    count = together[first, second]
    useful = np.flatnonzero((count * step >= _SUPPORT) & (count < alone[first, second]))
    chosen = np.sort(useful[np.argsort(-count[useful], kind="stable")[:_PRODUCTS]])
    return np.stack([factors[first[chosen]], factors[second[chosen]]], axis=1)


def with_products(x: ConceptMatrix, pairs: NDArray[np.int64]) -> ConceptMatrix:
    """Return the rows with one more concept for each pair: the product of its two values."""
    factors, place = np.unique(pairs, return_inverse=True)
    place = place.reshape(pairs.shape)
    lengths, indices, values = [], [], []
    for start in range(0, len(x), _CHUNK):
        block = _dense(x.take(np.arange(start, min(start + _CHUNK, len(x)))), factors)
        product = block[:, place[:, 0]] * block[:, place[:, 1]]
        rows, columns = np.nonzero(product)
        lengths.append(np.bincount(rows, minlength=len(block)))
        indices.append(columns)
        values.append(product[rows, columns])
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    weights = None if x.values is None else np.concatenate(values)
    return x.hstack([ConceptMatrix(indptr, np.concatenate(indices).astype(np.int32), len(pairs), weights)])


def _dense(x: ConceptMatrix, concepts: NDArray[np.int64]) -> NDArray[np.float32]:
    some = x.select(concepts)
    table = np.zeros(some.shape, np.float32)
    table[some.rows(), some.indices] = some.weights()
    return table


def _products(
    train: Part,
    val: Part,
    pairs: NDArray[np.int64],
    n_clusters: int,
    seed: int,
    device: str,
    progress: Progress,
) -> Callable[[Part], NDArray[np.float64]]:
    parts = ((with_products(x, pairs), c) for x, c in (train, val))
    (x_train, c_train), (x_val, c_val) = parts
    tight = ProbeOptions(protocol="tight")
    probe = fit(x_train, c_train, x_val, c_val, n_clusters, tight, seed=seed, device=device, progress=progress)
    weights = np.concatenate([probe.weight, probe.bias[:, None]], axis=1)
    return lambda part: log_likelihood(weights, with_products(part[0], pairs), part[1], device=device)


def _network(
    train: Part, val: Part, n_clusters: int, seed: int, device: str, progress: Progress
) -> Callable[[Part], NDArray[np.float64]]:
    """Train a two-layer network by Adam; the epoch of least validation cross-entropy counts."""
    place = resolve_device(device)
    network = _Network(train, n_clusters, seed, place)
    x, c = with_bias(train[0]), train[1]
    size = min(512, max(32, len(c) // 64))
    search = torch.optim.AdamW(network.tables, lr=_RATE, weight_decay=_DECAY)
    rng = np.random.default_rng(seed)
    best, kept, since, steps = math.inf, network.copy(), 0, 0
    small = sum(table.numel() for table in network.tables) + size * n_clusters <= _SMALL
    with using_threads(1 if small else None), progress.task("network", _EPOCHS, "epoch") as task:
        while since < _PATIENCE and steps < _STEPS and steps < _EPOCHS * -(-len(c) // size):
            for batch in batches(x, c, size, place, order=rng.permutation(len(c))):
                search.zero_grad()
                with torch.enable_grad():
                    loss = torch.nn.functional.nll_loss(network(batch, training=True), batch.clusters)
                    loss.backward()  # type: ignore[no-untyped-call]
                search.step()
                steps += 1
            value = -float(network.log_q(val).mean())
            since = 0 if value < best - _GAIN else since + 1
            if value < best:
                best, kept = value, network.copy()
            task.advance()
    network.tables = kept
    return network.log_q


class _Network:
    """softmax(W₂ relu(W₁ y + b₁) + b₂) over the clusters; W₂ starts at 0 and b₂ at the log frequencies."""

    def __init__(self, train: Part, n_clusters: int, seed: int, place: torch.device) -> None:
        x, c = train
        self._place, self._n_clusters = place, n_clusters
        self._generator = torch.Generator(place).manual_seed(seed % (1 << 63))
        scale = 1 / math.sqrt(1 + len(x.indices) / len(x))
        start = np.random.default_rng(seed).normal(0, scale, (x.n_concepts + 1, _HIDDEN)).astype(np.float32)
        bias = log_frequencies(c, n_clusters).astype(np.float32)
        arrays = (start, np.zeros((_HIDDEN, n_clusters), np.float32), bias)
        self.tables = [torch.from_numpy(array).to(place).requires_grad_() for array in arrays]

    def __call__(self, batch: Batch, *, training: bool = False) -> torch.Tensor:
        """Return ln q of every cluster, (n, K)."""
        first, second, bias = self.tables
        hidden = torch.relu(batch.concepts.sum(first)[: len(batch)])
        if training:
            drawn = torch.rand(hidden.shape, generator=self._generator, device=self._place)
            hidden = hidden * (drawn >= _DROPOUT) / (1 - _DROPOUT)
        return torch.log_softmax(hidden @ second + bias, dim=1)

    def copy(self) -> list[torch.Tensor]:
        """Return the tables as they are now."""
        return [table.detach().clone() for table in self.tables]

    def log_q(self, part: Part) -> NDArray[np.float64]:
        """Return ln q of each sample's cluster, (n,)."""
        x, clusters = part
        pieces = []
        with torch.no_grad():
            for batch in batches(with_bias(x), clusters, chunk_rows(self._n_clusters), self._place):
                chosen = self(batch).gather(1, batch.clusters.unsqueeze(1))
                pieces.append(chosen.squeeze(1).double().cpu().numpy())
        return np.concatenate(pieces)
