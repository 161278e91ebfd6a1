"""Dask workers that cannot get at the arrays: said at once, before anything is claimed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import LocalCluster

from qrp_store.cli.main import call
from qrp_store.ingest import ingest
from qrp_store.store import create_store, open_store


@contextmanager
def worker(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """A scheduler and one worker process in a folder of its own and an environment of its own; the address."""
    folder.mkdir()
    with LocalCluster(n_workers=0, processes=False, dashboard_address=None, protocol="tcp") as running:
        address = running.scheduler_address
        words = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen([*words, "--no-dashboard"], cwd=folder, env=environment, stdout=log, stderr=log)
            try:
                yield address
            finally:
                process.kill()
                process.wait()


def refused(address: str, arguments: list[str], capsys: Any) -> dict[str, str]:
    """The error of `cluster` on that scheduler, which must come quickly, with exit code 8 and nothing left behind."""
    began = time.monotonic()
    words = ["cluster", "--dataset", "d", "--backbone", "b", "-k", "5", "--normalize", "--scheduler", address, "--json"]
    assert call([*words, *arguments]) == 8
    assert time.monotonic() - began < 40
    error: dict[str, str] = json.loads(capsys.readouterr().out)["error"]
    assert call(["sql", "SELECT count(*) AS n FROM artifact WHERE kind = 'clustering'", "--json", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == [{"n": 0}]
    return error


def filled(catalog: str, arrays: str | None, folder: Path) -> None:
    create_store(catalog, arrays)
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32))
    with open_store(catalog, arrays) as store:
        ingest(store, str(folder / "x.npy"), dataset="d", backbone="b")


def test_a_worker_without_keys_for_the_bucket_is_named(
    tmp_path: Path, new_bucket: Callable[[], str], new_database: Callable[[], str], capsys: Any
) -> None:
    catalog, bucket = new_database(), new_bucket()
    filled(catalog, bucket, tmp_path)
    scrubbed = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with worker(tmp_path / "elsewhere", {**scrubbed, "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"]}) as address:
        error = refused(address, ["--store", catalog], capsys)
    assert error["message"].startswith("Dask worker tcp://")
    assert f"cannot read the arrays at {bucket}" in error["message"]
    assert "no keys for S3 in the environment" in error["message"]
    assert "the same S3 credentials in its environment" in error["hint"]
    assert "sEcReT-value" not in json.dumps(error)


def test_a_worker_without_the_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    here = "/proc/self/cwd/store"  # leads each process to its own folder
    filled(here, None, tmp_path)
    with worker(tmp_path / "elsewhere", dict(os.environ)) as address:
        error = refused(address, ["--store", here], capsys)
    assert error["message"].startswith("Dask worker tcp://")
    assert f"cannot read the arrays at {here}/arrays" in error["message"]
    assert "needs them at the same path" in error["hint"]
