"""Checkpoints of one training, and other layouts of weights, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

ARCH = ("--arch", "torchvision/resnet18", "--image-size", "32", "--device", "cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40 + number, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    for epoch in (2, 10, 1):
        torch.manual_seed(epoch)
        state = {f"model.{name}": tensor for name, tensor in resnet18(num_classes=3).state_dict().items()}
        torch.save({"epoch": epoch, "state_dict": state}, folder / f"epoch_{epoch}.ckpt")
    return folder


def test_preprocessing_is_shown_in_one_line(qrp: Any, tmp_path: Path, photos: Path, run: Path) -> None:
    store = ("--store", str(tmp_path / "s"))
    qrp.ok("init", *store)
    line = ("ingest", str(photos), "--dataset", "d", "--backbone", "b", *ARCH, "--weights", str(run / "epoch_1.ckpt"))
    ran = qrp.run(*line, *store)
    shown = "shorter side to 37 (bilinear), crop the middle 32; mean 0.485/0.456/0.406 std 0.229/0.224/0.225"
    assert shown in ran.err
    (row,) = qrp.rows("ls", "backbones", *store)
    assert row["preprocessing"] == shown
    assert qrp.ok("show", row["id"], *store)["preprocessing"] == shown
    np.save(tmp_path / "rows.npy", np.eye(5, dtype=np.float32))
    qrp.ok("ingest", str(tmp_path / "rows.npy"), "--dataset", "other", "--backbone", "array", *store)
    assert {r["name"]: r["preprocessing"] for r in qrp.rows("ls", "backbones", *store)}["array"] is None
    card = tmp_path / "card.md"
    qrp.ok("export", "card", "--dataset", "d", "-o", str(card), *store)
    assert shown in card.read_text("utf-8")


def test_checkpoints_become_a_series_in_natural_order(qrp: Any, tmp_path: Path, photos: Path, run: Path) -> None:
    store = ("--store", str(tmp_path / "s"))
    qrp.ok("init", *store)
    made = qrp.ok(
        "ingest", str(photos), "--dataset", "d", "--backbone", "b", *ARCH, "--weights", str(run / "*.ckpt"), *store
    )
    names = ["b/epoch_1", "b/epoch_2", "b/epoch_10"]
    assert [each["backbone"] for each in made["layers"]] == names
    rows = qrp.rows("sql", "SELECT * FROM series ORDER BY position", *store)
    assert [(r["dataset"], r["backbone"], r["series"], r["position"]) for r in rows] == [
        ("d", name, "b", place) for place, name in enumerate(names)
    ]
    other = ("--store", str(tmp_path / "other"))
    qrp.ok("init", *other)
    qrp.ok("copy", "d", "--to", str(tmp_path / "other"), *store)
    assert qrp.rows("sql", "SELECT * FROM series ORDER BY position", *other) == rows
    alone = qrp.ok(
        "ingest", str(photos), "--dataset", "d", "--backbone", "two", *ARCH,
        "--weights", str(run / "epoch_2.ckpt"), *store,
    )  # fmt: skip
    files = {}
    for name in ("two", "b/epoch_2", "b/epoch_10"):
        path = tmp_path / f"{name.replace('/', '-')}.npy"
        qrp.ok("export", "embedding", "--dataset", "d", "--backbone", name, "-o", str(path), *store)
        files[name] = np.load(path)
    assert alone["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    np.testing.assert_array_equal(files["two"], files["b/epoch_2"])
    assert np.abs(files["two"] - files["b/epoch_10"]).max() > 1e-3
    again = qrp.ok(
        "ingest", str(photos), "--dataset", "d", "--backbone", "b", *ARCH, "--weights", str(run / "*.ckpt"), *store
    )
    assert all(each["cached"] for each in again["layers"])


def test_layers_are_a_series_too(qrp: Any, tmp_path: Path, photos: Path, run: Path) -> None:
    store = ("--store", str(tmp_path / "s"))
    qrp.ok("init", *store)
    two = ("--weights", str(run / "epoch_1.ckpt"), "--weights", str(run / "epoch_2.ckpt"))
    qrp.ok(
        "ingest", str(photos), "--dataset", "d", "--backbone", "b", *ARCH, *two,
        "--layer", "layer1", "--layer", "layer4", *store,
    )  # fmt: skip
    rows = qrp.rows("sql", "SELECT series, position, backbone FROM series ORDER BY 1, 2", *store)
    assert [tuple(row.values()) for row in rows] == [
        ("b:layer1", 0, "b/epoch_1:layer1"),
        ("b:layer1", 1, "b/epoch_2:layer1"),
        ("b:layer4", 0, "b/epoch_1:layer4"),
        ("b:layer4", 1, "b/epoch_2:layer4"),
    ]


@pytest.mark.parametrize(
    "options, code, message",
    [
        (["--weights", "{run}/none_*.ckpt"], 3, "no file has such a name"),
        (["--weights", "{run}/epoch_1.ckpt", "--weights", "{run}/epoch_1.ckpt"], 4, "is given twice"),
        (["--weights", "{run}/epoch_1.ckpt", "--weights", "random"], 4, "not part of a series"),
        (["--weights", "{run}/epoch_1.ckpt", "--prefix", "net."], 4, "no tensor of state_dict begins with 'net.'"),
        (["--weights", "{run}/epoch_1.ckpt", "--mean", "blue"], 4, "--mean 'blue'"),
        (["--weights", "{run}/epoch_1.ckpt", "--crop", "64"], 4, "two sizes"),
    ],
)
def test_what_is_wrong_with_weights_is_said_and_nothing_is_stored(
    qrp: Any, tmp_path: Path, photos: Path, run: Path, options: list[str], code: int, message: str
) -> None:
    store = ("--store", str(tmp_path / "s"))
    qrp.ok("init", *store)
    given = [option.format(run=run) for option in options]
    failed = qrp.fails(code, "ingest", str(photos), "--dataset", "d", "--backbone", "b", *ARCH, *given, *store)
    assert message in failed
    assert qrp.rows("ls", "backbones", *store) == []


def test_the_preprocessing_is_printed_and_part_of_the_backbone(
    qrp: Any, tmp_path: Path, photos: Path, run: Path
) -> None:
    store = ("--store", str(tmp_path / "s"))
    line = ("ingest", str(photos), "--dataset", "d", "--backbone", "b", *ARCH, "--weights", str(run / "epoch_1.ckpt"))
    qrp.ok("init", *store)
    made = qrp.run(*line, "--mean", "0.5", "--std", "clip", "--resize", "40", "--interpolation", "bicubic", *store)
    assert "preprocessing: shorter side to 40 (bicubic), crop the middle 32; mean 0.5 std 0.2686/0.2613/0.2758" in (
        made.err
    )
    assert "2 left out (model.fc.weight, model.fc.bias)" in made.err
    (row,) = qrp.rows("ls", "backbones", *store)
    assert json.loads(row["spec"])["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    other = qrp.fails(4, *line, *store)
    assert "another specification" in other
