"""Two thousand damaged images, arrays and shards: each is read, or refused as bad input by name; nothing else ever."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from qrp_store.errors import InvalidInput
from qrp_store.images import decode_bytes, read_image
from qrp_store.readers.arrays.formats import open_array
from qrp_store.readers.image_lists import list_image_source

PIXELS = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8))
X = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
IMAGES = {
    "PNG": {},
    "JPEG": {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
    "GIF": {},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "WEBP": {},
    "PPM": {},
    "JPEG2000": {},
}


def damaged(whole: bytes, count: int, seed: int) -> Iterator[bytes]:
    """The bytes with something cut off, changed, put in or taken out, mostly near the beginning."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            reach = min(len(data), 64 if rng.random() < 0.5 else len(data))
            at = int(rng.integers(0, max(1, reach)))
            kind = number % 4
            if kind == 0:
                del data[at:]
            elif kind == 1:
                data[at : at + 1] = bytes([int(rng.integers(256))])
            elif kind == 2:
                data[at:at] = rng.integers(0, 256, int(rng.integers(1, 9)), np.uint8).tobytes()
            else:
                del data[at : at + int(rng.integers(1, 9))]
        yield bytes(data)


@pytest.mark.parametrize("form", IMAGES)
def test_damaged_images(form: str) -> None:
    out = io.BytesIO()
    PIXELS.save(out, form, **IMAGES[form])  # type: ignore[arg-type]
    decode_bytes(out.getvalue())
    said = []
    for data in damaged(out.getvalue(), 150, seed=len(form)):
        try:
            assert decode_bytes(data).mode == "RGB"
        except InvalidInput as error:
            said.append(error.message)
    assert len(said) > 20
    assert not any("\n" in message for message in said)


def save_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = X


ARRAYS: dict[str, tuple[int, Callable[[Path], object]]] = {
    "x.npy": (150, lambda p: np.save(p, X)),
    "x.npz": (150, lambda p: np.savez_compressed(p, X)),
    "x.safetensors": (
        150,
        lambda p: p.write_bytes(
            (72).to_bytes(8, "little")
            + b'{"x": {"dtype": "F32", "shape": [12, 5], "data_offsets": [0, 240]}}'.ljust(72)
            + X.tobytes()
        ),
    ),
    "x.parquet": (100, lambda p: pq.write_table(pa.table({"key": [str(i) for i in range(12)], "v": list(X)}), p)),
    "x.pt": (100, lambda p: torch.save(torch.from_numpy(X), p)),
    "x.h5": (100, save_h5),
    "x.csv": (50, lambda p: p.write_text("key,a,b\n" + "".join(f"{i},{i}.5,2\n" for i in range(9)))),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_damaged_arrays(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    count, write = ARRAYS[name]
    write(path)
    whole = path.read_bytes()
    open_array(path).digest()
    said = []
    for data in damaged(whole, count, seed=len(name)):
        path.write_bytes(data)
        try:
            open_array(path).digest()
        except InvalidInput as error:
            said.append(error.message)
    assert len(said) > count // 10
    assert all(name in message and "\n" not in message for message in said)


def test_damaged_shards(tmp_path: Path) -> None:
    picture = io.BytesIO()
    PIXELS.save(picture, "PNG")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for key in ("a.png", "b.png"):
            info = tarfile.TarInfo(key)
            info.size = len(picture.getvalue())
            archive.addfile(info, io.BytesIO(picture.getvalue()))
    pq.write_table(pa.table({"image": [picture.getvalue()] * 3}), tmp_path / "x.parquet")
    for name in ("x.tar", "x.parquet"):
        path = tmp_path / name
        said = []
        for data in damaged(path.read_bytes(), 60, seed=3):
            path.write_bytes(data)
            try:
                images, _ = list_image_source(path)
            except InvalidInput as error:
                said.append(error.message)
                continue
            for image in images:
                try:
                    decode_bytes(read_image(image))
                except InvalidInput:
                    pass
        assert said
        assert all(name in message for message in said)
