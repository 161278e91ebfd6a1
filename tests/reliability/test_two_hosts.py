"""Two machines of one name on one store, stopped and continued at random: one of each result, and no block replaced."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from qrp_store.maintenance.removal import verify
from qrp_store.store import create_store, open_store

HERE = Path(__file__).parent
SCRIPT = Path(sys.executable).with_name("qrp-store")


def machines(folder: Path) -> list[list[str]]:
    """What goes before a program so that it runs on the first or on the second machine, which share a hostname.

    Where nobody may mount over the kernel's boot id, both run on this one, and leases are made over by hand.
    """
    boot = folder / "boot"
    boot.write_text("00000000-0000-4000-8000-000000000000\n")
    other = [sys.executable, str(HERE / "other_machine.py"), str(boot), "--"]
    possible = subprocess.run([*other, "/bin/true"], capture_output=True).returncode == 0
    return [[], other if possible else []]


@pytest.mark.parametrize("rounds", [2, pytest.param(200, marks=pytest.mark.soak)])
def test_two_machines_of_one_name(lab: Any, tmp_path: Path, rounds: int, figure: Callable[[str], None]) -> None:
    url, where = str(tmp_path / "store"), machines(tmp_path)
    create_store(url)
    rng, taken_over, written = random.Random(4), 0, dict[str, bytes]()
    with open_store(url) as store:
        for number in range(rounds):
            line = [SCRIPT, *lab.ingest(number), "--store", url, "--json"]
            with (tmp_path / "log").open("w") as log:
                pair = [subprocess.Popen([*before, *map(str, line)], stdout=log, stderr=log) for before in where]
            stopped = set[int]()
            until = time.monotonic() + 120
            while any(process.poll() is None for process in pair):
                assert time.monotonic() < until, "they wait for each other"
                process = rng.choice(pair)
                if process.poll() is None:
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGCONT if process.pid in stopped else signal.SIGSTOP)
                        stopped ^= {process.pid}
                if rng.random() < 0.2:  # whoever sleeps now has slept for long: as after thirty seconds
                    for process in pair:  # one that sleeps in a transaction holds the database
                        if process.pid in stopped:
                            process.send_signal(signal.SIGCONT)
                    stopped.clear()
                    with store.catalog.write() as connection:
                        expired = (
                            "UPDATE artifact SET lease_expires = 1, lease_boot = 'another' WHERE state = 'writing'"
                        )
                        connection.exec_driver_sql(expired)
                if time.monotonic() > until - 60:
                    for process in pair:
                        process.send_signal(signal.SIGCONT)
                time.sleep(rng.random() * 0.2)
            codes = sorted(process.wait() for process in pair)
            assert codes in ([0, 0], [0, 5]), (tmp_path / "log").read_text()
            taken_over += codes == [0, 5]
            stored = store.embedding("d", f"b{number}").stored
            objects = {
                f"{stored.array.path}/c/{i}/0": store.arrays.get(f"{stored.array.path}/c/{i}/0") for i in range(4)
            }
            assert (store.embedding("d", f"b{number}")[:] == lab.rows * (number + 1)).all()
            assert [row["n"] for row in store.sql("SELECT count(*) AS n FROM embeddings")] == [number + 1]
            written |= objects
        assert all(store.arrays.get(path) == data for path, data in written.items())
        assert verify(store, deep=True).problems == ()
    kind = "two boot ids" if where[1] else "one boot id (nobody may mount here)"
    figure(f"{rounds} rounds of two machines of one name, {kind}: {taken_over} leases taken over, no block replaced")
