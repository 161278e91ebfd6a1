"""The questions of docs/sql.md run as they stand, on SQLite and on Postgres, and have answers."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DOC = Path(__file__).resolve().parents[2] / "docs" / "sql.md"
QUESTIONS = [
    (title, " ".join(statement.split()))
    for title, body in re.findall(r"^### (\d+\. .*?)\n(.*?)(?=^### |\Z)", DOC.read_text("utf-8"), flags=re.M | re.S)
    for statement in re.findall(r"```sql\n(.*?)```", body, flags=re.S)
]
MAY_BE_EMPTY = {
    "Which large clusters can nobody name?",
    "Which of its images lack its most frequent concept?",
}


@pytest.fixture(scope="module")
def photos(qrp: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the names that the questions use."""
    folder = tmp_path_factory.mktemp("questions")
    rng = np.random.default_rng(2)
    of = rng.integers(0, 8, 320)
    keys = [f"{i:03}.jpg" for i in range(320)]
    (folder / "keys.txt").write_text("".join(f"{key}\n" for key in keys))
    rows = ["key,concept,group"]
    for i in range(310):
        rows += [
            f"{keys[i]},{('apple', 'pear')[of[i] % 2]},fruit",
            f"{keys[i]},{('red', 'green')[of[i] // 2 % 2]},colour",
        ]
    (folder / "objects.csv").write_text("\n".join(rows) + "\n")
    store = folder / "store"
    qrp.ok("init", store=store)
    for name, noise in (("r50", 0.5), ("vit", 2.0)):
        np.save(folder / "rows.npy", (np.eye(8)[of] * 5 + rng.normal(size=(320, 8)) * noise).astype(np.float32))
        line = ("ingest", folder / "rows.npy", "--keys", folder / "keys.txt", "--dataset", "photos", "--backbone", name)
        qrp.ok(*line, store=store)
    qrp.ok("label", folder / "objects.csv", "--dataset", "photos", "--concepts", "objects", store=store)
    few = ("evaluate", "--dataset", "photos", "--epochs", 5, "--bootstrap", 20)
    qrp.ok(*few, "-k", 8, "--seed", 0, 1, "--ablate", "--permutations", 2, "--forward", store=store)
    return store


def test_there_are_twenty() -> None:
    numbers = [int(title.split(".")[0]) for title, _ in QUESTIONS]
    assert sorted(set(numbers)) == list(range(1, 21))


@pytest.mark.parametrize("title, statement", QUESTIONS, ids=[title for title, _ in QUESTIONS])
def test_a_question_has_an_answer(photos: Path, title: str, statement: str) -> None:
    from qrp_store import open as open_store

    with open_store(photos) as store:
        rows = store.sql(statement)
    assert len(rows) or title.split(". ", 1)[1] in MAY_BE_EMPTY
    if title.startswith("17") and "EXCEPT" in statement:
        assert len(rows) == 10
    if title.startswith("9."):
        assert {row["backbone"] for row in rows} == {"r50", "vit"}


def test_every_question_has_the_same_answer_on_postgres(
    photos: Path, new_database: Callable[[], str], tmp_path: Path
) -> None:
    from qrp_store.maintenance.copy import copy
    from qrp_store.store import create_store, open_store

    url = new_database()
    create_store(url, str(tmp_path / "arrays"))
    with open_store(url) as store, open_store(str(photos)) as here:
        copy(here, store, "photos")
        for title, statement in QUESTIONS:
            there, own = (sorted(map(plainly, which.sql(statement).table.rows)) for which in (store, here))
            # ties at a limit are anybody's choice, and the arrays lie elsewhere
            assert "LIMIT" in statement or title.startswith("20.") or there == own, title
            assert len(there) == len(own)


def plainly(row: Sequence[object]) -> list[str]:
    """A row's values as either database gives them: truth values as numbers, numbers to nine digits."""
    return [f"{float(value):.9g}" if isinstance(value, (bool, int, float, Decimal)) else str(value) for value in row]


def test_duckdb_runs_the_line_that_is_shown(photos: Path) -> None:
    import duckdb
    import duckdb_ext

    (line,) = re.findall(r'^\$ duckdb -c "(.*)"$', DOC.read_text("utf-8"), flags=re.M)
    (extension,) = Path(duckdb_ext.__path__[0]).rglob("sqlite_scanner.duckdb_extension")
    with duckdb.connect() as connection:
        connection.execute(f"LOAD '{extension}'")  # what duckdb fetches from the network the first time
        rows = connection.execute(line.replace("qrp-data", str(photos))).fetchall()
        board = connection.execute("SELECT backbone, nmi_mean FROM qrp.leaderboard ORDER BY rank").fetchall()
    assert len(rows) == 2
    with closing(sqlite3.connect(f"file:{photos / 'catalog.db'}?mode=ro", uri=True)) as plain:
        assert board == plain.execute("SELECT backbone, nmi_mean FROM leaderboard ORDER BY rank").fetchall()


def test_pandas_and_the_sqlite_shell_read_the_views(photos: Path) -> None:
    import pandas

    with closing(sqlite3.connect(f"file:{photos / 'catalog.db'}?mode=ro", uri=True)) as connection:
        board = pandas.read_sql_query("SELECT backbone, nmi_mean FROM leaderboard ORDER BY rank", connection)
    assert board["backbone"].tolist() == ["r50", "vit"]
    shell = shutil.which("sqlite3")
    if shell is not None:
        line = [shell, "-readonly", str(photos / "catalog.db"), "SELECT backbone FROM embeddings ORDER BY backbone"]
        assert subprocess.run(line, capture_output=True, text=True, check=True).stdout.split() == ["r50", "vit"]
