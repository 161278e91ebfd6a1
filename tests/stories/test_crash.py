"""kill -9 anywhere, then the same command: the same result, once, and nothing half-made ever shows."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from qrp_store.maintenance.removal import verify
from qrp_store.store import create_store, open_store

DRIVER = Path(__file__).with_name("crash_driver.py")
MODULES = ("qrp_store.ingest.story", "qrp_store.label.story", "qrp_store.cluster.story", "qrp_store.evaluate.story")
LIBRARIES = ("qrp_store.probing.controls", "faiss", "zarr", "sqlalchemy", "psycopg", "pyarrow.csv")
CATALOG = "qrp_store.catalog."
INGEST = [
    f"{CATALOG}entities.datasets:stage_dataset:before:1",
    f"{CATALOG}database.bulk:insert:before:1",
    f"{CATALOG}database.bulk:insert:after:1",
    f"{CATALOG}entities.datasets:stage_dataset:after:1",
    f"{CATALOG}entities.datasets:stage_backbone:after:1",
    f"{CATALOG}lifecycle.lease:claim:before:1",
    f"{CATALOG}lifecycle.lease:claim:after:1",
    f"{CATALOG}entities.embeddings:begin:before:1",
    f"{CATALOG}entities.embeddings:begin:after:1",
    "qrp_store.arrays.blocked:create:before:1",
    "qrp_store.arrays.blocked:create:after:1",
    "qrp_store.arrays.directory:_write_all:after:1",
    "qrp_store.arrays.blocked:write_block:before:1",
    "qrp_store.arrays.blocked:write_block:after:2",
    f"{CATALOG}entities.embeddings:record_blocks:before:1",
    f"{CATALOG}entities.embeddings:record_blocks:after:2",
    f"{CATALOG}entities.embeddings:commit:before:1",
    f"{CATALOG}entities.datasets:publish_dataset:after:1",
    f"{CATALOG}lifecycle.lease:commit:before:1",
    f"{CATALOG}lifecycle.lease:commit:after:1",
    f"{CATALOG}entities.embeddings:commit:after:1",
]
LABEL = [
    f"{CATALOG}lifecycle.lease:claim:after:1",
    f"{CATALOG}entities.concept_sets:write:before:1",
    f"{CATALOG}database.bulk:clear:after:1",
    f"{CATALOG}database.bulk:insert:after:1",
    f"{CATALOG}database.bulk:insert:after:2",
    f"{CATALOG}lifecycle.lease:commit:after:1",
    f"{CATALOG}entities.concept_sets:commit:after:1",
]
CLUSTER = [
    f"{CATALOG}lifecycle.lease:claim:after:1",
    "qrp_store.kmeans.lloyd:kmeans:before:1",
    "qrp_store.cluster.checkpoint:Checkpoint.save:before:1",
    "qrp_store.cluster.checkpoint:Checkpoint.save:after:1",
    "qrp_store.kmeans.lloyd:kmeans:after:1",
    "qrp_store.cluster.story:save_array:after:1",
    f"{CATALOG}entities.clusterings:write:before:1",
    f"{CATALOG}database.bulk:clear:after:1",
    f"{CATALOG}database.bulk:insert:after:1",
    f"{CATALOG}database.bulk:insert:after:2",
    f"{CATALOG}lifecycle.lease:commit:before:1",
    f"{CATALOG}lifecycle.lease:commit:after:1",
    f"{CATALOG}entities.clusterings:commit:after:1",
]
EVALUATE = [  # which clusters first: with another seed than the command `cluster`
    f"{CATALOG}lifecycle.lease:claim:after:1",
    "qrp_store.kmeans.lloyd:kmeans:before:1",
    "qrp_store.kmeans.lloyd:kmeans:after:1",
    f"{CATALOG}database.bulk:insert:after:2",
    f"{CATALOG}entities.clusterings:commit:after:1",
    "qrp_store.evaluate.probe:prepare:after:1",
    "qrp_store.evaluate.probe:conclude:after:1",
    "qrp_store.evaluate.probe:save_weights:after:1",
    f"{CATALOG}entities.results:commit:before:1",
    f"{CATALOG}lifecycle.lease:commit:before:1",
    f"{CATALOG}lifecycle.lease:commit:after:1",
    f"{CATALOG}entities.results:commit:after:1",
]
POINTS = {"ingest": INGEST, "label": LABEL, "cluster": CLUSTER, "evaluate": EVALUATE}


class Work:
    """A folder with data, the four commands that are killed, and a process that runs them in forks of itself."""

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
        cluster = ["cluster", "--dataset", "d", "--backbone", "b", "-k", "8", "--seed", "1", "--workers", "1"]
        evaluate = ["evaluate", "--dataset", "d", "-k", "8", "--epochs", "5", "--bootstrap", "50", "--workers", "1"]
        self.commands = {"ingest": ingest, "label": label, "cluster": cluster, "evaluate": evaluate}
        self.seconds = dict.fromkeys(self.commands, 1.0)
        pipe = subprocess.PIPE
        words = [sys.executable, str(DRIVER), "--serve", *MODULES, *LIBRARIES]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.server = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=env)

    def run(self, store: str, name: str, point: str = "-", wait: float | None = None) -> int:
        """Run a command (killed at a point, or after some seconds); its exit code."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        line = [*self.commands[name], "--store", store, "--quiet"]
        print(json.dumps([point, wait, line]), file=self.server.stdin, flush=True)
        said = json.loads(self.server.stdout.readline())
        assert said["code"] in (0, -signal.SIGKILL), said
        return int(said["code"])


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    work = Work(tmp_path_factory.mktemp("crash"))
    yield work
    work.server.communicate()


