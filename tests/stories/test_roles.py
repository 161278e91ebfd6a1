"""Readers look, writers make, owners migrate, and nobody more than that: docs/roles.sql on a real Postgres."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psycopg
import pytest

from qrp_store.cli.main import call
from qrp_store.errors import QrpStoreError
from qrp_store.evaluate import evaluate
from qrp_store.ingest import ingest
from qrp_store.label import label
from qrp_store.maintenance.doctor import doctor
from qrp_store.maintenance.removal import migrate, retire
from qrp_store.settings import resolve
from qrp_store.store import create_store, open_store

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "roles.sql"


@pytest.fixture
def login(new_database: Callable[[], str], tmp_path: Path) -> Callable[[str], str]:
    """The URL of a new person in a role, in a store with one embedding."""
    url = new_database()
    create_store(url, str(tmp_path / "arrays"))
    np.save(tmp_path / "x.npy", np.arange(120, dtype=np.float32).reshape(60, 2))
    (tmp_path / "l.csv").write_text("key,concept\n" + "".join(f"{i},c{i // 30}\n" for i in range(60)))
    with open_store(url) as store:
        ingest(store, str(tmp_path / "x.npy"), dataset="d", backbone="b")
        label(store, str(tmp_path / "l.csv"), dataset="d", concepts="c")
        evaluate(store, dataset="d", k=(2,), epochs=2, bootstrap=10)
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(2):  # repeating it is harmless
            connection.execute(SCRIPT.read_text(encoding="utf-8"))  # type: ignore[arg-type]

    def make(role: str) -> str:
        name = f"u{uuid.uuid4().hex[:8]}"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {name} LOGIN IN ROLE {role}")  # type: ignore[arg-type]
        return url.replace("//postgres:", f"//{name}:", 1)

    return make


def test_a_reader_looks_and_every_way_of_writing_is_refused(
    login: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = login("qrp_reader")
    with open_store(url) as store:
        ((result,),) = store.sql("SELECT id FROM results").table.rows
    d, out = ["--dataset", "d"], ["-o", str(tmp_path / "out.csv")]
    for words in (
        *(["sql", "SELECT * FROM leaderboard"], ["leaderboard"], ["leaderboard", *d], ["verify", "--deep"]),
        *(
            ["ls"],
            ["ls", "jobs"],
            ["ls", "results"],
            ["show", str(result)],
            ["show", "d"],
            ["compare", *[str(result)] * 2],
        ),
        *(["export", what, *out] for what in ("results", "labels", "assignments")),
        ["export", "embedding", *d, "--backbone", "b", "-o", str(tmp_path / "out.npy")],
        ["report", *d, "--no-images", "-o", str(tmp_path / "out.html")],
        ["evaluate", *d, "-k", "2", "--epochs", "2", "--bootstrap", "10"],  # all of it is there
        ["gc", "--dry-run"],
        ["migrate", "--check"],
    ):
        assert call([*words, "--store", url]) == 0, (words, capsys.readouterr())
    capsys.readouterr()
    assert call(["sql", "SELECT n, dim FROM embeddings", "--store", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == [{"n": 60, "dim": 2}]
    found = {finding.check: finding.found for finding in doctor(url).findings}
    assert found["catalog: role"].endswith("is reader")
    with open_store(url) as store:
        assert store.embedding("d", "b").shape == (60, 2)
        np.save(tmp_path / "y.npy", np.ones((60, 3), np.float32))
        with pytest.raises(QrpStoreError, match="permission denied"):
            ingest(store, str(tmp_path / "y.npy"), dataset="d", backbone="c")
        with pytest.raises(QrpStoreError, match="permission denied"):
            retire(store, "d/b", cascade=True, yes=True)
    with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("DELETE FROM sample")


def test_a_writer_makes_and_retires_but_changes_no_schema(login: Callable[[str], str], tmp_path: Path) -> None:
    url = login("qrp_writer")
    np.save(tmp_path / "y.npy", np.ones((60, 3), np.float32))
    with open_store(url) as store:
        made = ingest(store, str(tmp_path / "y.npy"), dataset="d", backbone="c")
        (row,) = store.sql("SELECT created_by FROM embeddings WHERE id = ?", (made.id,))
        assert "@" in row["created_by"]
        retire(store, "d/c", yes=True)
    assert call(["init", "--store", url]) == 0  # harmless when repeated, for who may not change the schema, too
    with psycopg.connect(url) as connection:
        for statement in ("DROP TABLE sample", "UPDATE store SET uuid = 'x'", "CREATE TABLE mine (a int)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute(statement)  # type: ignore[arg-type]


def test_an_owner_may_migrate(login: Callable[[str], str]) -> None:
    url = login("qrp_owner")
    with psycopg.connect(url) as connection:
        connection.execute("ALTER TABLE sample ADD COLUMN extra int")
    assert migrate(url, check=True).after
    assert resolve(url).name.startswith("postgresql://")
