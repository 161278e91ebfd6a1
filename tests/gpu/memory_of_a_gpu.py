"""Networks and K-means on a GPU with too little memory, and in which arithmetic they compute. Run by
tests/test_on_a_pretend_gpu.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pretend_gpu
import pytest
import torch
from PIL import Image

from qrp_store.cli.main import call

MIB = 1 << 20
NETWORK = ["--weights", "random", "--device", "cuda", "--batch-size", "8"]


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store with a dataset of 12 images, 12 × 4 vectors of them, and the images' folder beside it."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number:02}.png")
    np.save(tmp_path / "x.npy", rng.standard_normal((12, 4)).astype(np.float32))
    (tmp_path / "keys.txt").write_text("".join(f"{number:02}.png\n" for number in range(12)))
    store = ["--store", str(tmp_path / "store")]
    assert call(["init", *store]) == 0
    source = ["ingest", str(tmp_path / "x.npy"), "--keys", str(tmp_path / "keys.txt")]
    assert call([*source, "--dataset", "d", "--backbone", "b", *store]) == 0
    return str(tmp_path / "store")


def ingest(store: str, *more: str) -> list[str]:
    images = str(Path(store).parent / "images")
    named = ["--dataset", "d", "--backbone", "net", "--arch", "torchvision/resnet18", "--image-size", "96"]
    return ["ingest", images, *named, *NETWORK, *more, "--store", store, "--json"]


def label(store: str) -> list[str]:
    images = str(Path(store).parent / "images")
    named = ["--dataset", "d", "--concepts", "c", "--expert", "torchvision/resnet18"]
    return ["label", "--images", images, *named, *NETWORK, "--store", store, "--json"]


def cluster(store: str) -> list[str]:
    named = ["--dataset", "d", "--backbone", "b", "-k", "3", "--engine", "torch", "--device", "cuda"]
    return ["cluster", *named, "--store", store, "--json"]


@pytest.mark.parametrize(
    ("command", "free", "task", "advice"),
    [
        (ingest, MIB, "the weights of torchvision/resnet18", "--device cpu"),
        (ingest, 52 * MIB, "a batch of 8 images of 96 × 96 pixels", "--batch-size"),
        (label, MIB, "the weights of torchvision/resnet18", "--device cpu"),
        (label, 48 * MIB, "a batch of 8 images", "--batch-size"),
        (cluster, 100, "3 centroids, 4-d", "smaller K"),
    ],
)
def test_too_little_memory_is_exit_8_and_says_what_to_do(
    store: str,
    command: Callable[[str], list[str]],
    free: int,
    task: str,
    advice: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    with pretend_gpu.bounded(free):
        code = call(command(store))
    error = json.loads(capsys.readouterr().out)["error"]
    assert (code, error["kind"]) == (8, "unavailable")
    assert error["message"] == f"the memory of cuda is too small for {task}"
    assert advice in error["hint"]
    assert call(command(store)) == 0  # nothing half-written is in the way


def ingest_tf32(store: str) -> list[str]:
    return ingest(store, "--precision", "tf32")


@pytest.mark.parametrize(
    ("command", "setting", "arithmetic"),
    [(ingest, "high", "ieee"), (label, "high", "ieee"), (ingest_tf32, "highest", "tf32")],
)
def test_networks_compute_in_float32_or_tf32_whatever_the_program_has_set(
    store: str,
    command: Callable[[str], list[str]],
    setting: str,
    arithmetic: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = []
    convolve = torch.nn.Conv2d.forward

    def recorded(self: torch.nn.Conv2d, pixels: torch.Tensor) -> torch.Tensor:
        backends: Any = torch.backends
        flags.append((str(pixels.device), backends.cudnn.allow_tf32, backends.cuda.matmul.fp32_precision))
        return convolve(self, pixels)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", recorded)
    torch.set_float32_matmul_precision(setting)
    try:
        assert call(command(store)) == 0
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(flags) == {("cuda:0", arithmetic == "tf32", arithmetic)}


def test_tf32_is_part_of_the_identity(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(ingest(store)) == 0
    capsys.readouterr()
    assert call(ingest_tf32(store)) == 4  # the same backbone's name with another precision
    assert "precision" in json.loads(capsys.readouterr().out)["error"]["message"]
