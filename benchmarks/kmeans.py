"""K-means from stored blocks, against the script one would write: np.load, faiss.Kmeans, assign.

    python benchmarks/kmeans.py [--quick | --paper] [--memory BYTES] [-n N] [-d DIM] [-k K] [--niter I] [--repeat R]
                                [--alone]

Each run is a process of its own, the sides by turns, each of the R times from the initial centroids of another seed;
the files are in the page cache for both. Printed are the medians of wall seconds (reading, training on all rows,
assigning all rows) and of peak memory, and the ratios of ours to the peer's, the objectives' among them. `--paper` is
the size of Laina et al. 2022 (256,000 x 2,048, K 1,000, 25 iterations) within 1 GB of rows; `--alone` leaves the peer
out. The third side, `seeded`, begins with greedy k-means++ instead: how soon is it as good as the peer ends?
Compare peak memory only where the rows do not fit into --memory: else ours holds them too, and three blocks of 16 MB
that are being read.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from qrp_store.arrays import blocked as arrays
from qrp_store.arrays.location import open_root
from qrp_store.arrays.root import Root
from qrp_store.execution import available_cores
from qrp_store.kmeans import KMeansOptions, MemoryPoints, StreamedPoints, kmeans
from qrp_store.kmeans.seeding import Init
from qrp_store.records import ArraySpec, Block


class StoredBlocks:
    """The blocks of a stored array as K-means wants them."""

    def __init__(self, root: Root, spec: ArraySpec, blocks: list[Block]) -> None:
        self._root, self._spec, self._blocks = root, spec, blocks
        self.count, self.dim, self.n_blocks = spec.n, spec.dim, spec.n_blocks

    def rows_of(self, index: int) -> tuple[int, int]:
        return self._spec.rows_of(index)

    def read(self, index: int) -> np.ndarray:
        return arrays.read_block(self._root, self._spec, self._blocks[index])


def prepare(folder: Path, n: int, dim: int, k: int, peer: bool = True, seeds: int = 1) -> None:
    """The same clustered rows as stored blocks and (for a peer) as one .npy file, and initial centroids by seed."""
    rng = np.random.default_rng(0)
    spec = ArraySpec("embeddings/bench/vectors", n, dim, "float32", arrays.default_block_rows(dim, 4, n))
    root = open_root(str(folder / "arrays"))
    arrays.create(root, spec)
    whole = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (n, dim)) if peer else None
    picked = [np.sort(np.random.default_rng(1 + seed).permutation(n)[:k]) for seed in range(seeds)]
    starts = np.empty((seeds, k, dim), np.float32)
    middles = rng.standard_normal((2 * k, dim), dtype=np.float32)
    blocks = []
    for index in range(spec.n_blocks):
        first, count = spec.rows_of(index)
        rows = rng.standard_normal((count, dim), dtype=np.float32) + middles[rng.integers(0, 2 * k, count)]
        for start, those in zip(starts, picked, strict=True):
            inside = (those >= first) & (those < first + count)
            start[inside] = rows[those[inside] - first]
        if whole is not None:
            whole[first : first + count] = rows
        blocks.append(arrays.write_block(root, spec, index, rows))
    if whole is not None:
        whole.flush()
    for seed, start in enumerate(starts):
        np.save(folder / f"start{seed}.npy", start)
    (folder / "blocks.pickle").write_bytes(pickle.dumps((spec, blocks)))


def stored(folder: Path) -> StoredBlocks:
    """The blocks that `prepare` has made."""
    spec, blocks = pickle.loads((folder / "blocks.pickle").read_bytes())
    return StoredBlocks(open_root(str(folder / "arrays")), spec, blocks)


def peer(folder: Path, seed: int, niter: int) -> dict[str, Any]:
    import faiss

    start = np.load(folder / f"start{seed}.npy")
    began = time.perf_counter()
    array = np.load(folder / "x.npy")
    read = time.perf_counter()
    reference = faiss.Kmeans(array.shape[1], len(start), niter=niter, max_points_per_centroid=len(array))
    reference.train(array, init_centroids=start)
    trained = time.perf_counter()
    distances, _ = reference.assign(array)
    ended = time.perf_counter()
    parts = {"read_s": read - began, "train_s": trained - read, "assign_s": ended - trained, "total_s": ended - began}
    return {**parts, "objective": float(distances.sum(dtype=np.float64))}


def ours(folder: Path, seed: int, niter: int, memory: int, seeded: bool = False) -> dict[str, Any]:
    """Our K-means from the peer's start, or (`seeded`) from greedy k-means++; when it had which objective."""
    start = np.load(folder / f"start{seed}.npy")
    # Loading faiss is no part of the peer's time either.
    kmeans(MemoryPoints(start), KMeansOptions(2, niter=1))
    points = StreamedPoints(stored(folder), memory=memory)
    init: Init = "greedy-kmeans++" if seeded else "random"
    options = KMeansOptions(len(start), seed=seed, niter=niter, sample="all", init=init)
    began = time.perf_counter()
    times: list[float] = []
    result = kmeans(
        points,
        options,
        start=None if seeded else start,
        on_iteration=lambda state: times.append(time.perf_counter() - began),
    )
    # The objective of an iteration is that of the centroids it began with.
    course = list(zip(times, result.objective_per_iteration, strict=False))
    return {**result.timings, "objective": result.objective, "course": course}


