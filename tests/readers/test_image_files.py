"""Images: what is listed, how pictures are decoded, and which files are refused."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from qrp_store.errors import InvalidInput, NotFound
from qrp_store.images import decode_bytes, digest_of, read_image
from qrp_store.readers.image_folders import list_images
from qrp_store.samples import ImageFile


def decode(path: Path) -> tuple[Image.Image, str]:
    """The picture in a file and the digest of the file's bytes."""
    data = read_image(ImageFile(path.name, path, 0, 0))
    return decode_bytes(data), digest_of(data)


RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)


def touch(path: Path, data: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_keys_are_sorted_posix_paths(tmp_path: Path) -> None:
    for key in (
        "b.jpg",
        "a/2.PNG",
        "a/10.jpeg",
        "a.webp",
        "Z.gif",
        "é 😀.bmp",
        "deep/er/x.tif",
        "notes.txt",
        "c.jpg.txt",
    ):
        touch(tmp_path / key, key.encode())
    touch(tmp_path / ".hidden" / "x.jpg")
    touch(tmp_path / "a" / ".x.jpg")
    found = list_images(tmp_path)
    keys = ["Z.gif", "a.webp", "a/10.jpeg", "a/2.PNG", "b.jpg", "deep/er/x.tif", "é 😀.bmp"]
    assert [image.key for image in found] == keys
    assert all(image.path.read_bytes() == image.key.encode() for image in found)
    assert [image.size for image in found] == [len(key.encode()) for key in keys]
    assert all(image.mtime_ns == image.path.stat().st_mtime_ns for image in found)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    root = tmp_path / "root"
    touch(root / "a" / "1.jpg")
    touch(tmp_path / "outside" / "2.jpg")
    (root / "file.jpg").symlink_to(tmp_path / "outside" / "2.jpg")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "a" / "up").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (root / "broken.jpg").symlink_to(tmp_path / "absent.jpg")
    os.mkfifo(root / "pipe.jpg")  # whoever read it would wait
    found = list_images(root)
    assert [image.key for image in found] == ["a/1.jpg", "broken.jpg", "file.jpg", "folder/2.jpg"]
    assert found[1].size == 0


def test_folders_that_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        list_images(tmp_path / "absent")
    with pytest.raises(InvalidInput, match="holds no images"):
        list_images(tmp_path)
    touch(tmp_path / "1.jpg")
    with pytest.raises(InvalidInput, match="not a folder"):
        list_images(tmp_path / "1.jpg")


def test_a_name_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    touch(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")))
    with pytest.raises(InvalidInput, match=r"udcff\.jpg"):
        list_images(tmp_path)


@pytest.mark.parametrize("ending", ["png", "bmp", "ppm", "tif", "webp"])
def test_decoding_gives_the_pixels_and_the_digest(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    Image.fromarray(PIXELS).save(path, **({"lossless": True} if ending == "webp" else {}))
    picture, digest = decode(path)
    assert picture.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(picture), PIXELS)
    assert digest == hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def test_opaque_pictures_are_what_convert_gives(tmp_path: Path) -> None:
    sources = {
        "grey.png": Image.fromarray(PIXELS[..., 0]),
        "palette.png": Image.fromarray(PIXELS).quantize(16),
        "bits.png": Image.fromarray(PIXELS[..., 0] > 128),
        "opaque.png": Image.fromarray(np.dstack([PIXELS, np.full((12, 20), 255, np.uint8)])),
        "cmyk.jpg": Image.fromarray(PIXELS).convert("CMYK"),
        "photo.jpg": Image.fromarray(PIXELS),
        "still.gif": Image.fromarray(PIXELS).quantize(16),
    }
    for name, source in sources.items():
        source.save(tmp_path / name)
        with Image.open(tmp_path / name) as opened:
            expected = np.asarray(opened.convert("RGB"))
        np.testing.assert_array_equal(np.asarray(decode(tmp_path / name)[0]), expected, err_msg=name)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("x.png", "x.jpg", "x.webp", "x.tif"):
        Image.fromarray(PIXELS).save(tmp_path / name, exif=exif)
        with Image.open(tmp_path / name) as opened:
            expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
        np.testing.assert_array_equal(np.asarray(decode(tmp_path / name)[0]), expected, err_msg=name)
        assert (expected.shape[0] == 20) == (orientation >= 5)


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    alpha = np.zeros((12, 20), np.uint8)
    alpha[:6] = 255
    alpha[6] = 51
    Image.fromarray(np.dstack([PIXELS, alpha])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([PIXELS[..., 0], alpha])).save(tmp_path / "la.png")
    for name in ("rgba.png", "la.png"):
        shown = np.asarray(decode(tmp_path / name)[0]).astype(float)
        own = PIXELS if name == "rgba.png" else np.repeat(PIXELS[..., :1], 3, axis=2)
        np.testing.assert_array_equal(shown[:6], own[:6])
        np.testing.assert_allclose(shown[6], 0.2 * own[6] + 0.8 * 255, atol=1)
        assert (shown[7:] == 255).all()
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "p.png", transparency=0)
    palette.save(tmp_path / "bytes.png", transparency=b"\x00\xff")
    for name in ("p.png", "bytes.png"):
        assert np.asarray(decode(tmp_path / name)[0]).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 128, 257, 25_700, 65_535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    Image.fromarray(values).save(tmp_path / "x.tif")
    (tmp_path / "x.pgm").write_bytes(b"P5 5 1 65535\n" + values.astype(">u2").tobytes())
    for name in ("x.png", "x.tif", "x.pgm"):
        assert np.asarray(decode(tmp_path / name)[0])[0, :, 0].tolist() == [0, 0, 1, 100, 255], name


