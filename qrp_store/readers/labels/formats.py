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
from qrp_store.readers.image_folders import list_images
from qrp_store.readers.labels import (
    attribute_sets,
    boxes,
    celeba,
    coco,
    exports,
    huggingface,
    lists,
    masks,
    matlab,
    tags,
    visual_genome,
)
from qrp_store.readers.labels import detect as detection
from qrp_store.readers.labels import long_tables as tables
from qrp_store.readers.labels import wide_tables as wide
from qrp_store.readers.labels.cells import WHOLE
from qrp_store.readers.labels.class_names import read_names, renamed
from qrp_store.readers.labels.rows import LabelRows, Source, TableOptions, ignore


@dataclass(frozen=True)
class Format:
    """A layout of labels.

    `ids`: its keys are ids of images, which may be the names of files without their ending. `options`: those for
    tables that apply to it. `content`: endings of the files of a folder that hold the labels.
    """

    read: Callable[[Source], Iterator[LabelRows]]
    about: str
    ids: bool = False
    options: frozenset[str] = frozenset()
    content: tuple[str, ...] = ()


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
_TABLE = frozenset({"key", "concept", "score", "group", "split", "true", "false"})
FORMATS: Mapping[str, Format] = {
    "long": Format(_read_long, "CSV, Parquet, JSONL: key,concept[,score][,group]", options=_TABLE),
    "wide": Format(_read_wide, "CSV, Parquet, JSONL: key and one 0/1 column a concept", options=_TABLE),
    "celeba": Format(celeba.read_celeba, "CelebA's list_attr_celeba.txt or .csv: -1 and 1", options=_TABLE),
    "coco": Format(coco.read_coco, "COCO instances, stuff or panoptic JSON"),
    "lvis": Format(coco.read_lvis, "LVIS JSON: COCO's layout with neg_category_ids"),
    "inaturalist": Format(coco.read_inaturalist, "iNaturalist JSON: COCO's layout with a species an image"),
    "hf": Format(
        huggingface.read_hugging_face,
        "Hugging Face: Parquet with ClassLabel, or a folder of save_to_disk",
        options=frozenset({"key", "concept", "split"}),
        content=(".arrow", ".json"),
    ),
    "tags": Format(
        tags.read_tags, "JSON or JSONL: {image, tags: [...]}", options=frozenset({"key", "concept", "score", "split"})
    ),
    "clip-scores": Format(
        tags.read_clip_scores, "a score of every concept: wide table, .npz, JSON", options=frozenset({"key"})
    ),
    "vaw": Format(exports.read_vaw, "VAW JSON: positive_attributes, negative_attributes", ids=True),
    "label-studio": Format(exports.read_label_studio, "Label Studio's JSON, JSON-MIN", options=frozenset({"key"})),
    "fiftyone": Format(
        exports.read_fiftyone,
        "FiftyOne's samples.json or labels.json, or its folder",
        options=frozenset({"concept"}),
        content=("samples.json", "labels.json"),
    ),
    "cvat": Format(boxes.read_cvat, "CVAT for images, XML"),
    "voc": Format(boxes.read_voc, "Pascal VOC's folder, or an image set with -1, 0 and 1", content=(".xml", ".txt")),
    "yolo": Format(
        boxes.read_yolo, "YOLO's folder: data.yaml and labels/", content=(".txt", ".yaml", ".yml", ".names")
    ),
    "cub": Format(attribute_sets.read_cub, "CUB-200's folder", content=(".txt",)),
    "awa2": Format(attribute_sets.read_awa, "AwA2's folder", content=(".txt",)),
    "dtd": Format(attribute_sets.read_dtd, "DTD's folder, or labels_joint_anno.txt", content=(".txt",)),
    "sun": Format(matlab.read_sun, "SUN Attribute's folder: three .mat files", content=(".mat",)),
    "ade20k": Format(
        masks.read_ade20k, "ADE20K's folder: objectInfo150.txt, annotations/", ids=True, content=(".txt", ".png")
    ),
    "open-images": Format(tables.read_open_images, "Open Images CSV: ImageID,Source,LabelName,Confidence", ids=True),
    "visual-genome": Format(visual_genome.read_visual_genome, "Visual Genome objects.json, attributes.json", ids=True),
    "broden": Format(lists.read_broden, "Broden's folder, or its index.csv"),
    "image-list": Format(lists.read_image_list, "Places365's and ImageNet's lists: IMAGE CLASS a line", ids=True),
    "imagenet-synsets": Format(lists.read_synsets, "ImageNet CSV: ImageId,PredictionString", ids=True),
    "imagenet-x": Format(lists.read_imagenet_x, "ImageNet-X JSONL"),
    "matrix": Format(wide.read_matrix, ".npy (samples, concepts), rows in the dataset's order"),
    "image-folder": Format(lists.read_image_folder, "one folder a class"),
}


