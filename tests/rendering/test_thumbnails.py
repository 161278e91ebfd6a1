"""Thumbnails are small, come from strictly below their folder, and damaged files do no harm."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qrp_store.rendering.thumbnails import SIDE, below, pictures, thumbnail


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    (root / "a").mkdir(parents=True)
    photo = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    Image.fromarray(photo).save(root / "a" / "photo.jpg")
    Image.fromarray(photo).save(tmp_path / "secret.png")
    Image.new("RGBA", (40, 20), (0, 0, 0, 0)).save(root / "clear.png")
    (root / "broken.jpg").write_bytes((root / "a" / "photo.jpg").read_bytes()[:500])
    (root / "text.png").write_text("no picture")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    return root


def pixels(uri: str) -> np.ndarray:
    kind, text = uri.split(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_a_thumbnail_is_small_and_shows_the_whole_picture(folder: Path) -> None:
    uri = thumbnail(folder / "a" / "photo.jpg")
    assert uri is not None
    assert pixels(uri).shape == (SIDE * 3 // 4, SIDE, 3)
    assert len(uri) < 8000


def test_what_is_transparent_is_white(folder: Path) -> None:
    uri = thumbnail(folder / "clear.png")
    assert uri is not None
    assert (pixels(uri) > 250).all()


@pytest.mark.parametrize(
    "key", ["../secret.png", "/etc/hostname", "a", "link.png", "a/../../secret.png", "x" * 10_000, "nul\0", ""]
)
def test_a_key_leads_to_no_file_outside_the_folder(folder: Path, key: str) -> None:
    assert below(folder, key) is None


def test_unreadable_pictures_are_counted(folder: Path) -> None:
    found, failed = pictures(folder, ["a/photo.jpg", "broken.jpg", "text.png", "../secret.png", "gone.jpg"], threads=2)
    assert (list(found), failed) == (["a/photo.jpg"], ["broken.jpg", "text.png", "../secret.png", "gone.jpg"])


def test_there_are_only_as_many_as_the_page_can_hold(folder: Path) -> None:
    uri = thumbnail(folder / "a" / "photo.jpg")
    assert uri is not None
    photo = (folder / "a" / "photo.jpg").read_bytes()
    for i in range(9):
        (folder / f"{i}.jpg").write_bytes(photo)
    found, _ = pictures(folder, [f"{i}.jpg" for i in range(9)], threads=1, most=3 * len(uri) + 10)
    assert list(found) == ["0.jpg", "1.jpg", "2.jpg"]
