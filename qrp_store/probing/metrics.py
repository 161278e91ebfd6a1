"""Score a probe on held-out samples: a lower bound on I(cluster; concepts)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qrp_store.device import memory_errors, resolve_device
from qrp_store.errors import InvalidInput
from qrp_store.probing.descent import batches, chunk_rows, log_probabilities, with_bias
from qrp_store.probing.runtime import torch
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.probing.train import ProbeFit

_BOOTSTRAP_DRAWS = 1 << 18
_TOP = 5


@dataclass(frozen=True, eq=False)
class ClusterScores:
    """Arrays (K,), one entry a cluster, over the test part. NaN where the cluster has no test sample.

    `cross_entropy_sd` is the standard deviation (n − 1) of −ln q over the cluster's test samples, NaN below two.
    `mi_nats` is the cluster's share p̂_k (−ln p̂_k − CE_k), 0 for an absent one: the shares sum to the score.
    """

    n_test: NDArray[np.int64]
    cross_entropy_nats: NDArray[np.float64]
    cross_entropy_sd: NDArray[np.float64]
    top1: NDArray[np.float64]
    mi_nats: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Score:
    """A probe on held-out samples. Information in nats unless the name says bits. Never clipped: may be negative.

    entropy_nats         H = −Σ p̂_k ln p̂_k of the test clusters
    cross_entropy_nats   CE = mean of −ln q(c | y)
    mi_nats, mi_bits     H − CE ≤ I(c; y), up to sampling noise
    nmi                  1 − CE / H; None, like its 95 % bootstrap interval, when H = 0
    top1, top5           fraction whose cluster is the likeliest, among the 5 likeliest (1 when K < 5). Among equal
                         probabilities the cluster of lower number comes first
    miller_madow         H corrected for its downward bias by (non-empty clusters − 1) / (2 n), with n and clusters of
                         all clustered rows: a test part stratified by cluster copies the whole's proportions. A
                         test part of whole groups does not: there the bias follows from the spread between groups
    """

    n_test: int
    entropy_nats: float
    cross_entropy_nats: float
    mi_nats: float
    mi_bits: float
    nmi: float | None
    nmi_ci_lo: float | None
    nmi_ci_hi: float | None
    top1: float
    top5: float
    miller_madow: float
    per_cluster: ClusterScores = field(repr=False)


def score(
    fit: ProbeFit,
    x_test: ConceptMatrix,
    c_test: ArrayLike,
    *,
    bootstrap: int = 1000,
    seed: int,
    device: str = "cpu",
    groups: NDArray[np.int64] | None = None,
) -> Score:
    """Score a fitted probe on the test part; c_test is (n,) integers in 0…K − 1.

    The interval is the percentile interval over `bootstrap` resamples of test samples (0: no interval), with
    clustering, split, weights and p̂ held fixed. With `groups` (n,), the group of each test sample, whole groups are
    resampled, and the correction of the entropy counts groups: see `_group_bias`. Raise InvalidInput when the part is
    empty or does not fit the probe.
    """
    c = np.ascontiguousarray(c_test, dtype=np.int64)
    k = fit.n_clusters
    if x_test.n_concepts != fit.n_concepts or c.shape != (len(x_test),):
        raise InvalidInput(
            f"test part: {x_test.shape} concepts and {c.shape} clusters for a probe of {fit.n_concepts} concepts"
        )
    if len(c) == 0:
        raise InvalidInput("the test part is empty", hint="use fewer clusters, or more samples")
    if not 0 <= c.min() <= c.max() < k:
        raise InvalidInput(f"test part: a cluster lies outside 0…{k - 1}")
    log_q, rank = _predict(np.vstack((fit.weight.T, fit.bias)), x_test, c, device)
    counts = np.bincount(c, minlength=k)
    share = counts / len(c)
    log_p = np.log(share, out=np.zeros(k), where=counts > 0)
    entropy = float(-(share @ log_p)) + 0.0
    cross_entropy = float(-log_q.mean())
    all_counts = counts + fit.cluster_counts
    unit_q, unit_p = log_q, log_p[c]
    bias = (int(np.count_nonzero(all_counts)) - 1) / (2 * int(all_counts.sum()))
    if groups is not None:
        unit_q, unit_p = _by_group(unit_q, groups), _by_group(unit_p, groups)
        bias = _group_bias(c, share, groups)
    low, high = _interval(unit_q, unit_p, bootstrap, seed) if entropy > 0 and bootstrap else (None, None)
    return Score(
        n_test=len(c),
        entropy_nats=entropy,
        cross_entropy_nats=cross_entropy,
        mi_nats=entropy - cross_entropy,
        mi_bits=(entropy - cross_entropy) / math.log(2),
        nmi=1 - cross_entropy / entropy if entropy > 0 else None,
        nmi_ci_lo=low,
        nmi_ci_hi=high,
        top1=float((rank < 1).mean()),
        top5=float((rank < _TOP).mean()) if k >= _TOP else 1.0,
        miller_madow=entropy + bias,
        per_cluster=_per_cluster(c, counts, log_p, log_q, rank),
    )


def log_likelihood(
    weights: NDArray[np.float32], x: ConceptMatrix, clusters: ArrayLike, *, device: str = "cpu"
) -> NDArray[np.float64]:
    """Return ln q(c | y) of each sample's cluster, (n,), under weights (K, M + 1) with the bias as last column.

    Raise InvalidInput when the samples do not fit the weights.
    """
    c = np.ascontiguousarray(clusters, dtype=np.int64)
    if weights.shape[1] != x.n_concepts + 1 or c.shape != (len(x),) or (len(c) and c.max() >= len(weights)):
        raise InvalidInput(f"{x.shape} concepts and {c.shape} clusters for weights of shape {weights.shape}")
    return _predict(weights.T, x, c, device)[0]


def _predict(
    weights: NDArray[np.float32], x: ConceptMatrix, clusters: NDArray[np.int64], device: str
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return ln q of each sample's cluster, and the rank of that cluster from 0; both (n,). Weights are (M + 1, K)."""
    place, (rows, k) = resolve_device(device), weights.shape
    with torch.no_grad(), memory_errors(place, f"scoring a probe of {rows - 1:,} concepts × {k:,} clusters"):
        return _predict_on(place, weights, x, clusters)


