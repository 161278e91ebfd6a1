"""kill -9 anywhere, then the same command: the same result, once, and nothing half-made ever shows."""

from __future__ import annotations

import csv
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

DRIVER = Path(__file__).with_name("crash_driver.py")
CATALOG = "qrp_store.catalog."
INGEST = [
    f"{CATALOG}datasets:stage_dataset:before:1",
    f"{CATALOG}bulk:insert:before:1",
    f"{CATALOG}bulk:insert:after:1",
    f"{CATALOG}datasets:stage_dataset:after:1",
    f"{CATALOG}datasets:stage_backbone:after:1",
    f"{CATALOG}lease:claim:before:1",
    f"{CATALOG}lease:claim:after:1",
    f"{CATALOG}embeddings:begin:before:1",
    f"{CATALOG}embeddings:begin:after:1",
    "qrp_store.arrays.arrays:create:before:1",
    "qrp_store.arrays.arrays:create:after:1",
    "qrp_store.arrays.directory:_write_all:after:1",
    "qrp_store.arrays.arrays:write_block:before:1",
    "qrp_store.arrays.arrays:write_block:after:2",
    f"{CATALOG}embeddings:record_blocks:before:1",
    f"{CATALOG}embeddings:record_blocks:after:2",
    f"{CATALOG}embeddings:commit:before:1",
    f"{CATALOG}datasets:publish_dataset:after:1",
    f"{CATALOG}lease:commit:before:1",
    f"{CATALOG}lease:commit:after:1",
    f"{CATALOG}embeddings:commit:after:1",
]
LABEL = [
    f"{CATALOG}lease:claim:after:1",
    f"{CATALOG}concept_sets:write:before:1",
    f"{CATALOG}bulk:clear:after:1",
    f"{CATALOG}bulk:insert:after:1",
    f"{CATALOG}bulk:insert:after:2",
    f"{CATALOG}lease:commit:after:1",
    f"{CATALOG}concept_sets:commit:after:1",
]
EVALUATE = [
    f"{CATALOG}lease:claim:after:1",
    "qrp_store.clustering.kmeans:kmeans:before:1",
    "qrp_store.clustering.kmeans:kmeans:after:1",
    "qrp_store.cluster.story:save_array:after:1",
    f"{CATALOG}bulk:insert:after:1",
    f"{CATALOG}bulk:insert:after:2",
    f"{CATALOG}lease:commit:after:1",
    f"{CATALOG}clusterings:commit:after:1",
    "qrp_store.evaluate.probe:run:before:1",
    "qrp_store.evaluate.probe:run:after:1",
    "qrp_store.evaluate.probe:save_weights:after:1",
    f"{CATALOG}results:commit:before:1",
    f"{CATALOG}lease:commit:before:1",
    f"{CATALOG}lease:commit:after:1",
    f"{CATALOG}results:commit:after:1",
]


