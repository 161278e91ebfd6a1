"""K-means on a GPU, rows resident there, against faiss.Kmeans(gpu=True) where faiss is built for GPUs.

    python benchmarks/kmeans_gpu.py [--device cuda] [-n N] [-d DIM] [-k K] [--niter I] [--repeat R]

The defaults are the size of Laina et al. 2022. `ours` is the torch engine; where faiss sees a GPU, `faiss` is our faiss
engine, which searches the rows that torch keeps on the GPU, and `peer` is faiss.Kmeans. Each run is a process
of its own, since faiss and torch may be built for different versions of CUDA. Printed are the seconds of the training
iterations, of all with assigning, and the objectives from the same start. Every side runs twice in its process, and the
second run counts: by then libraries are loaded and memory is allocated. Each side's clock includes the copy of the rows
from the host's memory to the device. `--device cpu` tries the script without a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
from kmeans import machine

from qrp_store.kmeans import KMeansOptions, MemoryPoints, Points, kmeans
from qrp_store.kmeans.nearest import faiss_gpus


def rows(n: int, dim: int, k: int) -> Any:
    rng = np.random.default_rng(0)
    middles = rng.standard_normal((2 * k, dim), dtype=np.float32)
    out = rng.standard_normal((n, dim), dtype=np.float32)
    for first in range(0, n, 4096):
        part = out[first : first + 4096]
        part += middles[rng.integers(0, 2 * k, len(part))]
    return out


def ours(x: Any, start: Any, options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from qrp_store.kmeans.torch_points import TorchPoints

    named = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    points = TorchPoints(MemoryPoints(x), device=options.device, budget=x.nbytes)
    return {**trained(points, start, options.niter), "device": named}


def trained(points: Points, start: Any, niter: int) -> dict[str, Any]:
    began = time.perf_counter()
    result = kmeans(points, KMeansOptions(len(start), niter=niter, sample="all"), start=start)
    total = time.perf_counter() - began
    return {"train_s": result.timings["train_s"], "total_s": total, "objective": result.objective}


def by_faiss(x: Any, start: Any, options: argparse.Namespace) -> dict[str, Any]:
    from qrp_store.kmeans.torch_points import TorchPoints

    points: Points = MemoryPoints(x)
    if options.device != "cpu":
        points = TorchPoints(MemoryPoints(x), device=options.device, engine="faiss", budget=x.nbytes)
    return trained(points, start, options.niter)


def peer(x: Any, start: Any, options: argparse.Namespace) -> dict[str, Any]:
    import faiss

    began = time.perf_counter()
    reference = faiss.Kmeans(
        x.shape[1], len(start), niter=options.niter, gpu=options.device == "cuda", max_points_per_centroid=len(x)
    )
    reference.train(x, init_centroids=start)
    trained = time.perf_counter()
    distances, _ = reference.assign(x)
    total = time.perf_counter() - began
    return {"train_s": trained - began, "total_s": total, "objective": float(distances.sum(dtype=np.float64))}


def main() -> None:
    parser = argparse.ArgumentParser(description="K-means on a GPU against faiss.Kmeans(gpu=True)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("-n", type=int, default=256_000)
    parser.add_argument("-d", type=int, default=2_048)
    parser.add_argument("-k", type=int, default=1_000)
    parser.add_argument("--niter", type=int, default=25)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--side", choices=("peer", "ours", "faiss"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        x = rows(options.n, options.d, options.k)
        start = x[np.sort(np.random.default_rng(1).permutation(options.n)[: options.k])].copy()
        side = {"peer": peer, "ours": ours, "faiss": by_faiss}[options.side]
        side(x, start, options)  # warm: libraries, kernels and allocators
        print(json.dumps(side(x, start, options)))
        return
    print(machine())
    print(f"{options.n:,} x {options.d} float32, K {options.k}, {options.niter} iterations")
    sides = ["ours", "faiss", "peer"] if options.device == "cpu" or faiss_gpus() else ["ours"]
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(options.repeat):
        for side, found in runs.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
            found.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout))
    for side, found in runs.items():
        train, total, objective = (statistics.median(r[k] for r in found) for k in ("train_s", "total_s", "objective"))
        print(f"{side:5} train {train:7.3f}  with assigning {total:7.3f} s   objective {objective:.6g}")
    print(f"device: {runs['ours'][0]['device']}")
    if "peer" in runs:
        pairs = sorted(o["total_s"] / p["total_s"] for o, p in zip(runs["ours"], runs["peer"], strict=True))
        print(f"ratio of totals: {statistics.median(pairs):.2f} ({pairs[0]:.2f} to {pairs[-1]:.2f})")
    if len(sides) == 1:
        print("no peer: this faiss sees no GPU")


if __name__ == "__main__":
    main()
