"""Exports of annotation tools and attribute sets in JSON: VAW, Label Studio, FiftyOne."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qrp_store.errors import InvalidInput, near_names
from qrp_store.readers.labels.columns import KEY_NAMES
from qrp_store.readers.labels.file_keys import FileKeys
from qrp_store.readers.labels.json_documents import Document
from qrp_store.readers.labels.long_tables import json_lines
from qrp_store.readers.labels.rows import Batch, LabelRows, Source, Term, kind
from qrp_store.samples import shown

JSON_LINES = (".jsonl", ".ndjson")
_IMAGES = (*KEY_NAMES, "url", "image_url", "photo", "picture")
_FIFTYONE = ("Classification", "Classifications", "Detection", "Detections", "Polyline", "Polylines", "Keypoints")


def records(source: Source) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the place and content of every object of a JSON list, or of JSON lines. Raises InvalidInput."""
    if source.path.suffix.lower() in JSON_LINES:
        yield from json_lines(source)
        return
    for number, record in enumerate(Document(source).items("item"), start=1):
        if not isinstance(record, Mapping):
            raise InvalidInput(f"{source}: item {number} is {kind(record)}, expected an object")
        yield f"item {number}", record


def names_in(source: Source, place: str, name: str, value: object) -> list[str]:
    """Return a list of texts; one text is a list of one, null of none. Raises InvalidInput."""
    listed = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(word, str) for word in listed):
        raise InvalidInput(f"{source}: {place}: {name} is no list of texts")
    return listed


def read_vaw(source: Source) -> Iterator[LabelRows]:
    """VAW: attributes that an object of an image has, and attributes that it was checked not to have.

    An attribute holds for an image when one of its objects has it. The negative ones were looked at; all others are
    unknown. The key is Visual Genome's id of the image, the group `attribute`.
    """
    batch = Batch(source, scored=True)
    group = source.group or "attribute"
    for place, record in records(source):
        if "image_id" not in record:
            raise InvalidInput(f"{source}: {place} has no image_id", hint="expected VAW: positive_attributes, …")
        key = batch.text(place, "image_id", record["image_id"])
        for name, holds in (("positive_attributes", True), ("negative_attributes", False)):
            for word in names_in(source, place, name, record.get(name)):
                batch.pair(key, batch.term(place, word), group, holds=holds)
        if batch.full:
            yield batch.take()
    yield batch.take()


def read_label_studio(source: Source) -> Iterator[LabelRows]:
    """Label Studio's JSON and JSON-MIN: the choices and the labels of regions in the submitted annotations.

    The group is the control's name. An image with a submitted annotation was looked at; one without is unknown.
    """
    batch, keys = Batch(source, scored=False), FileKeys(source)
    vocabulary: dict[Term, None] = {}
    for place, task in records(source):
        data = task.get("data", task)
        key = keys.of(batch.text(place, "image", _image_of(source, place, data)))
        annotations = [task] if data is task else task.get("annotations", task.get("completions")) or []
        if not isinstance(annotations, list) or not all(isinstance(done, Mapping) for done in annotations):
            raise InvalidInput(f"{source}: {place}: annotations is no list of objects")
        submitted = [done for done in annotations if not done.get("was_cancelled")]
        if submitted:
            batch.seen.append(key)
        for done in submitted:
            for control, words in _minimal(done) if data is task else _results(source, place, done):
                for word in words:
                    name = batch.term(place, word)
                    batch.add(place, key, name, None, source.group or control)
                    vocabulary[name, source.group or control] = None
        if batch.full:
            yield batch.take(list(vocabulary))
    yield batch.take(list(vocabulary))


def _image_of(source: Source, place: str, data: object) -> str:
    """Return the path of a task's image: the field with a usual name, or the only text."""
    if not isinstance(data, Mapping):
        raise InvalidInput(f"{source}: {place}: data is {kind(data)}, expected an object")
    if source.table.key is not None:
        texts = [data.get(source.table.key)]
    else:
        texts = [data[name] for name in _IMAGES if isinstance(data.get(name), str)]
        texts = texts[:1] or [value for value in data.values() if isinstance(value, str)]
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise InvalidInput(
            f"{source}: {place}: no field is the image (fields: {', '.join(map(str, data))})",
            hint="--key-column names the field",
        )
    return texts[0]


def _results(source: Source, place: str, done: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[Any]]]:
    """Yield the control's name and the words of every result of an annotation."""
    results = done.get("result") or []
    if not isinstance(results, list):
        raise InvalidInput(f"{source}: {place}: result is {kind(results)}, expected a list")
    for result in results:
        if not isinstance(result, Mapping) or not isinstance(result.get("value"), Mapping):
            continue
        form, control = str(result.get("type")), str(result.get("from_name"))
        words = result["value"].get(form)
        if form == "taxonomy" and isinstance(words, list):
            yield control, [" / ".join(map(str, path)) if isinstance(path, list) else path for path in words]
        elif (form == "choices" or form.endswith("labels")) and isinstance(words, list):
            yield control, words


