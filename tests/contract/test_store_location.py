"""Where a store is."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

LOOKING = [
    ("ls",),
    ("show", "x"),
    ("leaderboard",),
    ("sql", "SELECT 1"),
    ("verify",),
    ("gc",),
    ("migrate",),
    ("migrate", "--check"),
    ("cluster", "--dataset", "d", "--backbone", "b", "-k", "2"),
    ("evaluate", "--dataset", "d"),
    ("export", "results", "-o", "out.csv"),
    ("label", "labels.csv", "--dataset", "d", "--concepts", "c"),
    ("ingest", "rows.npy", "--dataset", "d", "--backbone", "b"),
]


def test_a_directory_holds_catalog_db_and_arrays(qrp: Any, tmp_path: Path) -> None:
    made = qrp.ok("init", store=tmp_path / "new" / "store")
    store = tmp_path / "new" / "store"
    assert (store / "catalog.db").is_file()
    assert json.loads((store / "arrays" / "qrp-store.json").read_text())["uuid"] == made["uuid"]
    assert Path(made["arrays"]) == store / "arrays"


def test_the_default_is_qrp_data_in_this_folder(qrp: Any, tmp_path: Path) -> None:
    qrp.ok("init", cwd=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["qrp-data"]
    assert qrp.rows("ls", cwd=tmp_path) == []


def test_option_before_environment_before_default(qrp: Any, tmp_path: Path) -> None:
    environment = {"QRP_STORE": str(tmp_path / "environment")}
    qrp.ok("init", cwd=tmp_path, env=environment)
    assert not (tmp_path / "qrp-data").exists()
    qrp.ok("init", cwd=tmp_path, env=environment, store=tmp_path / "option")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["environment", "option"]


def test_the_arrays_root_has_an_option_and_an_environment_variable(qrp: Any, tmp_path: Path) -> None:
    environment = {"QRP_STORE_ARRAYS": str(tmp_path / "environment")}
    made = qrp.ok("init", store=tmp_path / "a", env=environment)
    assert Path(made["arrays"]) == tmp_path / "environment"
    made = qrp.ok("init", "--arrays", tmp_path / "option", store=tmp_path / "b", env=environment)
    assert Path(made["arrays"]) == tmp_path / "option"


def test_init_is_harmless_when_repeated(qrp: Any, own: Path, sql: Any) -> None:
    before = sql(own, "SELECT * FROM results")
    first, second = qrp.ok("init", store=own), qrp.ok("init", store=own)
    assert not first["created"]
    assert first["uuid"] == second["uuid"]
    assert sql(own, "SELECT * FROM results") == before


def test_init_where_no_folder_can_be_is_told(qrp: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "file" in qrp.fails(4, "init", store=tmp_path / "file")
    assert "file" in qrp.fails(4, "init", store=tmp_path / "file" / "store")
    assert "/proc/nope" in qrp.fails(8, "init", store=Path("/proc/nope"))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("words", LOOKING, ids=lambda words: " ".join(words[:2]))
def test_a_store_that_is_not_there_is_exit_3_and_names_init(qrp: Any, tmp_path: Path, words: tuple[str, ...]) -> None:
    assert "qrp-store init" in qrp.fails(3, *words, cwd=tmp_path, store=tmp_path / "nothing" / "here")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_no_store_and_stays_empty(qrp: Any, tmp_path: Path) -> None:
    assert "qrp-store init" in qrp.fails(3, "ls", store=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_looking_creates_nothing_in_a_store(qrp: Any, own: Path) -> None:
    def names() -> set[str]:
        beside = (".db-wal", ".db-shm")  # SQLite's own, while and after it is open
        return {str(p.relative_to(own)) for p in own.rglob("*") if not p.name.endswith(beside)}

    before = names()
    for words in (("ls",), ("leaderboard",), ("show", "objects"), ("sql", "SELECT 1"), ("verify", "--deep")):
        qrp.ok(*words, store=own)
    assert names() == before


def test_recipes_and_vocabularies_are_listed_without_a_store(qrp: Any, tmp_path: Path) -> None:
    names = {row["name"] for row in qrp.rows("ls", "recipes", store=tmp_path / "nowhere")}
    assert {"torchvision", "dino"} <= names
    vocabularies = qrp.rows("ls", "vocabularies", store=tmp_path / "nowhere")
    sizes = {row["name"]: row["n_concepts"] for row in vocabularies}
    assert sizes.items() >= {"coco": 80, "voc": 20, "imagenet": 1000, "places365": 365, "textures": 47}.items()
    assert all(row["source"] and row["licence"] for row in vocabularies)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_store_may_be_moved(qrp: Any, world: Any, own: Path, tmp_path: Path) -> None:
    moved = tmp_path / "some where" / "else? #1 is 100%41"
    moved.parent.mkdir()
    own.rename(moved)
    qrp.ok("export", "embedding", "--dataset", "photos", "--backbone", "sharp", "-o", tmp_path / "x.npy", store=moved)
    assert np.array_equal(np.load(tmp_path / "x.npy"), world.rows["sharp"])
    (row,) = qrp.rows("sql", "SELECT array_url FROM embeddings WHERE backbone = 'sharp'", store=moved)
    assert np.array_equal(zarr.open_array(row["array_url"], mode="r")[:], world.rows["sharp"])
    assert qrp.ok("verify", "--deep", store=moved)["problems"] == []


def test_the_catalog_remembers_arrays_elsewhere(qrp: Any, tmp_path: Path, files: Any) -> None:
    store, arrays = tmp_path / "store", tmp_path / "far"
    qrp.ok("init", "--arrays", arrays, store=store)
    rows = np.eye(4, dtype=np.float32)
    qrp.ok("ingest", files.array(rows), "--dataset", "d", "--backbone", "b", store=store)
    assert not (store / "arrays").exists()
    (row,) = qrp.rows("sql", "SELECT array_url FROM embeddings", store=store)
    assert Path(row["array_url"]).is_relative_to(arrays)
    assert np.array_equal(zarr.open_array(row["array_url"], mode="r")[:], rows)


def test_arrays_names_another_mount_of_the_same_root(qrp: Any, own: Path, tmp_path: Path) -> None:
    os.symlink(own / "arrays", tmp_path / "mount")
    assert qrp.ok("verify", "--deep", "--arrays", tmp_path / "mount", store=own)["problems"] == []


def test_arrays_of_another_store_are_exit_4(qrp: Any, own: Path, tmp_path: Path) -> None:
    qrp.ok("init", store=tmp_path / "other")
    for command in ("verify", "ls", "init"):
        assert "other" in qrp.fails(4, command, "--arrays", tmp_path / "other" / "arrays", store=own)


def test_init_refuses_the_arrays_of_another_store(qrp: Any, own: Path, tmp_path: Path) -> None:
    assert "own" in qrp.fails(4, "init", "--arrays", own / "arrays", store=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_arrays_that_are_gone_are_exit_3(qrp: Any, own: Path, tmp_path: Path) -> None:
    qrp.ok("ls", store=own)  # a copied store finds its own arrays
    shutil.rmtree(own / "arrays")
    assert "arrays" in qrp.fails(3, "verify", store=own)
    assert not (own / "arrays").exists()


@pytest.mark.parametrize(
    "url",
    [
        " postgresql://u:{}@127.0.0.1:1/db",
        "postgresql:/u:{}@127.0.0.1:1/db",
        "host=127.0.0.1 user=u password={} dbname=x",
        "u:{}@127.0.0.1:1/db",
        "postgresql://u/x:{}@127.0.0.1:1/db",
        "sqlite:///x:{}@y",
    ],
)
def test_a_pasted_url_that_is_none_is_refused_unseen_and_becomes_no_folder(qrp: Any, tmp_path: Path, url: str) -> None:
    for words in (("init", "--arrays", str(tmp_path / "a")), ("init",), ("ls",), ("ls", "--verbose")):
        ran = qrp.run(*words, "--store", url.format("S3CR3T"), cwd=tmp_path)
        assert ran.code == 4
        assert "S3CR3T" not in ran.out + ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["s3://b/p?aws_secret_access_key={}", "s3://k:a/{}@b/p", " s3://k:{}@b/p", "s3:/b?token={}"]
)
def test_a_key_in_the_arrays_url_is_refused_unseen(qrp: Any, tmp_path: Path, url: str) -> None:
    ran = qrp.run("init", "--arrays", url.format("S3CR3T"), "--store", tmp_path / "s", cwd=tmp_path)
    assert ran.code == 4
    assert "AWS_" in ran.err
    assert "S3CR3T" not in ran.out + ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_password_in_a_parameter_is_not_shown(qrp: Any) -> None:
    for name in ("password", "passwor%64"):
        ran = qrp.run("ls", "--verbose", "--store", f"postgresql://u@127.0.0.1:1/db?{name}=S3CR3T@S3CR3T")
        assert ran.code == 8
        assert "S3CR3T" not in ran.out + ran.err


def test_a_deleted_working_folder_is_exit_4_with_its_name(qrp: Any, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f'rmdir "{gone}"; "{qrp.script}" ls --json; "{qrp.script}" ls --json --store postgresql://u@127.0.0.1:1/x'
    ran = subprocess.run(
        ["sh", "-c", line], cwd=gone, env={**os.environ, "PWD": str(gone)}, capture_output=True, text=True
    )
    first, second = map(json.loads, ran.stdout.splitlines())
    assert first["error"]["kind"] == "invalid_input"
    assert str(gone) in first["error"]["message"]
    assert second["error"]["kind"] == "unavailable"


@pytest.mark.parametrize("more", [(), ("--json",), ("--verbose",)])
@pytest.mark.parametrize("password", ["s3cret", "s3cret@s3cret", "s3cret%40/s3cret", "#s3cret?%s3cret"])
def test_passwords_never_appear(qrp: Any, tmp_path: Path, password: str, more: tuple[str, ...]) -> None:
    url = f"postgresql://me:{password}@127.0.0.1:1/x"
    for words in (("init", "--arrays", str(tmp_path / "a")), ("ls",)):
        ran = qrp.run(*words, "--store", url, *more)
        assert ran.code == 8
        assert "me:***@127.0.0.1:1/x" in ran.out + ran.err
        assert "s3cret" not in ran.out + ran.err


def test_a_url_that_is_none_is_exit_4_and_not_shown(qrp: Any) -> None:
    for url in ("postgresql://me:s3cret", "postgresql://me:s3cret@h:port/x", "postgres://h1:1,h2:2/x"):
        ran = qrp.run("ls", "--store", url)
        assert ran.code == 4
        assert "PGPASSWORD" in ran.err
        assert "s3cret" not in ran.err


@pytest.mark.parametrize("command", ["init", "ls", "leaderboard", "verify", "gc"])
def test_the_shared_options_stand_before_or_after_the_command(qrp: Any, own: Path, command: str) -> None:
    shared = ("--store", own, "--arrays", own / "arrays", "--json", "--quiet")
    before, after = qrp.run(*shared, command), qrp.run(command, *shared)
    assert (before.code, after.code) == (0, 0)
    assert before.json == after.json


def test_json_is_one_document_on_stdout_and_talk_goes_to_stderr(qrp: Any, store: Path, files: Any) -> None:
    rows = np.eye(6, dtype=np.float32)
    words = ("ingest", files.array(rows), "--dataset", "d", "--backbone", "b", "--keys", files.keys(list("abcdef")))
    ran = qrp.run(*words, "--json", store=store)
    assert json.loads(ran.out)["n"] == 6
    assert ran.err == ""  # bars only on a terminal
    again = ("ingest", files.array(rows), "--dataset", "d", "--backbone", "c", "--keys", files.keys(list("fedcba")))
    ran = qrp.run(*again, "--json", store=store)
    assert json.loads(ran.out)["n"] == 6
    assert "order" in ran.err


def test_a_failure_without_json_is_text_on_stderr_alone(qrp: Any, tmp_path: Path) -> None:
    ran = qrp.run("ls", store=tmp_path / "none")
    assert (ran.code, ran.out) == (3, "")
    assert "qrp-store init" in ran.err


def parse(form: str, text: str) -> list[list[str]]:
    """The cells of a listing, header first."""
    lines = text.rstrip("\n").split("\n")
    if form == "json":
        rows = json.loads(text)["rows"]
        return [list(rows[0]), *([str(v) for v in row.values()] for row in rows)]
    if form == "jsonl":
        rows = [json.loads(line) for line in lines]
        return [list(rows[0]), *([str(v) for v in row.values()] for row in rows)]
    if form == "csv":
        return list(csv.reader(io.StringIO(text)))
    if form == "md":
        return [[cell.strip() for cell in line.strip("|").split("|")] for i, line in enumerate(lines) if i != 1]
    if form == "latex":
        body = [line for line in lines if line.endswith(r"\\")]
        return [[c.strip().replace("\\_", "_") for c in line.removesuffix(r"\\").split("&")] for line in body]
    return [re.split(r" {2,}", line.strip()) for line in lines]


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv", "md", "latex"])
@pytest.mark.parametrize(
    "words",
    [("ls", "results"), ("ls", "concepts"), ("leaderboard",), ("sql", "SELECT id, backbone FROM results")],
    ids=lambda w: " ".join(w[:2]),
)
def test_listings_take_every_format(qrp: Any, world: Any, words: tuple[str, ...], form: str) -> None:
    expected = qrp.rows(*words, store=world.store)
    ran = qrp.run(*words, "--format", form, store=world.store)
    assert ran.code == 0
    if words == ("leaderboard",) and form in ("table", "md", "latex"):  # for reading: test_leaderboard_line.py
        assert all(ran.out.count(row["backbone"]) >= 2 for row in expected)
        return
    header, *rows = parse(form, ran.out)
    assert header == list(expected[0])
    assert len(rows) == len(expected)
    at = header.index("id" if "id" in header else "backbone")
    assert sorted(row[at] for row in rows) == sorted(row[header[at]] for row in expected)


def test_every_seed_defaults_to_0(qrp: Any, own: Path) -> None:
    words = ("cluster", "--dataset", "photos", "--backbone", "sharp", "-k", 6)
    assert qrp.ok(*words, store=own)["id"] == qrp.ok(*words, "--seed", 0, store=own)["id"]
    evaluate = ("evaluate", "--dataset", "photos", "--backbone", "sharp", "-k", 6, "--epochs", 4, "--bootstrap", 50)
    assert {r["seed"] for r in qrp.ok(*evaluate, store=own)["results"]} == {0}
