"""A network that answers 503, cuts connections, loses replies and is slow: the same store in the end."""

from __future__ import annotations

import http.client
import itertools
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from qrp_store.maintenance.removal import verify
from qrp_store.store import create_store, open_store


@contextmanager
def faulty_http(upstream: str, rate: float, seed: int) -> Iterator[tuple[str, list[str]]]:
    """A proxy that spoils a share of the requests; its URL, and what it did."""
    rng, lock = random.Random(seed), threading.Lock()
    done: list[str] = []
    kinds = itertools.cycle(("503", "cut", "lost", "slow"))
    target = urlsplit(upstream).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                fault = next(kinds) if rng.random() < rate else ""
                done.append(fault)
            if fault == "503":
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault == "cut":
                self._hang_up()
                return
            if fault == "slow":
                time.sleep(0.2)
            connection = http.client.HTTPConnection(target, timeout=30)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            data = answer.read()
            if fault == "lost":
                self._hang_up()
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "content-length", "connection", "server", "date"):
                    self.send_header(name, value)
            head = self.command == "HEAD"
            self.send_header("Content-Length", str(answer.getheader("Content-Length") if head else len(data)))
            self.end_headers()
            self.wfile.write(data)
            connection.close()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

        def _hang_up(self) -> None:
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", done
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def faulty_tcp(path: str, most: int, seed: int) -> Iterator[tuple[int, list[int]]]:
    """A port before a Unix socket whose connections are cut once so many bytes have come back, mostly mid-reply."""
    rng = random.Random(seed)
    cuts: list[int] = []
    served: list[threading.Thread] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def relay(source: socket.socket, sink: socket.socket, budget: float) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                if len(data) > budget:
                    cuts.append(len(data))
                    break
                budget -= len(data)
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def both_ways(client: socket.socket, budget: int) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(path)
            asking = threading.Thread(target=relay, args=(client, server, float("inf")), daemon=True)
            asking.start()
            relay(server, client, budget)
            asking.join()

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                served.append(threading.Thread(target=both_ways, args=(client, rng.randrange(1500, most)), daemon=True))
                served[-1].start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], cuts
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for running in (thread, *served):
            running.join()


def undisturbed(lab: Any, store: Path) -> Any:
    """What the same commands leave in peace."""
    create_store(str(store))
    assert [s["code"] for s in (lab.crowd([[*line, "--store", store]])[0] for line in lines(lab))] == [0, 0, 0]
    with open_store(str(store)) as opened:
        return lab.contents(opened)


def lines(lab: Any) -> list[list[object]]:
    return [lab.ingest(), lab.label, lab.cluster]


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.soak)])
def test_a_bucket_behind_a_faulty_network(
    lab: Any,
    tmp_path: Path,
    new_moto_bucket: Callable[[], str],
    moto_server: str,
    rounds: int,
    figure: Callable[[str], None],
) -> None:
    wanted = undisturbed(lab, tmp_path / "peace")
    for seed in range(rounds):
        bucket, store = new_moto_bucket(), tmp_path / f"store{seed}"
        create_store(str(store), bucket)
        with faulty_http(moto_server, 0.4, seed) as (url, done):
            for line in lines(lab):
                (said,) = lab.crowd([[*line, "--store", store]], env={"AWS_ENDPOINT_URL": url})
                assert said["code"] == 0, (said, done)
        assert set(done) == {"", "503", "cut", "lost", "slow"}
        with open_store(str(store)) as opened:
            assert lab.contents(opened) == wanted
            assert verify(opened, deep=True).problems == ()
    figure(f"{rounds} stores in a bucket that spoiled four requests in ten: the same store")


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.soak)])
def test_a_database_behind_a_network_that_cuts_connections(
    lab: Any, tmp_path: Path, new_database: Callable[[], str], rounds: int, figure: Callable[[str], None]
) -> None:
    wanted = undisturbed(lab, tmp_path / "peace")
    cut = 0
    for seed in range(rounds):
        url = new_database()
        create_store(url, str(tmp_path / f"arrays{seed}"))
        parts = urlsplit(url)
        where = dict(pair.split("=", 1) for pair in parts.query.split("&"))["host"]
        with faulty_tcp(f"{where}/.s.PGSQL.5432", 40_000, seed) as (port, cuts):
            through = f"postgresql://postgres:@127.0.0.1:{port}{parts.path}"
            for line in lines(lab):
                for _ in range(30):
                    (said,) = lab.crowd([[*line, "--store", through, "--json"]])
                    assert said["code"] in (0, 5, 8), said
                    assert "Traceback" not in said["err"]
                    if said["code"] == 0:
                        break
                else:
                    pytest.fail(f"never done: {said}")
            cut += len(cuts)
        with open_store(url) as opened:
            assert lab.contents(opened) == wanted
            assert verify(opened, deep=True).problems == ()
    assert cut
    figure(f"{rounds} stores on a Postgres, {cut} connections to it cut: the same store")
