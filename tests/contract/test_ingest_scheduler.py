"""`ingest --scheduler`: worker processes make the blocks; when one is killed in the middle the others finish."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BLOCKS = "SELECT number, checksum, n_bytes FROM block JOIN artifact ON pk = embedding_pk WHERE name = ? ORDER BY number"


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler's address, and two workers in processes of their own that nobody starts again."""
    found = tmp_path / "scheduler.json"
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    program = [sys.executable, "-m", "dask"]
    where = ["--scheduler-file", str(found)]
    scheduler = subprocess.Popen([*program, "scheduler", *where, "--port", "0", "--no-dashboard"], **quiet)
    one = [*program, "worker", *where, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    running = [subprocess.Popen([*one, "--local-directory", str(tmp_path / n)], **quiet) for n in "ab"]
    try:
        until(lambda: found.is_file() and found.stat().st_size > 0)
        address = json.loads(found.read_text())["address"]
        from distributed import Client

        with Client(address) as client:
            client.wait_for_workers(2, timeout=60)
        yield address, running
    finally:
        for process in (*running, scheduler):
            process.kill()
            process.wait()


def test_a_worker_killed_midway_changes_no_byte(
    qrp: Any, store: Path, files: Any, sql: Any, workers: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    address, (doomed, _) = workers
    rows = files.array(np.random.default_rng(3).normal(size=(1500, 4)).astype(np.float32))
    told = qrp.ok("ingest", rows, "--dataset", "d", "--backbone", "alone", "--block-rows", 2, store=store)
    words = ["--dataset", "d", "--backbone", "there", "--block-rows", "2", "--scheduler", address, "--json"]
    line = [qrp.script, "ingest", rows, *words, "--store", store]
    pipe = subprocess.PIPE
    with subprocess.Popen([str(w) for w in line], stdout=pipe, stderr=pipe, text=True) as command:
        until(lambda: command.poll() is not None or len(sql(store, BLOCKS, "d/there")) >= 20)
        os.kill(doomed.pid, signal.SIGKILL)
        assert command.poll() is None, command.communicate()
        out, err = command.communicate(timeout=120)
    assert command.returncode == 0, (out, err)
    assert "Traceback" not in err
    there, alone = sql(store, BLOCKS, "d/there"), sql(store, BLOCKS, "d/alone")
    assert len(there) == told["blocks"]["total"] == 750
    assert there == alone
    qrp.ok("verify", "--deep", store=store)
