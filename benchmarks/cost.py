"""What a job will cost: time, memory, storage, objects and SQL rows, from unit costs measured on one machine.

    python benchmarks/cost.py N D K [--concepts 2000] [--labels 15] [--epochs 100] [--workers W] [--gpu TFLOPS]
    python benchmarks/cost.py --table       the same for a million to a billion vectors
    python benchmarks/cost.py --measure     measure the unit costs here into unit_costs.json
    python benchmarks/cost.py --check       predict three other sizes, run them, print measured / predicted

Units come from whole commands at several sizes by non-negative least squares: a start, and seconds per byte, label,
distance (vector × dimension × cluster), weight of the probe, row in SQL. Machines (--workers) divide the K-means; --gpu
takes its distances at a rate that you name: an assumption, not a measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from imagenet_scale import Commands
from planted import Planted
from scipy.optimize import nnls

UNITS = Path(__file__).with_name("unit_costs.json")
NITER, BLOCK, PER_CENTROID = 25, 16 << 20, 256
MEASURED = (  # N, D, K, concepts
    (20_000, 256, 32, 200),
    (20_000, 1024, 400, 1000),
    (40_000, 512, 200, 2000),
    (80_000, 256, 64, 400),
    (60_000, 1024, 100, 1000),
    (100_000, 512, 300, 400),
)
CHECKED = ((30_000, 512, 100, 400), (70_000, 768, 250, 1000), (50_000, 1536, 64, 2000))
EPOCHS, BATCH = 10, 512  # of the measured runs


@dataclass(frozen=True)
class Job:
    """N vectors of D float16, K clusters, M concepts, so many labels a vector and epochs of the probe."""

    n: int
    dim: int
    k: int
    concepts: int = 2000
    labels: float = 15.0
    epochs: int = 100

    def amounts(self) -> dict[str, list[float]]:
        """What each stage is charged for, first the start; named by `NAMES`."""
        passes = NITER * min(self.n, PER_CENTROID * self.k) + self.n
        trained = 0.64 * self.n * self.epochs
        return {
            "ingest": [1, self.n, 2.0 * self.n * self.dim],
            "label": [1, self.n * self.labels],
            "cluster": [1, self.n, passes * self.dim, passes * self.dim * self.k],
            "evaluate": [1, self.n],
            "train": [trained / BATCH, trained * self.k * self.labels, self._updated(trained)],
        }

    def _updated(self, trained: float) -> float:
        """Weights that the steps update: the rows of the concepts that a batch holds, at most all of them."""
        return trained / BATCH * self.k * min(self.concepts, BATCH * self.labels)


NAMES = {
    "ingest": ("start", "per vector", "per byte"),
    "label": ("start", "per label"),
    "cluster": ("start", "per vector", "per number read", "per distance term"),
    "evaluate": ("start", "per vector"),  # what its training does not take
    "train": ("per step", "per weight added", "per weight updated"),
}


def measured(job: Job) -> tuple[dict[str, float], Job]:
    """Seconds of each stage run here, and the job with the labels that there were."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        planted = Planted(job.n, job.dim, job.k // 4, job.concepts)  # K-means goes on dividing to its last iteration
        planted.write_array(folder / "x.npy")
        planted.write_labels(folder / "labels.csv")
        commands = Commands(str(folder / "store"), None)
        of = ("--dataset", "d", "--backbone", "b")
        commands.run("init")
        ingest = commands.run("ingest", str(folder / "x.npy"), *of)
        label = commands.run("label", str(folder / "labels.csv"), "--dataset", "d", "--concepts", "c")
        cluster = commands.run("cluster", *of, "-k", str(job.k))
        evaluate = commands.run("evaluate", *of, "-k", str(job.k), "--epochs", str(job.epochs))
    trained = evaluate.document["results"][0]["timings"]["train_s"]
    seconds = {"ingest": ingest.seconds, "label": label.seconds, "cluster": cluster.seconds}
    seconds |= {"evaluate": evaluate.seconds - trained, "train": trained}
    return seconds, replace(job, labels=label.document["n_labels"] / job.n)