class Work:
    """A folder with data, and the three commands that are killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(5)
        centres = rng.normal(size=(6, 16)) * 3
        self.group = rng.integers(6, size=900)
        np.save(folder / "x.npy", (centres[self.group] + rng.normal(size=(900, 16))).astype(np.float32))
        with (folder / "labels.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["key", "concept", "group"])
            writer.writerows((i, f"group {g}", "planted") for i, g in enumerate(self.group))
            writer.writerows((i, "odd", "other") for i in range(1, 900, 2))
        ingest = ["ingest", str(folder / "x.npy"), "--dataset", "d", "--backbone", "b", "--block-rows", "150"]
        label = ["label", str(folder / "labels.csv"), "--dataset", "d", "--concepts", "c"]
        evaluate = ["evaluate", "--dataset", "d", "-k", "8", "--epochs", "5", "--bootstrap", "50"]
        self.commands = {"ingest": ingest, "label": label, "evaluate": evaluate}

    def run(self, store: Path, name: str, point: str = "-", wait: float | None = None) -> int:
        """Run a command (killed at a point, or after some seconds); its exit code."""
        command = [sys.executable, str(DRIVER), point, "--", *self.commands[name], "--store", str(store), "--quiet"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            if wait is not None:
                try:
                    process.wait(wait)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
            said = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), said
        return process.returncode

    def call(self, store: Path, *arguments: str) -> None:
        command = [sys.executable, str(DRIVER), "-", "--", *arguments, "--store", str(store)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work(tmp_path_factory.mktemp("crash"))


@pytest.fixture(scope="module")
def undisturbed(work: Work) -> dict[str, object]:
    """What an uninterrupted run leaves."""
    store = work.folder / "undisturbed"
    work.call(store, "init")
    for name in work.commands:
        assert work.run(store, name) == 0
    return contents(store)


def rows(store: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(store / "catalog.db") as connection:
        return connection.execute(query).fetchall()


def contents(store: Path) -> dict[str, object]:
    """Everything that must not depend on what happened on the way: numbers, versions, checksums, rows."""
    queries = {
        "blocks": "SELECT number, first_row, n_rows, checksum FROM block ORDER BY number",
        "embeddings": "SELECT dataset, backbone, version, n, dim FROM embeddings",
        "samples": "SELECT position, key FROM sample JOIN dataset ON pk = dataset_pk AND state = 'ready'",
        "labels": "SELECT key, concept, concept_group FROM labels ORDER BY key, concept",
        "assignments": "SELECT key, cluster, part, version FROM assignments ORDER BY key",
        "results": "SELECT version, fingerprint, nmi, nmi_ci_lo, cross_entropy_nats, train_loss FROM results",
        "scores": "SELECT cluster, n_test, mi_nats, top_concept FROM cluster_scores ORDER BY cluster",
        "concepts": "SELECT cluster, rank, concept, weight, lift, n FROM cluster_concepts ORDER BY cluster, rank",
        "artifacts": "SELECT kind, version, state, fingerprint FROM artifact ORDER BY kind",
        "weights": "SELECT weights_checksum FROM result UNION ALL SELECT centroids_checksum FROM clustering",
    }
    return {name: rows(store, query) for name, query in queries.items()}


def shown(store: Path) -> int:
    """How many embeddings, concept sets and results a reader sees."""
    query = "SELECT (SELECT count(*) FROM embeddings) + (SELECT count(*) FROM results) + (SELECT count(*) FROM labels)"
    return int(str(rows(store, query)[0][0]))


def test_killed_at_every_named_point(work: Work, undisturbed: dict[str, object]) -> None:
    store = work.folder / "named"
    work.call(store, "init")
    for name, points in (("ingest", INGEST), ("label", LABEL), ("evaluate", EVALUATE)):
        before = shown(store)
        for point in points:
            assert work.run(store, name, point) == -signal.SIGKILL, f"{name} never reached {point}"
            if point != points[-1]:
                assert shown(store) == before, f"{name} killed at {point} left something half-made in sight"
        assert work.run(store, name) == 0
    assert contents(store) == undisturbed
    work.call(store, "verify", "--deep")


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.soak) for n in range(2, 18))])
def test_killed_at_random(work: Work, undisturbed: dict[str, object], seed: int) -> None:
    store = work.folder / f"random{seed}"
    work.call(store, "init")
    rng = random.Random(seed)
    for name in work.commands:
        began = time.monotonic()
        for _ in range(4):
            work.run(store, name, wait=rng.uniform(0.3, 2.5))
        assert work.run(store, name) == 0
        assert time.monotonic() - began < 300
    assert contents(store) == undisturbed
    work.call(store, "verify", "--deep")


def test_an_expired_owner_elsewhere_is_taken_over_on_a_new_path(work: Work, undisturbed: dict[str, object]) -> None:
    store = work.folder / "elsewhere"
    work.call(store, "init")
    assert work.run(store, "ingest", f"{CATALOG}embeddings:record_blocks:after:2") == -signal.SIGKILL
    with sqlite3.connect(store / "catalog.db") as connection:
        connection.execute("UPDATE artifact SET lease_host = 'elsewhere', lease_expires = 1")
    assert work.run(store, "ingest") == 0
    ((path, epoch),) = rows(store, "SELECT path, epoch FROM artifact")
    assert str(path).endswith("/e1")
    assert epoch == 1
    assert contents(store)["blocks"] == undisturbed["blocks"]
    work.call(store, "verify", "--deep")
