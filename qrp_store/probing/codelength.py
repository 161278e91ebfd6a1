"""The prequential code length of clusters given concepts: what telling them one after another costs, in nats."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qrp_store.options import ProbeOptions
from qrp_store.probing.metrics import log_likelihood
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.probing.train import fit

_FIRST = 32
"""Samples that are told before anything is learnt, at ln K each."""
_VALIDATION = 0.2


def code_length(
    x: ConceptMatrix, clusters: NDArray[np.int64], n_clusters: int, *, seed: int, device: str = "cpu"
) -> float:
    """Return the mean nats a sample when clusters (n,) are told in blocks, each by a probe of all samples before it.

    Samples come in a random order; each block is as long as everything before it. A probe is that of the protocol
    tight, with a fifth of what was told for validation. Every sample is predicted before it is learnt from, so a probe
    that overfits only lengthens the code: H(c) less the code length is a lower bound of the information in
    expectation. (Blier and Ollivier 2018.)
    """
    rng = np.random.default_rng(seed)
    order, n = rng.permutation(len(clusters)), len(clusters)
    told = min(_FIRST, n)
    total = told * math.log(n_clusters)
    while told < n:
        known, block = order[:told], order[told : 2 * told]
        n_val = max(1, int(told * _VALIDATION))
        parts = known[n_val:], known[:n_val]
        (x_train, c_train), (x_val, c_val) = ((x.take(part), clusters[part]) for part in parts)
        tight = ProbeOptions(protocol="tight")
        probe = fit(x_train, c_train, x_val, c_val, n_clusters, tight, seed=seed, device=device)
        weights = np.concatenate([probe.weight, probe.bias[:, None]], axis=1)
        total -= float(log_likelihood(weights, x.take(block), clusters[block], device=device).sum())
        told += len(block)
    return total / n
