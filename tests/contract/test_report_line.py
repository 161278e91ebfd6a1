"""report, as a user runs it: one file, pictures when there are some, a clear word when there are none."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qrp_store.rendering.captions import digits

KEYS = ("<script>alert('x')</script>.png", 'quote".png', "🦊 fox.png", "شبكة.png", "../outside.png")


def data_of(page: Path) -> Any:
    text = page.read_text("utf-8")
    return json.loads(text.split('<script id="data" type="application/json">')[1].split("</script>")[0])


@dataclass(frozen=True)
class Gallery:
    store: Path
    images: Path
    rows: np.ndarray
    keys: list[str]


@pytest.fixture(scope="module")
def gallery(qrp: Any, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """A ranked store with odd keys whose images lie in a folder, but one outside and one damaged."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("gallery")
    rng = np.random.default_rng(3)
    keys = [*KEYS, *(f"{i:03}.png" for i in range(115))]
    images = folder / "images"
    for number, key in enumerate(keys):
        path = images / key
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), number, np.uint8)).save(path, "PNG")
    (images / "000.png").write_bytes(b"damaged")
    rows = (np.eye(4)[np.arange(120) % 4] * 9 + rng.normal(size=(120, 4))).astype(np.float32)
    np.save(folder / "rows.npy", rows)
    (folder / "keys.txt").write_text("".join(f"{key}\n" for key in keys), "utf-8")
    with (folder / "labels.jsonl").open("w", encoding="utf-8") as file:
        for i, key in enumerate(keys):
            file.write(json.dumps({"key": key, "concept": f"<b>{i % 4}", "group": "kind"}) + "\n")
    store = folder / "store"
    qrp.ok("init", store=store)
    for name in ("one", "two & more"):
        qrp.ok(
            *("ingest", folder / "rows.npy", "--keys", folder / "keys.txt", "--dataset", "odd", "--backbone", name),
            store=store,
        )
    qrp.ok("label", folder / "labels.jsonl", "--dataset", "odd", "--concepts", "kinds", store=store)
    few = ("--epochs", 3, "--bootstrap", 20)
    qrp.ok("evaluate", "--dataset", "odd", "-k", 4, "--seed", 0, 1, *few, store=store)
    qrp.ok("evaluate", "--dataset", "odd", "-k", 6, *few, "--ablate", "--forward", store=store)
    return Gallery(store, images, rows, keys)


def test_a_report_says_what_it_wrote(qrp: Any, world: Any, tmp_path: Path) -> None:
    page = tmp_path / "photos.html"
    done = qrp.ok("report", "--dataset", "photos", "-o", page, "--no-images", store=world.store)
    assert done["schema"] == "qrp-store/report/1"
    assert (done["path"], done["bytes"]) == (str(page), page.stat().st_size)
    assert (done["n_backbones"], done["n_clusters"], done["n_images"], done["n_settings"]) == (3, 18, 0, 2)
    html = page.read_text("utf-8")
    assert html.startswith("<!doctype html>")
    board = qrp.rows("leaderboard", "--dataset", "photos", store=world.store)
    for row in board:
        assert row["backbone"] in html
        assert digits(row["nmi_mean"], 3) in html
    effective = "SELECT avg(exp(entropy_nats)) AS k FROM results WHERE NOT permuted GROUP BY setting, backbone"
    for row in qrp.rows("sql", effective, store=world.store):
        assert f"<td>{digits(row['k'], 1)}</td>" in html
    assert "data:image/" not in html
    assert list(tmp_path.iterdir()) == [page]


