"""Images as people see them: files decoded to RGB.

What decoding does, always the same way (`DECODING` names it in a backbone's specification): the first frame; turned
upright by its EXIF orientation; transparent pixels laid over white (opaque pictures are Pillow's `convert("RGB")`,
as torchvision and timm do); 16-bit grey scaled to 8 bits; palettes, CMYK and the like converted by Pillow.
"""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
from typing import TYPE_CHECKING

from qrp_store.errors import InvalidInput, first_line
from qrp_store.samples import ImageFile

if TYPE_CHECKING:
    from PIL.Image import Image

DECODING = "first frame, upright, over white, RGB"
MAX_PIXELS = 178_956_970  # where Pillow itself stops: a larger picture is taken for a decompression bomb
_PROGRAMS = ("EPS", "WMF", "EMF")  # Pillow hands them to other programs (Ghostscript), whatever the file's name says
_asking = threading.Lock()


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
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise InvalidInput("the file is empty")
    try:
        image = _open(data)
        image.load()
        turn = _TURNS.get(_orientation_of(image))
        picture = _rgb(image)
        return picture if turn is None else picture.transpose(Image.Transpose[turn])
    except UnidentifiedImageError as error:
        raise InvalidInput("not an image that can be read") from error
    except (InvalidInput, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise InvalidInput(f"more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # a damaged file can break its decoder in any way
        raise InvalidInput(f"the image cannot be decoded ({first_line(error)})") from error


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
    from PIL import Image

    # Pillow warns at headers and metadata (large pictures, odd tags). Filters belong to the process, hence the lock;
    # the slow part, decoding, is outside.
    with _asking, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data))
    if image.format in _PROGRAMS:
        raise InvalidInput(f"a drawing ({image.format}), not pixels")
    if image.width * image.height > MAX_PIXELS:
        raise InvalidInput(f"more than {MAX_PIXELS:,} pixels")
    return image


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
    from PIL import Image

    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.mode == "F":
        raise InvalidInput("floating-point pixels, whose range is not known")
    if not image.has_transparency_data:
        return image.convert("RGB")
    coloured = image.convert("RGBA")
    white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, coloured).convert("RGB")


def _from_16_bits(image: Image) -> Image:
    """Grey of 0…65,535 (Pillow's own conversion would clip it at 255)."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65_535:
        raise InvalidInput("integer pixels of more than 16 bits, whose range is not known")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
