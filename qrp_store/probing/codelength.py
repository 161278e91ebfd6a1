"""The prequential code length of clusters given concepts: the nats that coding them one block after another takes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qrp_store.options import ProbeOptions
from qrp_store.probing.metrics import log_likelihood
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.probing.train import fit
from qrp_store.progress import Progress, silent

_FIRST = 32
"""Samples that are coded before anything is learnt, at ln K each."""
_VALIDATION = 0.2


def code_length(
    x: ConceptMatrix,
    clusters: NDArray[np.int64],
    n_clusters: int,
    *,
    seed: int,
    device: str = "cpu",
    groups: NDArray[np.int64] | None = None,
    progress: Progress = silent,
) -> float:
    """Return the mean nats a sample when clusters (n,) are coded in blocks, each by a probe of all samples before it.

    Samples come in a random order; each block is as long as everything before it. A probe is that of the protocol
    tight, with a fifth of the coded samples for validation. Every sample is predicted before it is learnt from, so a
    probe that overfits only lengthens the code: H(c) less the code length is a lower bound of the information in
    expectation. (Blier and Ollivier 2018.) With `groups` (n,), whole groups come in a random order, and no group lies
    on both sides of a cut.
    """
    order, ends = _order(len(clusters), groups, np.random.default_rng(seed))
    n, coded = len(order), _cut(ends, min(_FIRST, len(order)))
    total = coded * math.log(n_clusters)
    with progress.task("code length", n, "sample") as task:
        task.advance(coded)
        while coded < n:
            n_val, stop = _cut(ends, max(1, int(coded * _VALIDATION))), _cut(ends, min(2 * coded, n))
            if n_val == coded:  # one group is all that is coded: nothing to validate on
                total += (stop - coded) * math.log(n_clusters)
            else:
                total += _block(x, clusters, n_clusters, order[:coded], n_val, order[coded:stop], seed, device)
            task.advance(stop - coded)
            coded = stop
    return total / n


def _block(
    x: ConceptMatrix,
    clusters: NDArray[np.int64],
    n_clusters: int,
    before: NDArray[np.int64],
    n_val: int,
    block: NDArray[np.int64],
    seed: int,
    device: str,
) -> float:
    """Return the nats of a block under a probe of the samples before it, of which the first `n_val` validate."""
    train, val = before[n_val:], before[:n_val]
    tight = ProbeOptions(protocol="tight")
    probe = fit(
        *(x.take(train), clusters[train], x.take(val), clusters[val]), n_clusters, tight, seed=seed, device=device
    )
    weights = np.concatenate([probe.weight, probe.bias[:, None]], axis=1)
    return -float(log_likelihood(weights, x.take(block), clusters[block], device=device).sum())


def _order(
    n: int, groups: NDArray[np.int64] | None, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """Return a random order, and where in it groups end (None: everywhere)."""
    if groups is None:
        return rng.permutation(n), None
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    place = rng.permutation(len(sizes))
    sizes_in_order = np.empty_like(sizes)
    sizes_in_order[place] = sizes
    return np.argsort(place[number], kind="stable"), np.cumsum(sizes_in_order)


def _cut(ends: NDArray[np.int64] | None, n: int) -> int:
    """Return the first end of a group at or after `n` samples."""
    return n if ends is None else int(ends[np.searchsorted(ends, n)])