def read_labels(
    path: Path,
    *,
    group: str | None = None,
    form: str | None = None,
    names: Path | None = None,
    keys: Sequence[str] = (),
    table: TableOptions = TableOptions(),
    activation: str | None = None,
    note: Callable[[str], None] = ignore,
    warn: Callable[[str], None] = ignore,
) -> Iterator[LabelRows]:
    """Return the labels of a file or folder, in batches of about 100,000.

    `form` is a name in `FORMATS`, by default what the content looks like; `group` is given to concepts that have none
    of their own; `names` is a file of names for the source's codes (`class_names.read_names`); `keys` are the
    dataset's, for sources whose rows have none; `table` names columns and values; `note` and `warn` receive
    remarks for the user. Raises NotFound, InvalidInput (also while iterating).
    """
    source = Source(path, group, keys, table, activation, note, warn)
    form = form or detection.detect(source)
    _check_options(source, form)
    dictionary = None if names is None else read_names(names)
    batches = FORMATS[form].read(source)
    if dictionary is not None and names is not None:
        batches = (renamed(batch, dictionary, names) for batch in batches)
    return _not_empty(path, batches)


def detect(path: Path, table: TableOptions = TableOptions(), activation: str | None = None) -> str:
    """Return the name in `FORMATS` of what a file or folder looks like. Raises NotFound and InvalidInput."""
    return detection.detect(Source(path, table=table, activation=activation))


def _check_options(source: Source, form: str) -> None:
    """Raise InvalidInput for options of tables on something else, for an empty separator, and for yes that is no."""
    table = source.table
    unfit = sorted(set(table.document()) - FORMATS[form].options)
    if unfit:
        option = f"--{unfit[0]}-column" if unfit[0] in ("key", "concept", "score", "group") else f"--{unfit[0]}"
        raise InvalidInput(
            f"{source}: {option} does not apply to the format {form}",
            hint="leave it out; --format says what SOURCE is, when it was taken for something else",
        )
    if source.activation is not None and form != "clip-scores":
        raise InvalidInput(
            f"{source}: --activation does not apply to the format {form}",
            hint="--format clip-scores reads a table of cosines or logits",
        )
    if table.split == "":
        raise InvalidInput("--split '': the separator is empty", hint=f"--split {WHOLE} never splits a cell")
    both = {word.strip().casefold() for word in table.true} & {word.strip().casefold() for word in table.false}
    if both:
        raise InvalidInput(f"--true and --false both name {sorted(both)[0]!r}")


def source_digest(source: Path, form: str = "image-folder") -> str:
    """Return the sha256 (hex) of a file's bytes; of an ImageFolder's sorted relative paths; of another folder's labels.

    Of Broden's folder it covers the two tables.
    """
    digest = hashlib.sha256()
    if source.is_dir() and FORMATS[form].content:
        for ending in FORMATS[form].content:
            for path in boxes.files_below(Source(source), source, ending):
                digest.update(
                    f"{path.relative_to(source).as_posix()}\0{source_digest(path)}".encode("utf-8", "replace")
                )
        return digest.hexdigest()
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
