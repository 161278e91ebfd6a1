"""A store that somebody hands over: paths out of its root are refused, and looking at it changes nothing."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest


def _edit(store: Path, *statements: str) -> None:
    """Edit a catalog as its owner can, without what keeps rows as they are."""
    with closing(sqlite3.connect(store / "catalog.db", isolation_level=None)) as connection:
        names = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in names:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        for _, sql in names:
            connection.execute(sql)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("place", ["../../outside", "/etc", "embedding/../../outside", "result/./x"])
def test_paths_out_of_the_root_are_refused(qrp: Any, own: Path, tmp_path: Path, place: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    _edit(
        own,
        f"UPDATE artifact SET path = '{place}' WHERE kind = 'embedding'",
        f"UPDATE result SET weights_path = '{place}/weights'",
        f"UPDATE clustering SET centroids_path = '{place}/centroids'",
    )
    ran = qrp.run("verify", "--deep", "--json", store=own)
    assert ran.code == 6
    assert {problem["kind"] for problem in ran.json["problems"]} == {"embedding", "clustering", "result"}
    qrp.ok("init", store=tmp_path / "target")
    assert qrp.run("copy", "photos", "--to", tmp_path / "target", "--json", store=own).code in (4, 6)
    new = ("cluster", "--dataset", "photos", "--backbone", "sharp", "-k", 7)
    assert qrp.run(*new, "--json", store=own).code in (4, 6)
    qrp.ok("gc", store=own)
    assert _files(outside) == {"secret": b"secret"}


def test_symbolic_links_out_of_the_root_are_not_followed(qrp: Any, own: Path, tmp_path: Path) -> None:
    outside = Path(shutil.copytree(own / "arrays" / "embedding", tmp_path / "outside"))
    shutil.rmtree(own / "arrays" / "embedding")
    (own / "arrays" / "embedding").symlink_to(outside)
    (own / "arrays" / "concepts" / "con-0123456789ab" / "e0").mkdir(parents=True)
    (own / "arrays" / "concepts" / "con-0123456789ab" / "e0" / "zarr.json").symlink_to(outside)
    before = _files(outside)
    assert qrp.run("verify", "--json", store=own).code == 6
    export = ("export", "embedding", "--dataset", "photos", "--backbone", "sharp", "-o", tmp_path / "x.npy")
    assert "symbolic link" in qrp.fails(4, *export, store=own)
    qrp.ok("rm", "photos", "--cascade", "--yes", store=own)
    qrp.ok("gc", store=own)
    assert _files(outside) == before


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("CREATE TRIGGER spy AFTER INSERT ON label BEGIN DELETE FROM artifact; END", "trigger spy"),
        ("CREATE TRIGGER spy BEFORE UPDATE ON label BEGIN DELETE FROM x; SELECT RAISE(ABORT, 'a'); END", "trigger spy"),
        ("CREATE VIEW spy AS SELECT 1", "view spy"),
        ("DROP VIEW leaderboard; CREATE VIEW leaderboard AS SELECT 'mine' AS backbone", "view leaderboard"),
    ],
)
def test_other_views_and_triggers_are_named(qrp: Any, own: Path, statement: str, what: str) -> None:
    with closing(sqlite3.connect(own / "catalog.db")) as connection:
        connection.executescript(statement)
    ran = qrp.run("verify", "--deep", "--json", store=own)
    assert ran.code == 6
    assert [problem["problem"].startswith(what) for problem in ran.json["problems"]] == [True]
    qrp.ok("migrate", store=own)
    assert qrp.run("verify", "--deep", store=own).code == (0 if what == "view leaderboard" else 6)


def test_an_id_that_is_a_path_is_not_copied(qrp: Any, own: Path, tmp_path: Path) -> None:
    _edit(own, "UPDATE artifact SET id = '../../' || id WHERE kind = 'clustering'")
    qrp.ok("init", store=tmp_path / "target")
    assert "no id" in qrp.fails(4, "copy", "photos", "--to", tmp_path / "target", store=own)
