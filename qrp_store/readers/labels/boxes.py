"""Boxes of detectors' data sets as files an image: Pascal VOC, YOLO; and CVAT's XML."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.attribute_sets import text_lines
from qrp_store.readers.labels.file_keys import FileKeys, stem
from qrp_store.readers.labels.rows import Batch, LabelRows, Source, Term
from qrp_store.readers.labels.text_tables import encoding_of
from qrp_store.readers.labels.xml_documents import elements
from qrp_store.readers.labels.yaml_names import names_of
from qrp_store.samples import shown

_SET = re.compile(r"(.+)_(?:train|val|trainval|test)\.txt")
_CONFIGURATIONS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "coco.yaml", "classes.txt", "obj.names")
_PARTS = ("train", "val", "valid", "test")


def files_below(source: Source, folder: Path, ending: str) -> list[Path]:
    """Return the files with an ending below a folder, sorted; hidden ones are left out.

    Raises InvalidInput for a link that leads out of the source's folder.
    """
    root = source.path.resolve()
    listed = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(ending) and not name.startswith("."):
                path = Path(parent) / name
                if path.is_symlink() and not path.resolve().is_relative_to(root):
                    raise InvalidInput(f"{path}: is a link that leads out of {source}")
                listed.append(path)
    return listed


def _voc_parts(path: Path) -> tuple[Path, Path]:
    """Return the folders of annotations and of image sets, whether they exist or not."""
    annotations = path / "Annotations"
    if not annotations.is_dir() and path.is_dir() and any(name.suffix.lower() == ".xml" for name in path.iterdir()):
        annotations = path
    sets = path / "ImageSets" / "Main"
    return annotations, sets if sets.is_dir() else path


def is_voc(path: Path) -> bool:
    """Return whether a path is a folder of Pascal VOC, or one of its image sets with -1, 0 and 1."""
    if path.is_file():
        return path.suffix.lower() == ".txt" and _SET.fullmatch(path.name) is not None and _is_image_set(path)
    annotations, sets = _voc_parts(path)
    if annotations.is_dir() and any(name.suffix.lower() == ".xml" for name in annotations.iterdir()):
        return True
    return any(_SET.fullmatch(name.name) and _is_image_set(name) for name in sorted(sets.glob("*_*.txt"))[:20])


def _is_image_set(path: Path) -> bool:
    try:
        with path.open(encoding=encoding_of(path)) as file:
            marks = {line.split()[-1] for line in file if len(line.split()) == 2}
    except (UnicodeError, OSError):
        return False
    return "-1" in marks and marks <= {"-1", "0", "1"}


def read_voc(source: Source) -> Iterator[LabelRows]:
    """Pascal VOC: the classes of the objects in `Annotations/*.xml`, else the image sets `CLASS_train.txt`.

    An image with an annotation was looked at for every class. In an image set 1 holds, -1 does not, and 0 (only
    objects that are difficult to see) is unknown.
    """
    annotations, sets = _voc_parts(source.path)
    files = files_below(source, annotations, ".xml") if annotations.is_dir() else []
    if not files:
        yield from _read_sets(source, [source.path] if source.path.is_file() else sorted(sets.glob("*_*.txt")))
        return
    batch, keys = Batch(source, scored=False), FileKeys(source)
    stems = FileKeys(source, stems=True)
    vocabulary: dict[Term, None] = {}
    for path in files:
        filename, names = _objects(path)
        name = batch.text(path.name, "filename", filename or path.stem)
        key = keys.of(name)
        if source.keys and key == name and filename not in source.keys:
            key = stems.of(path.stem)
        batch.seen.append(key)
        for concept in sorted(set(names)):
            batch.add(path.name, key, concept, None, None)
            vocabulary[batch.concepts[-1], source.group] = None
        if batch.full:
            yield batch.take(list(vocabulary))
    yield batch.take(list(vocabulary))


def _objects(path: Path) -> tuple[str, list[str]]:
    """Return the file name of an annotation, and the names of its objects."""
    filename = ""
    names: list[str] = []
    for element in elements(path):
        if element.place[0] != "annotation":
            raise InvalidInput(f"{path}: begins with <{element.place[0]}>, expected Pascal VOC's <annotation>")
        if element.text is not None and element.place == ("annotation", "filename"):
            filename = element.text.strip()
        elif element.text is not None and element.place == ("annotation", "object", "name"):
            names.append(element.text)
    return filename, names


def _read_sets(source: Source, paths: Sequence[Path]) -> Iterator[LabelRows]:
    batch, keys = Batch(source, scored=True), FileKeys(source, stems=True)
    known = [path for path in paths if _SET.fullmatch(path.name)]
    if not known:
        raise InvalidInput(f"{source}: has no Annotations/*.xml and no CLASS_train.txt", hint="expected Pascal VOC")
    terms = {path: (batch.term(path.name, (_SET.fullmatch(path.name) or [""])[1]), source.group) for path in known}
    vocabulary: list[Term] = list(dict.fromkeys(terms.values()))
    for path in known:
        for place, (name, mark) in ((place, words[:2]) for place, words in text_lines(source, path, 2)):
            if mark not in ("-1", "0", "1"):
                raise InvalidInput(f"{path}: {place}: {shown(mark)} is none of -1, 0 and 1")
            if mark != "0":
                batch.pair(keys.of(name), *terms[path], holds=mark == "1")
            if batch.full:
                yield batch.take(vocabulary)
    yield batch.take(vocabulary)


def is_yolo(folder: Path) -> bool:
    """Return whether a folder is YOLO's: names of classes, and folders `labels`."""
    return _configuration(folder) is not None and any(True for _ in _label_folders(folder))


