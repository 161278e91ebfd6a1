"""The demo's data are what they say, and every command that it prints runs."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from qrp_store import demo
from qrp_store.cli import demo as steps
from qrp_store.cli.main import call
from qrp_store.store import open_store


def test_the_concepts_are_names_kinds_categories_and_skin_tones_each_in_one_group() -> None:
    drawings = demo._drawings()
    assert len(drawings) > 3000
    assert len({d.key for d in drawings}) == len(drawings)
    concepts = {concept for d in drawings for concept in d.concepts}
    assert {group for _, group in concepts} == {"name", "kind", "category", "skin tone"}
    assert len({name for name, _ in concepts}) == len(concepts)
    wave = next(d for d in drawings if d.key == "waving-hand-medium-dark-skin-tone.png")
    assert dict(wave.concepts) == {
        "medium-dark skin": "skin tone",
        "waving": "name",
        "hand": "name",
        "People & Body": "category",
        "hand-fingers-open (kind)": "kind",
    }


def test_a_drawing_is_placed_by_its_code_alone() -> None:
    first, second = demo._drawings()[:2]
    image = demo._place(first)
    assert image.size == (128, 128)
    assert image.mode == "RGB"
    assert image.tobytes() == demo._place(first).tobytes() != demo._place(second).tobytes()
    assert (np.asarray(image) == 255).all(axis=2).any()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the demo ran on every twelfth drawing, with few clusters."""
    folder = tmp_path_factory.mktemp("demo")
    few = demo._drawings()[::12]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_drawings", lambda: few)
        patch.setattr(steps, "CLUSTERS", 6)
        assert call(["demo", str(folder / "a demo"), "--quiet"]) == 0
    return folder / "a demo"


def test_the_demo_ends_with_four_ranked_backbones(
    ran: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = demo._drawings()[::12]
    monkeypatch.setattr(demo, "_drawings", lambda: few)
    monkeypatch.setattr(steps, "CLUSTERS", 6)
    assert call(["demo", str(ran), "--json", "--quiet"]) == 0
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert {r["backbone"] for r in report["leaderboard"]} == {
        "efficientnet-lite0",
        "efficientnet-lite2",
        "random",
        "pixels-16",
    }
    assert {r["n_seeds"] for r in report["leaderboard"]} == {3}
    # known answer 7: on real images random weights score below trained ones
    nmi = {r["backbone"]: r["nmi_mean"] for r in report["leaderboard"]}
    assert nmi["random"] < min(nmi["efficientnet-lite0"], nmi["efficientnet-lite2"])
    assert report["best_clusters"]["rows"]
    assert Path(report["report"]).read_text("utf-8").count("data:image/webp") > 100
    assert any("CC BY-SA 4.0" in line for line in report["licences"])
    assert shown.err.count("already there") >= 6


def test_the_demo_leaves_files_that_a_user_would_have(ran: Path) -> None:
    with (ran / "concepts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    keys = (ran / "keys.txt").read_text().splitlines()
    assert {r["key"] for r in rows} <= set(keys) == {p.name for p in (ran / "images").iterdir()}
    assert np.load(ran / "pixels-16.npy").shape == (len(keys), 768)
    assert "CC BY-SA 4.0" in (ran / "LICENCES.txt").read_text()


def test_the_twenty_questions_have_answers_on_the_demos_store(ran: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "sql.md").read_text("utf-8")
    names = {"photos": "openmoji", "r50": "efficientnet-lite2", "vit": "efficientnet-lite0", "objects": "emoji"}
    asked = 0
    with open_store(str(ran / "store")) as store:
        for body in re.findall(r"^### \d+\..*?\n(.*?)(?=^### |\Z)", page, flags=re.MULTILINE | re.DOTALL):
            for query in re.findall(r"```sql\n(.*?)```", body, flags=re.DOTALL):
                for written, meant in {**names, "apple": "person"}.items():
                    query = query.replace(f"'{written}'", f"'{meant}'")
                rows = store.sql(query.replace("clusters = 8", "clusters = 6"))
                assert len(rows) or body.startswith("Needs `evaluate --"), query
                asked += 1
    assert asked == 21


def test_the_demo_refuses_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("")
    assert call(["demo", str(tmp_path / "taken"), "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "invalid_input"
