"""Images as people see them: files decoded to RGB. The one decoder of everything that opens a picture of a user's.

Only formats of pixels on an allow-list are opened (`FORMATS`), none that Pillow hands to another program (EPS, WMF).

What decoding does, always the same way (`DECODING` names it in a backbone's specification): the first frame; turned
upright by its EXIF orientation; transparent pixels laid over white (opaque pictures are Pillow's `convert("RGB")`,
as torchvision and timm do); 16-bit grey scaled to 8 bits; palettes, CMYK and the like converted by Pillow.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from qrp_store.errors import InvalidInput, first_line
from qrp_store.samples import ImageFile

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
R = TypeVar("R")
DECODING = "first frame, upright, over white, RGB"
MAX_PIXELS = 178_956_970  # where Pillow itself stops: a larger picture is taken for a decompression bomb
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "JXL", "QOI", "PCX", "TGA")
_DRAWINGS = (b"%!PS", b"\xc5\xd0\xd3\xc6", b"\xd7\xcd\xc6\x9a", b"\x01\x00\x00\x00")  # EPS, WMF, EMF
_LARGE = 1 << 24  # pixels: larger pictures are decoded one at a time
_SUSPECT = 1 << 26  # pixels that are a bomb when few bytes hold them
_PIXELS_A_BYTE = 200
_STRIP = 1 << 20  # pixels converted at once
_asking = threading.Lock()
_large = threading.Lock()


def read_image(image: ImageFile) -> bytes:
    """An image's bytes; InvalidInput when they cannot be read."""
    try:
        return image.read()
    except OSError as error:
        raise InvalidInput(f"{image.path}: cannot be read ({error.strerror or error})") from error


