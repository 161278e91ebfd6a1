"""What exact pruning could save: the share of rows that Lloyd with bounds must still search, and what bounds cost.

    python benchmarks/pruning.py [-n N] [-d DIM] [-k K] [--niter I]

A row needs no search while its distance to its own centroid is below the lower bounds of its distances to groups of the
others (Hamerly 2010: one group; Ding et al. 2015, Yinyang: K/10; Elkan 2003: K). Bounds shrink by the largest move of
a group's centroids. Printed is the share that must be searched in each iteration, on separated groups and on
overlapping ones with a decaying spectrum; and the time of a search that gives the nearest of every group (a product,
then minima) against faiss' search, which gives the nearest of all, each on one thread. Pruning can only win where
share x ratio is well below 1.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, field
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is loaded

import faiss
import numpy as np
from kmeans import machine

BATCH = 2048


def rows(kind: str, n: int, dim: int, k: int) -> Any:
    rng = np.random.default_rng(0)
    many = 2 * k if kind == "separated" else 4 * k
    x = rng.standard_normal((n, dim), dtype=np.float32)
    middles = rng.standard_normal((many, dim), dtype=np.float32)
    if kind == "separated":
        return x + middles[rng.integers(0, many, n)]
    return (x + 0.7 * middles[rng.integers(0, many, n)]) * (np.arange(1, dim + 1, dtype=np.float32) ** -0.5)


@dataclass
class Bounds:
    """Lower bounds (n, groups) of one scheme, and the share of rows that it let be searched in each pass."""

    order: Any
    starts: Any
    lower: Any
    shares: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, centroids: Any, n: int, groups: int) -> Bounds:
        k = len(centroids)
        member = np.arange(k)
        if groups < k:
            index = faiss.Kmeans(centroids.shape[1], groups, niter=5, min_points_per_centroid=1)
            index.train(centroids)
            member = np.unique(index.assign(centroids)[1], return_inverse=True)[1]
        order = np.argsort(member, kind="stable")
        starts = np.searchsorted(member[order], np.arange(member.max() + 1))
        return cls(order, starts, np.full((n, len(starts)), -np.inf, np.float32))


def distances(x: Any, centroids: Any) -> Any:
    square = x @ centroids.T
    square *= -2
    square += np.square(centroids).sum(1)
    square += np.square(x).sum(1)[:, None]
    return np.sqrt(np.maximum(square, 0, out=square), out=square)


def shares(x: Any, k: int, niter: int, sizes: list[int]) -> dict[int, list[float]]:
    """The share of searched rows in each iteration, for each number of groups."""
    n = len(x)
    centroids = x[np.sort(np.random.default_rng(1).permutation(n)[:k])].copy()
    schemes = {groups: Bounds.of(centroids, n, groups) for groups in sizes}
    labels = np.zeros(n, np.int64)
    for _ in range(niter):
        searched = dict.fromkeys(sizes, 0)
        for first in range(0, n, BATCH):
            part = slice(first, first + BATCH)
            apart = distances(x[part], centroids)
            own = apart[np.arange(len(apart)), labels[part]]
            labels[part] = apart.argmin(1)
            apart[np.arange(len(apart)), labels[part]] = np.inf
            for groups, bounds in schemes.items():
                needed = np.flatnonzero(~(own < bounds.lower[part].min(1)))
                searched[groups] += len(needed)
                fresh = np.minimum.reduceat(apart[needed][:, bounds.order], bounds.starts, axis=1)
                bounds.lower[first + needed] = fresh
        before, sums = centroids, np.zeros((k, x.shape[1]))
        for cluster in range(k):
            sums[cluster] = x[labels == cluster].sum(0, dtype=np.float64)
        counts = np.bincount(labels, minlength=k)[:, None]
        centroids = np.where(counts, sums / np.maximum(counts, 1), before).astype(np.float32)
        moved = np.sqrt(np.square(centroids - before).sum(1))
        for groups, bounds in schemes.items():
            bounds.lower -= np.maximum.reduceat(moved[bounds.order], bounds.starts)
            bounds.shares.append(searched[groups] / n)
    return {groups: bounds.shares for groups, bounds in schemes.items()}


def cost(x: Any, k: int, groups: int) -> float:
    """Seconds of a search that gives every group's nearest, over those of faiss', on one thread."""
    faiss.omp_set_num_threads(1)
    centroids, starts = x[:k].copy(), np.arange(0, k, -(-k // groups))
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(centroids)
    batches = [x[first : first + BATCH] for first in range(0, min(len(x), 20 * BATCH), BATCH)]
    ratios = []
    for _ in range(5):
        began = time.perf_counter()
        for batch in batches:
            index.search(batch, 1)
        searched = time.perf_counter()
        for batch in batches:
            apart = distances(batch, centroids)
            apart.argmin(1)
            np.minimum.reduceat(apart, starts, axis=1)
        ratios.append((time.perf_counter() - searched) / (searched - began))
    return float(np.median(ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description="What exact pruning of K-means could save, and what it costs")
    parser.add_argument("-n", type=int, default=60_000)
    parser.add_argument("-d", type=int, default=256)
    parser.add_argument("-k", type=int, default=300)
    parser.add_argument("--niter", type=int, default=10)
    options = parser.parse_args()
    print(machine())
    print(f"{options.n:,} x {options.d} float32, K {options.k}, {options.niter} iterations")
    sizes = [1, options.k // 10, options.k]
    for kind in ("separated", "overlapping"):
        x = rows(kind, options.n, options.d, options.k)
        for groups, found in shares(x, options.k, options.niter, sizes).items():
            shown = " ".join(f"{share:.2f}" for share in found)
            print(f"{kind:11} {groups:5} bounds a row: searched {np.mean(found):.2f} on the whole; {shown}")
    ratio = cost(x, options.k, options.k // 10)
    print(f"a search for the nearest of every group takes {ratio:.2f} times as long as faiss' for the nearest of all")


if __name__ == "__main__":
    main()
