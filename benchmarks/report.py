"""How long a report of many backbones takes, how large it is, and how much memory it needs.

    python benchmarks/report.py                         # 10 backbones × 1,000 clusters of 50,000 images of 400 × 300
    python benchmarks/report.py --images 5000 --clusters 100 --backbones 3

Makes a store of random vectors first (not timed): K-means of two iterations, a probe of one epoch.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

QRP = str(Path(sys.executable).with_name("qrp-store"))


def run(store: Path, *arguments: object) -> dict[str, object]:
    """One command's JSON."""
    line = [QRP, *map(str, arguments), "--store", str(store), "--json", "--quiet"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def fill(folder: Path, asked: argparse.Namespace) -> None:
    """Images (a hundred different photographs of noise, linked), vectors, concepts and results."""
    rng = np.random.default_rng(0)
    images = folder / "images"
    images.mkdir()
    for i in range(100):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8))
        coarse.resize((400, 300), Image.Resampling.BICUBIC).save(images / f"{i}.jpg", quality=85)
    keys = [f"{i}.jpg" for i in range(asked.images)]
    for i in range(100, asked.images):
        (images / keys[i]).hardlink_to(images / f"{i % 100}.jpg")
    (folder / "keys.txt").write_text("".join(f"{key}\n" for key in keys))
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("key", "concept", "group"))
        for key, concepts in zip(keys, rng.integers(0, asked.concepts, (asked.images, 10)), strict=True):
            rows.writerows((key, f"concept {c}", f"group {c % 7}") for c in set(concepts.tolist()))
    store = folder / "store"
    run(store, "init")
    for i in range(asked.backbones):
        np.save(folder / "rows.npy", rng.normal(size=(asked.images, asked.dim)).astype(np.float32))
        where = ("--keys", folder / "keys.txt", "--dataset", "d", "--backbone", f"b{i}")
        run(store, "ingest", folder / "rows.npy", *where)
    run(store, "label", folder / "labels.csv", "--dataset", "d", "--concepts", "c")
    few = ("--niter", 2, "--epochs", 1, "--bootstrap", 10)
    run(store, "evaluate", "--dataset", "d", "-k", asked.clusters, *few)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbones", type=int, default=10)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--concepts", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=256)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fill(folder, asked)
        for name, more in (("with thumbnails", ("--images", folder / "images")), ("--no-images", ("--no-images",))):
            before = time.perf_counter()
            done = run(folder / "store", "report", "--dataset", "d", "-o", folder / "page.html", *more)
            took = time.perf_counter() - before
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
            print(
                f"{name}: {took:.1f} s, {done['bytes']:,} bytes, {done['n_backbones']} backbones, "
                f"{done['n_clusters']:,} clusters, {done['n_images']:,} pictures; largest process so far {peak:.2f} GB"
            )


if __name__ == "__main__":
    main()
