"""`show` of a concept set: what is frequent, rare, constant, goes together, and is there under another name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from qrp_store.ingest import ingest
from qrp_store.label import label
from qrp_store.look import show
from qrp_store.store import create_store, open_store

N = 100


def table(path: Path, concepts: dict[str, range]) -> str:
    lines = [f"{i},{name}" for name, where in concepts.items() for i in where]
    path.write_text("key,concept\n" + "\n".join(lines) + "\n")
    return str(path)


def test_a_concept_set_is_described(tmp_path: Path) -> None:
    create_store(str(tmp_path / "store"))
    with open_store(str(tmp_path / "store")) as store:
        np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((N, 2)).astype("f4"))
        ingest(store, str(tmp_path / "x.npy"), dataset="d", backbone="b")
        first = {"Persons": range(60), "car": range(40, 100), "all": range(100), "rare": range(3)}
        label(store, table(tmp_path / "a.csv", first), dataset="d", concepts="a")
        second = {"person": range(20), "vehicle": range(41, 100), "moon": range(5)}
        made = label(store, table(tmp_path / "b.csv", second), dataset="d", concepts="b")
        told = show(store, "a")
        other = show(store, made.id)
    assert [(row["concept"], row["n"], row["share"]) for row in told["most_frequent"]] == [
        ("all", 100, 1.0),
        ("Persons", 60, 0.6),
        ("car", 60, 0.6),
        ("rare", 3, 0.03),
    ]
    assert (told["n_rare"], told["n_constant"], told["n_without_positives"]) == (1, 1, 0)
    assert told["together"][2] == {"concept": "Persons", "with": "car", "n": 20, "lift": 20 * N / 3600}
    near = {
        (row["concept"], row["other"]): (row["concepts"], row["same_name"], row["jaccard"])
        for row in told["near_duplicates"]
    }
    assert near == {("Persons", "person"): ("b", True, 20 / 60), ("car", "vehicle"): ("b", False, 59 / 60)}
    assert [row["other"] for row in told["near_duplicates"]] == ["person", "vehicle"]
    assert {row["other"] for row in other["near_duplicates"]} == {"Persons", "car"}
    assert told["options"] == {
        "source": hashlib.sha256((tmp_path / "a.csv").read_bytes()).hexdigest(),
        "threshold": 0.5,
        "group": None,
        "exclusive": False,
        "ignore_unknown_keys": False,
    }
    assert (told["provenance"]["source"], told["provenance"]["format"]) == (str(tmp_path / "a.csv"), "long")
    assert "rows" not in told["provenance"]


def test_a_set_without_labels_is_described_too(tmp_path: Path) -> None:
    create_store(str(tmp_path / "store"))
    with open_store(str(tmp_path / "store")) as store:
        np.save(tmp_path / "x.npy", np.eye(4, dtype="f4"))
        ingest(store, str(tmp_path / "x.npy"), dataset="d", backbone="b")
        (tmp_path / "l.csv").write_text("key,concept,score\n0,cat,0.2\n")
        label(store, str(tmp_path / "l.csv"), dataset="d", concepts="none")
        told = show(store, "none")
    assert (told["n_without_positives"], told["together"], told["near_duplicates"]) == (1, [], [])
