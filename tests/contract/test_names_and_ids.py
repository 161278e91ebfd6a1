"""Names and ids."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BAD_NAMES = ["a@b", "a@1", "a+b", "a\nb", "a\tb", "a\x7fb", "a\x1b[31mb", "", " "]


def test_ids_are_kind_and_hash_the_same_in_json_and_views(qrp: Any, world: Any, sql: Any) -> None:
    prefixes = {"datasets": "ds", "backbones": "bb", "embeddings": "emb", "concepts": "con", "clusterings": "clu"}
    seen: list[str] = []
    for what, prefix in {**prefixes, "results": "res"}.items():
        ids = [row["id"] for row in qrp.rows("ls", what, store=world.store)]
        assert ids
        assert all(re.fullmatch(rf"{prefix}-[0-9a-f]{{8,}}", i) for i in ids)
        seen += ids
    assert len(set(seen)) == len(seen)
    told = {r["id"] for r in world.evaluated["results"] + world.permuted["results"]}
    assert told == {r["id"] for r in sql(world.store, "SELECT id FROM results")} <= set(seen)
    told = {r["clustering_id"] for r in world.evaluated["results"]}
    assert told == {r["clustering_id"] for r in sql(world.store, "SELECT DISTINCT clustering_id FROM assignments")}
    told = {r["id"] for r in world.ingested.values()}
    assert told == {r["id"] for r in sql(world.store, "SELECT id FROM embeddings")}


def test_unique_prefixes_are_accepted(qrp: Any, world: Any) -> None:
    ids = [r["id"] for r in qrp.rows("ls", "results", store=world.store)]
    for identifier in ids[:3]:
        short = next(identifier[:i] for i in range(5, 40) if sum(o.startswith(identifier[:i]) for o in ids) == 1)
        assert qrp.ok("show", short, store=world.store)["id"] == identifier
        assert qrp.ok("show", identifier, store=world.store)["id"] == identifier


def test_a_prefix_of_several_ids_is_exit_4(qrp: Any, world: Any) -> None:
    assert "res-" in qrp.fails(4, "show", "res-", store=world.store)


@pytest.mark.parametrize("reference", ["res-ffffffffffff", "no such name", "objects@9", "../../etc/passwd"])
def test_what_nothing_is_called_is_exit_3(qrp: Any, world: Any, reference: str) -> None:
    assert reference in qrp.fails(3, "show", reference, store=world.store)


def test_name_is_the_newest_and_name_at_n_that_version(qrp: Any, own: Any, files: Any, world: Any) -> None:
    words = ("--dataset", "photos", "--concepts", "classes")
    table = files.labels([(key, "x" if i % 2 else "y") for i, key in enumerate(world.keys)])
    second = qrp.ok("label", table, *words, store=own)
    assert second["version"] == 2
    first = world.labelled["classes"]["id"]
    assert qrp.ok("show", "classes", store=own)["id"] == second["id"]
    assert qrp.ok("show", "classes@1", store=own)["id"] == first
    assert qrp.ok("show", "classes@2", store=own)["id"] == second["id"]
    evaluate = ("evaluate", "--dataset", "photos", "--backbone", "sharp@1", "-k", 6, "--epochs", 2)
    new = qrp.ok(*evaluate, "--concepts", "classes", store=own)["results"][0]
    old = qrp.ok(*evaluate, "--concepts", "classes@1", store=own)["results"][0]
    assert (new["n_concepts"], old["n_concepts"]) == (2, 3)
    assert old["concepts"] == "classes@1"
    assert "classes@3" in qrp.fails(3, *evaluate, "--concepts", "classes@3", store=own)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_hold_no_at_plus_or_control_characters(qrp: Any, own: Any, files: Any, sql: Any, name: str) -> None:
    rows = files.array(np.eye(4, dtype=np.float32))
    labels = files.labels([("photos/000.jpg", "x")])
    for words in (
        ("ingest", rows, "--dataset", name, "--backbone", "new"),
        ("ingest", rows, "--dataset", "new", "--backbone", name),
        ("label", labels, "--dataset", "photos", "--concepts", name),
    ):
        told = qrp.fails(4, *words, store=own)
        assert "\x1b" not in told
    assert {r["dataset"] for r in sql(own, "SELECT dataset FROM embeddings")} == {"photos"}
    assert {r["concepts"] for r in sql(own, "SELECT DISTINCT concepts FROM labels")} == {"objects", "classes"}


@pytest.mark.parametrize(
    "name", ["é ü 漢字 🐍", "a/b", "..", "'; DROP TABLE result; --", '"quoted"', "<script>", "-x", "%s"]
)
def test_any_other_name_will_do(qrp: Any, store: Any, files: Any, sql: Any, name: str) -> None:
    rows = files.array(np.eye(4, dtype=np.float32))
    qrp.ok("ingest", rows, f"--dataset={name}", f"--backbone={name}", store=store)
    qrp.ok("label", files.labels([("0", name)]), f"--dataset={name}", f"--concepts={name}", store=store)
    assert [r["name"] for r in qrp.rows("ls", "datasets", store=store)] == [name]
    assert sql(store, "SELECT dataset, concepts, concept FROM labels") == [
        {"dataset": name, "concepts": name, "concept": name}
    ]
    assert {p.name for p in store.iterdir()} <= {"catalog.db", "catalog.db-wal", "catalog.db-shm", "arrays"}


def test_a_name_may_look_like_an_id(qrp: Any, store: Any, files: Any) -> None:
    qrp.ok("ingest", files.array(np.eye(4, dtype=np.float32)), "--dataset", "ds-50", "--backbone", "bb-8", store=store)
    assert qrp.ok("show", "bb-8", store=store)["kind"] == "backbone"
    qrp.ok("rm", "ds-50", "--cascade", "--yes", store=store)
    assert qrp.rows("ls", "datasets", store=store) == []


def test_the_same_backbone_name_with_another_layout_is_exit_4_with_the_difference(
    qrp: Any, own: Any, files: Any
) -> None:
    rows = files.array(np.ones((5, 3), np.float32))
    told = qrp.fails(4, "ingest", rows, "--dataset", "others", "--backbone", "sharp", store=own)
    assert "sharp" in told
    assert "dim" in told
    assert "3" in told
    assert "8" in told


@pytest.mark.parametrize("version", ["²", "0", "9" * 25, "9" * 5000], ids=["square", "0", "25 digits", "5000 digits"])
def test_what_is_no_version_number_is_told_so(qrp: Any, world: Any, tmp_path: Path, version: str) -> None:
    assert "nothing here is called" in qrp.fails(3, "show", f"sharp@{version}", store=world.store)
    words = ("--dataset", "photos", "--backbone", f"sharp@{version}", "-k", 6)
    assert "after the @ comes a version number" in qrp.fails(4, "cluster", *words, store=world.store)
    assert "64 bits" in qrp.fails(4, "export", "results", "-k", 10**30, "-o", tmp_path / "x.csv", store=world.store)