def _minimal(task: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[Any]]]:
    """Yield the same for a task of JSON-MIN, whose results are fields with the controls' names."""
    for control, value in task.items():
        if isinstance(value, Mapping) and isinstance(value.get("choices"), list):
            yield control, value["choices"]
        elif isinstance(value, list):
            for region in value:
                forms = region.items() if isinstance(region, Mapping) else ()
                yield from (
                    (control, words) for form, words in forms if form.endswith("labels") and isinstance(words, list)
                )
        elif isinstance(value, str) and control not in (*_IMAGES, "created_at", "updated_at", "annotator", "lead_time"):
            yield control, [value]


def is_fiftyone(folder: Path) -> bool:
    """Return whether a folder is an export of FiftyOne."""
    return (folder / "samples.json").is_file() or ((folder / "labels.json").is_file() and (folder / "data").is_dir())


def read_fiftyone(source: Source) -> Iterator[LabelRows]:
    """FiftyOne's `samples.json` (a folder of FiftyOneDataset, or JSON), or `labels.json` with classes and labels.

    Of several fields with labels, `--concept-column` names one. A confidence is the score. A sample whose field is
    not null was looked at.
    """
    path = source.path
    if path.is_dir():
        path = path / ("samples.json" if (path / "samples.json").is_file() else "labels.json")
    document = Document(Source(path, source.group, source.keys, source.table))
    first = next(document.pairs("labels"), None)
    yield from _read_samples(document) if first is None else _read_labels(document)


def _read_samples(document: Document) -> Iterator[LabelRows]:
    source, field = document.source, document.source.table.concept
    batch, keys = Batch(source, scored=True), FileKeys(source)
    vocabulary: dict[Term, None] = {}
    for number, sample in enumerate(document.items("samples.item"), start=1):
        place = f"sample {number}"
        if not isinstance(sample, Mapping):
            raise InvalidInput(f"{source}: {place} is {kind(sample)}, expected an object")
        fields = [
            name for name, value in sample.items() if isinstance(value, Mapping) and value.get("_cls") in _FIFTYONE
        ]
        if field is None and len(fields) > 1:
            raise InvalidInput(
                f"{source}: {place} has several fields with labels: {', '.join(fields)}",
                hint=f"--concept-column {fields[0]}, for example",
            )
        if field is not None and field not in sample:
            raise InvalidInput(f"{source}: {place} has no field {shown(field)}", hint=near_names(field, fields))
        key = keys.of(batch.text(place, "filepath", sample.get("filepath")))
        name = field or (fields[0] if fields else None)
        value = None if name is None else sample[name]
        if isinstance(value, Mapping):
            batch.seen.append(key)
            for word, score in _fiftyone_labels(value):
                batch.add(place, key, word, 1.0 if score is None else score, None)
                vocabulary[batch.concepts[-1], source.group] = None
        if batch.full:
            yield batch.take(list(vocabulary))
    yield batch.take(list(vocabulary))


def _fiftyone_labels(value: Mapping[str, Any]) -> Iterator[tuple[object, object]]:
    """Yield the label and the confidence of everything in a field."""
    for name in ("classifications", "detections", "polylines", "keypoints"):
        if isinstance(value.get(name), list):
            for inner in value[name]:
                if isinstance(inner, Mapping):
                    yield from _fiftyone_labels(inner)
            return
    if value.get("label") is not None:
        yield value["label"], value.get("confidence")


def _read_labels(document: Document) -> Iterator[LabelRows]:
    """FiftyOne's image datasets: `{"classes": […], "labels": {STEM: CLASS or objects}}`."""
    source = document.source
    classes = [str(name) for name in document.items("classes.item")]
    batch = Batch(source, scored=True)
    keys = FileKeys(source, stems=True)
    vocabulary: list[Term] = [(batch.term("classes", name), source.group) for name in classes]
    for name, value in document.pairs("labels"):
        key = keys.of(name)
        if value is not None:
            batch.seen.append(key)
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            label, score = (one.get("label"), one.get("confidence")) if isinstance(one, Mapping) else (one, None)
            if isinstance(label, int) and not isinstance(label, bool) and classes:
                if not 0 <= label < len(classes):
                    raise InvalidInput(f"{source}: {shown(name)}: class {label} has no name; there are {len(classes)}")
                label = classes[label]
            batch.add(shown(name), key, label, 1.0 if score is None else score, None)
        if batch.full:
            yield batch.take(vocabulary)
    yield batch.take(vocabulary)
