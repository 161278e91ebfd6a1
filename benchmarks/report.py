"""How long a report of many backbones takes, how large it is, how much memory it needs, and how soon it is open.

    python benchmarks/report.py                         # 10 backbones × 1,000 clusters of 50,000 images of 400 × 300
    python benchmarks/report.py --images 5000 --clusters 100 --backbones 3

Makes a store of random vectors first (not timed): K-means of two iterations, a probe of one epoch. The peak is that of
the reporting process alone. Opening is timed where Chromium and its driver are: until the page's script has drawn the
clusters, the median of five, beside an empty page.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
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


def measured(store: Path, *arguments: object) -> tuple[dict[str, object], float, float]:
    """One command's JSON, its seconds, and the most memory that it held, in GB."""
    line = [QRP, *map(str, arguments), "--store", str(store), "--json", "--quiet"]
    before = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, subprocess.Popen(line, stdout=out) as running:
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
        assert running.returncode == 0
        took = time.perf_counter() - before
        out.seek(0)
        return json.load(out), took, used.ru_maxrss / 1e6


def opening(page: Path) -> tuple[float, float] | None:
    """Seconds until Chromium shows the page's clusters, and those of an empty page; None without Chromium."""
    driver = shutil.which("chromedriver")
    if driver is None:
        return None
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    empty = page.with_name("empty.html")
    empty.write_text("<!doctype html><title>nothing</title>")
    browser = webdriver.Chrome(options, Service(driver))
    try:
        seconds: dict[Path, list[float]] = {page: [], empty: []}
        for path in (page, empty) * 5:
            browser.get("about:blank")
            before = time.perf_counter()
            browser.get(path.as_uri())
            browser.execute_script("return document.querySelectorAll('#cards .card').length")
            seconds[path].append(time.perf_counter() - before)
    finally:
        browser.quit()
    return statistics.median(seconds[page]), statistics.median(seconds[empty])


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
            page = folder / "page.html"
            done, took, peak = measured(folder / "store", "report", "--dataset", "d", "-o", page, *more)
            print(
                f"{name}: {took:.1f} s, {done['bytes']:,} bytes, {done['n_backbones']} backbones, "
                f"{done['n_clusters']:,} clusters, {done['n_images']:,} pictures; peak {peak:.2f} GB"
            )
            opened = opening(page)
            if opened is not None:
                print(f"  opens in {opened[0]:.2f} s (an empty page in {opened[1]:.2f} s)")


if __name__ == "__main__":
    main()
