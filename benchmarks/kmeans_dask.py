"""K-means on Dask workers of one thread: how much two are faster than one, against two bare faiss processes.

    python benchmarks/kmeans_dask.py [--quick] [-n N] [-d DIM] [-k K] [--niter I] [--repeat R] [--memory BYTES]
        [--watched]

The four runs (one and two, bare and Dask) take turns on one machine, each round in another order. Printed are medians
with their range, and beside the seconds those of the processor, which other work on the machine disturbs less. A bare
process searches its share of the rows in batches of 2048 on one thread and does nothing else; a Dask worker reads its
blocks verified (once, when --memory allows), searches them the same way, sums, and sends its sums to the client, which
combines them and holds the scheduler, on the same cores. Dask's own watching of its processes (profiles, ticks) is
turned down as docs/operations.md advises; --watched leaves it as Dask has it. Start-up, imports and the first pass are
not timed. Two processes do not reach twice the speed of one where they share caches, memory and clock: hence the peer.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kmeans import machine, prepare, stored

from qrp_store.execution import UNWATCHED, DaskPool
from qrp_store.kmeans import Chosen
from qrp_store.kmeans.distributed import DistributedPoints

BATCH = 2048


@dataclass(frozen=True)
class Run:
    """Seconds of all timed passes: by the clock, and of the processor in all workers, and in the client."""

    wall: float
    cpu: float
    client: float = 0.0


def search(folder: Path, first: int, last: int, niter: int, ready: Any, seconds: Any) -> None:
    import faiss

    faiss.omp_set_num_threads(1)
    rows = np.ascontiguousarray(np.load(folder / "x.npy", mmap_mode="r")[first:last])
    centroids = np.load(folder / "start0.npy")

    def once() -> None:
        index = faiss.IndexFlatL2(rows.shape[1])
        index.add(centroids)
        for start in range(0, len(rows), BATCH):
            index.search(rows[start : start + BATCH], 1)

    once()
    ready.wait()
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(niter):
        once()
    seconds.put((time.perf_counter() - began, time.process_time() - cpu))


def bare(folder: Path, processes: int, options: argparse.Namespace) -> Run:
    spawn = multiprocessing.get_context("spawn")
    ready, seconds = spawn.Barrier(processes), spawn.Queue()
    edges = [options.n * i // processes for i in range(processes + 1)]
    running = [
        spawn.Process(target=search, args=(folder, first, last, options.niter, ready, seconds))
        for first, last in itertools.pairwise(edges)
    ]
    for process in running:
        process.start()
    took = [seconds.get() for _ in running]
    for process in running:
        process.join()
    return Run(max(wall for wall, _ in took), sum(cpu for _, cpu in took))


def dask(folder: Path, workers: int, options: argparse.Namespace) -> Run:
    from dask import config
    from distributed import LocalCluster

    centroids = np.load(folder / "start0.npy")
    with (
        config.set({} if options.watched else UNWATCHED),
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0") as local,
        DaskPool(local.scheduler_address) as pool,
    ):

        def used() -> float:
            found = [value for value in pool.everywhere(time.process_time).values() if isinstance(value, float)]
            return sum(found)

        points = DistributedPoints(
            stored(folder), pool, Chosen("faiss", "cpu"), k=len(centroids), memory=options.memory
        )
        points.step(centroids)
        cpu, began, client = used(), time.perf_counter(), time.process_time()
        for _ in range(options.niter):
            points.step(centroids)
        wall, client = time.perf_counter() - began, time.process_time() - client
        return Run(wall, used() - cpu, client)


def middle(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Two Dask workers against one, and two bare processes against one")
    parser.add_argument("--quick", action="store_true", help="a quarter of the rows, three iterations")
    parser.add_argument("-n", type=int, default=200_000)
    parser.add_argument("-d", type=int, default=512)
    parser.add_argument("-k", type=int, default=500)
    parser.add_argument("--niter", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--memory", type=int, default=2_000_000_000, help="bytes a worker may hold of the data")
    parser.add_argument("--watched", action="store_true", help="Dask profiles its workers, as it does by default")
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
        sides = {"bare": bare, "dask": dask}
        turns = [(side, count) for side in sides for count in (1, 2)]
        runs: dict[tuple[str, int], list[Run]] = {turn: [] for turn in turns}
        for number in range(options.repeat):
            for side, count in turns[number % 4 :] + turns[: number % 4]:
                runs[side, count].append(sides[side](folder, count, options))
    gains = {}
    for side in sides:
        one, two = runs[side, 1], runs[side, 2]
        gains[side] = [a.wall / b.wall for a, b in zip(one, two, strict=True)]
        for count, found in ((1, one), (2, two)):
            cpu = f"processor {middle([r.cpu for r in found])} s"
            client = f", client and scheduler {middle([r.client for r in found])} s" if side == "dask" else ""
            print(f"{side}, {count}: {middle([r.wall for r in found])} s; {cpu}{client}")
        print(f"{side}: two are {middle(gains[side])} times as fast as one")
    of_bare = [a / b for a, b in zip(gains["dask"], gains["bare"], strict=True)]
    print(f"Dask's gain is {middle(of_bare)} of the bare processes' gain; load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
