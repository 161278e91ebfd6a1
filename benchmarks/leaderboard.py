"""The leaderboard of a SQLite store with many results beside the same SQL by Python's sqlite3, from one run.

    python benchmarks/leaderboard.py                    # 1,000 results: 10 backbones × 100 seeds

Makes results of two seeds first, and their rows again for the others (not timed). Prints seconds, the median of
--repeat by turns, and the ratio; and what the whole command takes, Python's start included. catalog_load.py does the
same on Postgres.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from qrp_store.look import leaderboard
from qrp_store.store import open_store

QRP = str(Path(sys.executable).with_name("qrp-store"))
BARE = "SELECT * FROM leaderboard WHERE dataset = 'd' ORDER BY dataset, concepts, clusters, protocol, setting, rank"


def run(store: Path, *arguments: object) -> None:
    line = [QRP, *map(str, arguments), "--store", str(store), "--json", "--quiet"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def fill(folder: Path, backbones: int, seeds: int) -> Path:
    """A store with a result for every backbone and seed."""
    store = folder / "store"
    rng = np.random.default_rng(0)
    run(store, "init")
    for i in range(backbones):
        np.save(folder / "rows.npy", rng.normal(size=(100, 4)).astype(np.float32))
        run(store, "ingest", folder / "rows.npy", "--dataset", "d", "--backbone", f"b{i}")
    rows = [{"key": str(i), "concept": f"c{i % 5}"} for i in range(100)]
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(store, "label", folder / "labels.jsonl", "--dataset", "d", "--concepts", "c")
    few = ("-k", 4, "--niter", 2, "--epochs", 1, "--bootstrap", 2)
    run(store, "evaluate", "--dataset", "d", *few, "--seed", 0, 1)
    with closing(sqlite3.connect(store / "catalog.db")) as catalog, catalog:
        for i in range(1, seeds // 2):
            again(catalog, i)
    return store


def again(catalog: sqlite3.Connection, i: int) -> None:
    """The rows of the results of seeds 0 and 1 once more, of seeds 2i and 2i + 1."""
    pk, own = f"+ {i} * 1000000", "SELECT pk FROM artifact WHERE kind = 'result' AND pk < 1000000"
    changed = {
        "artifact": {
            "pk": f"pk {pk}",
            "id": f"id || '{i:04}'",
            "series": f"series || '/{i}'",
            "fingerprint": f"fingerprint || '{i}'",
            "state": "'writing'",
        },
        "result": {"artifact_pk": f"artifact_pk {pk}", "seed": f"seed + {2 * i}"},
        "result_concept_set": {"result_pk": f"result_pk {pk}"},
    }
    for table, new in changed.items():
        columns = [row[1] for row in catalog.execute(f"PRAGMA table_info({table})")]
        values = ", ".join(new.get(column, column) for column in columns)
        catalog.execute(f"INSERT INTO {table} SELECT {values} FROM {table} WHERE {next(iter(new))} IN ({own})")
    catalog.execute("UPDATE artifact SET state = 'ready' WHERE state = 'writing'")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("backbones", 10), ("seeds", 100), ("repeat", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        path = fill(Path(temporary), asked.backbones, asked.seeds)
        with open_store(str(path)) as store, closing(sqlite3.connect(path / "catalog.db")) as plain:
            ways: dict[str, Callable[[], object]] = {
                "qrp-store": lambda: leaderboard(store, "d").rows,
                "sqlite3": lambda: plain.execute(BARE).fetchall(),
            }
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(asked.repeat):
                for name, way in ways.items():
                    started = time.perf_counter()
                    way()
                    seconds[name].append(time.perf_counter() - started)
            ours, theirs = (statistics.median(seconds[name]) for name in ways)
            (n,) = plain.execute("SELECT count(*) FROM results").fetchone()
        started = time.perf_counter()
        run(path, "leaderboard", "--dataset", "d")
        whole = time.perf_counter() - started
        print(f"{n:,} results: leaderboard {ours:.4f} s, bare SQL {theirs:.4f} s, ratio {ours / theirs:.2f}")
        print(f"the whole command, Python's start included: {whole:.2f} s")


if __name__ == "__main__":
    main()