def test_the_clusters_are_those_of_the_views(qrp: Any, world: Any, tmp_path: Path) -> None:
    page = tmp_path / "photos.html"
    qrp.ok("report", "--dataset", "photos", "--concepts", "objects", "-o", page, "--no-images", store=world.store)
    data = data_of(page)
    first = data["galleries"][0]
    assert first["backbone"] == "sharp"
    query = (
        "SELECT s.* FROM cluster_scores s JOIN results r ON r.id = s.result_id WHERE r.backbone = 'sharp' AND "
        "r.concepts = 'objects' AND r.seed = 0 AND NOT r.permuted ORDER BY cluster"
    )
    scores = qrp.rows("sql", query, store=world.store)
    for shown, row in zip(first["clusters"], scores, strict=True):
        assert [shown[0], shown[2]] == [row["cluster"], row["n_test"]]
        assert shown[3] == pytest.approx(row["cross_entropy_nats"], abs=1e-3)
        assert data["concepts"][shown[6][0][0]][0] == row["top_concept"]
    sizes = "SELECT cluster, count(*) AS n FROM assignments WHERE clustering_id = (SELECT clustering_id FROM results "
    sizes += "WHERE backbone = 'sharp' AND concepts = 'objects' AND seed = 0 AND NOT permuted) GROUP BY cluster"
    assert {c[0]: c[1] for c in first["clusters"]} == {
        r["cluster"]: r["n"] for r in qrp.rows("sql", sizes, store=world.store)
    }


def test_pictures_are_the_images_nearest_to_the_centroid(qrp: Any, gallery: Gallery, tmp_path: Path) -> None:
    page = tmp_path / "odd.html"
    line = ("report", "--dataset", "odd", "--images", gallery.images, "-k", 4, "-o", page)
    ran = qrp.run(*line, store=gallery.store)
    assert ran.code == 0, ran.err
    assert ran.err.count("could not be read") == 1
    assert re.search(r"could not be read below .*: '(000|\.\./outside)\.png'", ran.err)
    data = data_of(page)
    keys = [key for key, _ in data["pictures"]]
    rows = qrp.rows(
        "sql",
        "SELECT key, cluster FROM assignments WHERE backbone = 'one' AND clusters = 4 AND seed = 0",
        store=gallery.store,
    )
    of = {row["key"]: row["cluster"] for row in rows}
    labels = np.array([of[key] for key in gallery.keys])
    chosen = next(g for g in data["galleries"] if g["backbone"] == "one")
    for number, *_, pictures in chosen["clusters"]:
        own = np.flatnonzero(labels == number)
        distance = np.linalg.norm(gallery.rows[own] - gallery.rows[own].mean(axis=0), axis=1)
        near = [gallery.keys[i] for i in own[np.argsort(distance)][:12]]
        assert [keys[i] for i in pictures] == [k for k in near if k not in ("000.png", "../outside.png")]


def test_odd_keys_stay_text_and_lead_nowhere_else(qrp: Any, gallery: Gallery, tmp_path: Path) -> None:
    page = tmp_path / "odd.html"
    ran = qrp.run("report", "--dataset", "odd", "--images", gallery.images, "-o", page, store=gallery.store)
    assert ran.code == 0, ran.err
    html = page.read_text("utf-8")
    assert len(re.findall("<script", html)) == 2
    assert "<b>" not in html
    assert html.count("../outside.png") == 1  # in the sentence on what could not be read


def test_groups_and_several_k_are_drawn(qrp: Any, gallery: Gallery, tmp_path: Path) -> None:
    page = tmp_path / "odd.html"
    qrp.ok("report", "--dataset", "odd", "--no-images", "-o", page, store=gallery.store)
    assert "Score against K" in page.read_text("utf-8")
    qrp.ok("report", "--dataset", "odd", "--no-images", "-k", 6, "--backbone", "one", "-o", page, store=gallery.store)
    html = page.read_text("utf-8")
    assert 'id="groups"' in html
    (board,) = [
        r for r in qrp.rows("leaderboard", store=gallery.store) if r["clusters"] == 6 and r["backbone"] == "one"
    ]
    both = (digits(board["linear_mean"], 3), digits(board["nmi_mean"], 3))
    assert "".join(f"<td><bdi>{value}</bdi></td>" for value in both) in html
    assert "Score against K" not in html
    assert len(data_of(page)["galleries"]) == 1


