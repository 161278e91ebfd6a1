"""The prequential code length of clusters given concepts: the cost of sending them one after another, in nats."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qrp_store.options import ProbeOptions
from qrp_store.probing.metrics import log_likelihood
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.probing.train import fit

_FIRST = 32
"""Samples that are sent before the first probe, at ln K nats each."""
_VALIDATION = 0.2


def code_length(
    x: ConceptMatrix, clusters: NDArray[np.int64], n_clusters: int, *, seed: int, device: str = "cpu"
) -> float:
    """Return the mean nats a sample when clusters (n,) are sent in blocks, each coded by a probe of all earlier ones.

    Samples come in a random order; each block is as long as all earlier blocks together. A probe follows the protocol
    tight and validates on a fifth of the earlier samples. Every sample is predicted before the probe learns from it, so
    overfitting only lengthens the code: H(c) less the code length is a lower bound of the information in expectation
    (Blier and Ollivier 2018).
    """
    rng = np.random.default_rng(seed)
    order, n = rng.permutation(len(clusters)), len(clusters)
    sent = min(_FIRST, n)
    total = sent * math.log(n_clusters)
    while sent < n:
        earlier, block = order[:sent], order[sent : 2 * sent]
        n_val = max(1, int(sent * _VALIDATION))
        parts = earlier[n_val:], earlier[:n_val]
        (x_train, c_train), (x_val, c_val) = ((x.take(part), clusters[part]) for part in parts)
        tight = ProbeOptions(protocol="tight")
        probe = fit(x_train, c_train, x_val, c_val, n_clusters, tight, seed=seed, device=device)
        weights = np.concatenate([probe.weight, probe.bias[:, None]], axis=1)
        total -= float(log_likelihood(weights, x.take(block), clusters[block], device=device).sum())
        sent += len(block)
    return total / n
