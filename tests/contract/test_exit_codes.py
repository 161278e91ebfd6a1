"""Exit codes, damage, interruption, and who is writing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SHARP = ("--dataset", "photos", "--backbone", "sharp")
EVALUATE = ("evaluate", *SHARP, "--concepts", "objects", "--epochs", "2")
# K-means that runs until it is stopped
ENDLESS = ("cluster", *SHARP, "-k", "7", "--nredo", "10000000")


@pytest.mark.parametrize("words", [("ls",), ("evaluate", "--dataset", "photos", "-k", "6", "--dry-run")], ids=" ".join)
def test_the_installed_script_does_what_these_tests_run(qrp: Any, world: Any, words: tuple[str, ...]) -> None:
    child = qrp.start(*words, "--json", store=world.store)
    out, err = child.communicate(timeout=60)
    ran = qrp.run(*words, "--json", store=world.store)
    assert (child.returncode, err) == (ran.code, ran.err) == (0, "")
    told, expected = json.loads(out), ran.json
    told.pop("timings", None)
    expected.pop("timings", None)
    assert told == expected


@pytest.mark.parametrize(
    "words",
    [
        ("frobnicate",),
        ("ls", "--frobnicate"),
        ("cluster", "--dataset", "photos"),
        ("cluster", *SHARP, "-k", "many"),
        ("cluster", *SHARP, "--engine", "abacus"),
        ("ls", "--format", "xml"),
        ("evaluate", *SHARP, "--protocol", "mine"),
        ("ingest", "x.npy", "--dataset", "d", "--backbone", "b", "--dtype", "int8"),
        ("export", "everything", "-o", "x.csv"),
    ],
    ids=" ".join,
)
def test_2_usage(qrp: Any, world: Any, words: tuple[str, ...]) -> None:
    told = qrp.fails(2, *words, store=world.store)
    assert "--help" in told
    assert "Value error" not in told


@pytest.mark.parametrize(
    "words",
    [
        ("ingest", "no-such.npy", "--dataset", "d", "--backbone", "b"),
        ("label", "no-such.csv", "--dataset", "photos", "--concepts", "c"),
        ("cluster", "--dataset", "no-such", "--backbone", "b"),
        ("cluster", "--dataset", "photos", "--backbone", "no-such"),
        ("cluster", "--dataset", "photos", "--backbone", "sharp@2", "-k", "6"),
        ("evaluate", "--dataset", "no-such"),
        ("export", "embedding", "--dataset", "photos", "--backbone", "no-such", "-o", "x.npy"),
        ("export", "results", "--dataset", "no-such", "-o", "x.csv"),
        ("rm", "no-such", "--yes"),
    ],
    ids=" ".join,
)
def test_3_not_found(qrp: Any, own: Path, words: tuple[str, ...], tmp_path: Path) -> None:
    told = qrp.fails(3, *words, store=own, cwd=tmp_path)
    assert "no-such" in told or "sharp@2" in told
    assert [p.name for p in tmp_path.iterdir()] == ["own"]


def chunks(store: Path, world: Any, backbone: str) -> list[Path]:
    """The stored objects of an embedding."""
    folder = store / "arrays" / "embedding" / world.ingested[backbone]["id"]
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "zarr.json")
    assert len(found) == 4
    return found


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "one bit": flip,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_6_a_damaged_block_is_an_error_never_zeros(qrp: Any, own: Path, world: Any, kind: str, tmp_path: Path) -> None:
    DAMAGE[kind](chunks(own, world, "sharp")[2])
    ran = qrp.run("verify", "--deep", "--json", store=own)
    assert ran.code == 6
    (problem,) = ran.json["problems"]
    assert problem["id"] == world.ingested["sharp"]["id"]
    assert "block 2" in problem["problem"]
    for words in (
        ("cluster", *SHARP, "-k", 5),
        ("export", "embedding", *SHARP, "-o", tmp_path / "x.npy"),
        ("export", "embedding", *SHARP, "-o", tmp_path / "x.parquet"),
    ):
        qrp.fails(6, *words, store=own)
    ran = qrp.run(*EVALUATE, "-k", 5, "--json", store=own)
    assert ran.code == 6
    assert ran.json["results"] == []
    assert [p.name for p in tmp_path.iterdir()] == ["own"]
    # what was made before the damage, and other embeddings, still answer
    assert len(qrp.rows("leaderboard", store=own)) == 6
    qrp.ok("export", "embedding", "--dataset", "photos", "--backbone", "dull", "-o", tmp_path / "x.npy", store=own)


def test_verify_without_deep_finds_what_is_missing_or_of_another_size(qrp: Any, own: Path, world: Any) -> None:
    assert qrp.ok("verify", store=own)["problems"] == []
    DAMAGE["missing"](chunks(own, world, "sharp")[0])
    DAMAGE["truncated"](chunks(own, world, "dull")[1])
    ran = qrp.run("verify", "--json", store=own)
    assert ran.code == 6
    assert {p["id"] for p in ran.json["problems"]} == {world.ingested[b]["id"] for b in ("sharp", "dull")}
    text = qrp.run("verify", store=own)
    assert text.code == 6
    assert "block 0" in text.out + text.err


def test_6_evaluate_keeps_the_undamaged_backbones(qrp: Any, own: Path, world: Any) -> None:
    DAMAGE["missing"](chunks(own, world, "dull")[1])
    words = ("evaluate", "--dataset", "photos", "--concepts", "objects", "--epochs", 2, "-k", 5)
    ran = qrp.run(*words, "--json", store=own)
    assert ran.code == 6
    assert {r["backbone"] for r in ran.json["results"]} == {"sharp", "noise"}
    assert [(e["backbone"], e["kind"]) for e in ran.json["errors"]] == [("dull", "corrupt")]


def test_8_a_database_that_does_not_answer(qrp: Any) -> None:
    assert "127.0.0.1" in qrp.fails(8, "ls", "--store", "postgresql://127.0.0.1:1/x")


def job(qrp: Any, store: Path, wanted: str, child: subprocess.Popen[str]) -> dict[str, Any]:
    """The one job, as soon as it is in this state."""
    for _ in range(300):
        rows = [row for row in qrp.rows("ls", "jobs", store=store) if row["state"] == wanted]
        if rows:
            return dict(rows[0])
        assert wanted != "writing" or child.poll() is None, child.communicate()
        time.sleep(0.1)
    raise AssertionError((f"no job is {wanted}", qrp.rows("ls", "jobs", store=store)))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_130_and_143_interrupted(qrp: Any, own: Path, sql: Any, number: signal.Signals, code: int) -> None:
    child = qrp.start(*ENDLESS, "--json", store=own)
    job(qrp, own, "writing", child)
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == code
    assert json.loads(out)["error"]["kind"] == "interrupted"
    assert "Traceback" not in err
    assert sql(own, "SELECT * FROM assignments WHERE clusters = 7") == []
    assert qrp.ok("verify", "--deep", store=own)["problems"] == []
    assert not [row for row in qrp.rows("ls", "jobs", store=own) if row["state"] == "writing"]


def test_5_busy_says_who_and_a_killed_owner_is_taken_over_at_once(qrp: Any, own: Path, sql: Any) -> None:
    child = qrp.start(*ENDLESS, store=own)
    try:
        row = job(qrp, own, "writing", child)
        assert str(child.pid) in row["owner"]
        told = qrp.fails(5, *ENDLESS, "--no-wait", store=own)
        assert str(child.pid) in told
        # what nobody is writing goes on beside it
        qrp.ok("cluster", *SHARP, "-k", 4, store=own)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    job(qrp, own, "abandoned", child)
    second = qrp.start(*ENDLESS, "--no-wait", store=own)
    try:
        assert str(second.pid) in job(qrp, own, "writing", second)["owner"]
    finally:
        second.terminate()
        second.communicate(timeout=60)
    assert sql(own, "SELECT * FROM assignments WHERE clusters = 7") == []


def test_a_waiting_command_says_for_whom(qrp: Any, own: Path) -> None:
    child = qrp.start(*ENDLESS, store=own)
    try:
        job(qrp, own, "writing", child)
        waiting = qrp.start(*ENDLESS, store=own)
        assert waiting.stderr is not None
        said = waiting.stderr.readline()
        assert str(child.pid) in said
        waiting.terminate()
        waiting.communicate(timeout=60)
        assert waiting.returncode == 143
        assert child.poll() is None
    finally:
        child.terminate()
        child.communicate(timeout=60)


def test_an_ingest_killed_in_the_middle_goes_on(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(40_000, 64)).astype(np.float32)
    words = ("ingest", files.array(rows), "--dataset", "d", "--backbone", "b", "--block-rows", 100)
    child = qrp.start(*words, store=store)
    for _ in range(600):
        jobs = qrp.rows("ls", "jobs", store=store)
        if jobs and jobs[0]["blocks_done"] >= 3:
            break
        time.sleep(0.02)
    child.kill()
    child.communicate()
    assert sql(store, "SELECT * FROM embeddings") == []
    assert qrp.rows("ls", "datasets", store=store) == []
    report = qrp.ok(*words, store=store)
    assert report["blocks"]["reused"] >= 3
    assert report["blocks"]["written"] >= 1
    assert qrp.ok("verify", "--deep", store=store)["problems"] == []
    assert len(sql(store, "SELECT * FROM embeddings")) == 1


@pytest.mark.parametrize(
    "words, meant",
    [
        (("leaderboard", "--dataset", "phots"), "did you mean photos?"),
        (("cluster", "--dataset", "photos", "--backbone", "shrap", "-k", 6), "did you mean sharp?"),
        (("evaluate", "--dataset", "photos", "--concepts", "object"), "did you mean objects?"),
        (("show", "photo"), "did you mean photos"),
    ],
)
def test_a_name_nearly_right_is_asked_back(qrp: Any, world: Any, words: tuple[object, ...], meant: str) -> None:
    assert meant in qrp.fails(3, *words, store=world.store)
