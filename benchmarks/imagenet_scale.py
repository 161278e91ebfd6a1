"""The whole job at ImageNet's size, by the public commands, with the truth and the plain tools beside it.

    python benchmarks/imagenet_scale.py [--fraction 1.0] [--folder DIR] [--protocol laina2022 tight] [--sample-all]
                                        [--init INIT] [--team] [--store URL --arrays URL] [--scheduler tcp://…]

1,281,167 × 2,048 float16 embeddings in 250 planted groups, 2,000 concepts in four vocabularies (planted.py), K 1,000:
more clusters than groups, since a cluster that merges groups is not log-linear in the concepts; all shrinks with
--fraction. Prints seconds, peak memory and bytes of each stage, the score beside the true mutual information of the
partition that K-means found, and what the plain tools take for the same work. The folder is kept when it is named: then
a killed run goes on, and stages that are done say so. --team starts Postgres, S3 and a Dask scheduler with two workers
as processes here (team.py) and runs on those.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from plain_tools import beside
from planted import Planted
from team import team

SAMPLES, DIM, GROUPS, CLUSTERS, CONCEPTS = 1_281_167, 2048, 250, 1000, 2000
PAPER = "The paper says: K-means of 256,000 × 2,048 in under 5 minutes on 4 GPUs, an epoch in 2 s on one."


@dataclass(frozen=True)
class Stage:
    """What a command took: wall seconds, peak resident bytes of its process, and its JSON."""

    seconds: float
    peak: int
    document: dict[str, Any]


class Commands:
    """Runs `qrp-store` on one store."""

    def __init__(self, store: str, arrays: str | None) -> None:
        self._where = ["--store", store, *(["--arrays", arrays] if arrays else []), "--json", "--quiet"]

    def run(self, *argv: str) -> Stage:
        script = Path(sys.executable).with_name("qrp-store")
        began = time.perf_counter()
        process = subprocess.Popen([str(script), *argv, *self._where], stdout=subprocess.PIPE)
        peak = Peak(process.pid)
        said, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{' '.join(argv)} failed: {said.decode()}")
        return Stage(time.perf_counter() - began, peak.seen(), json.loads(said or b"{}"))


class Peak:
    """Watches a process' peak resident memory (rusage would count ours, kept across fork)."""

    def __init__(self, pid: int) -> None:
        self._status, self._bytes, self._over = Path(f"/proc/{pid}/status"), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            try:
                lines = self._status.read_text().splitlines()
            except OSError:
                return
            self._bytes = max([self._bytes, *(int(line.split()[1]) * 1024 for line in lines if "VmHWM" in line)])

    def seen(self) -> int:
        self._over.set()
        self._thread.join()
        return self._bytes


def jobs(options: argparse.Namespace, array: Path, labels: Path) -> dict[str, list[str]]:
    """The stages by name, each a command line."""
    of = ["--dataset", "imagenet", "--backbone", "planted"]
    clusters = ["-k", str(options.clusters), *(["--scheduler", options.scheduler] if options.scheduler else [])]
    clusters += ["--init", options.init]
    work = {
        "init": ["init"],
        "ingest": ["ingest", str(array), *of, "--dtype", "float16"],
        "label": ["label", str(labels), "--dataset", "imagenet", "--concepts", "four"],
        "cluster": ["cluster", *of, *clusters],
    }
    if options.sample_all:
        work["cluster, all rows"] = ["cluster", *of, *clusters, "--sample", "all"]
    for protocol in options.protocol:
        work[f"evaluate {protocol}"] = ["evaluate", *of, *clusters, "--protocol", protocol]
    work["leaderboard"] = ["leaderboard"]
    if options.report:
        work["report"] = ["report", "--dataset", "imagenet", "--no-images", "-o", str(options.folder / "report.html")]
    return work


def was_there(stage: Stage) -> bool:
    return bool(stage.document.get("cached") or any(r["cached"] for r in stage.document.get("results", ())))


def stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def truth(commands: Commands, planted: Planted, k: int, folder: Path, clustering: str) -> tuple[float, float]:
    """(H, I) in nats of a stored clustering on its test samples."""
    import pyarrow.parquet

    path = folder / "assignments.parquet"
    commands.run("export", "assignments", clustering, "-o", str(path))
    table = pyarrow.parquet.read_table(path, columns=["key", "cluster", "part"]).to_pydict()
    position = np.array(table["key"], dtype=np.int64)
    clusters, test = np.empty(planted.n, np.int64), np.zeros(planted.n, bool)
    clusters[position] = table["cluster"]
    test[position] = np.array(table["part"]) == "test"
    return planted.truth(clusters, k, test)


