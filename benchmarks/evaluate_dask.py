"""Many probes on Dask workers of one thread: 24 evaluations on two workers against one, and against the command alone.

    python benchmarks/evaluate_dask.py [-n N] [--epochs E] [--repeat R]

Four backbones × six seeds, K 100, 200 concepts. The clusterings are made before the clock starts, and the workers run
already. The three runs take turns; printed are medians with their range. Every run must give the same numbers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from kmeans import machine

from qrp_store.evaluate import evaluate
from qrp_store.ingest import ingest
from qrp_store.label import label
from qrp_store.store import Store, create_store, open_store

BACKBONES, SEEDS, CLUSTERS, CONCEPTS = 4, tuple(range(6)), 100, 200


def fill(store: Store, folder: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(CLUSTERS, size=n)
    centers = rng.normal(size=(CLUSTERS, 32))
    for number in range(BACKBONES):
        rows = centers[group] + rng.normal(size=(n, 32)) * (number + 1) * 0.3
        np.save(folder / "x.npy", rows.astype(np.float32))
        ingest(store, str(folder / "x.npy"), dataset="d", backbone=f"b{number}")
    with (folder / "labels.csv").open("w") as file:
        file.write("key,concept\n")
        file.writelines(f"{i},c{g}\n{i},c{100 + rng.integers(100)}\n" for i, g in enumerate(group.tolist()))
    label(store, str(folder / "labels.csv"), dataset="d", concepts="c")


def seconds(store: Store, epochs: int, scheduler: str | None) -> tuple[float, list[float | None]]:
    began = time.perf_counter()
    report = evaluate(
        store, dataset="d", k=CLUSTERS, seeds=SEEDS, epochs=epochs, bootstrap=200, force=True, scheduler=scheduler
    )
    assert not report.errors, report.errors
    return time.perf_counter() - began, [result.nmi for result in report.results]


def main() -> None:
    parser = argparse.ArgumentParser(description="24 probes on two Dask workers, on one, and in the command")
    parser.add_argument("-n", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    from distributed import LocalCluster

    took: dict[str, list[float]] = {"in the command": [], "one worker": [], "two workers": []}
    with tempfile.TemporaryDirectory() as name:
        create_store(f"{name}/store")
        with (
            open_store(f"{name}/store") as store,
            LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as one,
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as two,
        ):
            fill(store, Path(name), options.n)
            evaluate(store, dataset="d", k=CLUSTERS, seeds=SEEDS, epochs=1)  # the clusterings
            where = dict(zip(took, (None, one.scheduler_address, two.scheduler_address), strict=True))
            for address in where.values():
                seconds(store, 1, address)
            expected = None
            for _ in range(options.repeat):
                for place, address in where.items():
                    wall, scores = seconds(store, options.epochs, address)
                    took[place].append(wall)
                    expected = expected or scores
                    assert scores == expected, place
    print(f"{BACKBONES * len(SEEDS)} probes, {options.n:,} samples, K {CLUSTERS}, {options.epochs} epochs; {machine()}")
    for place, values in took.items():
        print(f"  {place:15} {statistics.median(values):6.1f} s ({min(values):.1f} to {max(values):.1f})")
    one_s, two_s = (statistics.median(took[place]) for place in ("one worker", "two workers"))
    print(f"  two workers     {one_s / two_s:6.2f} times as fast as one")


if __name__ == "__main__":
    main()
