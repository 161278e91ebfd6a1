"""ADE20K's scene parsing benchmark: a picture of class numbers for each image, and a table of their names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qrp_store.errors import InvalidInput
from qrp_store.images import decode_bytes
from qrp_store.readers.image_folders import list_images
from qrp_store.readers.labels.file_keys import FileKeys, stem
from qrp_store.readers.labels.rows import Batch, LabelRows, Source, Term
from qrp_store.readers.labels.text_tables import encoding_of, not_utf8
from qrp_store.samples import shown

_NAMES = "objectInfo150.txt"
_MASKS = "annotations"


def is_ade20k(folder: Path) -> bool:
    """Return whether a folder is ADEChallengeData2016."""
    return (folder / _NAMES).is_file() and (folder / _MASKS).is_dir()


def read_ade20k(source: Source) -> Iterator[LabelRows]:
    """A class holds for an image when one pixel of its mask has the class's number; 0 is what has no class.

    Every pixel was annotated, so all classes were looked at. A class goes by the first of its names (`door`).
    """
    folder, keys, batch = source.path, FileKeys(source, stems=True), Batch(source, scored=False)
    names = _names(folder / _NAMES)
    vocabulary: list[Term] = [(batch.term(_NAMES, name), source.group) for name in names.values()]
    for mask in list_images(folder / _MASKS):
        place = f"{_MASKS}/{mask.key}"
        try:
            pixels = np.asarray(decode_bytes(mask.read()))
        except InvalidInput as error:
            raise InvalidInput(f"{source}: {place}: {error.message}", hint=error.hint) from error
        if (pixels != pixels[..., :1]).any():
            raise InvalidInput(f"{source}: {place}: holds colours, expected grey class numbers")
        numbers = np.unique(pixels[..., 0]).tolist()
        key = keys.of(stem(mask.key))
        batch.seen.append(key)
        for number in numbers:
            if number and number not in names:
                raise InvalidInput(f"{source}: {place}: class {number} is not in {_NAMES}")
            if number:
                batch.add(place, key, names[number], None, None)
        if batch.full:
            yield batch.take(vocabulary)
    yield batch.take(vocabulary)


def _names(path: Path) -> dict[int, str]:
    try:
        lines = path.read_text(encoding_of(path)).splitlines()
    except UnicodeError as error:
        raise not_utf8(Source(path)) from error
    names: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        cells = line.split("\t")
        if not line.strip() or (number == 1 and not cells[0].strip().isdecimal()):
            continue
        if len(cells) < 2 or not cells[0].strip().isdecimal():
            raise InvalidInput(f"{path}: line {number}: expected NUMBER … NAMES with tabs, found {shown(line)}")
        names[int(cells[0])] = cells[-1].split(",")[0].strip()
    return names
