"""Labels in published lists: ImageNet's and Places365's image lists, ImageNet-X's factors, class folders, Broden."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from qrp_store.errors import InvalidInput
from qrp_store.images import decode_bytes
from qrp_store.readers.image_folders import list_images
from qrp_store.readers.labels.long_tables import json_lines
from qrp_store.readers.labels.rows import Batch, LabelRows, Source, Term
from qrp_store.readers.labels.text_tables import csv_header, csv_rows, encoding_of, not_utf8, rows_of
from qrp_store.samples import shown

_LISTED = re.compile(r"(\S.*?)\s+(\d+|n\d{8})")
_SYNSET = re.compile(r"n\d{8}")
FACTORS = frozenset(
    (
        *("pose", "background", "pattern", "color", "smaller", "shape", "partial_view", "subcategory", "texture"),
        *("larger", "darker", "object_blocking", "person_blocking", "style", "brighter", "multiple_objects"),
    )
)
"""The 16 factors of ImageNet-X."""
_FACTORS_AFTER = ("file_name", "class")
_FACTORS_BEFORE = ("justification", "one_word", "metaclass")


def read_image_folder(source: Source) -> Iterator[LabelRows]:
    """Classes as folders: each image's concept is the first folder of its key."""
    batch = Batch(source, scored=False)
    for image in list_images(source.path):
        concept, slash, _ = image.key.partition("/")
        if not slash:
            raise InvalidInput(
                f"{source}: {shown(image.key)} lies in no class folder", hint="expected FOLDER/CLASS/IMAGE"
            )
        batch.add(shown(image.key), image.key, concept, None, None)
        if batch.full:
            yield batch.take()
    yield batch.take()


def is_image_list(line: str) -> bool:
    """Whether a text's first line reads `IMAGE CLASS`."""
    return _LISTED.fullmatch(line.strip()) is not None


def read_image_list(source: Source) -> Iterator[LabelRows]:
    """Lines `IMAGE CLASS` (Places365's and ImageNet's lists): a class number or a synset, named by `--names`."""
    batch = Batch(source, scored=False)
    try:
        with source.path.open(encoding=encoding_of(source.path)) as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                match = _LISTED.fullmatch(line.strip())
                if match is None:
                    raise InvalidInput(f"{source}: line {number}: expected IMAGE CLASS, found {shown(line.strip())}")
                batch.add(f"line {number}", match[1].removeprefix("/"), match[2], None, None)
                if batch.full:
                    yield batch.take()
    except UnicodeError as error:
        raise not_utf8(source) from error
    yield batch.take()


def read_synsets(source: Source) -> Iterator[LabelRows]:
    """ImageNet's `ImageId,PredictionString` table: the synsets (n01440764) of each image; its key has no ending."""
    batch = Batch(source, scored=False)
    for place, (key, prediction) in rows_of(source, ("ImageId", "PredictionString")):
        for synset in sorted(set(_SYNSET.findall(prediction))):
            batch.add(place, key, synset, None, None)
        if batch.full:
            yield batch.take()
    yield batch.take()


def read_imagenet_x(source: Source) -> Iterator[LabelRows]:
    """ImageNet-X: one JSON object an annotated image, with 16 factors of 0 or 1 that a person looked at."""
    batch = Batch(source, scored=False)
    vocabulary: list[Term] = []
    for place, image in json_lines(source):
        if not vocabulary:
            left_out = (*_FACTORS_AFTER, *_FACTORS_BEFORE)
            vocabulary = [(name, source.group or "factor") for name in image if name not in left_out]
        key = batch.text(place, "file_name", image.get("file_name"))
        batch.seen.append(key)
        for name, group in vocabulary:
            value = image.get(name)
            if value not in (0, 1):
                raise InvalidInput(f"{source}: {place}: factor {name} is {value!r}, expected 0 or 1")
            if value:
                batch.add(place, key, name, None, group)
        if batch.full:
            yield batch.take(vocabulary)
    yield batch.take(vocabulary)


def is_broden(folder: Path) -> bool:
    """Whether a folder is Broden's (NetDissect)."""
    return (folder / "index.csv").is_file() and (folder / "label.csv").is_file()


def read_broden(source: Source) -> Iterator[LabelRows]:
    """Broden's `index.csv` with `label.csv` beside it: scenes and textures by number, the rest from label pictures.

    Groups are Broden's categories (object, part, scene, material, texture, color). A picture holds a label's number in
    each pixel as red + 256 · green; a label holds for an image when one pixel has it.
    """
    folder = source.path if source.path.is_dir() else source.path.parent
    index = Source(folder / "index.csv", source.group, source.keys)
    labels = _broden_labels(Source(folder / "label.csv"))
    header = csv_header(index)
    columns = header.columns
    if "image" not in columns:
        raise InvalidInput(f"{index}: no column image")
    categories = [name for name in columns if name not in ("image", "split", "ih", "iw", "sh", "sw")]
    batch = Batch(index, scored=False)
    for place, row in csv_rows(index, header):
        cells = dict(zip(columns, row, strict=True))
        for category in categories:
            for number in sorted(_broden_numbers(folder, cells[category])):
                if number not in labels:
                    raise InvalidInput(f"{index}: {place}: label {number} is not in label.csv")
                # one word may be a scene and an object: Broden tells colors (red-c) and scenes apart by their letter
                name = labels[number].removesuffix(f"-{category[0]}")
                batch.add(place, cells["image"], f"{name}-{category[0]}", None, category)
        if batch.full:
            yield batch.take()
    yield batch.take()


def _broden_labels(source: Source) -> dict[int, str]:
    names: dict[int, str] = {}
    for place, (number, name) in rows_of(source, ("number", "name")):
        if not number.isdecimal():
            raise InvalidInput(f"{source}: {place}: {shown(number)} is not the number of a label")
        names[int(number)] = name
    return names


def _broden_numbers(folder: Path, text: str) -> set[int]:
    """The labels of one cell: numbers and names of label pictures, with semicolons between; 0 means nothing."""
    numbers: set[int] = set()
    for word in filter(None, (part.strip() for part in text.split(";"))):
        if word.isdecimal():
            numbers.add(int(word))
        else:
            numbers |= _picture_labels(folder / "images" / word)
    return numbers - {0}


def _picture_labels(path: Path) -> set[int]:
    import numpy as np

    try:
        pixels = np.asarray(decode_bytes(path.read_bytes()), np.int64)
    except (OSError, InvalidInput) as error:
        raise InvalidInput(f"{path}: the label picture cannot be read ({error})") from error
    return set(np.unique(pixels[..., 0] + 256 * pixels[..., 1]).tolist())


def columns_of(line: str) -> set[str]:
    """The comma-separated words of a line; none when they are too long."""
    try:
        return {name.strip() for name in next(csv.reader([line]), [])}
    except csv.Error:
        return set()
