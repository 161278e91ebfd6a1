"""docs/tour.md, docs/python.md and docs/tour.ipynb run as they stand, in an empty folder."""

from __future__ import annotations

import doctest
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def figures_apart(text: str) -> str:
    """Words, in order, with every number taken for the same one: other processors have other last digits."""
    return re.sub(r"(?<!\S)-?\d[\d.e-]*(?!\S)", "#", " ".join(text.split()))


@pytest.fixture(scope="module")
def toured(qrp: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every line of the tour was run, in order."""
    folder = tmp_path_factory.mktemp("tour")
    text = (DOCS / "tour.md").read_text("utf-8")
    ran = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for language, block in re.findall(r"^```(python|console)\n(.*?)^```", text, flags=re.M | re.S):
            if language == "python":
                exec(compile(block, "tour.md", "exec"), {})
                continue
            for line, shown in re.findall(r"^\$ qrp-store (.*)\n((?:[^$].*\n)*)", block, flags=re.M):
                done = qrp.run(*shlex.split(line), cwd=folder)
                assert done.code == 0, (line, done.out, done.err)
                assert not shown or figures_apart(done.out) == figures_apart(shown)
                ran += 1
    assert ran == 13
    return folder


def test_the_tour_ends_with_a_page_and_files(toured: Path) -> None:
    page = (toured / "drawings.html").read_text("utf-8")
    assert page.count("data:image/webp") > 24
    assert "Concept groups" in page
    assert {"results.parquet", "drawings.md"} <= {path.name for path in toured.iterdir()}


def test_the_examples_of_the_python_page_are_true(toured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toured)
    failed, tried = doctest.testfile(str(DOCS / "python.md"), module_relative=False)
    assert tried > 15
    assert failed == 0


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((DOCS / "tour.ipynb").read_text("utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile("".join(cell["source"]), "tour.ipynb", "exec"), names)
    assert names["page"].n_images > 20
    assert {result.backbone for result in names["done"].results} == {"untrained"}
    names["store"].close()


def test_the_engine_that_the_extending_page_shows_finds_the_nearest() -> None:
    text = (DOCS / "extending.md").read_text("utf-8")
    block = next(b for b in re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S) if "NumpyNearest" in b)
    names: dict[str, Any] = {"np": np}
    exec(compile(block, "extending.md", "exec"), names)
    rng = np.random.default_rng(0)
    rows, centroids = rng.normal(size=(50, 3)).astype(np.float32), rng.normal(size=(7, 3)).astype(np.float32)
    labels, distances = names["NumpyNearest"]().prepare(centroids)(rows)
    plain = ((rows[:, None] - centroids) ** 2).sum(axis=2)
    assert labels.tolist() == plain.argmin(axis=1).tolist()
    np.testing.assert_allclose(distances, plain.min(axis=1), rtol=1e-4, atol=1e-5)
