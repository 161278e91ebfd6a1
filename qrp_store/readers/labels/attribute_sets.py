"""Attribute sets that are published as folders of texts: CUB-200, AwA2, DTD."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.file_keys import FileKeys
from qrp_store.readers.labels.rows import Batch, LabelRows, Source, Term
from qrp_store.readers.labels.text_tables import encoding_of, not_utf8
from qrp_store.samples import shown

_CUB = ("images.txt", "image_class_labels.txt", "classes.txt")
_AWA = ("classes.txt", "predicates.txt", "predicate-matrix-binary.txt")
_DTD = "labels_joint_anno.txt"
_NOT_VISIBLE = "1"


def text_lines(source: Source, path: Path, fields: int, rest: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Yield ("line 7", words) of every line; with `rest`, the last of `fields` words is all that follows.

    Raises InvalidInput for a line of fewer words, naming the file.
    """
    owner = Source(path)
    try:
        with path.open(encoding=encoding_of(path)) as file:
            for number, line in enumerate(file, start=1):
                words = line.split(None, fields - 1) if rest else line.split()
                if not words:
                    continue
                if len(words) < fields:
                    raise InvalidInput(f"{path}: line {number}: {len(words)} words, expected {fields}")
                yield f"line {number}", [word.strip() for word in words]
    except UnicodeError as error:
        raise not_utf8(owner) from error
    except FileNotFoundError as error:
        raise InvalidInput(f"{source}: has no {path.name}") from error


def _table(source: Source, path: Path) -> dict[str, str]:
    """Return the names of a file of `NUMBER NAME` lines, by number."""
    return {words[0]: words[1] for _, words in text_lines(source, path, 2, rest=True)}


def is_cub(folder: Path) -> bool:
    """Return whether a folder is CUB-200's."""
    return all((folder / name).is_file() for name in _CUB)


def read_cub(source: Source) -> Iterator[LabelRows]:
    """CUB-200: the class of every image, and its attributes where the annotator saw the part.

    Concepts are called as in `classes.txt` (group `class`) and `attributes.txt` (`has_bill_shape::dagger`, whose group
    is what precedes the colons). An attribute with the certainty "not visible" is unknown; the others were looked at.
    """
    folder = source.path
    keys, batch = FileKeys(source), Batch(source, scored=True)
    images = {number: keys.of(name) for number, name in _table(source, folder / "images.txt").items()}
    classes = {
        n: (batch.term("classes.txt", name), "class") for n, name in _table(source, folder / "classes.txt").items()
    }
    listed = next((path for path in _attribute_lists(folder) if path.is_file()), None)
    attributes = {} if listed is None else {n: _attribute(batch, name) for n, name in _table(source, listed).items()}
    vocabulary = [*classes.values(), *attributes.values()]
    for place, (image, number) in _pairs(source, folder / "image_class_labels.txt"):
        if number not in classes:
            raise InvalidInput(f"{folder / 'image_class_labels.txt'}: {place}: class {number} is not in classes.txt")
        key = _known(source, place, image, images)
        if not attributes:
            batch.seen.append(key)
        for term in classes.values() if attributes else [classes[number]]:
            batch.pair(key, *term, holds=term is classes[number])
        if batch.full:
            yield batch.take(vocabulary)
    marks = folder / "attributes" / "image_attribute_labels.txt"
    for place, words in text_lines(source, marks, 4) if attributes else ():
        image, number, present, certainty = words[:4]
        if number not in attributes or present not in ("0", "1"):
            raise InvalidInput(
                f"{marks}: {place}: expected IMAGE ATTRIBUTE 0|1 CERTAINTY, found {shown(' '.join(words))}"
            )
        if certainty != _NOT_VISIBLE:
            batch.pair(_known(source, place, image, images), *attributes[number], holds=present == "1")
        if batch.full:
            yield batch.take(vocabulary)
    yield batch.take(vocabulary)


def _attribute_lists(folder: Path) -> list[Path]:
    return [folder / "attributes" / "attributes.txt", folder / "attributes.txt", folder.parent / "attributes.txt"]


def _attribute(batch: Batch, name: str) -> Term:
    return batch.term("attributes.txt", name), batch.source.group or name.partition("::")[0]


def _pairs(source: Source, path: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    for place, words in text_lines(source, path, 2):
        yield place, (words[0], words[1])


def _known(source: Source, place: str, image: str, images: Mapping[str, str]) -> str:
    if image not in images:
        raise InvalidInput(f"{source}: {place}: image {image} is not in images.txt")
    return images[image]


def is_awa(folder: Path) -> bool:
    """Return whether a folder is Animals with Attributes 2."""
    return all((folder / name).is_file() for name in _AWA)


def read_awa(source: Source) -> Iterator[LabelRows]:
    """AwA2: every image has its class and its class's attributes; the class is the folder in the image's key.

    Groups are `class` and `attribute`. Every pair was looked at.
    """
    folder, batch = source.path, Batch(source, scored=False)
    classes = list(_table(source, folder / "classes.txt").values())
    predicates = list(_table(source, folder / "predicates.txt").values())
    matrix = [words for _, words in text_lines(source, folder / "predicate-matrix-binary.txt", len(predicates))]
    if len(matrix) != len(classes) or any(len(row) != len(predicates) or {*row} - {"0", "1"} for row in matrix):
        raise InvalidInput(
            f"{folder / 'predicate-matrix-binary.txt'}: expected {len(classes)} lines of {len(predicates)} times 0 or 1"
        )
    group = source.group or "attribute"
    vocabulary: list[Term] = [(batch.term("classes.txt", name), "class") for name in classes]
    vocabulary += [(batch.term("predicates.txt", name), group) for name in predicates]
    row_of = dict(zip(classes, matrix, strict=True))
    some = False
    for key in source.keys:
        name = next((part for part in reversed(key.split("/")[:-1]) if part in row_of), None)
        if name is None:
            continue
        some = True
        batch.seen.append(key)
        batch.add(key, key, name, None, "class")
        for predicate, value in zip(predicates, row_of[name], strict=True):
            if value == "1":
                batch.add(key, key, predicate, None, group)
        if batch.full:
            yield batch.take(vocabulary)
    if not some:
        raise InvalidInput(
            f"{source}: no key of the dataset lies in the folder of a class, like {shown(classes[0] + '/1.jpg')}",
            hint="ingest the images with the folders of their classes in the keys",
        )
    yield batch.take(vocabulary)


def is_dtd(path: Path) -> bool:
    """Return whether a path is DTD's folder, or its list of joint annotations."""
    return path.name == _DTD if path.is_file() else (path / "labels" / _DTD).is_file() or (path / _DTD).is_file()


def read_dtd(source: Source) -> Iterator[LabelRows]:
    """DTD's joint annotations: `banded/banded_0002.jpg banded lined` a line. The group is `texture`."""
    path = source.path
    if path.is_dir():
        path = next((file for file in (path / "labels" / _DTD, path / _DTD) if file.is_file()), path / "labels" / _DTD)
    keys, batch = FileKeys(source), Batch(source, scored=False)
    for place, words in text_lines(source, path, 2):
        for word in words[1:]:
            batch.add(place, keys.of(words[0]), word, None, source.group or "texture")
        if batch.full:
            yield batch.take()
    yield batch.take()