def measure() -> None:
    runs = [measured(Job(*size, epochs=EPOCHS)) for size in MEASURED]
    units = {}
    for stage, names in NAMES.items():
        amounts = np.array([job.amounts()[stage] for _, job in runs])
        seconds = np.array([found[stage] for found, _ in runs])
        # relative errors count, so that small jobs are met as well as large ones
        costs, _ = nnls(amounts / seconds[:, None], np.ones(len(runs)))
        units[stage] = dict(zip(names, costs.tolist(), strict=True))
    cores = os.cpu_count()
    document = {"machine": f"{cores} cores, load {os.getloadavg()[0]:.1f} at the end", "seconds": units}
    UNITS.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(UNITS.read_text(encoding="utf-8"), end="")


def predicted(job: Job, workers: int = 1, tflops: float | None = None) -> dict[str, float]:
    """Seconds of each stage. `workers` machines like the measured one share the K-means."""
    units = json.loads(UNITS.read_text(encoding="utf-8"))["seconds"]
    amounts = job.amounts()
    parts = {
        stage: {name: units[stage][name] * amount for name, amount in zip(names, amounts[stage], strict=True)}
        for stage, names in NAMES.items()
    }
    shared = parts["cluster"]
    if tflops is not None:
        shared["per distance term"] = 2 * amounts["cluster"][3] / (tflops * 1e12)
    for name in ("per number read", "per distance term"):
        shared[name] /= workers
    return {stage: sum(costs.values()) for stage, costs in parts.items()}


def check() -> None:
    print(f"{'vectors':>10} {'dim':>5} {'K':>5}  " + "".join(f"{stage:>30}" for stage in (*NAMES, "in all")))
    for size in CHECKED:
        seconds, job = measured(Job(*size, epochs=EPOCHS))
        guess = predicted(job)
        seconds["in all"], guess["in all"] = sum(seconds.values()), sum(guess.values())
        cells = [f"{s:8.1f} s / {guess[stage]:8.1f} s = {s / guess[stage]:4.2f}" for stage, s in seconds.items()]
        print(f"{job.n:>10,} {job.dim:>5} {job.k:>5}  " + "".join(f"{cell:>30}" for cell in cells), flush=True)


def row(job: Job, workers: int, tflops: float | None) -> str:
    seconds = predicted(job, workers, tflops)
    stored = 2.0 * job.n * job.dim
    rows = job.n * (2 + job.labels)  # a sample, its assignment, its labels
    probe = 8.0 * job.n * job.labels + 12.0 * job.k * job.concepts
    cells = [f"{job.n:,} × {job.dim}, K {job.k:,}", *(duration(seconds[stage]) for stage in NAMES)]
    cells += [f"{stored / 1e9:,.0f} GB", f"{-(-stored // BLOCK):,.0f}", f"{rows / 1e6:,.0f} M", f"{probe / 1e9:.1f} GB"]
    return "| " + " | ".join(cells) + " |"


def duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description="What a job will cost.")
    parser.add_argument("size", nargs="*", type=int, metavar="N D K")
    parser.add_argument("--concepts", type=int, default=2000)
    parser.add_argument("--labels", type=float, default=15.0, help="labels a vector (default 15)")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1, help="machines that share the K-means")
    parser.add_argument("--gpu", type=float, metavar="TFLOPS", help="the K-means' distances at this rate")
    for name in ("table", "measure", "check"):
        parser.add_argument(f"--{name}", action="store_true")
    options = parser.parse_args()
    if options.measure:
        measure()
    elif options.check:
        check()
    elif options.table or len(options.size) == 3:
        sizes = [tuple(options.size)] if options.size else [(10**p, 2048, 1000 * 4 ** (p - 6)) for p in (6, 7, 8, 9)]
        print(
            "| job | ingest | label | cluster | evaluate | of training | arrays | objects | SQL rows | probe's memory |"
        )
        print("|" + "---|" * 10)
        for size in sizes:
            job = Job(*size, options.concepts, options.labels, options.epochs)
            print(row(job, options.workers, options.gpu))
    else:
        parser.error("give N D K, or one of --table --measure --check")


if __name__ == "__main__":
    main()
