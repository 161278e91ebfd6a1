"""What bad input gets: a message that names the thing, exit code 4, and nothing half-written visible."""

from __future__ import annotations

import json
import pickle
import shutil
import sqlite3
import unicodedata
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WHERE = ("--dataset", "d", "--backbone", "b")
LABEL = ("--dataset", "photos", "--concepts", "new")
EVALUATE = ("evaluate", "--dataset", "photos", "--epochs", "2", "--concepts", "objects")


def nothing(qrp: Any, store: Path) -> None:
    """Nothing shows, and nobody is writing."""
    for what in ("datasets", "backbones", "embeddings"):
        assert qrp.rows("ls", what, store=store) == []
    assert "writing" not in {job["state"] for job in qrp.rows("ls", "jobs", store=store)}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_rows_are_listed_and_nothing_is_committed(qrp: Any, store: Path, files: Any, bad: float) -> None:
    rows = np.ones((60, 3), np.float32)
    rows[[7, 31, 59], [0, 1, 2]] = bad
    words = ("ingest", files.array(rows), *WHERE, "--block-rows", 20)
    told = qrp.fails(4, *words, store=store)
    for key in ("7", "31", "59"):
        assert repr(key) in told
    assert "--skip-bad" in told
    nothing(qrp, store)


def test_skip_bad_marks_rows_missing_and_leaves_them_out_everywhere(
    qrp: Any, own: Path, files: Any, world: Any, sql: Any
) -> None:
    rows = world.rows["sharp"].copy()
    rows[[3, 200, 399]] = np.nan
    words = ("--keys", files.keys(world.keys), "--dataset", "photos", "--backbone", "holes", "--skip-bad", "--json")
    ran = qrp.run("ingest", files.array(rows), *words, store=own)
    assert (ran.json["n"], ran.json["n_bad"]) == (400, 3)
    assert all(world.keys[i] in ran.err for i in (3, 200, 399))
    report = qrp.ok("evaluate", "--dataset", "photos", "--backbone", "holes", "-k", 6, "--epochs", 2, store=own)
    for result in report["results"]:
        assert result["n_train"] + result["n_val"] + result["n_test"] == 397
    found = {r["key"] for r in sql(own, "SELECT key FROM assignments WHERE backbone = 'holes'")}
    assert found == set(world.keys) - {world.keys[i] for i in (3, 200, 399)}


def test_zero_rows_under_normalize(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 3))
    rows[[5, 44]] = 0
    qrp.ok("ingest", files.array(rows), *WHERE, store=store)
    told = qrp.fails(4, "cluster", *WHERE, "-k", 2, "--normalize", store=store)
    assert "'5'" in told
    assert "'44'" in told
    assert sql(store, "SELECT * FROM assignments") == []
    qrp.ok("cluster", *WHERE, "-k", 2, store=store)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


