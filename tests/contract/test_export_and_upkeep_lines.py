"""`export`, `show`, `verify`, `rm`, `gc`, `migrate`."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

SHARP = ("--dataset", "photos", "--backbone", "sharp")


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of an exported file, every value as text."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    rows = json.loads(path.read_text("utf-8")) if path.suffix == ".json" else pq.read_table(path).to_pylist()
    return [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
@pytest.mark.parametrize(
    ("what", "filters", "n", "key"),
    [
        ("results", (), 19, "id"),
        ("results", ("--backbone", "dull", "--concepts", "classes", "--seed", 1), 1, "id"),
        ("assignments", (*SHARP, "-k", 6, "--seed", 2), 400, "key"),
        ("labels", ("--concepts", "classes"), 400, "key"),
    ],
    ids=["results", "some results", "assignments", "labels"],
)
def test_export_writes_rows_in_the_format_of_the_ending(
    qrp: Any, world: Any, tmp_path: Path, what: str, filters: tuple[object, ...], n: int, key: str, ending: str
) -> None:
    out = tmp_path / f"out.{ending}"
    qrp.ok("export", what, *filters, "-o", out, store=world.store)
    rows = read(out)
    assert len(rows) == len({row[key] for row in rows}) == n
    if what == "results":
        told = {r["id"]: r for r in world.evaluated["results"] + world.permuted["results"]}
        assert all(float(row["nmi"]) == told[row["id"]]["nmi"] for row in rows)
    if what == "labels":
        assert {row["key"]: row["concept"] for row in rows} == {
            key: f"class {world.group[i] // 2}" for i, key in enumerate(world.keys)
        }
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_export_the_labels_of_an_id_without_those_of_a_namesake(
    qrp: Any, own: Path, files: Any, tmp_path: Path
) -> None:
    qrp.ok("ingest", files.array(np.eye(3, dtype=np.float32)), "--dataset", "three", "--backbone", "x", store=own)
    made = qrp.ok("label", files.labels([("0", "a")]), "--dataset", "three", "--concepts", "objects", store=own)
    qrp.ok("export", "labels", made["id"], "-o", tmp_path / "out.csv", store=own)
    assert [(row["dataset"], row["key"]) for row in read(tmp_path / "out.csv")] == [("three", "0")]


def test_export_a_clustering_for_fiftyone(qrp: Any, world: Any, sql: Any, tmp_path: Path) -> None:
    out = tmp_path / "labels.json"
    done = qrp.ok("export", "fiftyone", *SHARP, "-k", 6, "--seed", 0, "-o", out, store=world.store)
    assert done["rows"] == 400
    document = json.loads(out.read_text("utf-8"))
    query = "SELECT key, cluster, part FROM assignments WHERE backbone = 'sharp' AND clusters = 6 AND seed = 0"
    wanted = {r["key"].removesuffix(".jpg"): r for r in sql(world.store, query)}
    assert document["labels"].keys() == wanted.keys()
    for name, found in document["labels"].items():
        assert (found["label"], found["attributes"]["part"]) == (str(wanted[name]["cluster"]), wanted[name]["part"])
        i = world.keys.index(found["attributes"]["key"])
        assert {f"object-{world.group[i]}", f"class {world.group[i] // 2}"} <= set(found["attributes"]["concepts"])
    assert "2 clusterings" not in qrp.fails(4, "export", "fiftyone", *SHARP, "-o", out, store=world.store)
    assert ".json" in qrp.fails(4, "export", "fiftyone", *SHARP, "-o", tmp_path / "x.csv", store=world.store)


def test_export_the_card_of_a_dataset(qrp: Any, world: Any, tmp_path: Path) -> None:
    out = tmp_path / "photos.md"
    qrp.ok("export", "card", "--dataset", "photos", "-o", out, store=world.store)
    text = out.read_text("utf-8")
    assert text.startswith("# Dataset photos")
    assert "400 samples" in text
    for row in qrp.rows("leaderboard", store=world.store):
        assert f"| {row['rank']} | {row['backbone']} | {row['nmi_mean']:.3f} |" in text
    assert "| objects | 1 |" in text
    assert "which dataset" in qrp.fails(4, "export", "card", "-o", out, store=world.store)


def test_fiftyone_is_not_given_two_images_of_one_name(qrp: Any, store: Path, files: Any, tmp_path: Path) -> None:
    keys = [*(f"{i}.png" for i in range(39)), "7.jpg"]
    line = ("ingest", files.array(np.eye(40)), "--keys", files.keys(keys), "--dataset", "d", "--backbone", "b")
    qrp.ok(*line, store=store)
    qrp.ok("cluster", "--dataset", "d", "--backbone", "b", "-k", 2, store=store)
    said = qrp.fails(4, "export", "fiftyone", "--dataset", "d", "-o", tmp_path / "labels.json", store=store)
    assert "7.png" in said
    assert "7.jpg" in said


def test_export_an_embedding_as_csv_and_json(qrp: Any, world: Any, tmp_path: Path) -> None:
    for ending in ("csv", "json"):
        done = qrp.ok("export", "embedding", *SHARP, "-o", tmp_path / f"x.{ending}", store=world.store)
        assert done["rows"] == 400
    with (tmp_path / "x.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["key", *map(str, range(world.rows["sharp"].shape[1]))]
    assert [row[0] for row in rows] == world.keys
    assert np.array_equal(np.array([row[1:] for row in rows], np.float32), world.rows["sharp"])
    read = json.loads((tmp_path / "x.json").read_text("utf-8"))
    assert [row["key"] for row in read] == world.keys
    assert np.array_equal(np.array([row["embedding"] for row in read], np.float32), world.rows["sharp"])


def test_export_an_embedding_as_npy(qrp: Any, world: Any, tmp_path: Path) -> None:
    qrp.ok("export", "embedding", *SHARP, "-o", tmp_path / "x.npy", store=world.store)
    assert np.array_equal(np.load(tmp_path / "x.npy"), world.rows["sharp"])
    qrp.ok("export", "embedding", world.ingested["dull"]["id"], "-o", tmp_path / "y.npy", store=world.store)
    assert np.array_equal(np.load(tmp_path / "y.npy"), world.rows["dull"])


def test_export_the_embedding_of_a_backbone_by_its_name(qrp: Any, world: Any, tmp_path: Path) -> None:
    qrp.ok("export", "embedding", "sharp", "-o", tmp_path / "x.npy", store=world.store)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), world.rows["sharp"])
    told = qrp.fails(4, "export", "embedding", "classes", "-o", tmp_path / "y.npy", store=world.store)
    assert "'classes' names no embedding but a concept set" in told
    assert "--backbone" in told


def test_export_assignments_as_npy_in_dataset_order(qrp: Any, world: Any, sql: Any, tmp_path: Path) -> None:
    identifier = world.evaluated["results"][0]["clustering_id"]
    qrp.ok("export", "assignments", identifier, "-o", tmp_path / "x.npy", store=world.store)
    rows = sql(world.store, "SELECT key, cluster FROM assignments WHERE clustering_id = ?", identifier)
    cluster = {row["key"]: row["cluster"] for row in rows}
    assert np.load(tmp_path / "x.npy").tolist() == [cluster[key] for key in world.keys]


@pytest.mark.parametrize("out", ["x.xlsx", "x", "no/such/folder/x.csv"])
def test_export_refuses_what_it_cannot_write(qrp: Any, world: Any, tmp_path: Path, out: str) -> None:
    ran = qrp.run("export", "results", "-o", tmp_path / out, "--json", store=world.store)
    assert ran.code == (3 if "/" in out else 4)
    assert ran.json["error"]["message"]
    assert list(tmp_path.iterdir()) == []


def test_show_tells_of_every_kind_of_thing(qrp: Any, world: Any) -> None:
    result = world.evaluated["results"][0]
    shown = qrp.ok("show", result["id"], store=world.store)
    assert {name: shown[name] for name in ("id", "nmi", "setting", "fingerprint", "permuted")} == {
        name: result[name] for name in ("id", "nmi", "setting", "fingerprint", "permuted")
    }
    assert shown["options"]["lr"] == 3.5
    assert {"device", "threads", "instructions", "versions"} <= set(shown["provenance"])
    of = next(row for row in qrp.rows("ls", "embeddings", store=world.store) if row["backbone"] == result["backbone"])
    made_from = {
        "dataset": result["dataset"],
        "embedding": of["id"],
        "clustering": result["clustering_id"],
        "concepts": result["concepts"],
    }
    marks = {what: qrp.ok("show", name, store=world.store)["fingerprint"] for what, name in made_from.items()}
    assert shown["fingerprints"] == {**marks, "concepts": [marks["concepts"]]}
    for what in ("datasets", "backbones", "embeddings", "concepts", "clusterings"):
        for row in qrp.rows("ls", what, store=world.store)[:2]:
            assert qrp.ok("show", row["id"], store=world.store)["id"] == row["id"]
            text = qrp.run("show", row["id"], store=world.store)
            assert row["id"] in text.out


def test_rm_says_what_it_would_retire_and_needs_yes(qrp: Any, own: Path, world: Any, sql: Any) -> None:
    identifier = world.ingested["noise"]["id"]
    assert "--cascade" in qrp.fails(4, "rm", identifier, "--yes", store=own)
    told = qrp.fails(4, "rm", identifier, "--cascade", store=own)
    assert "--yes" in told
    assert identifier in told
    assert len(sql(own, "SELECT * FROM embeddings")) == 3
    retired = qrp.ok("rm", identifier, "--cascade", "--yes", store=own)["retired"]
    assert len(retired) == 1 + 3 + 6
    assert len(sql(own, "SELECT * FROM embeddings")) == 2


def size(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


def test_gc_deletes_what_no_ready_artifact_needs_and_dry_run_only_says_so(
    qrp: Any, own: Path, world: Any, tmp_path: Path
) -> None:
    before = size(own / "arrays")
    assert qrp.ok("gc", store=own)["objects"] == 0
    assert size(own / "arrays") == before
    qrp.ok("rm", world.ingested["noise"]["id"], "--cascade", "--yes", store=own)
    would = qrp.ok("gc", "--dry-run", store=own)
    assert would["dry_run"]
    assert size(own / "arrays") == before
    did = qrp.ok("gc", store=own)
    assert did["rows"] == would["rows"] > 0
    assert did["objects"] == would["objects"] == len(before) - len(size(own / "arrays"))
    assert did["bytes"] == would["bytes"] == sum(before.values()) - sum(size(own / "arrays").values())
    assert qrp.ok("verify", "--deep", store=own)["problems"] == []
    qrp.ok("export", "embedding", *SHARP, "-o", tmp_path / "x.npy", store=own)
    assert np.array_equal(np.load(tmp_path / "x.npy"), world.rows["sharp"])
    assert qrp.ok("gc", store=own)["objects"] == 0


def test_verify_counts_what_it_checked(qrp: Any, world: Any) -> None:
    report = qrp.ok("verify", "--deep", store=world.store)
    assert report["checked"] == {"embedding": 3, "block": 12, "concepts": 2, "clustering": 9, "result": 19}


@pytest.mark.parametrize("kind", ["clustering", "result"])
def test_verify_finds_missing_centroids_and_weights(qrp: Any, own: Path, kind: str) -> None:
    folder = next((own / "arrays" / kind).iterdir())
    shutil.rmtree(folder)
    ran = qrp.run("verify", "--json", store=own)
    assert ran.code == 6
    assert {problem["id"] for problem in ran.json["problems"]} == {folder.name}


def test_migrate_has_nothing_to_do_on_a_new_store(qrp: Any, own: Path, sql: Any) -> None:
    before = sql(own, "SELECT * FROM results")
    for words in (("migrate", "--check"), ("migrate",)):
        report = qrp.ok(*words, store=own)
        assert report["before"] == report["after"]
    assert sql(own, "SELECT * FROM results") == before
