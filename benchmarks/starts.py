"""How soon K-means is as good as after 10 iterations from random rows: better seeds, and samples that grow.

    python benchmarks/starts.py [-n N] [-d DIM] [-k K] [--repeat R]

Data of three kinds: `groups` far apart, of unequal nearness to each other; groups that `overlap`; one normal cloud
(`none`). Random rows and 10 passes of Lloyd over all rows set the goal. Printed is, as the median over seeds, the time
until there are centroids as good, with seeding and without the passes that only measure, divided by the time of those
10 passes; and what the objective is after as many passes, divided by the goal. Samples that grow: 6 iterations on an
eighth of the rows, 3 on a quarter, 2 on a half, the rest on all.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator

import numpy as np
from kmeans import machine

from qrp_store.kmeans import MemoryPoints
from qrp_store.kmeans.lloyd import _update
from qrp_store.kmeans.seeding import INITS, initial

PASSES = 10
GROWTH = (8,) * 6 + (4,) * 3 + (2,) * 2


def data(kind: str, n: int, dim: int, k: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((n, dim), dtype=np.float32)
    middles = rng.standard_normal((2 * k, dim), dtype=np.float32)
    if kind == "groups":
        far = 2 * rng.standard_normal((max(2, k // 10), dim), dtype=np.float32)
        middles += far[rng.integers(0, len(far), 2 * k)]
    scale = {"groups": 2.0, "overlap": 0.3, "none": 0.0}[kind]
    rows += scale * middles[rng.integers(0, 2 * k, n)]
    return rows


def course(array: np.ndarray, k: int, start: str, seed: int) -> Iterator[tuple[float, np.ndarray]]:
    """Seconds spent so far, and the centroids that there are then."""
    random = np.random.RandomState(seed)
    order = random.permutation(len(array))
    growing = start == "growing"
    began = time.perf_counter()
    centroids = initial(MemoryPoints(array), k, "random" if growing else start, random)  # type: ignore[arg-type]
    spent = time.perf_counter() - began
    yield spent, centroids
    for share in (GROWTH if growing else ()) + (1,) * PASSES:
        points = MemoryPoints(array if share == 1 else array[np.sort(order[: len(array) // share])])
        began = time.perf_counter()
        centroids = _update(points.means(centroids), points.count, spherical=False, before=None)
        spent += time.perf_counter() - began
        yield spent, centroids


def compare(array: np.ndarray, k: int, seed: int) -> dict[str, tuple[float, float]]:
    """For each start: its time to the goal, and its objective in as much time as the goal took, both by the goal's."""
    points = MemoryPoints(array)
    *_, (whole, centroids) = course(array, k, "random", seed)
    goal = points.step(centroids).inertia
    found = {}
    for start in (*INITS[1:], "growing"):
        reached, last = float("inf"), float("inf")
        for spent, candidates in course(array, k, start, seed):
            if spent > 1.05 * whole:
                break
            last = points.step(candidates).inertia
            if last <= goal:
                reached = min(reached, spent)
        found[start] = reached / whole, last / goal
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to the objective of 10 iterations from random rows")
    parser.add_argument("-n", type=int, default=200_000)
    parser.add_argument("-d", type=int, default=256)
    parser.add_argument("-k", type=int, default=500)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    print(f"{options.n:,} x {options.d} float32, K {options.k}; time to the goal and objective, by those of the goal")
    for kind in ("groups", "overlap", "none"):
        array = data(kind, options.n, options.d, options.k)
        runs = [compare(array, options.k, seed) for seed in range(options.repeat)]
        for start in runs[0]:
            share, objective = (statistics.median(run[start][i] for run in runs) for i in (0, 1))
            told = "not reached" if share == float("inf") else f"{share:.2f}"
            print(f"{kind:8} {start:15} {told:12} {objective:.4f}")


if __name__ == "__main__":
    main()