def measure(side: str, folder: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder), "--seed", str(seed)]
    command += ["--niter", str(options.niter), "--memory", str(options.memory)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def machine() -> str:
    import faiss

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, faiss {faiss.__version__}"
    return f"{model}, {available_cores()} cores, {load}; {versions}"


def peak_mb() -> float:
    """This process's peak resident memory. The kernel's ru_maxrss would count the parent's too, kept across exec."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)  # macOS counts in bytes


def main() -> None:
    parser = argparse.ArgumentParser(description="K-means from stored blocks against np.load + faiss.Kmeans")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows and of the memory, three iterations")
    parser.add_argument("--paper", action="store_true", help="the paper's size, once, without the peer")
    parser.add_argument("-n", type=int, default=400_000)
    parser.add_argument("-d", type=int, default=512)
    parser.add_argument("-k", type=int, default=500)
    parser.add_argument("--niter", type=int, default=10)
    parser.add_argument("--memory", type=int, default=200_000_000, help="bytes K-means may hold of the data")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="without the peer")
    parser.add_argument("--side", choices=("peer", "ours", "seeded"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        if options.side == "peer":
            run = peer(options.folder, options.seed, options.niter)
        else:
            run = ours(options.folder, options.seed, options.niter, options.memory, options.side == "seeded")
        run |= {"peak_rss_mb": peak_mb(), "cpu_s": time.process_time()}
        print(json.dumps(run))
        return
    if options.quick:
        options.n, options.memory, options.niter, options.repeat = options.n // 10, options.memory // 10, 3, 3
    if options.paper:
        options.n, options.d, options.k, options.niter = 256_000, 2_048, 1_000, 25
        options.memory, options.repeat, options.alone = 1_000_000_000, 1, True
    print(machine())
    print(f"{options.n:,} x {options.d} float32, K {options.k}, {options.niter} iterations, memory {options.memory:,}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, options.n, options.d, options.k, peer=not options.alone, seeds=options.repeat)
        runs: dict[str, list[dict[str, Any]]] = {
            side: [] for side in (["ours"] if options.alone else ["peer", "ours", "seeded"])
        }
        for seed in range(options.repeat):
            for side, found in runs.items():
                found.append(measure(side, folder, seed, options))
    courses = [run.pop("course") for side in ("ours", "seeded") for run in runs.get(side, [])][-options.repeat :]
    medians = {s: {k: statistics.median(r[k] for r in found) for k in found[0]} for s, found in runs.items()}
    for side, row in medians.items():
        seconds = "  ".join(f"{key[:-2]} {row[key]:7.2f}" for key in ("read_s", "train_s", "assign_s", "total_s"))
        print(f"{side:6} {seconds} s   cpu {row['cpu_s']:7.2f} s   peak {row['peak_rss_mb']:6.0f} MB")
    if options.alone:
        return
    for key, what, digits in (
        ("total_s", "totals", 2),
        ("cpu_s", "CPU time, which a busy machine disturbs less", 2),
        ("peak_rss_mb", "peak memory", 2),
        ("objective", "objectives", 6),
    ):
        pairs = sorted(o[key] / p[key] for o, p in zip(runs["ours"], runs["peer"], strict=True))
        print(
            f"ratio of {what}: {statistics.median(pairs):.{digits}f} ({pairs[0]:.{digits}f} to {pairs[-1]:.{digits}f})"
        )
    print(reached(courses, runs["peer"]))


def reached(courses: list[Any], peers: list[dict[str, Any]]) -> str:
    """How soon greedy k-means++ is as good as the peer ends, against the peer's reading and training."""
    ratios, passes = [], []
    for course, peer_run in zip(courses, peers, strict=True):
        good = [i for i, (_, objective) in enumerate(course) if objective <= peer_run["objective"]]
        if not good:
            return "greedy k-means++ did not reach the peer's final objective"
        passes.append(good[0])
        ratios.append(course[good[0]][0] / (peer_run["read_s"] + peer_run["train_s"]))
    share = f"{statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})"
    return (
        f"greedy k-means++ has the peer's final objective after {statistics.median(passes):.0f} iterations "
        f"and {share} of the peer's time to read and train"
    )


if __name__ == "__main__":
    main()
