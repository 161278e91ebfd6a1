"""A store that somebody hands over: paths out of its root are refused, and looking at it changes nothing."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import qrp_store
from qrp_store.images import digest_of
from qrp_store.serve.app import create_app


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


@pytest.fixture
def photos(qrp: Any, own: Path, world: Any, tmp_path: Path) -> Path:
    """A folder of pictures that the catalog of `own` names as the place of its images, without having taken them in."""
    from PIL import Image

    folder = tmp_path / "my photos"
    (folder / "photos").mkdir(parents=True)
    for number, key in enumerate(world.keys):
        Image.new("RGB", (8, 8), (40 * (number % 7), 0, 0)).save(folder / key)
    _edit(own, f"UPDATE dataset SET image_root = '{folder}'")
    return folder


def test_pictures_of_a_folder_that_the_catalog_names_are_those_that_were_ingested(
    qrp: Any, own: Path, photos: Path, tmp_path: Path, world: Any
) -> None:
    page = tmp_path / "page.html"
    line = ("report", "--dataset", "photos", "-o", page, "--json")
    ran = qrp.run(*line, store=own)
    assert (ran.code, ran.json["n_images"]) == (0, 0)
    assert "not what was ingested" in ran.err
    assert f"--images {photos}" in ran.err
    assert "data:image/webp" not in page.read_text("utf-8")
    some = [(number, digest_of((photos / key).read_bytes())) for number, key in enumerate(world.keys[:200])]
    _edit(own, *(f"INSERT INTO image_file VALUES (1, {number}, 1, 1, '{digest}')" for number, digest in some))
    known = qrp.run(*line, store=own).json["n_images"]
    asked = qrp.run(*line, "--images", photos, store=own).json["n_images"]
    assert 0 < known < asked


def test_code_that_a_catalog_names_is_not_run(qrp: Any, own: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    arch = f"python/{tmp_path / 'evil.py'}:build"
    _edit(
        own,
        f"UPDATE artifact SET provenance = json_set(provenance, '$.asked.arch', '{arch}', '$.source', '{photos}', "
        "'$.asked.keys', NULL) WHERE kind = 'embedding'",
    )
    for block in (own / "arrays" / "embedding").rglob("c/1/0"):
        block.unlink()
    assert "--run-code" in qrp.fails(4, "repair", store=own)
    assert "code that the catalog names" in qrp.fails(4, "repair", "--keep", store=own)
    assert not (tmp_path / "ran").exists()
    assert len(qrp.rows("ls", "embeddings", store=own)) == 3
    ran = qrp.run("repair", "--keep", "--run-code", store=own)
    assert ran.code == 6, ran.err
    assert (tmp_path / "ran").exists()


def test_the_pages_of_serve_show_only_pictures_that_were_ingested(own: Path, photos: Path, world: Any) -> None:
    digest = digest_of((photos / world.keys[0]).read_bytes())
    _edit(own, f"INSERT INTO image_file VALUES (1, 0, 1, 1, '{digest}'), (1, 1, 1, 1, '{digest}')")
    with qrp_store.open(own) as store:
        for images, codes in ((None, [200, 404, 404]), (str(photos), [200, 200, 200])):
            assert [
                _status(create_app(store, images=images), f"/dataset/photos/picture/{i}") for i in range(3)
            ] == codes


def _status(app: Any, path: str) -> int:
    """The HTTP status of a GET, asked of the application itself."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    request: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
    }
    request |= {"headers": [(b"host", b"127.0.0.1")], "http_version": "1.1"}

    async def ask() -> None:
        async with app.router.lifespan_context(app):  # its end removes the application's temporary files
            await app(request, receive, send)

    asyncio.run(ask())
    return int(sent[0]["status"])
