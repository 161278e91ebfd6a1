"""What the plain tools take for the stages of the whole job, each timed at a stated size and scaled to ours."""

from __future__ import annotations

import csv
import itertools
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np


def beside(stages: Mapping[str, Any], array: Path, labels: Path, clusters: int) -> Iterator[str]:
    """A line for each stage that ran just now and has a plain counterpart."""
    if "ingest" in stages:
        yield _line("ingest", "copy and sha256 of the array", copied(array), stages["ingest"].seconds)
    if "label" in stages:
        n_labels = stages["label"].document["n_labels"]
        rows = min(n_labels, 1_000_000)
        theirs = csv_copied(labels, rows) * n_labels / rows
        yield _line("label", f"csv into sqlite3, {rows:,} rows", theirs, stages["label"].seconds)
    if "cluster" in stages:
        found = stages["cluster"].document
        rows = max(found["n_sampled"] // 10, 2 * clusters)
        theirs = faiss_trained(array, rows, clusters, 3) / (3 * rows) * 25 * found["n_sampled"]
        yield _line("cluster", f"faiss.Kmeans, {rows:,} rows, 3 iterations", theirs, found["timings"]["train_s"])
    if "evaluate laina2022" in stages:
        found = stages["evaluate laina2022"].document["results"][0]
        n = min(found["n_train"], 20_000)
        theirs = script_trained(n, found["n_concepts"], clusters) * found["n_train"] / n
        ours = found["timings"]["train_s"] / found["epochs_run"]
        yield _line("an epoch", f"DataLoader script, {n:,} samples", theirs, ours)


def _line(stage: str, tool: str, theirs: float, ours: float) -> str:
    return f"  {stage:10} {tool:44} {theirs:9.1f} s   ours {ours:9.1f} s   speed {theirs / ours:6.2f}"


def copied(array: Path) -> float:
    """Seconds of copying the array and reading its digest."""
    from ingest import copy_and_digest

    began = time.perf_counter()
    copy_and_digest(array)
    return time.perf_counter() - began


def csv_copied(labels: Path, rows: int) -> float:
    """Seconds of csv.reader into a SQLite table of text, by executemany."""
    path = labels.with_suffix(".db")
    path.unlink(missing_ok=True)
    began = time.perf_counter()
    with labels.open(newline="", encoding="utf-8") as file, closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE label (key TEXT, concept TEXT, concept_group TEXT)")
        read = itertools.islice(csv.reader(file), 1, rows + 1)
        connection.executemany("INSERT INTO label VALUES (?, ?, ?)", read)
    seconds = time.perf_counter() - began
    path.unlink()
    return seconds


def faiss_trained(array: Path, rows: int, k: int, niter: int) -> float:
    """Seconds of `faiss.Kmeans` on the first rows, in memory."""
    import faiss

    x = np.load(array, mmap_mode="r")[:rows].astype(np.float32)
    began = time.perf_counter()
    faiss.Kmeans(x.shape[1], k, niter=niter, max_points_per_centroid=rows, min_points_per_centroid=1).train(x)
    return time.perf_counter() - began


def script_trained(n: int, n_concepts: int, k: int) -> float:
    """Seconds of one epoch of the plain DataLoader script on so many samples."""
    from probe import generated, plain

    from qrp_store.options import ProbeOptions

    x, clusters = generated(n, n_concepts, k, 15)
    seconds, _ = plain(x, clusters, k, ProbeOptions(epochs=1))
    return seconds[0]
