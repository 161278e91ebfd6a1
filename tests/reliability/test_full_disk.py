"""A disk without any room left: an error and its code, a store that reads all the same, and the same end."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
DISK = HERE / "small_disk.py"
DRIVER = HERE.parent / "stories" / "crash_driver.py"
MODULES = ("qrp_store.ingest.story", "qrp_store.label.story", "qrp_store.cluster.story", "faiss", "zarr", "pyarrow.csv")
N = 4000


class Disk:
    """A file system of 16 MB, and a process that runs command lines on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, pipe = folder, subprocess.PIPE
        words = [sys.executable, str(DISK), str(folder), str(16 << 20), "--", sys.executable, str(DRIVER), "--serve"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "SQLITE_TMPDIR": str(folder)}
        self.server = subprocess.Popen([*words, *MODULES], stdin=pipe, stdout=pipe, text=True, env=env)
        self.seen = Path(f"/proc/{self.server.pid}/root{folder}")

    def run(self, *words: object) -> Any:
        """A command line's exit code and what it said."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        line = [*map(str, words), "--store", str(self.folder / "store")]
        print(json.dumps(["-", None, line]), file=self.server.stdin, flush=True)
        return json.loads(self.server.stdout.readline())

    def leave(self, room: int | None) -> None:
        """Fill it up to so many bytes; None: remove what filled it."""
        filler = self.seen / "filler"
        if room is None:
            filler.unlink()
            return
        with filler.open("ab", buffering=0) as file:
            found = os.statvfs(self.seen)
            file.write(bytes(max(0, found.f_bavail * found.f_frsize - room)))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk | None]:
    """A small disk; None where the kernel lets nobody mount one (the end of the run says so, tests/conftest.py)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run([sys.executable, DISK, folder, "4096"], capture_output=True).returncode:
        yield None
        return
    disk = Disk(folder)
    yield disk
    disk.server.communicate()


def test_a_disk_without_any_room_left_leaves_a_store_that_reads_and_goes_on(disk: Disk | None, tmp_path: Path) -> None:
    if disk is None:
        return  # test_interrupted.py fills one by a limit on the size of files, everywhere
    rng = np.random.default_rng(0)
    for name, dim in (("small", 8), ("large", 64)):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(N, dim)).astype(np.float32))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        rows = ((i, f"c{j}") for i in range(N) for j in range(12) if (i * 7 + j * 13) % 3)
        csv.writer(file).writerows([("key", "concept"), *rows])
    ingest = ["ingest", tmp_path / "large.npy", "--dataset", "d", "--backbone", "large", "--block-rows", 500, "--json"]
    label = ["label", tmp_path / "labels.csv", "--dataset", "d", "--concepts", "c", "--json"]
    cluster = ["cluster", "--dataset", "d", "--backbone", "small", "-k", 4, "--workers", 1, "--json"]
    count = ["sql", "SELECT count(*) FROM embeddings", "--format", "csv"]
    sort = ["sql", "SELECT a.key FROM sample a, block ORDER BY hex(randomblob(200)) LIMIT 1 OFFSET 4000"]

    def fails(words: list[object]) -> None:
        said = disk.run(*words)
        assert (said["code"], "unavailable" in said["out"] or "error:" in said["out"]) == (8, True), said
        assert "Traceback" not in said["out"]
        assert "room" in said["out"] or "free space" in said["out"]

    assert disk.run("init")["code"] == 0
    for name in ("small", "spare"):
        assert disk.run("ingest", tmp_path / "small.npy", "--dataset", "d", "--backbone", name)["code"] == 0
    assert disk.run("rm", "d/spare", "--yes")["code"] == 0
    disk.leave(400_000)  # of a million bytes in eight blocks
    fails(ingest)
    disk.leave(100_000)  # a transaction of labels has more
    fails(label)
    disk.leave(0)
    for words in (["ls"], ["ls", "jobs"], ["leaderboard"], ["show", "d"], ["verify", "--deep"]):
        said = disk.run(*words)
        assert said["code"] == 0, (words, said)
    assert disk.run(*count)["out"].split() == ["count(*)", "1"]
    for words in (ingest, label, cluster, sort):
        fails(words)
    assert disk.run("gc")["code"] == 0  # deletes what was retired, and so has room to write that down
    assert disk.run("ls", "jobs")["code"] == 0
    disk.leave(None)
    assert disk.run(*sort)["code"] == 0
    again = json.loads(disk.run(*ingest)["out"])
    assert again["blocks"]["reused"] >= 1
    assert json.loads(disk.run(*label)["out"])["n_labels"] == N * 8
    assert disk.run(*cluster)["code"] == 0
    assert disk.run(*count)["out"].split() == ["count(*)", "2"]
    assert disk.run("verify", "--deep")["code"] == 0
