"""Data, crowds of processes, and what must be the same whatever happened on the way."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qrp_store.store import Store

HERE = Path(__file__).parent
STORIES = (
    "qrp_store.ingest.story",
    "qrp_store.label.story",
    "qrp_store.cluster.story",
    "faiss",
    "zarr",
    "alembic.command",
)
TORCH = ("qrp_store.evaluate", "qrp_store.probing.controls")
DRIVER = HERE.parent / "stories" / "crash_driver.py"


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """One thread a process: a crowd has enough of them."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **(more or {})}


Crowds = dict[tuple[str, ...], "subprocess.Popen[str]"]


class Lab:
    """Arrays and labels of `n` samples, the command lines that take them in, and processes that run those."""

    def __init__(self, folder: Path, crowds: Crowds, n: int = 400, dim: int = 8) -> None:
        self.folder, self.n, self._crowds = folder, n, crowds
        rng = np.random.default_rng(11)
        self.group = rng.integers(4, size=n)
        self.rows = (rng.normal(size=(4, dim))[self.group] * 3 + rng.normal(size=(n, dim))).astype(np.float32)
        with (folder / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("key", "concept"), *((i, f"g{g}") for i, g in enumerate(self.group))])

    def ingest(self, number: int = 0, *more: object) -> list[object]:
        """Ingest the rows times a number, as backbone b0, b1, …"""
        path = self.folder / f"x{number}.npy"
        if not path.exists():
            np.save(path, self.rows * (number + 1))
        return ["ingest", path, "--dataset", "d", "--backbone", f"b{number}", "--block-rows", "100", *more]

    @property
    def label(self) -> list[object]:
        return ["label", self.folder / "labels.csv", "--dataset", "d", "--concepts", "c"]

    @property
    def cluster(self) -> list[object]:
        return ["cluster", "--dataset", "d", "--backbone", "b0", "-k", "6", "--workers", "1"]

    @property
    def evaluate(self) -> list[object]:
        return ["evaluate", "--dataset", "d", "-k", "6", "--epochs", "3", "--bootstrap", "20"]

    def crowd(
        self, lines: Sequence[Sequence[object]], *modules: str, env: Mapping[str, str] | None = None
    ) -> list[Any]:
        """Run command lines started at the same moment; each one's code, out and err."""
        words = [[str(word) for word in line] for line in lines]
        own = modules or STORIES
        if own not in self._crowds:
            program, pipe = [sys.executable, str(HERE / "crowd.py"), *own], subprocess.PIPE
            self._crowds[own] = subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True, env=environment())
        running = self._crowds[own]
        assert running.stdin is not None
        assert running.stdout is not None
        print(json.dumps([environment(env), words]), file=running.stdin, flush=True)
        return list(json.loads(running.stdout.readline()))

    def command(self, line: Sequence[object], *, point: str = "-", env: Mapping[str, str] | None = None) -> Any:
        """A command line as a process, started; `point` as crash_driver.py takes it."""
        words = [sys.executable, str(DRIVER), point, "--", *map(str, line)]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment(env))

    def contents(self, store: Store) -> dict[str, list[tuple[Any, ...]]]:
        """Every number, version and checksum that a reader sees."""
        queries = {
            "embeddings": "SELECT dataset, backbone, version, n, dim FROM embeddings ORDER BY 1, 2, 3",
            "blocks": "SELECT a.name, number, checksum FROM block JOIN artifact a ON a.pk = embedding_pk "
            "WHERE a.state = 'ready' ORDER BY 1, 2",
            "labels": "SELECT concepts, version, key, concept FROM labels ORDER BY 1, 2, 3, 4",
            "assignments": "SELECT backbone, version, key, cluster, part FROM assignments ORDER BY 1, 2, 3",
            "results": "SELECT backbone, version, fingerprint, nmi, train_loss FROM results ORDER BY 1, 2",
        }
        return {name: store.sql(query).table.rows for name, query in queries.items()}


@pytest.fixture(scope="session")
def crowds() -> Iterator[Crowds]:
    """The processes that run crowds, by what they have imported: started once for all tests."""
    running: Crowds = {}
    yield running
    for process in running.values():
        process.communicate()


@pytest.fixture
def lab(tmp_path: Path, crowds: Crowds) -> Lab:
    (tmp_path / "data").mkdir()
    return Lab(tmp_path / "data", crowds)