@pytest.fixture(scope="module")
def undisturbed(work: Work) -> dict[str, object]:
    """What an uninterrupted run leaves; how long each command takes is kept, too."""
    store = str(work.folder / "undisturbed")
    create_store(store)
    for name in work.commands:
        began = time.monotonic()
        assert work.run(store, name) == 0
        work.seconds[name] = time.monotonic() - began
    return contents(store)


@pytest.fixture(params=["directory", "postgres"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes empty stores of a kind."""
    numbers = iter(range(1000))

    def make() -> str:
        place = tmp_path / str(next(numbers))
        if request.param == "directory":
            create_store(str(place))
            return str(place)
        new_database: Callable[[], str] = request.getfixturevalue("new_database")
        create_store(url := new_database(), str(place))
        return url

    return make


def contents(store: str) -> dict[str, object]:
    """Everything that must not depend on what happened on the way: numbers, versions, checksums, rows."""
    queries = {
        "blocks": "SELECT number, first_row, n_rows, checksum FROM block",
        "embeddings": "SELECT dataset, backbone, version, n, dim FROM embeddings",
        "samples": "SELECT position, key FROM sample JOIN dataset ON pk = dataset_pk AND state = 'ready'",
        "labels": "SELECT key, concept, concept_group FROM labels",
        "assignments": "SELECT seed, key, cluster, part, version FROM assignments",
        "results": "SELECT version, fingerprint, nmi, nmi_ci_lo, cross_entropy_nats, train_loss FROM results",
        "scores": "SELECT cluster, n_test, mi_nats, top_concept FROM cluster_scores",
        "concepts": "SELECT cluster, rank, concept, weight, lift, n FROM cluster_concepts",
        "artifacts": "SELECT kind, version, state, fingerprint FROM artifact",
        "weights": "SELECT weights_checksum FROM result UNION ALL SELECT centroids_checksum FROM clustering",
    }
    with open_store(store) as opened:
        return {name: sorted(opened.sql(query).table.rows) for name, query in queries.items()}


def shown(store: str) -> list[tuple[object, ...]]:
    """How many embeddings, labels, assignments and results a reader sees; evaluate's own clustering aside, which is a
    thing by itself and ready before the result is."""
    views = ("embeddings", "labels", "assignments WHERE seed = 1", "results")
    with open_store(store) as opened:
        return opened.sql(f"SELECT {', '.join(f'(SELECT count(*) FROM {view})' for view in views)}").table.rows


def require_whole(store: str) -> None:
    with open_store(store) as opened:
        assert verify(opened, deep=True).problems == ()


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.soak)])
def test_killed_at_every_named_point(
    work: Work, undisturbed: dict[str, object], empty: Callable[[], str], every: int, figure: Callable[[str], None]
) -> None:
    store = empty()
    first = every // 2 if "://" in store else 0  # a share in every run of the tests: others on each database
    killed = 0
    for name, every_point in POINTS.items():
        points = [*every_point[first:-1:every], every_point[-1]]
        before = shown(store)
        for point in points:
            assert work.run(store, name, point) == -signal.SIGKILL, f"{name} never reached {point}"
            if point != points[-1]:
                assert shown(store) == before, f"{name} killed at {point} left something half-made in sight"
        killed += len(points)
        assert work.run(store, name) == 0
    assert contents(store) == undisturbed
    require_whole(store)
    figure(f"killed at {killed} named points on {'Postgres' if '://' in store else 'SQLite'}: the same store")


@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=pytest.mark.soak)])
def test_killed_at_random(
    work: Work, undisturbed: dict[str, object], empty: Callable[[], str], kills: int, figure: Callable[[str], None]
) -> None:
    rng, killed, stores = random.Random(kills), 0, 0
    while killed < kills:
        store, stores = empty(), stores + 1
        for name in work.commands:
            for _ in range(5):  # a command that was done before its moment came is not asked again
                if work.run(store, name, wait=rng.uniform(0, work.seconds[name])) == 0:
                    break
                killed += 1
            assert work.run(store, name) == 0
        assert contents(store) == undisturbed
        require_whole(store)
    where = "Postgres" if "://" in store else "SQLite"
    figure(f"{killed} kill -9 at random in {stores} stores on {where}: the same store each time")


def test_an_expired_owner_elsewhere_is_taken_over_on_a_new_path(
    work: Work, undisturbed: dict[str, object], empty: Callable[[], str]
) -> None:
    store = empty()
    assert work.run(store, "ingest", f"{CATALOG}entities.embeddings:record_blocks:after:2") == -signal.SIGKILL
    with open_store(store) as opened, opened.catalog.write() as connection:
        connection.exec_driver_sql("UPDATE artifact SET lease_host = 'elsewhere', lease_expires = 1")
    assert work.run(store, "ingest") == 0
    with open_store(store) as opened:
        ((path, epoch),) = opened.sql("SELECT path, epoch FROM artifact").table.rows
    assert str(path).endswith("/e1")
    assert epoch == 1
    assert contents(store)["blocks"] == undisturbed["blocks"]
    require_whole(store)
