"""Labels from files: which human concepts hold for which sample, read in batches.

A format is one row of `FORMATS`: a generator `Source -> Iterator[LabelRows]`. Which one a source has is seen from its
content. Every reader refuses, with InvalidInput naming file and line: keys and concepts that are empty or hold NUL,
scores that are not numbers in [0, 1], text that is not UTF-8, and a source without labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qrp_store.errors import InvalidInput, NotFound
from qrp_store.readers.labels import coco, lists
from qrp_store.readers.labels import long_tables as tables
from qrp_store.readers.labels import wide_tables as wide
from qrp_store.readers.labels.class_names import read_names, renamed
from qrp_store.readers.labels.rows import LabelRows, Source
from qrp_store.samples import list_images


@dataclass(frozen=True)
class Format:
    """A layout of labels. `ids`: its keys are ids of images, which may be the names of files without their ending."""

    read: Callable[[Source], Iterator[LabelRows]]
    about: str
    ids: bool = False


def _read_long(source: Source) -> Iterator[LabelRows]:
    return _by_ending(source, {".parquet": tables.read_parquet, **_JSON_LINES}, tables.read_csv)


def _read_wide(source: Source) -> Iterator[LabelRows]:
    lines = dict.fromkeys(_JSON_LINES, wide.read_wide_json_lines)
    return _by_ending(source, {".parquet": wide.read_wide_parquet, **lines}, wide.read_wide_csv)


def _by_ending(
    source: Source,
    readers: Mapping[str, Callable[[Source], Iterator[LabelRows]]],
    other: Callable[[Source], Iterator[LabelRows]],
) -> Iterator[LabelRows]:
    return readers.get(source.path.suffix.lower(), other)(source)


_JSON_LINES = {".jsonl": tables.read_json_lines, ".ndjson": tables.read_json_lines}
FORMATS: Mapping[str, Format] = {
    "long": Format(_read_long, "CSV, Parquet, JSONL: key,concept[,score][,group]"),
    "wide": Format(_read_wide, "CSV, Parquet, JSONL: key and one 0/1 column a concept"),
    "coco": Format(coco.read_coco, "COCO instances, stuff or panoptic JSON"),
    "open-images": Format(tables.read_open_images, "Open Images CSV: ImageID,Source,LabelName,Confidence", ids=True),
    "visual-genome": Format(coco.read_visual_genome, "Visual Genome objects.json, attributes.json", ids=True),
    "broden": Format(lists.read_broden, "Broden's folder, or its index.csv"),
    "image-list": Format(lists.read_image_list, "Places365's and ImageNet's lists: IMAGE CLASS a line", ids=True),
    "imagenet-synsets": Format(lists.read_synsets, "ImageNet CSV: ImageId,PredictionString", ids=True),
    "imagenet-x": Format(lists.read_imagenet_x, "ImageNet-X JSONL"),
    "matrix": Format(wide.read_matrix, ".npy (samples, concepts), rows in the dataset's order"),
    "image-folder": Format(lists.read_image_folder, "one folder a class"),
}
_TEXT = (".csv", ".tsv", ".txt")


def read_labels(
    path: Path,
    *,
    group: str | None = None,
    form: str | None = None,
    names: Path | None = None,
    keys: Sequence[str] = (),
) -> Iterator[LabelRows]:
    """The labels of a file or folder, in batches of about 100,000.

    `form` is a name in `FORMATS`, by default what the content looks like; `group` is given to concepts that have none
    of their own; `names` is a file of names for the source's codes (`names.read_names`); `keys` are the dataset's, for
    sources whose rows have none. Raises NotFound, InvalidInput (also while iterating).
    """
    source = Source(path, group, keys)
    reader = FORMATS[form or detect(path)].read
    dictionary = None if names is None else read_names(names)
    batches = reader(source)
    if dictionary is not None and names is not None:
        batches = (renamed(batch, dictionary, names) for batch in batches)
    return _not_empty(path, batches)


def detect(path: Path) -> str:
    """The name in `FORMATS` of what a file or folder looks like. Raises NotFound and InvalidInput."""
    if not path.exists():
        raise NotFound(f"{path}: no such file or folder")
    if path.is_dir():
        return "broden" if lists.is_broden(path) else "image-folder"
    source, ending = Source(path), path.suffix.lower()
    try:
        if ending in _TEXT:
            return _text(source)
        if ending in _JSON_LINES:
            return _json_lines(source)
        if ending == ".parquet":
            columns = tables.parquet_columns(source)
            return "wide" if _is_wide(columns) else "long"
        if ending == ".json":
            return "visual-genome" if coco.first_event(source) == "start_array" else "coco"
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror or error})") from error
    if ending == ".npy":
        return "matrix"
    endings = " ".join(sorted([*_TEXT, *_JSON_LINES, ".json", ".npy", ".parquet"]))
    raise InvalidInput(
        f"{path}: not a kind of label file that can be read",
        hint=f"known endings: {endings}, or a folder with one folder a class; --format says what it is",
    )


def _text(source: Source) -> str:
    line = lists.first_line(source.path)
    named = lists.columns_of(line) if line.strip() else set()
    if named >= {"image", "split"} and lists.is_broden(source.path.parent):
        return "broden"
    if named >= {"ImageId", "PredictionString"}:
        return "imagenet-synsets"
    if source.path.suffix.lower() == ".txt" and "key" not in named and lists.is_image_list(line):
        return "image-list"
    columns, _ = tables.csv_header(source)
    if set(tables.OPEN_IMAGES.required) <= set(columns):
        return "open-images"
    return "wide" if _is_wide(columns) else "long"


def _json_lines(source: Source) -> str:
    first = next((found for _, found in tables.json_lines(source)), {})
    if "file_name" in first and "key" not in first:
        return "imagenet-x"
    return "wide" if _is_wide(list(first)) else "long"


def _is_wide(columns: Sequence[str]) -> bool:
    return "key" in columns and "concept" not in columns and len(columns) > 1


def source_digest(source: Path) -> str:
    """sha256 (hex) of a file's bytes, or of an ImageFolder's sorted relative paths (Broden: of its two tables)."""
    digest = hashlib.sha256()
    if source.is_dir() and lists.is_broden(source):
        digest.update("".join(source_digest(source / name) for name in ("index.csv", "label.csv")).encode())
        return digest.hexdigest()
    if source.is_dir():
        for image in list_images(source):
            digest.update(image.key.encode() + b"\0")
        return digest.hexdigest()
    try:
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise NotFound(f"{source}: no such file or folder") from error
    except OSError as error:
        raise InvalidInput(f"{source}: cannot be read ({error.strerror or error})") from error


def _not_empty(source: Path, batches: Iterator[LabelRows]) -> Iterator[LabelRows]:
    empty = True
    try:
        for batch in batches:
            if batch.keys or batch.seen:
                empty = False
                yield batch
    except OSError as error:
        raise InvalidInput(f"{source}: cannot be read ({error.strerror or error})") from error
    if empty:
        raise InvalidInput(f"{source}: holds no labels")
