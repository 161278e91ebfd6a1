"""Which layout a file or folder of labels has, seen from its content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from qrp_store.errors import InvalidInput, NotFound
from qrp_store.readers.compressed import refuse_compressed
from qrp_store.readers.labels import attribute_sets, boxes, exports, huggingface, lists, masks, matlab
from qrp_store.readers.labels.cells import truth
from qrp_store.readers.labels.columns import CONCEPT, CONCEPT_NAMES, KEY, OPEN_IMAGES, key_of, layout_of, usual_concept
from qrp_store.readers.labels.json_documents import Document
from qrp_store.readers.labels.long_tables import json_lines, parquet_batches, parquet_columns
from qrp_store.readers.labels.rows import Source, is_missing
from qrp_store.readers.labels.tags import SCORE_FIELDS
from qrp_store.readers.labels.text_tables import csv_header, csv_rows, first_line
from qrp_store.readers.labels.wide_tables import concept_columns, is_row_number
from qrp_store.samples import shown

TEXT = (".csv", ".tsv", ".txt")
JSON_LINES = (".jsonl", ".ndjson")
_LOOKED_AT = 200
_EVENTS = 2000
_COCO = frozenset({"images", "annotations", "categories", "info", "licenses"})
_FOLDERS: Mapping[str, Callable[[Path], bool]] = {
    "hf": huggingface.is_saved,
    "broden": lists.is_broden,
    "cub": attribute_sets.is_cub,
    "awa2": attribute_sets.is_awa,
    "dtd": attribute_sets.is_dtd,
    "sun": matlab.is_sun,
    "ade20k": masks.is_ade20k,
    "voc": boxes.is_voc,
    "yolo": boxes.is_yolo,
    "fiftyone": exports.is_fiftyone,
}


def detect(source: Source) -> str:
    """Return the name in `FORMATS` of what a file or folder looks like. Raises NotFound and InvalidInput."""
    path, ending = source.path, source.path.suffix.lower()
    if not path.exists():
        raise NotFound(f"{path}: no such file or folder")
    try:
        refuse_compressed(path)
        if path.is_dir():
            return next((name for name, is_it in _FOLDERS.items() if is_it(path)), "image-folder")
        if ending in TEXT:
            return _text(source)
        if ending in JSON_LINES:
            return _json_lines(source)
        if ending == ".parquet":
            return _parquet(source)
        if ending == ".json":
            return _json(source)
        if ending == ".xml":
            return "cvat"
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror or error})") from error
    if ending in (".npy", ".npz"):
        return "matrix" if ending == ".npy" else "clip-scores"
    endings = " ".join(sorted([*TEXT, *JSON_LINES, ".json", ".npy", ".npz", ".parquet", ".xml"]))
    raise InvalidInput(
        f"{path}: not a kind of label file that can be read",
        hint=f"known endings: {endings}, or a folder with one folder a class; --format says what it is",
    )


def _text(source: Source) -> str:
    line = first_line(source.path)
    columns = lists.columns_of(line) if line.strip() else set()
    if columns >= {"image", "split"} and lists.is_broden(source.path.parent):
        return "broden"
    if columns >= {"ImageId", "PredictionString"}:
        return "imagenet-synsets"
    if line.strip().isdecimal():
        return "celeba"
    if attribute_sets.is_dtd(source.path) or boxes.is_voc(source.path):
        return "dtd" if attribute_sets.is_dtd(source.path) else "voc"
    if source.path.suffix.lower() == ".txt" and not columns & {KEY, "Key", "KEY"} and lists.is_image_list(line):
        return "image-list"
    header = csv_header(source)
    if set(OPEN_IMAGES.required) <= set(header.columns):
        return "open-images"
    return table_form(source, header.columns, (row for _, row in csv_rows(source, header)))


def _json_lines(source: Source) -> str:
    first: list[dict[str, Any]] = [dict(row) for _, row in islice(json_lines(source), _LOOKED_AT)]
    if not first:
        return "long"
    columns = list(first[0])
    if "positive_attributes" in columns or "negative_attributes" in columns:
        return "vaw"
    if _has_scores(first[0]):
        return "clip-scores"
    factors = lists.FACTORS & set(columns)
    if "file_name" in columns and KEY not in columns and (factors or layout_of(source, columns) is None):
        return "imagenet-x"
    layout = layout_of(source, columns)
    listed = [name for name in columns if name.lower() in CONCEPT_NAMES and isinstance(first[0][name], list)]
    if listed and (layout is None or layout.required != (KEY, CONCEPT)):
        return "tags"
    return table_form(source, columns, ([row.get(name) for name in columns] for row in first))


def _json(source: Source) -> str:
    document = Document(source)
    if document.start(1)[0][0] == "start_array":
        first = next(document.items("item"), None)
        return _record(source, first) if isinstance(first, Mapping) else "visual-genome"
    events = document.start(_EVENTS)
    depth, names = 0, []
    for event, value in events:
        if event == "map_key" and depth == 1:
            names.append(value)
        depth += event.startswith("start_") - event.startswith("end_")
    if document.holds(b'"samples"') and not document.holds(b'"annotations"'):
        return "fiftyone"
    if set(names) & _COCO:
        if document.holds(b'"neg_category_ids"'):
            return "lvis"
        return "inaturalist" if document.holds(b'"kingdom"') and document.holds(b'"genus"') else "coco"
    if "classes" in names and document.holds(b'"labels"'):
        return "fiftyone"
    inner = events[2][0] if len(events) > 2 else ""
    return {"start_array": "tags", "string": "tags", "start_map": "clip-scores"}.get(inner, "coco")


def _has_scores(record: Mapping[str, Any]) -> bool:
    """Return whether the only field, or one with a usual name, is an object of numbers: a score for each concept."""
    fields = record if len(record) == 1 else [name for name in SCORE_FIELDS if name in record]
    inner = [record[name] for name in fields if isinstance(record[name], Mapping) and record[name]]
    return any(all(isinstance(v, int | float) and not isinstance(v, bool) for v in scores.values()) for scores in inner)


def _record(source: Source, record: Mapping[str, Any]) -> str:
    """Return the layout of a JSON list by its first object."""
    names = set(record)
    if names & {"positive_attributes", "negative_attributes"}:
        return "vaw"
    if ("data" in names and names & {"annotations", "completions", "predictions"}) or "annotation_id" in names:
        return "label-studio"
    if {"image_id", "category_id"} <= names:
        raise InvalidInput(
            f"{source}: is a list of COCO's detections, which has no names of categories and files",
            hint="write a long table of them: key,concept,score",
        )
    if names & {"objects", "attributes"}:
        return "visual-genome"
    if _has_scores(record) and not names & set(CONCEPT_NAMES):
        return "clip-scores"
    return "tags" if {name.lower() for name in names} & set(CONCEPT_NAMES) else "visual-genome"


def _parquet(source: Source) -> str:
    columns = concept_columns(parquet_columns(source), source.table.key)
    if huggingface.has_classes(huggingface.features(source)):
        return "hf"
    rows = (
        row
        for record in parquet_batches(source, columns)
        for row in zip(*(record.column(name).slice(0, _LOOKED_AT).to_pylist() for name in columns), strict=True)
    )
    return table_form(source, columns, rows)


def table_form(source: Source, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return `long`, `wide` or `celeba` for a table, from its columns and first rows.

    Raises InvalidInput for a table that is both: `key,label` with 0 and 1 alone.
    """
    layout, key = layout_of(source, columns), key_of(source, columns)
    if source.activation is not None:
        return "clip-scores"
    if source.table.concept is not None or key is None or (layout is not None and layout.required == (KEY, CONCEPT)):
        return "long"
    others = [i for i, name in enumerate(columns) if not is_row_number(name) and name != key]
    cells = [[row[i] for i in others] for row in islice(rows, _LOOKED_AT)]
    options = source.table
    concept = usual_concept(columns)
    either = concept is not None and (layout is not None or len(others) == 1)
    if either and cells and all(_is_truth(source, value) for row in cells for value in row):
        raise InvalidInput(
            f"{source}: column {shown(str(concept), 40)} holds 0 and 1 alone",
            hint=f"--concept-column {concept} when these are two classes; --format wide when it is one concept that "
            "holds or not",
        )
    if layout is not None:
        return "long"
    values = {value for row in cells for value in row if not is_missing(value)} if _hashable(cells) else set()
    if not (options.true or options.false) and values and values <= {"1", "-1", " 1", 1, -1} and {"-1", -1} & values:
        return "celeba"
    named = key == KEY or options.key is not None or options.true or options.false
    truths = bool(others) and all(_is_truth(source, value, scores=True) for row in cells for value in row)
    return "wide" if others and (named or truths) else "long"


def _hashable(cells: Iterable[Sequence[Any]]) -> bool:
    return not any(isinstance(value, list | dict) for row in cells for value in row)


def _is_truth(source: Source, value: object, *, scores: bool = False) -> bool:
    try:
        number = truth(source, "", "", value)
    except InvalidInput:
        return False
    return scores or number in (0.0, 1.0, None)
