"""Generated concepts and clusters whose true relation is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from qrp_store.options import ProbeOptions
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.probing.train import ProbeFit, fit


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """At these sizes a second thread mostly waits for the first."""
    before = torch.get_num_threads()
    with threadpool_limits(1):
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)


@dataclass(frozen=True)
class World:
    """Samples with `x` concepts and `c` clusters in three parts; `mi` is the true I(c; y) in nats."""

    x: ConceptMatrix
    c: np.ndarray
    n_clusters: int
    mi: float

    def part(self, number: int) -> tuple[ConceptMatrix, np.ndarray]:
        n = len(self.c)
        at = np.split(np.arange(n), [n * 64 // 100, n * 80 // 100])[number]
        return self.x.take(at), self.c[at]

    def fit(self, **options: object) -> ProbeFit:
        seed, device = options.pop("seed", 0), options.pop("device", "cpu")
        return fit(*self.part(0), *self.part(1), self.n_clusters, ProbeOptions(**options), seed=seed, device=device)


def log_linear(
    n: int, n_concepts: int, groups: int, *, split: int = 1, strength: float = 2.0, per_sample: int = 5, seed: int = 1
) -> World:
    """Groups drawn from a softmax of the concepts' sum, each cut at random into `split` clusters.

    Cutting adds nothing to the information, so the truth is I(group; y) = H(group) − H(group | y).
    """
    rng = np.random.default_rng(seed)
    concepts = rng.random((n, n_concepts)).argpartition(per_sample, axis=1)[:, :per_sample]
    rows = np.repeat(np.arange(n), per_sample)
    x = ConceptMatrix.from_pairs(rows, concepts.ravel(), n, n_concepts)
    logits = rng.normal(0, strength, (n_concepts, groups))[concepts].sum(axis=1)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    group = (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=groups - 1)
    marginal = p.mean(axis=0)
    mi = float((p * np.log(np.maximum(p, 1e-300) / marginal)).sum(axis=1).mean())
    return World(x, group * split + rng.integers(0, split, n), groups * split, mi)


@pytest.fixture(scope="package")
def world() -> World:
    """6,000 samples, 40 concepts, 12 groups."""
    return log_linear(6000, 40, 12)


@pytest.fixture(scope="package")
def make_world():
    return log_linear


@pytest.fixture(scope="package")
def dense():
    """The plain 0/1 matrix of a concept matrix."""

    def expand(x: ConceptMatrix) -> np.ndarray:
        y = np.zeros(x.shape)
        y[x.rows(), x.indices] = 1
        return y

    return expand
