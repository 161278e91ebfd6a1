"""The images of a folder: one list for ingest, labels and experts, so that all see the same samples."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from qrp_store.errors import InvalidInput, NotFound, Unavailable
from qrp_store.images import decodable, recognised
from qrp_store.samples import ImageFile, check_keys

_ENDINGS = (
    ".jpg .jpeg .jpe .jfif .png .apng .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .jp2 .j2k .jpx .tga .qoi .pcx"
)
_BY_FORMAT = {"AVIF": (".avif", ".avifs"), "HEIF": (".heic", ".heif", ".hif"), "JXL": (".jxl",)}
NO_ENDING, HIDDEN = "no ending", "hidden"
THUMBNAILS = ("@eaDir", "__MACOSX")
"""Folders of thumbnails and metadata, as network drives and archives hold them."""
_SIGNATURE_BYTES = 16
_SHOWN = 8


def image_endings() -> frozenset[str]:
    """The endings, in lower case, of files that can be decoded here."""
    more = (ending for name, endings in _BY_FORMAT.items() if name in decodable() for ending in endings)
    return frozenset((*_ENDINGS.split(" "), *more))


def kind_of_name(name: str) -> str:
    """How a file that is not taken is counted: its ending in lower case, or why it has none that counts."""
    parts = name.split("/")
    folder = next((part for part in parts[:-1] if part in THUMBNAILS), None)
    if folder is not None:
        return folder
    if any(part.startswith(".") and part not in (".", "..") for part in parts):
        return HIDDEN
    return os.path.splitext(parts[-1])[1].lower() or NO_ENDING


def counted(not_taken: Counter[str]) -> str:
    """Files that were not taken, in one line; empty without any."""
    if not not_taken:
        return ""
    kinds = [f"{count:,} {kind}" for kind, count in not_taken.most_common(_SHOWN)]
    if len(not_taken) > _SHOWN:
        kinds.append(f"{sum(sorted(not_taken.values())[:-_SHOWN]):,} others")
    total = not_taken.total()
    return f"{total:,} file{'s' if total > 1 else ''} not taken: {', '.join(kinds)}"


def list_images(folder: Path, not_taken: Counter[str] | None = None) -> list[ImageFile]:
    """Every image below a folder, sorted by key (code points).

    A file counts by its ending (`image_endings`, any case), one without an ending by its first bytes. Hidden files and
    folders, folders of thumbnails and pipes are skipped; files that are not taken are counted in `not_taken` by ending.
    Links to files and folders are followed, except into a folder that is being listed already (a cycle). A broken link
    with an image's ending is listed with size 0, and reading it raises the error. Raises NotFound when there is no such
    folder, InvalidInput when it holds no image or a name that is not valid UTF-8.
    """
    if not folder.exists():
        raise NotFound(f"{folder}: no such folder")
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: is not a folder")
    left_out: Counter[str] = Counter() if not_taken is None else not_taken
    images = sorted(_walk(folder, "", (), image_endings(), left_out), key=lambda image: image.key)
    if not images:
        more = f" ({counted(left_out)})" if left_out else ""
        raise InvalidInput(f"{folder}: holds no images{more}", hint="endings that count: " + _ENDINGS)
    check_keys([image.key for image in images], str(folder))
    return images


def _walk(
    folder: Path, prefix: str, above: tuple[tuple[int, int], ...], endings: frozenset[str], not_taken: Counter[str]
) -> Iterator[ImageFile]:
    try:
        status = os.stat(folder)
        inode = (status.st_dev, status.st_ino)
        if inode in above:
            return
        with os.scandir(folder) as listing:
            entries = list(listing)
    except OSError as error:
        raise Unavailable(f"{folder}: cannot be listed ({error.strerror})") from error
    for entry in entries:
        key = prefix + entry.name
        kind = kind_of_name(key)
        is_folder = _is_folder(entry)
        if is_folder and (entry.name.startswith(".") or entry.name in THUMBNAILS):
            not_taken[entry.name if entry.name in THUMBNAILS else HIDDEN] += _files_below(Path(entry.path))
        elif is_folder:
            yield from _walk(Path(entry.path), key + "/", (*above, inode), endings, not_taken)
        elif kind in endings or (kind == NO_ENDING and _has_signature(entry)):
            yield from _image(entry, key)
        else:
            not_taken[kind] += 1
    not_taken += Counter()  # drops zeros


def _files_below(folder: Path) -> int:
    """The number of files below a folder that is skipped."""
    return sum(len(files) for _, _, files in os.walk(folder))


def _has_signature(entry: os.DirEntry[str]) -> bool:
    """Whether a file begins like an image."""
    try:
        if not stat.S_ISREG(entry.stat().st_mode):
            return False
        with open(entry.path, "rb") as file:
            return recognised(file.read(_SIGNATURE_BYTES))
    except OSError:
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _image(entry: os.DirEntry[str], key: str) -> Iterator[ImageFile]:
    try:
        status = entry.stat()
    except OSError:
        yield ImageFile(key, Path(entry.path), 0, 0)
        return
    if stat.S_ISREG(status.st_mode):  # reading a pipe would wait for a writer
        yield ImageFile(key, Path(entry.path), status.st_size, status.st_mtime_ns)