def _predict_on(
    place: torch.device, weights: NDArray[np.float32], x: ConceptMatrix, clusters: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    # rows must be contiguous: gathering them is 3 times slower otherwise
    table = torch.from_numpy(np.ascontiguousarray(weights)).to(place)
    # Allocated before the large arrays: small arrays between those fragment malloc's memory, by gigabytes at ImageNet's
    # size.
    log_q, rank, done = np.empty(len(x)), np.empty(len(x), np.int64), 0
    for batch in batches(with_bias(x), clusters, chunk_rows(table.shape[1]), place):
        all_log_q = log_probabilities(batch, table)
        sample_log_q = all_log_q.gather(1, batch.clusters.unsqueeze(1))
        part, done = slice(done, done + len(batch)), done + len(batch)
        log_q[part] = sample_log_q.squeeze(1).cpu().numpy()
        rank[part] = _ranks(all_log_q, sample_log_q, batch.clusters).cpu().numpy()
    return log_q, rank


def _ranks(all_log_q: torch.Tensor, log_q: torch.Tensor, clusters: torch.Tensor) -> torch.Tensor:
    """Return how many clusters are likelier than a sample's, or as likely and of lower number; int64 (n,)."""
    # counted as floats, which torch sums several times faster than truth values
    counted = torch.empty_like(all_log_q)
    rank = torch.gt(all_log_q, log_q, out=counted).sum(dim=1).long()
    tied = (torch.eq(all_log_q, log_q, out=counted).sum(dim=1) > 1).nonzero().squeeze(1)
    lower = torch.arange(all_log_q.shape[1], device=all_log_q.device) < clusters[tied].unsqueeze(1)
    rank[tied] += ((all_log_q[tied] == log_q[tied]) & lower).sum(dim=1)
    return rank


def _interval(
    log_q: NDArray[np.float64], log_p: NDArray[np.float64], replicates: int, seed: int
) -> tuple[float, float]:
    """Return the central 95 % of NMI = 1 − Σ log q / Σ log p̂ over resampled pairs, of samples or summed over groups.

    p̂ stays fixed: re-estimating the entropy in every resample would shift the interval away from the estimate.
    """
    rng = np.random.default_rng(seed)
    # both logarithms of a sample in 8 bytes, so that one gather fetches the pair
    pairs = np.stack((log_q, log_p), axis=1).astype(np.float32).view(np.float64).ravel()
    n = len(pairs)
    nmi = np.empty(replicates)
    at_once = max(1, _BOOTSTRAP_DRAWS // n)
    for start in range(0, replicates, at_once):
        count = min(at_once, replicates - start)
        sums = pairs.take(rng.integers(0, n, size=(count, n)), mode="clip").view(np.complex64).sum(axis=1)
        nmi[start : start + count] = 1 - sums.real / sums.imag
    low, high = np.quantile(nmi, (0.025, 0.975))
    return float(low), float(high)


def _by_group(values: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the sum of the values of each group that has any; (number of groups,)."""
    _, number = np.unique(groups, return_inverse=True)
    sums: NDArray[np.float64] = np.bincount(number, weights=values).astype(np.float64)
    return sums


def _group_bias(clusters: NDArray[np.int64], share: NDArray[np.float64], groups: NDArray[np.int64]) -> float:
    """Return the downward bias of the entropy of a sample of whole groups: ½ Σ_k Var(p̂_k) / p̂_k, in nats.

    Var(p̂_k) = Σ_g (n_gk − n_g p̂_k)² / n². To first order. Groups of one sample give Miller and Madow's
    (K′ − 1) / (2n), groups of m copies m times as much.
    """
    n, k = len(clusters), len(share)
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    cell, counts = np.unique(number * k + clusters, return_counts=True)
    cluster, size = cell % k, sizes[cell // k]
    squares = np.bincount(cluster, counts.astype(np.float64) ** 2, k) - 2 * share * np.bincount(
        cluster, counts * size, k
    )
    squares += share**2 * float((sizes.astype(np.float64) ** 2).sum())
    present = share > 0
    return float((squares[present] / share[present]).sum()) / (2 * n * n)


def _per_cluster(
    clusters: NDArray[np.int64],
    counts: NDArray[np.int64],
    log_p: NDArray[np.float64],
    log_q: NDArray[np.float64],
    rank: NDArray[np.int64],
) -> ClusterScores:
    k, n = len(counts), len(clusters)
    loss = np.bincount(clusters, weights=-log_q, minlength=k)
    hits = np.bincount(clusters, weights=rank < 1, minlength=k)
    present = counts > 0
    nothing = np.full(k, np.nan)
    mean = np.divide(loss, counts, out=nothing.copy(), where=present)
    squares = np.bincount(clusters, weights=(-log_q - mean[clusters]) ** 2, minlength=k)
    return ClusterScores(
        n_test=counts,
        cross_entropy_nats=mean,
        cross_entropy_sd=np.sqrt(np.divide(squares, counts - 1, out=nothing.copy(), where=counts > 1)),
        top1=np.divide(hits, counts, out=nothing.copy(), where=present),
        mi_nats=(-counts * log_p - loss) / n,
    )