BAD_ARRAYS = {
    "object": lambda folder: np.save(folder / "x.npy", np.array([[1, "a"]], object), allow_pickle=True),
    "pickle": lambda folder: write(folder / "x.npy", pickle.dumps([1, 2])),
    "text": lambda folder: np.save(folder / "x.npy", np.array([["a", "b"]])),
    "complex": lambda folder: np.save(folder / "x.npy", np.ones((3, 2), complex)),
    "empty": lambda folder: np.save(folder / "x.npy", np.ones((0, 4))),
    "no columns": lambda folder: np.save(folder / "x.npy", np.ones((4, 0))),
    "one dimension": lambda folder: np.save(folder / "x.npy", np.ones(4)),
    "three dimensions": lambda folder: np.save(folder / "x.npy", np.ones((4, 2, 2))),
    "no array": lambda folder: write(folder / "x.npy", b"hello"),
    "empty file": lambda folder: write(folder / "x.npy", b""),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_arrays_that_are_no_matrix_of_numbers(qrp: Any, store: Path, files: Any, kind: str) -> None:
    BAD_ARRAYS[kind](files.folder)
    assert "x.npy" in qrp.fails(4, "ingest", files.folder / "x.npy", *WHERE, store=store)
    nothing(qrp, store)


def test_a_truncated_array_file(qrp: Any, store: Path, files: Any) -> None:
    path = files.array(np.ones((100, 10)))
    path.write_bytes(path.read_bytes()[:-1000])
    assert "rows.npy" in qrp.fails(4, "ingest", path, *WHERE, store=store)
    nothing(qrp, store)


@pytest.mark.parametrize(
    "keys", [["a", "b", "c"], ["a", "b", "c", "d", "e"], ["a", "b", "c", "a"], ["a", "", "c", "d"]]
)
def test_rows_that_are_not_keys_and_duplicate_keys(qrp: Any, store: Path, files: Any, keys: list[str]) -> None:
    told = qrp.fails(4, "ingest", files.array(np.eye(4)), "--keys", files.keys(keys), *WHERE, store=store)
    assert "keys.txt" in told
    nothing(qrp, store)


def test_keys_with_nul_or_bytes_that_are_no_text(qrp: Any, store: Path, files: Any) -> None:
    for data in (b"a\nb\0c\n", b"a\n\xff\xfe\n"):
        keys = write(files.folder / "keys.txt", data)
        assert "2" in qrp.fails(4, "ingest", files.array(np.eye(2)), "--keys", keys, *WHERE, store=store)
        nothing(qrp, store)


ODD_KEYS = [
    "../../../../tmp/escaped.png",
    "..",
    "/etc/passwd",
    "C:\\windows\\x.png",
    "<script>alert(1)</script>",
    "'; DROP TABLE sample; --",
    '"double", quoted',
    "👩🏽‍🚀/🦜.png",
    "é",
    "e\u0301",
    "tab\there",
    "\u202eright to left",
    "\x1b[31mred",
    " leading and trailing ",
    "%s %d {0}",
    "[bold]markup[/bold]",
    "x" * 10_000,
]


def test_odd_keys_are_stored_and_shown_safely(qrp: Any, store: Path, files: Any, sql: Any, tmp_path: Path) -> None:
    before = {p for p in tmp_path.rglob("*") if "store" not in p.parts}
    rows = np.eye(len(ODD_KEYS), dtype=np.float32)
    qrp.ok("ingest", files.array(rows), "--keys", files.keys(ODD_KEYS), *WHERE, store=store)
    table = files.labels([(key, key) for key in ODD_KEYS])
    assert qrp.ok("label", table, "--dataset", "d", "--concepts", "c", store=store)["n_labels"] == len(ODD_KEYS)
    found = sql(store, "SELECT key, concept FROM labels")
    assert {r["key"] for r in found} == set(ODD_KEYS)
    assert {r["concept"] for r in found} == {unicodedata.normalize("NFC", key.strip()) for key in ODD_KEYS}
    asked = qrp.rows("sql", "SELECT key FROM labels", store=store)
    assert {r["key"] for r in asked} == set(ODD_KEYS)
    shown = qrp.run("sql", "SELECT key FROM labels", store=store).out
    assert "\x1b" not in shown
    assert "[bold]markup[/bold]" in shown
    assert "<script>" not in qrp.run("sql", "SELECT key FROM labels", "--format", "md", store=store).out
    qrp.ok("export", "labels", "--dataset", "d", "-o", tmp_path / "out.json", store=store)
    assert {row["key"] for row in json.loads((tmp_path / "out.json").read_text("utf-8"))} == set(ODD_KEYS)
    after = {p for p in tmp_path.rglob("*") if "store" not in p.parts}
    assert after - before == {files.folder / "rows.npy", files.folder / "keys.txt", table, tmp_path / "out.json"}
    assert all(p.name.isascii() and ".." not in p.name for p in store.rglob("*"))
    assert not Path("/tmp/escaped.png").exists()


def test_the_same_dataset_name_with_other_keys_shows_the_first_difference(
    qrp: Any, own: Path, files: Any, world: Any, sql: Any
) -> None:
    for keys, word in (
        ([*world.keys[:7], "photos/else.jpg", *world.keys[8:]], world.keys[7]),
        (world.keys[:-1], world.keys[-1]),
        ([*world.keys, "photos/more.jpg"], "photos/more.jpg"),
    ):
        rows = files.array(np.ones((len(keys), 3)))
        listed = files.keys(keys)
        words = ("--keys", listed, "--dataset", "photos", "--backbone", "new")
        assert word in qrp.fails(4, "ingest", rows, *words, store=own)
    assert {r["backbone"] for r in sql(own, "SELECT backbone FROM embeddings")} == set(world.rows)


BAD_LABELS = {
    "without rows": ("l.csv", b"key,concept\n"),
    "empty": ("l.csv", b""),
    "without concept column": ("l.csv", b"key,thing\nphotos/000.jpg,x\n"),
    "with scores of no concept": ("l.csv", b"key,score\nphotos/000.jpg,0.9\n"),
    "without key column": ("l.csv", b"image,concept\nphotos/000.jpg,x\n"),
    "empty concept": ("l.csv", b"key,concept\nphotos/000.jpg,\n"),
    "NUL in a concept": ("l.jsonl", b'{"key": "photos/000.jpg", "concept": "a\\u0000b"}\n'),
    "score above 1": ("l.csv", b"key,concept,score\nphotos/000.jpg,x,1.5\n"),
    "score below 0": ("l.csv", b"key,concept,score\nphotos/000.jpg,x,-0.1\n"),
    "score NaN": ("l.csv", b"key,concept,score\nphotos/000.jpg,x,nan\n"),
    "score no number": ("l.csv", b"key,concept,score\nphotos/000.jpg,x,high\n"),
    "ragged": ("l.csv", b"key,concept\nphotos/000.jpg,x,y,z\n"),
    "no JSON": ("l.jsonl", b'{"key": "photos/000.jpg", "concept"\n'),
    "JSON without concept": ("l.jsonl", b'{"key": "photos/000.jpg"}\n'),
    "no Parquet": ("l.parquet", b"PAR1 not really"),
    "not UTF-8": ("l.csv", b"key,concept\nphotos/000.jpg,\xff\n"),
    "unknown ending": ("l.xyz", b"key,concept\nphotos/000.jpg,x\n"),
    "logits": ("l.csv", b"key,concept,score\nphotos/000.jpg,x,7.25\nphotos/000.jpg,y,-3.5\n"),
    "encodings mixed in one file": ("l.csv", "key,concept\nphotos/000.jpg,é\n".encode() + b"photos/000.jpg,\xe9\n"),
    "another delimiter": ("l.csv", b"key^concept\nphotos/000.jpg^x\n"),
    "COCO categories without names": (
        "l.json",
        b'{"images": [{"id": 1, "file_name": "photos/000.jpg"}], "categories": [{"id": 3}],'
        b' "annotations": [{"image_id": 1, "category_id": 3}]}',
    ),
    "COCO annotation of an unknown image": (
        "l.json",
        b'{"images": [{"id": 1, "file_name": "photos/000.jpg"}], "categories": [{"id": 3, "name": "cat"}],'
        b' "annotations": [{"image_id": 9, "category_id": 3}]}',
    ),
    "COCO images with one id": (
        "l.json",
        b'{"images": [{"id": 1, "file_name": "photos/000.jpg"}, {"id": 1, "file_name": "photos/001.jpg"}],'
        b' "categories": [{"id": 3, "name": "cat"}], "annotations": [{"image_id": 1, "category_id": 3}]}',
    ),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
def test_bad_label_files_name_themselves(qrp: Any, own: Path, files: Any, sql: Any, kind: str) -> None:
    name, data = BAD_LABELS[kind]
    assert name in qrp.fails(4, "label", write(files.folder / name, data), *LABEL, store=own)
    assert sql(own, "SELECT * FROM labels WHERE concepts = 'new'") == []
    assert "new" not in {r["name"] for r in qrp.rows("ls", "concepts", store=own)}
    assert qrp.rows("ls", "jobs", store=own) == []


@pytest.mark.parametrize("threshold", ["-0.1", "1.1", "nan", "inf"])
def test_a_threshold_outside_0_to_1(qrp: Any, own: Path, files: Any, threshold: str) -> None:
    table = files.labels([("photos/000.jpg", "x")])
    assert "threshold" in qrp.fails(4, "label", table, *LABEL, f"--threshold={threshold}", store=own)


@pytest.mark.parametrize("k", [-1, 0, 1, 401])
def test_k_below_2_or_above_the_usable_rows(qrp: Any, own: Path, sql: Any, k: int) -> None:
    words = ("--dataset", "photos", "--backbone", "sharp", f"--clusters={k}")
    assert "400" in qrp.fails(4, "cluster", *words, store=own)
    ran = qrp.run("evaluate", *words, "--json", store=own)
    assert ran.code == 4
    assert {e["kind"] for e in ran.json["errors"]} == {"invalid_input"}
    assert sql(own, "SELECT DISTINCT clusters FROM assignments") == [{"clusters": 6}]


@pytest.mark.parametrize("n", [4, 9])
def test_an_empty_validation_or_test_part(qrp: Any, store: Path, files: Any, n: int) -> None:
    rows = np.random.default_rng(0).normal(size=(n, 2))
    qrp.ok("ingest", files.array(rows), *WHERE, store=store)
    table = files.labels([(str(i), str(i % 2)) for i in range(n)])
    qrp.ok("label", table, "--dataset", "d", "--concepts", "c", store=store)
    ran = qrp.run("evaluate", "--dataset", "d", "-k", n // 2, "--epochs", 2, "--json", store=store)
    assert ran.code == 4
    assert ran.json["results"] == []
    assert qrp.rows("ls", "results", store=store) == []
    assert (f"-k auto would be {max(2, n // 50)}" in ran.json["errors"][0]["hint"]) == (n // 2 > 2)


OUT_OF_RANGE = {
    "--batch-size=0": "--batch-size 0",
    "--lr=-1": "--lr -1",
    "--lr=nan": "--lr nan",
    "--momentum=1": "--momentum 1",
    "--weight-decay=-1": "--weight-decay -1",
    "--bootstrap=-1": "--bootstrap -1",
    "--niter=0": "--niter 0",
    "--niter=1000000000": "at most 1,000,000",
    "--nredo=0": "--nredo 0",
    "--sample=2": "--sample 2",
    "--memory=lots": "--memory 'lots'",
    "--min-count=-1": "--min-count -1",
    "--min-count=100000": "--min-count 100000",
}


@pytest.mark.parametrize("option", OUT_OF_RANGE)
def test_options_out_of_range(qrp: Any, own: Path, sql: Any, option: str) -> None:
    ran = qrp.run(*EVALUATE, "--backbone", "sharp", "-k", 6, option, "--json", store=own)
    assert ran.code == 4
    assert OUT_OF_RANGE[option] in ran.out
    assert len(sql(own, "SELECT * FROM results")) == 19


def test_a_checkpoint_in_which_nothing_or_not_everything_matches(qrp: Any, store: Path, files: Any) -> None:
    import torch
    from torchvision.models import resnet18

    state = resnet18(weights=None).state_dict()
    without = {name: value for name, value in state.items() if name != "layer4.1.conv2.weight"}
    images = files.images(["1.png", "2.png"])
    for name, content, word in (
        ("nothing.pth", {"other.weight": torch.zeros(3)}, "other.weight"),
        ("part.pth", without, "layer4.1.conv2.weight"),
    ):
        torch.save(content, files.folder / name)
        words = ("--arch", "torchvision/resnet18", "--weights", files.folder / name, "--image-size", 32)
        told = qrp.fails(4, "ingest", images, *WHERE, *words, store=store)
        assert word in told
        nothing(qrp, store)


class Planted:
    """Unpickles into a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_a_checkpoint_that_needs_unpickling_code_is_never_executed(qrp: Any, store: Path, files: Any) -> None:
    import torch

    torch.save({"state_dict": Planted(files.folder / "planted")}, files.folder / "evil.pth")
    (files.folder / "planted").unlink(missing_ok=True)
    words = ("--arch", "torchvision/resnet18", "--weights", files.folder / "evil.pth", "--image-size", 32)
    assert "evil.pth" in qrp.fails(4, "ingest", files.images(["1.png", "2.png"]), *WHERE, *words, store=store)
    assert not (files.folder / "planted").exists()
    nothing(qrp, store)


def test_h_of_0_is_exit_4(qrp: Any, own: Path, files: Any, world: Any) -> None:
    rows = np.ones((400, 2), np.float32)
    words = ("--keys", files.keys(world.keys), "--dataset", "photos", "--backbone", "constant")
    qrp.ok("ingest", files.array(rows), *words, store=own)
    ran = qrp.run(*EVALUATE, "--backbone", "constant", "-k", 2, "--json", store=own)
    assert ran.code == 4
    assert [r["nmi"] for r in ran.json["results"]] == [None]
    assert "constant" not in {r["backbone"] for r in qrp.rows("leaderboard", store=own)}
    assert "NMI none" in qrp.run("rerun", ran.json["results"][0]["id"], store=own).out


def revise(store: Path, *statements: str) -> None:
    with closing(sqlite3.connect(store / "catalog.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_a_newer_schema_is_exit_7(qrp: Any, own: Path) -> None:
    revise(own, "UPDATE qrp_alembic_version SET version_num = '9999'")
    for words in (("ls",), ("init",), ("migrate",), ("verify",), ("evaluate", "--dataset", "photos")):
        assert "upgrade" in qrp.fails(7, *words, store=own)


def test_an_older_schema_is_exit_7_with_the_command(qrp: Any, own: Path) -> None:
    revise(own, "UPDATE qrp_alembic_version SET version_num = '0001'")
    for words in (("ls",), ("migrate", "--check"), ("evaluate", "--dataset", "photos")):
        assert f"qrp-store migrate --store {own}" in qrp.fails(7, *words, store=own)


def test_a_database_that_is_not_ours_is_exit_7_and_stays_as_it_is(qrp: Any, tmp_path: Path) -> None:
    revise(tmp_path, "CREATE TABLE theirs (x)")
    before = (tmp_path / "catalog.db").read_bytes()
    for words in (("ls",), ("init",), ("migrate",), ("verify",)):
        assert "qrp-store" in qrp.fails(7, *words, store=tmp_path)
    assert (tmp_path / "catalog.db").read_bytes() == before


def test_a_catalog_that_is_no_database(qrp: Any, own: Path) -> None:
    shutil.copy(own / "arrays" / "qrp-store.json", own / "catalog.db")
    for name in ("catalog.db-wal", "catalog.db-shm"):
        (own / name).unlink(missing_ok=True)
    assert str(own) in qrp.fails(6, "ls", store=own)