def digest_of(data: bytes) -> str:
    """blake2b (16 bytes, hex) of a file's bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def decode_bytes(data: bytes) -> Image:
    """The RGB picture in an encoded file; InvalidInput saying what is wrong. Safe to call from several threads."""
    with decoded(data) as picture:
        return picture


@contextmanager
def decoded(data: bytes) -> Iterator[Image]:
    """The RGB picture in an encoded file, for as long as the context lasts: of large pictures one is in memory at a
    time, whatever the number of threads. Raises InvalidInput as `decode_bytes`."""
    image = _translated(_open, data)
    with _large if image.width * image.height > _LARGE else nullcontext():
        picture = _translated(_upright, image)
        del image
        yield picture


def preview(data: bytes, side: int) -> Image:
    """The whole picture, its longer side scaled to `side` pixels. A JPEG is decoded at a fraction of its size."""
    from PIL import Image

    image = _translated(_open, data)
    image.draft("RGB", (2 * side, 2 * side))
    with _large if image.width * image.height > _LARGE else nullcontext():
        picture = _translated(_upright, image)
        del image
        scale = side / max(picture.size)
        width, height = (max(1, round(scale * length)) for length in picture.size)
        return picture.resize((width, height), Image.Resampling.BOX)


_SIGNATURES = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"qoif"),
    *(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xffO\xffQ"),
)
_JXL = (b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a")
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")


def recognised(data: bytes) -> bool:
    """Whether the beginning of a file (16 bytes) is that of an image of one of the `FORMATS`."""
    if data.startswith(b"RIFF"):
        return data[8:12] == b"WEBP"
    if data[4:8] == b"ftyp":
        return data[8:12] in (b"avif", b"avis", *_HEIF)
    if data.startswith(b"BM"):
        return data[6:10] == bytes(4)  # reserved
    return data.startswith((*_SIGNATURES, *_JXL))


@cache
def decodable() -> frozenset[str]:
    """The formats that can be decoded here: those of Pillow, and HEIF and JXL where its plugins are installed."""
    from PIL import Image

    for module, function in (("pillow_heif", "register_heif_opener"), ("pillow_jxl", None)):
        try:
            plugin = importlib.import_module(module)
        except ImportError:
            continue
        if function is not None:
            getattr(plugin, function)()
    Image.init()
    return frozenset(Image.OPEN)


def _translated(function: Callable[[T], R], value: T) -> R:
    """A function's result; its failures as InvalidInput."""
    from PIL import Image, UnidentifiedImageError

    try:
        return function(value)
    except UnidentifiedImageError as error:
        raise InvalidInput("not an image that can be read") from error
    except (InvalidInput, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise InvalidInput(f"more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # a damaged file can break its decoder in any way
        raise InvalidInput(f"the image cannot be decoded ({first_line(error)})") from error


def _upright(image: Image) -> Image:
    """The RGB picture of an opened image."""
    from PIL import Image

    image.load()
    turn = _TURNS.get(_orientation_of(image))
    picture = _rgb(image)
    return picture if turn is None else picture.transpose(Image.Transpose[turn])


_ORIENTATION = 0x0112
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def _open(data: bytes) -> Image:
    """The picture, not yet decoded."""
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise InvalidInput("the file is empty")
    known = [name for name in FORMATS if name in decodable()]
    # Pillow warns at headers and metadata (large pictures, odd tags). Filters belong to the process, hence the lock;
    # the slow part, decoding, is outside.
    with _asking, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image: Image.Image = Image.open(io.BytesIO(data), formats=known)
        except UnidentifiedImageError:
            if data.startswith(_DRAWINGS):
                raise InvalidInput("a drawing (EPS, WMF or EMF), not pixels") from None
            if data[4:8] == b"ftyp" and data[8:12] in _HEIF and "HEIF" not in known:
                raise InvalidInput("HEIC, which takes a plugin of Pillow's: pip install pillow-heif") from None
            if data.startswith(_JXL) and "JXL" not in known:
                raise InvalidInput("JPEG XL, which takes a plugin of Pillow's: pip install pillow-jxl-plugin") from None
            raise
    if image.format == "JPEG" and not _has_end(data):
        raise InvalidInput("the image cannot be decoded (cut off: it has no end mark)")
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise InvalidInput(f"more than {MAX_PIXELS:,} pixels")
    if pixels > _SUSPECT and pixels > _PIXELS_A_BYTE * len(data) and image.mode != "1":
        raise InvalidInput(f"{pixels:,} pixels in {len(data):,} bytes: taken for a decompression bomb")
    return image


def _has_end(data: bytes) -> bool:
    """Whether a JPEG's end mark follows its first scan. Decoders fill what is missing with grey, also where a download
    that broke off was padded with zeros."""
    place = 2
    while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] != b"\xda":
        if data[place + 1 : place + 2] == b"\xff":  # fill bytes
            place += 1
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return data.find(b"\xff\xd9", place) >= 0


def _orientation_of(image: Image) -> int:
    """EXIF's orientation (1: upright) of a decoded picture: PNG keeps it at the end, TIFF has been turned by then."""
    with _asking, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            orientation = image.getexif().get(_ORIENTATION, 1)
        except Exception:  # metadata too damaged to read: the picture stands as it is
            return 1
    return orientation if isinstance(orientation, int) else 1


def _rgb(image: Image) -> Image:
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.mode == "F":
        raise InvalidInput("floating-point pixels, whose range is not known")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    return _over_white(image)


def _strips(image: Image) -> Iterator[tuple[int, Image]]:
    """The picture in pieces of whole lines, each with its first line's number."""
    step = max(1, _STRIP // max(1, image.width))
    for top in range(0, image.height, step):
        yield top, image.crop((0, top, image.width, min(top + step, image.height)))


def _over_white(image: Image) -> Image:
    """Transparent pixels over white, in strips: a whole RGBA copy takes four bytes a pixel."""
    from PIL import Image

    picture = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        coloured = strip.convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        picture.paste(Image.alpha_composite(white, coloured).convert("RGB"), (0, top))
    return picture


def _from_16_bits(image: Image) -> Image:
    """Grey of 0…65,535 (Pillow's own conversion would clip it at 255)."""
    import numpy as np
    from PIL import Image

    picture = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        values = np.asarray(strip).astype(np.int64)
        if values.min() < 0 or values.max() > 65_535:
            raise InvalidInput("integer pixels of more than 16 bits, whose range is not known")
        picture.paste(Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB"), (0, top))
    return picture
