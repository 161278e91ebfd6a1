"""Whatever fails with --json holds `error`; odd environments, arguments and outputs get an answer, no traceback."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WHERE = ("--dataset", "photos", "--backbone", "sharp")


def error_of(ran: Any) -> dict[str, Any]:
    error: dict[str, Any] = ran.json["error"]
    assert set(error) == {"kind", "message", "hint"}
    assert error["message"]
    return error


def test_what_fails_in_part_holds_the_first_error_beside_the_results(
    qrp: Any, own: Path, files: Any, world: Any
) -> None:
    words = ("--keys", files.keys(world.keys), "--dataset", "photos", "--backbone", "constant")
    qrp.ok("ingest", files.array(np.ones((400, 2), np.float32)), *words, store=own)
    asked = ("evaluate", "--dataset", "photos", "-k", 6, "--epochs", 1, "--bootstrap", 9, "--concepts", "objects")
    ran = qrp.run(*asked, "--json", store=own)
    assert ran.code == 4
    assert len(ran.json["results"]) == 4
    assert error_of(ran)["message"] == ran.json["errors"][0]["message"]
    assert "error" not in qrp.ok(*asked, "--backbone", "sharp", store=own)


def test_verify_and_repair_say_what_is_damaged(qrp: Any, own: Path) -> None:
    assert "error" not in qrp.ok("verify", store=own)
    for path in (own / "arrays" / "embedding").rglob("*"):
        if path.is_file() and path.name != "zarr.json":
            path.unlink()
    ran = qrp.run("verify", "--json", store=own)
    assert (ran.code, error_of(ran)["kind"]) == (6, "corrupt")
    assert ran.json["problems"][0]["problem"] in error_of(ran)["message"]
    ran = qrp.run("doctor", "--json", "--store", own / "nowhere")
    assert (ran.code, error_of(ran)["kind"]) == (3, "not_found")


def test_what_is_named_twice_is_done_once(qrp: Any, world: Any) -> None:
    asked = ("evaluate", "--dataset", "photos", "--epochs", 4, "--bootstrap", 50)
    twice = ("-k", 6, 6, "--seed", 0, 0, "--backbone", "sharp", "sharp", "--concepts", "objects", "objects")
    (result,) = qrp.ok(*asked, *twice, store=world.store)["results"]
    versions = ("-k", 6, "--backbone", "sharp", "sharp@1", "--concepts", "objects", "objects@1")
    clusterings = ("--clustering", result["clustering_id"], result["clustering_id"][:12], "--concepts", "objects")
    for words in (versions, clusterings):
        assert [r["id"] for r in qrp.ok(*asked, *words, store=world.store)["results"]] == [result["id"]]


@pytest.mark.parametrize("command", ["cluster", "evaluate"])
def test_a_seed_that_no_database_holds_is_exit_4(qrp: Any, world: Any, command: str) -> None:
    assert "--seed" in qrp.run(command, *WHERE, "-k", 3, "--seed", 2**70, "--json", store=world.store).out
    assert qrp.run(command, *WHERE, "-k", 3, "--seed", 2**70, store=world.store).code == 4


def test_an_imported_grouping_reports_like_a_clustering(qrp: Any, own: Path, files: Any) -> None:
    words = ("cluster", "--dataset", "photos", "--import", files.array(np.arange(400) % 5), "--name", "human")
    for cached in (False, True):
        report = qrp.ok(*words, store=own)
        assert report["cached"] == cached
        assert set(report["timings"]) == {"read_s", "train_s", "assign_s", "total_s"}
        assert report["timings"]["total_s"] > 0
        assert report["peak_rss_bytes"] > 1 << 20


BYTES = os.fsdecode(b"\xff")


@pytest.mark.parametrize(
    "words", [("show", BYTES), ("leaderboard", "--dataset", BYTES), ("evaluate", "--dataset", BYTES), ("sql", BYTES)]
)
def test_an_argument_that_is_no_unicode_is_exit_4(qrp: Any, world: Any, words: tuple[str, ...]) -> None:
    assert "Unicode" in qrp.fails(4, *words, store=world.store)


def test_a_terminal_is_told_no_control_characters(qrp: Any, world: Any) -> None:
    assert "\x1b" not in qrp.run("show", "\x1b[31mred", store=world.store).err


def plainly(qrp: Any, *words: object, **how: Any) -> subprocess.CompletedProcess[str]:
    """The script in a process of its own, which closes and shares its streams like a shell's."""
    return subprocess.run([str(qrp.script), *map(str, words)], stderr=subprocess.PIPE, text=True, check=False, **how)


def test_a_full_disk_under_stdout_is_exit_8_without_a_traceback(qrp: Any, world: Any) -> None:
    with Path("/dev/full").open("w") as full:
        for words in (("ls",), ("ls", "--json"), ("show", "nothing", "--json")):
            ran = plainly(qrp, *words, "--store", world.store, stdout=full)
            assert ran.returncode == (3 if "nothing" in words else 8)
            assert "Traceback" not in ran.stderr


def test_a_closed_stdout_is_exit_8_and_a_closed_stderr_changes_nothing(qrp: Any, world: Any) -> None:
    shell = ("sh", "-c", '"$@" --store "$0" ls datasets >&-', world.store, qrp.script)
    ran = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (8, "")
    assert "error: stdout cannot be written" in ran.stderr
    shell = ("sh", "-c", '"$@" --store "$0" show nothing 2>&-', world.store, qrp.script)
    ran = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, "", "")


def test_a_bare_environment_will_do(qrp: Any, world: Any) -> None:
    ran = plainly(qrp, "ls", "datasets", "--store", world.store, stdout=subprocess.PIPE, env={"LC_ALL": "C"})
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "photos" in ran.stdout


def unprivileged(qrp: Any, *words: object) -> subprocess.CompletedProcess[str]:
    """As somebody whom the permissions of files bind, which they do not bind root."""
    bound = ("setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search")
    command = [*(bound if os.geteuid() == 0 else ()), str(qrp.script), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_store_that_one_may_only_read_can_be_looked_at(qrp: Any, own: Path, tmp_path: Path) -> None:
    before = sorted(p.relative_to(own) for p in own.rglob("*"))
    everything = [own, *own.rglob("*")]
    for path in everything:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        page = ("report", "--dataset", "photos", "--no-images", "--quiet", "-o", tmp_path / "page.html")
        for words in (("ls", "results"), ("verify", "--deep"), ("sql", "SELECT count(*) FROM labels"), page):
            ran = unprivileged(qrp, *words, "--store", own)
            assert (ran.returncode, ran.stderr) == (0, ""), words
        ran = unprivileged(qrp, "cluster", *WHERE, "-k", 4, "--store", own)
        assert ran.returncode == 8
        assert "cannot be written" in ran.stderr
        assert sorted(p.relative_to(own) for p in own.rglob("*")) == before
    finally:
        for path in everything:
            path.chmod(path.stat().st_mode | 0o200)


def test_a_folder_that_one_may_not_look_into_is_exit_8(qrp: Any, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    try:
        for command in ("ls", "init"):
            ran = unprivileged(qrp, command, "--store", closed / "store")
            assert ran.returncode == 8
            assert "Permission denied" in ran.stderr
    finally:
        closed.chmod(0o700)
