"""Damage of catalog.db: random bits flipped and random cells edited. What changes an answer is found, and not used."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qrp_store.cluster import cluster
from qrp_store.errors import Corrupt, QrpStoreError
from qrp_store.evaluate import evaluate
from qrp_store.ingest import ingest
from qrp_store.label import label
from qrp_store.maintenance.removal import verify
from qrp_store.store import create_store, open_store

N = 400
ANSWERS = (
    "SELECT key, cluster, part, clusters, dataset, backbone FROM assignments",
    "SELECT key, concept, concept_group, score, concepts, version FROM labels",
    "SELECT id, dataset, backbone, version, n, dim, dtype FROM embeddings",
    "SELECT * FROM results",
    "SELECT * FROM cluster_scores",
    "SELECT * FROM cluster_concepts",
    "SELECT * FROM group_scores",
    "SELECT * FROM leaderboard",
    "SELECT embedding_pk, number, checksum, bad FROM block",
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small evaluated store, its catalog in one file."""
    folder = tmp_path_factory.mktemp("good")
    rng = np.random.default_rng(0)
    group = rng.integers(6, size=N)
    rows = (rng.normal(size=(6, 8))[group] * 4 + rng.normal(size=(N, 8))).astype(np.float32)
    np.save(folder / "x.npy", rows)
    scores = (0.6 + 0.4 * rng.random(N)).tolist()
    lines = [
        f"{i},g{g},{score},{'abc'[g % 3]}" for i, (g, score) in enumerate(zip(group.tolist(), scores, strict=True))
    ]
    (folder / "labels.csv").write_text("\n".join(["key,concept,score,group", *lines]))
    store = folder / "store"
    create_store(str(store))
    with open_store(str(store)) as opened:
        ingest(opened, str(folder / "x.npy"), dataset="d", backbone="b", block_rows=100)
        label(opened, str(folder / "labels.csv"), dataset="d", concepts="c")
        evaluate(opened, dataset="d", k=(6,), epochs=3, batch_size=64, bootstrap=20, ablate=True)
    with closing(sqlite3.connect(store / "catalog.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return store


@pytest.fixture
def damaged(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "store"))


def _answers(store: Path) -> list[Any]:
    """What a reader gets, or that it cannot be read."""
    found: list[Any] = []
    with open_store(str(store)) as opened:
        for query in ANSWERS:
            try:
                found.append(sorted(map(repr, opened.sql(query).table.rows)))
            except QrpStoreError:
                found.append("unreadable")
    return found


def _noticed(store: Path) -> bool:
    try:
        with open_store(str(store)) as opened:
            return bool(verify(opened, deep=True).problems)
    except QrpStoreError:
        return True


def _flip(store: Path, good: Path, rng: random.Random) -> int:
    data = bytearray((good / "catalog.db").read_bytes())
    at = rng.randrange(100, len(data))  # the first 100 bytes are the file's header
    data[at] ^= 1 << rng.randrange(8)
    for file in store.glob("catalog.db*"):
        file.unlink()
    (store / "catalog.db").write_bytes(data)
    return at


def _check_flips(store: Path, good: Path, seed: int, rounds: int) -> tuple[int, int]:
    """Flip one bit at a time; returns how many flips changed an answer, and how many were noticed."""
    rng, before = random.Random(seed), _answers(good)
    changed = noticed = 0
    for _ in range(rounds):
        at = _flip(store, good, rng)
        seen = _noticed(store)
        after: list[Any] = []
        with suppress(QrpStoreError):
            after = _answers(store)
        assert after == before or seen, f"the bit at {at} changed an answer and verify --deep found nothing"
        changed, noticed = changed + (after != before), noticed + seen
    return changed, noticed


def test_flipped_bits_that_change_an_answer_are_found(damaged: Path, good: Path) -> None:
    changed, noticed = _check_flips(damaged, good, 1, 40)
    assert noticed >= changed > 0


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_a_thousand_flipped_bits(damaged: Path, good: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    changed, noticed = _check_flips(damaged, good, seed, 200)
    with capsys.disabled():
        print(f"\n200 bits flipped in catalog.db: {changed} changed an answer, {noticed} were found")


def _cells(store: Path) -> Iterator[tuple[str, str, str]]:
    """Every table, its columns that are not keys of other rows, and a key of its rows."""
    with closing(sqlite3.connect(store / "catalog.db")) as connection:
        for table in (
            *("assignment", "label", "sample", "concept", "cluster", "concept_set", "clustering", "embedding", "block"),
            *("result", "cluster_score", "cluster_concept", "group_score", "concept_score", "result_concept_set"),
        ):
            for column in connection.execute(f"SELECT name, type FROM pragma_table_info('{table}')"):
                if not column[0].endswith("_pk"):
                    yield table, column[0], column[1]


def test_random_edits_of_every_column_are_found(damaged: Path, good: Path) -> None:
    rng = random.Random(2)
    unnoticed = []
    for table, column, kind in list(_cells(good)):
        for file in damaged.glob("catalog.db*"):
            file.unlink()
        shutil.copy(good / "catalog.db", damaged / "catalog.db")
        with closing(sqlite3.connect(damaged / "catalog.db", isolation_level=None)) as connection:
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                connection.execute(f"DROP TRIGGER {name}")
            (n,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            before = connection.execute(f"SELECT * FROM {table}").fetchall()
            key = f"(SELECT * FROM {table} LIMIT 1 OFFSET {rng.randrange(n)})"
            keys = [r[1] for r in connection.execute(f"PRAGMA table_info({table})") if r[5]]
            which = connection.execute(f"SELECT {', '.join(keys)} FROM {key}").fetchone()
            value = "x'00'" if kind == "BLOB" else "'[9]'" if kind == "JSON" else "'other'" if kind == "TEXT" else "7"
            if kind in ("INTEGER", "BIGINT", "SMALLINT", "FLOAT"):
                value = f"coalesce({column}, 0) + 1"
            where = " AND ".join(f"{name} = ?" for name in keys)
            with suppress(sqlite3.IntegrityError):
                connection.execute(f"UPDATE {table} SET {column} = {value} WHERE {where}", which)
            changed = connection.execute(f"SELECT * FROM {table}").fetchall() != before
        if changed and not _noticed(damaged):
            unnoticed.append(f"{table}.{column}")
    assert unnoticed == []


EDITS = (
    ("UPDATE assignment SET cluster = (cluster + 1) % 6 WHERE position < 200", "clustering"),
    ("UPDATE assignment SET part = 2 WHERE part = 0 AND position < 100", "clustering"),
    ("UPDATE OR IGNORE label SET concept = (SELECT max(concept) FROM label) WHERE position < 60", "concepts"),
    ("UPDATE sample SET key = key || 'x' WHERE position < 50", "dataset"),
)


@pytest.mark.parametrize(("statement", "kind"), EDITS)
def test_edited_rows_are_named_and_refused(damaged: Path, statement: str, kind: str) -> None:
    with closing(sqlite3.connect(damaged / "catalog.db", isolation_level=None)) as connection:
        connection.execute(statement)
    words = [str(Path(sys.executable).with_name("qrp-store")), "verify", "--deep", "--store", str(damaged)]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.returncode == 6
    assert f": {kind}: " in ran.stdout
    with open_store(str(damaged)) as store:
        if kind in ("clustering", "dataset"):
            what = "assignment" if kind == "clustering" else "keys"
            with pytest.raises(Corrupt, match=what):
                _use(store, kind)
        create_store(str(damaged.parent / "other"))
        from qrp_store.maintenance.copy import copy

        with open_store(str(damaged.parent / "other")) as other, pytest.raises(Corrupt):
            copy(store, other, "d")


def _use(store: Any, kind: str) -> None:
    if kind == "clustering":
        report = evaluate(store, dataset="d", k=(6,), epochs=3, batch_size=64, bootstrap=20, force=True)
        raise Corrupt(report.errors[0]["message"])
    cluster(store, dataset="d", backbone="b", k=5)


def test_one_damaged_part_does_not_end_the_check_of_the_others(damaged: Path) -> None:
    for path in (damaged / "arrays").rglob("zarr.json"):
        path.write_bytes(b'{"shape": [1000000000000000, 1000000000], "data_type": "float32", "node_type": "array"}')
    with closing(sqlite3.connect(damaged / "catalog.db", isolation_level=None)) as connection:
        connection.execute("UPDATE block SET bad = 'no JSON' WHERE number = 0")
        connection.execute("UPDATE assignment SET cluster = 'x' WHERE position = 1")
    with open_store(str(damaged)) as store:
        kinds = {problem["kind"] for problem in verify(store, deep=True).problems}
    assert kinds == {"embedding", "clustering", "result"}