def _configuration(folder: Path) -> Path | None:
    named = [folder / name for name in _CONFIGURATIONS]
    return next((path for path in [*named, *sorted(folder.glob("*.y*ml"))] if path.is_file()), None)


def _label_folders(folder: Path) -> Iterator[Path]:
    for path in (folder, *(folder / part for part in _PARTS)):
        if (path / "labels").is_dir():
            yield path / "labels"
    if (folder / "obj_train_data").is_dir():
        yield folder / "obj_train_data"


def read_yolo(source: Source) -> Iterator[LabelRows]:
    """YOLO: `labels/PART/NAME.txt` with a class's number and a box a line, for `images/PART/NAME.jpg`.

    The names come from `data.yaml` (nothing that it points to is opened) or `classes.txt`. An image with a label file
    was looked at for every class; an empty file says that there is none.
    """
    folder = source.path
    configuration = _configuration(folder)
    if configuration is None:
        raise InvalidInput(f"{source}: has no data.yaml with the names of the classes, and no classes.txt")
    batch, keys = Batch(source, scored=False), FileKeys(source, stems=True)
    names = {number: batch.term(configuration.name, name) for number, name in names_of(configuration).items()}
    vocabulary: list[Term] = [(name, source.group) for name in dict.fromkeys(names.values())]
    for labels in _label_folders(folder):
        for path in files_below(source, labels, ".txt"):
            if path.name in _CONFIGURATIONS:
                continue
            images = labels.parent / "images" if labels.name == "labels" else labels
            name = stem((images / path.relative_to(labels)).relative_to(folder).as_posix())
            key = keys.of(name)
            batch.seen.append(key)
            for number in sorted({_class(path, place, words) for place, words in text_lines(source, path, 5)}):
                if number not in names:
                    raise InvalidInput(f"{path}: class {number} has no name in {configuration.name}")
                batch.add(path.name, key, names[number], None, None)
            if batch.full:
                yield batch.take(vocabulary)
    yield batch.take(vocabulary)


def _class(path: Path, place: str, words: Sequence[str]) -> int:
    if not (words[0].isascii() and words[0].isdecimal() and len(words[0]) < 10):
        raise InvalidInput(f"{path}: {place}: {shown(words[0], 40)} is not the number of a class")
    return int(words[0])


def read_cvat(source: Source) -> Iterator[LabelRows]:
    """CVAT for images: the labels of each image's tags and shapes. Every image that the file lists was looked at."""
    batch, keys = Batch(source, scored=False), FileKeys(source)
    vocabulary: dict[Term, None] = {}
    key = ""
    for element in elements(source.path):
        place = element.place
        if place[0] != "annotations":
            raise InvalidInput(f"{source}: begins with <{place[0]}>, expected CVAT's <annotations>")
        if place == ("annotations", "track"):
            raise InvalidInput(f"{source}: holds tracks of a video", hint="export the task as CVAT for images")
        if element.text is None and place == ("annotations", "image"):
            key = keys.of(batch.text("image", "name", element.attributes.get("name")))
            batch.seen.append(key)
        elif element.text is None and len(place) == 3 and place[1] == "image" and "label" in element.attributes:
            batch.add(f"image {shown(key)}", key, element.attributes["label"], None, None)
            vocabulary[batch.concepts[-1], source.group] = None
        elif element.text is not None and place[-3:] == ("labels", "label", "name"):
            vocabulary[batch.term("labels", element.text), source.group] = None
        if batch.full:
            yield batch.take(list(vocabulary))
    yield batch.take(list(vocabulary))