def measure(options: argparse.Namespace, commands: Commands, array: Path, labels: Path) -> dict[str, Stage]:
    stages = {}
    print(f"{'stage':24} {'s':>9} {'peak MB':>9} {'stored MB':>10}")
    for name, argv in jobs(options, array, labels).items():
        stages[name] = stage = commands.run(*argv)
        stored = "" if options.store else f"{stored_bytes(options.folder / 'store') / 1e6:10,.0f}"
        known = " (was there)" if was_there(stage) else ""
        print(f"{name:24} {stage.seconds:9.1f} {stage.peak / 1e6:9,.0f} {stored}{known}", flush=True)
    return stages


def run(options: argparse.Namespace) -> None:
    options.folder.mkdir(parents=True, exist_ok=True)
    options.clusters = max(round(CLUSTERS * options.fraction), 8)
    n_concepts = max(round(CONCEPTS * options.fraction) // 4 * 4, 80)
    planted = Planted(round(SAMPLES * options.fraction), DIM, options.clusters * GROUPS // CLUSTERS, n_concepts)
    array, labels = options.folder / "planted.npy", options.folder / "labels.csv"
    planted.write_array(array)
    planted.write_labels(labels)
    print(f"{planted.n:,} × {DIM} float16, {n_concepts:,} concepts, K {options.clusters:,}", end="; ")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    commands = Commands(options.store or str(options.folder / "store"), options.arrays)
    stages = measure(options, commands, array, labels)
    results = [stage.document["results"][0] for name, stage in stages.items() if name.startswith("evaluate")]
    if results:
        identifier = results[0]["clustering_id"]
        entropy, mi = truth(commands, planted, options.clusters, options.folder, identifier)
        print(f"truth of this partition: H {entropy:.4f}, I {mi:.4f} nats, NMI {mi / entropy:.4f}")
    for result in results:
        print(
            f"{result['protocol']}: MI {result['mi_nats']:.4f} nats ({100 * (result['mi_nats'] / mi - 1):+.2f} %); "
            f"NMI {result['nmi']:.4f} [{result['nmi_ci_lo']:.4f}, {result['nmi_ci_hi']:.4f}]; "
            f"epochs {result['epochs_run']}, converged {result['converged']}; "
            + ", ".join(f"{part} {seconds:.1f}" for part, seconds in result["timings"].items())
        )
    if options.peers:
        print("plain tools, scaled to the same work; speed: ours as a multiple of theirs")
        fresh = {name: stage for name, stage in stages.items() if not was_there(stage)}
        for line in beside(fresh, array, labels, options.clusters):
            print(line, flush=True)
    print(PAPER)


def main() -> None:
    parser = argparse.ArgumentParser(description="The whole job at ImageNet's size.")
    parser.add_argument("--fraction", type=float, default=1.0, help="of ImageNet's size (default 1)")
    parser.add_argument("--folder", type=Path, help="where data and store are kept (default: a temporary folder)")
    parser.add_argument("--protocol", nargs="*", default=["laina2022", "tight"])
    parser.add_argument("--init", default="random", help="how K-means starts")
    parser.add_argument("--sample-all", action="store_true", help="K-means on all rows, too")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="leave the plain tools out")
    parser.add_argument("--no-report", dest="report", action="store_false", help="leave the report out")
    parser.add_argument("--team", action="store_true", help="on Postgres, S3 and two Dask workers, started here")
    parser.add_argument("--store", help="another store than a directory in the folder, e.g. postgresql://…")
    parser.add_argument("--arrays", help="its arrays, e.g. s3://bucket/prefix")
    parser.add_argument("--scheduler", help="cluster on this Dask scheduler's workers")
    options = parser.parse_args()
    with ExitStack() as stack:
        options.folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if options.team:
            there = stack.enter_context(team(options.folder / "team"))
            options.store, options.arrays, options.scheduler = there.store, there.arrays, there.scheduler
        run(options)


if __name__ == "__main__":
    main()
