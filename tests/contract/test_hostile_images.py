"""Images made to run a program or to take all memory: neither happens, in any command that opens pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EPS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) run\nshowpage\n%%EOF\n"
MODEL = ("--arch", "torchvision/resnet18", "--weights", "random", "--image-size", "32")
KEYS = [f"{i}.png" for i in range(60)]


@pytest.fixture
def ghostscript(tmp_path: Path) -> Path:
    """A program called gs that leaves a mark when it is run; the folder that it is in."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gs"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/bin/mark\necho 10\n')
    program.chmod(0o755)
    return program.parent


def test_no_command_runs_ghostscript(
    qrp: Any, store: Path, files: Any, ghostscript: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{ghostscript}:{os.environ['PATH']}")
    folder = files.folder / "images"
    folder.mkdir()
    for key in KEYS:
        (folder / key).write_text(EPS)
    rows = np.random.default_rng(0).normal(size=(60, 4)) + np.arange(60)[:, None] % 2 * 9
    qrp.ok("ingest", files.array(rows), "--keys", files.keys(KEYS), "--dataset", "d", "--backbone", "b", store=store)
    labels = files.folder / "labels.csv"
    labels.write_text("key,concept\n" + "".join(f"{key},c{i % 2}\n" for i, key in enumerate(KEYS)))
    qrp.ok("label", labels, "--dataset", "d", "--concepts", "c", store=store)
    qrp.ok("evaluate", "--dataset", "d", "-k", 2, "--epochs", 2, "--bootstrap", 0, store=store)
    page = files.folder / "page.html"
    qrp.ok("report", "--dataset", "d", "-o", page, "--images", folder, store=store)
    assert "data:image/webp" not in page.read_text()
    told = qrp.fails(4, "ingest", folder, "--dataset", "e", "--backbone", "m", *MODEL, store=store)
    assert "a drawing" in told
    assert not (ghostscript / "mark").exists()


def test_few_bytes_do_not_become_many_pixels(qrp: Any, store: Path, files: Any) -> None:
    from PIL import Image

    folder = files.folder / "images"
    folder.mkdir()
    Image.new("P", (13_300, 13_300), 0).save(folder / "bomb.png", transparency=0, compress_level=9)
    told = qrp.fails(4, "ingest", folder, "--dataset", "d", "--backbone", "b", *MODEL, store=store)
    assert "'bomb.png' (176,890,000 pixels" in told
