"""K-means on Dask workers of one thread: how much two are faster than one, against two bare faiss processes.

    python benchmarks/kmeans_dask.py [--quick] [-n N] [-d DIM] [-k K] [--niter I] [--repeat R] [--memory BYTES]

Both sides take turns on one machine. A bare process searches its half of the rows in batches of 2048 on one thread
and does nothing else; a Dask worker reads its blocks verified (once, when --memory allows), searches them the same
way, sums, and sends its sums to the client, which combines them. Start-up, imports and the first pass are not timed.
Two processes do not reach twice the speed of one where they share caches, memory and clock: hence the peer.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from kmeans import machine, prepare, stored

from qrp_store.clustering import Chosen
from qrp_store.clustering.distributed import DistributedPoints
from qrp_store.execution import Cluster

BATCH = 2048


def search(folder: Path, first: int, last: int, niter: int, ready: Any, seconds: Any) -> None:
    import faiss

    faiss.omp_set_num_threads(1)
    rows = np.ascontiguousarray(np.load(folder / "x.npy", mmap_mode="r")[first:last])
    centroids = np.load(folder / "start.npy")
    ready.wait()
    began = time.perf_counter()
    for _ in range(niter):
        index = faiss.IndexFlatL2(rows.shape[1])
        index.add(centroids)
        for start in range(0, len(rows), BATCH):
            index.search(rows[start : start + BATCH], 1)
    seconds.put(time.perf_counter() - began)


def bare(folder: Path, processes: int, n: int, niter: int) -> float:
    spawn = multiprocessing.get_context("spawn")
    ready, seconds = spawn.Barrier(processes), spawn.Queue()
    edges = [n * i // processes for i in range(processes + 1)]
    running = [
        spawn.Process(target=search, args=(folder, first, last, niter, ready, seconds))
        for first, last in itertools.pairwise(edges)
    ]
    for process in running:
        process.start()
    took = max(seconds.get() for _ in running)
    for process in running:
        process.join()
    return float(took)


def dask(folder: Path, workers: int, niter: int, memory: int) -> float:
    from distributed import LocalCluster

    centroids = np.load(folder / "start.npy")
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0") as local,
        Cluster(local.scheduler_address) as cluster,
    ):
        points = DistributedPoints(stored(folder), cluster, Chosen("faiss", "cpu"), k=len(centroids), memory=memory)
        points.step(centroids)
        began = time.perf_counter()
        for _ in range(niter):
            points.step(centroids)
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description="Two Dask workers against one, and two bare processes against one")
    parser.add_argument("--quick", action="store_true", help="a quarter of the rows, three iterations")
    parser.add_argument("-n", type=int, default=200_000)
    parser.add_argument("-d", type=int, default=512)
    parser.add_argument("-k", type=int, default=500)
    parser.add_argument("--niter", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--memory", type=int, default=2_000_000_000, help="bytes a worker may hold of the data")
    options = parser.parse_args()
    if options.quick:
        options.n, options.niter = options.n // 4, 3
    # The workers import StoredBlocks from this folder.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    print(machine())
    print(f"{options.n:,} x {options.d} float32, K {options.k}, {options.niter} iterations, memory {options.memory:,}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, options.n, options.d, options.k)
        runs: dict[str, list[tuple[float, float]]] = {"bare": [], "dask": []}
        for _ in range(options.repeat):
            runs["bare"].append((bare(folder, 1, options.n, options.niter), bare(folder, 2, options.n, options.niter)))
            one, two = (dask(folder, workers, options.niter, options.memory) for workers in (1, 2))
            runs["dask"].append((one, two))
    gains = {}
    for side, pairs in runs.items():
        one, two = (statistics.median(times) for times in zip(*pairs, strict=True))
        gains[side] = statistics.median(a / b for a, b in pairs)
        print(f"{side}: one {one:.2f} s, two {two:.2f} s, {gains[side]:.2f} times faster")
    print(f"Dask's gain is {gains['dask'] / gains['bare']:.2f} of the bare processes' gain")


if __name__ == "__main__":
    main()