def test_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("x.gif", "x.png", "x.webp", "x.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        red, _, blue = np.asarray(decode(tmp_path / name)[0])[4, 4].tolist()
        assert red > 200, name
        assert blue < 50, name


def jpeg(size: tuple[int, int] = (64, 64)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises width × height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def floating() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


def program() -> bytes:
    """PostScript, which Pillow would let Ghostscript run."""
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "EPS")
    return buffer.getvalue()


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty"),
    "text": (lambda: b"<html>not found</html>", "not an image"),
    "half a JPEG": (lambda: jpeg()[: len(jpeg()) // 2], "cannot be decoded"),
    "a JPEG padded with zeros": (lambda: jpeg()[: len(jpeg()) // 2] + bytes(len(jpeg()) // 2), "it has no end mark"),
    "half a PNG": (lambda: png()[: len(png()) // 2], "cannot be decoded"),
    "damaged PNG": (lambda: png().replace(b"IDAT", b"IDAX"), "decoded|not an image"),
    "bomb": (lambda: bomb(20_000, 20_000), "178,956,970 pixels"),
    "large header": (lambda: bomb(11_000, 11_000), "taken for a decompression bomb"),
    "a program": (program, "a drawing"),
    "floating point": (floating, "floating-point"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_say_what_is_wrong(tmp_path: Path, case: str) -> None:
    make, said = BAD[case]
    (tmp_path / "x.jpg").write_bytes(make())
    with pytest.raises(InvalidInput, match=said) as caught:
        decode(tmp_path / "x.jpg")
    assert "BytesIO" not in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"absent\.jpg: cannot be read"):
        decode(tmp_path / "absent.jpg")


def test_pillow_warnings_do_not_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # 240 pixels: Pillow warns
    data = png()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(data)).close()
        assert seen, "this file no longer makes Pillow warn"
        seen.clear()
        with ThreadPoolExecutor(4) as pool:
            sizes = {picture.size for picture in pool.map(decode_bytes, [data] * 40)}
    assert sizes == {(20, 12)}
    assert not seen


def test_damaged_metadata_do_not_spoil_a_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "x.jpg", exif=exif.tobytes()[:-6] + b"\xff" * 4)
    assert decode(tmp_path / "x.jpg")[0].size in ((20, 12), (12, 20))


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA"])
def test_large_transparent_pictures_are_flattened_in_strips(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import qrp_store.images as images

    picture = Image.fromarray(RNG.integers(0, 256, (50, 40, 4), dtype=np.uint8), "RGBA")
    picture = picture.quantize() if mode == "P" else picture.convert(mode)
    data = io.BytesIO()
    picture.save(data, "PNG")
    whole = np.asarray(images.decode_bytes(data.getvalue()))
    monkeypatch.setattr(images, "_STRIP", 120)
    np.testing.assert_array_equal(np.asarray(images.decode_bytes(data.getvalue())), whole)
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    expected = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    np.testing.assert_array_equal(whole, np.asarray(expected))


def test_many_pixels_in_few_bytes_are_a_bomb() -> None:
    data = io.BytesIO()
    picture = Image.new("P", (13_300, 13_300), 0)
    picture.save(data, "PNG", transparency=0, compress_level=9)
    with pytest.raises(InvalidInput, match=r"176,890,000 pixels in [\d,]+ bytes: taken for a decompression bomb"):
        decode_bytes(data.getvalue())


@pytest.mark.parametrize("kind", ["AVIF", "TGA", "QOI", "PCX"])
def test_rarer_formats_are_decoded(kind: str) -> None:
    data = io.BytesIO()
    Image.fromarray(PIXELS).save(data, kind)
    assert decode_bytes(data.getvalue()).size == (20, 12)


def test_previews_are_made_by_the_same_decoder() -> None:
    from qrp_store.images import preview

    for kind in ("JPEG", "PNG", "WEBP"):
        data = io.BytesIO()
        Image.fromarray(PIXELS).resize((300, 200)).save(data, kind)
        assert preview(data.getvalue(), 32).size == (32, 21)
    line = io.BytesIO()
    Image.new("RGB", (4000, 2)).save(line, "PNG")
    assert preview(line.getvalue(), 32).size == (32, 1)
    for drawing in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", b"\xd7\xcd\xc6\x9a" + bytes(80)):
        with pytest.raises(InvalidInput, match="a drawing"):
            preview(drawing, 32)
