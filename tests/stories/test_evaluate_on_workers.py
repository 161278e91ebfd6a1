"""`evaluate --scheduler`: whole probes on Dask workers give what one process gives, whatever happens to a worker."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qrp_store.evaluate import evaluate
from qrp_store.ingest import ingest
from qrp_store.label import label
from qrp_store.store import Store, create_store, open_store

N, GROUPS = 600, 5


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    rng = np.random.default_rng(0)
    group = rng.integers(GROUPS, size=N)
    create_store(str(tmp_path / "store"))
    with open_store(str(tmp_path / "store")) as store:
        for name, spread in (("sharp", 0.5), ("dull", 3.0)):
            np.save(tmp_path / f"{name}.npy", np.eye(GROUPS)[group] * 4 + rng.normal(size=(N, GROUPS)) * spread)
            ingest(store, str(tmp_path / f"{name}.npy"), dataset="d", backbone=name)
        lines = (f"{i},g{g}\n" for i, g in enumerate(group))
        (tmp_path / "labels.csv").write_text("key,concept\n" + "".join(lines))
        label(store, str(tmp_path / "labels.csv"), dataset="d", concepts="c")
        yield store


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster


NUMBERS = "nmi, nmi_ci_lo, nmi_ci_hi, cross_entropy_nats, train_loss, top1, best_epoch, p_value"


def numbers(store: Store) -> list[Any]:
    return [
        tuple(row.values())
        for row in store.sql(f"SELECT backbone, seed, version, {NUMBERS} FROM results ORDER BY 1, 2")
    ]


def test_two_workers_give_the_numbers_of_one_process_and_the_catalog_stays_here(store: Store, workers: Any) -> None:
    options: dict[str, Any] = {"dataset": "d", "k": 5, "seeds": (0, 1), "epochs": 3, "bootstrap": 20, "permutations": 2}
    here = evaluate(store, **options)
    assert not here.errors
    before = numbers(store)
    remote = evaluate(store, **options, scheduler=workers.scheduler_address, force=True)
    assert not remote.errors
    assert [row[:2] + row[3:] for row in numbers(store)] == [row[:2] + row[3:] for row in before]
    assert {row[2] for row in numbers(store)} == {2}
    assert all(
        result.cached for result in evaluate(store, **options, scheduler="tcp://127.0.0.1:9").results
    )  # nothing to do


def test_a_worker_killed_in_the_middle_changes_no_number(store: Store, workers: Any) -> None:
    options: dict[str, Any] = {
        "dataset": "d",
        "k": 5,
        "seeds": (0, 1, 2),
        "epochs": 60,
        "bootstrap": 200,
        "permutations": 8,
    }
    victim = next(iter(workers.workers.values()))
    evaluate(store, **{**options, "permutations": 0, "epochs": 1})  # the clusterings

    def kill() -> None:
        time.sleep(0.7)
        os.kill(victim.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    killed = evaluate(store, **options, scheduler=workers.scheduler_address)
    assert not killer.is_alive()  # it was in the middle
    assert not killed.errors
    one = numbers(store)
    again = evaluate(store, **options, force=True)
    assert not again.errors
    assert [row[:2] + row[3:] for row in numbers(store)] == [row[:2] + row[3:] for row in one]


def test_a_probe_that_fails_there_leaves_the_others(store: Store, workers: Any, tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text("key,concept\n0,x\n1,x\n")
    label(store, str(tmp_path / "few.csv"), dataset="d", concepts="few")
    options: dict[str, Any] = {"dataset": "d", "backbones": "sharp", "k": 5, "epochs": 2, "labelled_only": True}
    report = evaluate(store, **options, scheduler=workers.scheduler_address)
    assert [result.concepts for result in report.results] == ["c"]
    assert "has no sample left" in report.errors[0]["message"]