@pytest.mark.parametrize("more", [(), ("--images", "no/such/folder")])
def test_without_a_folder_the_page_has_no_pictures_and_says_so_once(
    qrp: Any, world: Any, tmp_path: Path, more: tuple[str, ...]
) -> None:
    page = tmp_path / "photos.html"
    ran = qrp.run("report", "--dataset", "photos", "-o", page, *more, "--json", store=world.store)
    assert (ran.code, ran.json["n_images"]) == (0, 0)
    assert ran.err.count("without pictures") == 1
    assert "data:image/" not in page.read_text("utf-8")


def test_what_cannot_be_reported_is_said_and_leaves_no_file(
    qrp: Any, world: Any, store: Path, files: Any, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    assert "no dataset 'other'" in qrp.fails(3, "report", "--dataset", "other", "-o", page, store=world.store)
    assert "evaluate" in qrp.fails(3, "report", "--dataset", "photos", "-k", 99, "-o", page, store=world.store)
    qrp.ok("ingest", files.array(np.eye(9)), "--dataset", "new", "--backbone", "b", store=store)
    assert "evaluate --dataset new" in qrp.fails(3, "report", "--dataset", "new", "-o", page, store=store)
    assert "no such folder" in qrp.fails(
        3, "report", "--dataset", "photos", "-o", tmp_path / "no" / "page.html", store=world.store
    )
    line = ("report", "--dataset", "photos", "-o")
    assert "page.html" in qrp.fails(4, *line, tmp_path / "page", store=world.store)
    (tmp_path / "folder.html").mkdir()
    assert "is a folder" in qrp.fails(4, *line, tmp_path / "folder.html", store=world.store)
    for asked in ("--backbone", "--concepts"):
        said = qrp.fails(3, *line, page, "--backbone", "dull", asked, "shrap", store=world.store)
        assert "'shrap'" in said
        assert "there are: " in said
    assert "did you mean sharp?" in qrp.fails(3, *line, page, "--backbone", "shrap", store=world.store)
    assert not page.exists()


def test_a_damaged_embedding_costs_the_pictures_only(qrp: Any, own: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for block in (own / "arrays" / "embedding").rglob("c/*/*"):
        if block.is_file():
            block.unlink()
    page = tmp_path / "page.html"
    ran = qrp.run("report", "--dataset", "photos", "--images", tmp_path / "images", "-o", page, store=own)
    assert ran.code == 0, ran.err
    assert "no pictures for sharp" in ran.err
    assert page.exists()


def test_published_figures_stand_beside(qrp: Any, world: Any, tmp_path: Path) -> None:
    page, table = tmp_path / "page.html", tmp_path / "top1.csv"
    line = ("report", "--dataset", "photos", "--no-images", "-o", page)
    table.write_text("backbone,top1,source\nsharp,75.3,<b>their paper\ndull,71.8,\nelsewhere,60,\n", "utf-8")
    qrp.ok(*line, "--published", table, store=world.store)
    html = page.read_text("utf-8")
    assert 'id="published"' in html
    assert re.search('<td><bdi>75.3</bdi></td>.*<td class="words"><bdi>&lt;b&gt;their paper</bdi></td>', html)
    assert re.search('<td><bdi>71.8</bdi></td>.*<td class="words"><bdi>top1.csv</bdi></td>', html)
    qrp.ok(*line, store=world.store)
    assert 'id="published"' not in page.read_text("utf-8")


@pytest.mark.parametrize(
    "code, text, said",
    [
        (3, None, "no such file"),
        (4, "model,top1\nsharp,75\n", "backbone and top1"),
        (4, "backbone,top1\nsharp,0.753\n", "line 2: top1 is '0.753'"),
        (4, "backbone,top1\nsharp,\n", "line 2"),
        (4, "backbone,top1\nsharp,75\nsharp,76\n", "line 3: backbone 'sharp' for the second time"),
        (4, "backbone,top1\n" + "x" * 200_000 + ",75\n", "line 2: field larger than field limit"),
        (4, 'backbone,top1\n"sharp,75\n', "line 2: unexpected end of data"),
        (3, "backbone,top1\nother,75\n", "'sharp', 'dull', 'noise'"),
    ],
)
def test_a_table_of_published_figures_that_cannot_be_used_is_refused(
    qrp: Any, world: Any, tmp_path: Path, code: int, text: str | None, said: str
) -> None:
    page, table = tmp_path / "page.html", tmp_path / "top1.csv"
    if text is not None:
        table.write_text(text, "utf-8")
    line = ("report", "--dataset", "photos", "--no-images", "-o", page, "--published", table)
    assert said in qrp.fails(code, *line, store=world.store)
    assert not page.exists()


def test_a_well_known_checkpoint_is_known_by_its_file(qrp: Any, store: Path, files: Any, tmp_path: Path) -> None:
    import torch
    from torchvision.models import resnet18

    import qrp_store
    from qrp_store.rendering.content import Ranked
    from qrp_store.report.published import published

    weights = tmp_path / "swav_100ep_pretrain.pth.tar"
    torch.save(resnet18().state_dict(), weights)
    images = files.images(["a.png", "b.png"])
    line = ("ingest", images, "--dataset", "d", "--backbone", "b", "--arch", "torchvision/resnet18")
    qrp.ok(*line, "--weights", weights, "--image-size", 32, store=store)
    rows = [Ranked(1, name, 0.5, None, 1.0, 20.0, 0.4, 0.8, ()) for name in ("b", "imported")]
    with qrp_store.open(store) as opened:
        (point,) = published(opened, "d", rows, {})
        (own,) = published(opened, "d", rows, {"b": (50.0, "me")})
    assert (point.backbone, point.top1) == ("b", 72.1)
    assert "swav_100ep_pretrain.pth.tar" in point.source
    assert (own.top1, own.source) == (50.0, "me")


def test_it_leads_with_the_setting_of_most_images_a_cluster_and_says_so(qrp: Any, store: Path, files: Any) -> None:
    rng = np.random.default_rng(0)
    kinds = np.arange(200) % 4
    rows = (np.eye(4)[kinds] * 9 + rng.normal(size=(200, 4))).astype(np.float32)
    labels = store.parent / "labels.csv"
    labels.write_text("key,concept\n" + "".join(f"{i},kind {kind}\n" for i, kind in enumerate(kinds)))
    qrp.ok("init", store=store)
    for name in ("first", "second"):
        rows = rows + rng.normal(size=rows.shape).astype(np.float32)
        qrp.ok("ingest", files.array(rows), "--dataset", "d", "--backbone", name, store=store)
    qrp.ok("label", labels, "--dataset", "d", "--concepts", "kinds", store=store)
    few = ("--seed", 0, 1, 2, "--protocol", "tight", "--bootstrap", 20)
    qrp.ok("evaluate", "--dataset", "d", "-k", 4, *few, store=store)
    qrp.ok("evaluate", "--dataset", "d", "-k", 8, *few, store=store)  # newer, with half as many images a cluster
    page = store.parent / "page.html"
    qrp.ok("report", "--dataset", "d", "--no-images", "-o", page, store=store)
    html = page.read_text("utf-8")
    assert len(data_of(page)["galleries"][0]["clusters"]) == 4
    assert "leads with the setting of most backbones, then most results, then most images a cluster" in html
    (best, other) = qrp.rows("sql", "SELECT * FROM leaderboard WHERE clusters = 4 ORDER BY rank", store=store)
    for row in (best, other):
        assert f"<td>{row['rank_lo']}–{row['rank_hi']}{' =' if row['rank'] > 1 == row['rank_lo'] else ''}</td>" in html
    assert "A single estimate may exceed the true value." in html
    assert f"by {digits(best['nmi_mean'] - other['nmi_mean'], 3)} NMI (95\N{NO-BREAK SPACE}% interval" in html
    qrp.ok("report", "--dataset", "d", "-k", 8, "--protocol", "tight", "--no-images", "-o", page, store=store)
    assert len(data_of(page)["galleries"][0]["clusters"]) == 8
    assert "did you mean tight?" in qrp.fails(
        3, "report", "--dataset", "d", "--protocol", "tigth", "-o", page, store=store
    )
    failed = qrp.fails(3, "report", "--dataset", "d", "--protocol", "laina2022", "-o", page, store=store)
    assert "no results of protocol 'laina2022'" in failed
