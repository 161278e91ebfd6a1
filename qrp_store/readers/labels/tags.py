"""What models say of images: tags of captioners, and scores of CLIP for every concept."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from tokenize import TokenError
from typing import Any

import numpy as np

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.cells import concepts_in
from qrp_store.readers.labels.columns import CONCEPT_NAMES, KEY_NAMES, key_of
from qrp_store.readers.labels.exports import JSON_LINES, records
from qrp_store.readers.labels.json_documents import Document
from qrp_store.readers.labels.long_tables import parquet_batches, parquet_columns
from qrp_store.readers.labels.rows import Batch, LabelRows, Source, Term, is_missing, kind, number
from qrp_store.readers.labels.text_tables import csv_header, csv_rows
from qrp_store.readers.labels.wide_tables import add_cells, concept_columns
from qrp_store.samples import shown

_SCORES = ("score", "confidence", "probability", "prob", "conf")
_TAG_NAMES = ("tag", "name", "label", "concept", "class", "category", "text")
SCORE_FIELDS = ("scores", "similarities", "probabilities", "probs", "logits")
_CLIP_SCALE = 100.0
_MAX_BYTES, _MAX_RATIO = 64 << 20, 200


def read_tags(source: Source) -> Iterator[LabelRows]:
    """Tags of images: `{"image": …, "tags": […]}` as a JSON list or JSON lines, or `{IMAGE: […], …}`.

    A tag is a text, or an object with its name and score.
    """
    batch = Batch(source, scored=True)
    for place, key, tags, scores, group in _tagged(source):
        values = concepts_in(source, place, tags) if tags is not None else []
        if isinstance(scores, list) and len(scores) != len(values):
            raise InvalidInput(f"{source}: {place}: {len(values)} tags, but {len(scores)} scores")
        given: Sequence[Any] = scores if isinstance(scores, list) else [scores] * len(values)
        for tag, score in zip(values, given, strict=True):
            if isinstance(tag, Mapping):
                score = next((tag[name] for name in _SCORES if name in tag), score)
                tag = next((tag[name] for name in _TAG_NAMES if name in tag), None)
            batch.add(place, key, tag, 1.0 if score is None else score, group)
        if not values:
            batch.text(place, "key", key)
        if batch.full:
            yield batch.take()
    yield batch.take()


def _tagged(source: Source) -> Iterator[tuple[str, object, Any, Any, Any]]:
    """Yield the place, key, tags, scores and group of every image."""
    if source.path.suffix.lower() not in JSON_LINES and Document(source).start(1)[0][0] == "start_map":
        for name, tags in Document(source).pairs(""):
            yield shown(name, 40), name, tags, None, None
        return
    for place, record in records(source):
        key = key_of(source, list(record))
        named = [name for name in record if name.lower() in CONCEPT_NAMES and name != key]
        listed = [name for name in named if isinstance(record[name], list)] or named
        tags = source.table.concept or (listed[0] if len(listed) == 1 else None)
        if key is None or tags is None or key not in record or tags not in record:
            raise InvalidInput(
                f"{source}: {place}: no field is the image, or none the tags (fields: {', '.join(map(str, record))})",
                hint="--key-column and --concept-column name them",
            )
        scores = source.table.score or next((name for name in ("score", "scores", "confidences") if name in record), "")
        yield place, record[key], record[tags], record.get(scores), record.get("group")


def read_clip_scores(source: Source) -> Iterator[LabelRows]:
    """A score of every concept for every image: a wide table, `.npz`, or a JSON object of scores an image.

    Scores are probabilities; cosines and logits become some by `--activation`: softmax over an image's concepts, of
    100 times a cosine as CLIP does, or sigmoid of a logit. Every pair with a score was looked at.
    """
    batch = Batch(source, scored=True)
    terms: dict[str, Term] = {}
    largest = 0.0
    for place, _, names, values in _scored(source):
        largest = max(largest, max(map(abs, values), default=0.0))
        for name in names:
            if name not in terms:
                terms[name] = (batch.term(place, name), source.group)
    cosines = largest <= 1.0
    if source.activation == "sigmoid" and cosines:
        raise InvalidInput(
            f"{source}: no score is above 1 or below -1, so these seem to be cosines",
            hint="sigmoid needs logits: cosines times the model's scale plus its bias",
        )
    scale = _CLIP_SCALE if source.activation == "softmax" and cosines else 1.0
    for place, key, names, values in _scored(source):
        scores = [batch.score(place, value) for value in _activated(source, values, scale)]
        cells = [(terms[name][0], score) for name, score in zip(names, scores, strict=True)]
        add_cells(batch, place, batch.text(place, "key", key), cells, len(terms))
        if batch.full:
            yield batch.take(list(terms.values()))
    yield batch.take(list(terms.values()))


def _activated(source: Source, values: Sequence[float], scale: float) -> Sequence[float]:
    if source.activation is None:
        return values
    logits = np.asarray(values, np.float64) * scale
    if source.activation == "sigmoid":
        result: list[float] = np.exp(-np.logaddexp(0, -logits)).tolist()
        return result
    shifted = np.exp(logits - logits.max(initial=-math.inf))
    share: list[float] = (shifted / shifted.sum()).tolist()
    return share


def _scored(source: Source) -> Iterator[tuple[str, object, Sequence[str], Sequence[float]]]:
    """Yield the place, key, concepts and scores of every image."""
    ending = source.path.suffix.lower()
    if ending == ".npz":
        yield from _npz(source)
        return
    rows = _columns(source) if ending in (".csv", ".tsv", ".txt", ".parquet") else _objects(source)
    for place, key, scores in rows:
        try:
            yield place, key, list(scores), [number(value) for value in scores.values()]
        except ValueError:
            other = next(name for name, value in scores.items() if not _is_number(value))
            raise InvalidInput(f"{source}: {place}: the score of {shown(other, 40)} is not a number") from None


def _is_number(value: object) -> bool:
    try:
        number(value)
    except ValueError:
        return False
    return True


def _columns(source: Source) -> Iterator[tuple[str, object, Mapping[str, Any]]]:
    if source.path.suffix.lower() == ".parquet":
        columns = concept_columns(parquet_columns(source))
        rows = (
            (f"row {i}", row)
            for i, row in enumerate(
                (
                    row
                    for record in parquet_batches(source, columns)
                    for row in zip(*(record.column(name).to_pylist() for name in columns), strict=True)
                ),
                start=1,
            )
        )
    else:
        header = csv_header(source)
        columns, rows = header.columns, ((place, tuple(row)) for place, row in csv_rows(source, header))
    key = key_of(source, columns)
    if key is None or key not in columns:
        raise InvalidInput(f"{source}: no column is the key (columns: {', '.join(columns[:12])})", hint="--key-column")
    for place, row in rows:
        cells = {name: value for name, value in zip(columns, row, strict=True) if name != key and not is_missing(value)}
        yield place, dict(zip(columns, row, strict=True))[key], cells


def _objects(source: Source) -> Iterator[tuple[str, object, Mapping[str, Any]]]:
    """Yield images of JSON: `{IMAGE: {CONCEPT: SCORE}}`, or objects with the image and its scores."""
    if source.path.suffix.lower() not in JSON_LINES and Document(source).start(1)[0][0] == "start_map":
        for name, scores in Document(source).pairs(""):
            if not isinstance(scores, Mapping):
                raise InvalidInput(f"{source}: the scores of {shown(name, 40)} are {kind(scores)}, expected an object")
            yield shown(name, 40), name, scores
        return
    for place, record in records(source):
        if len(record) == 1 and isinstance(next(iter(record.values())), Mapping):
            ((name, scores),) = record.items()
            yield place, name, scores
            continue
        key = source.table.key or next((name for name in record if name.lower() in KEY_NAMES), None)
        if key is None or key not in record:
            raise InvalidInput(f"{source}: {place}: no field is the image", hint="--key-column names it")
        inner = next((record[name] for name in SCORE_FIELDS if isinstance(record.get(name), Mapping)), None)
        yield place, record[key], inner or {name: value for name, value in record.items() if name != key}


def _npz(source: Source) -> Iterator[tuple[str, object, Sequence[str], Sequence[float]]]:
    """Yield images of a `.npz`: the scores (images × concepts), the concepts' names, and keys (or the dataset's)."""
    arrays = _load(source)
    scores = [array for array in arrays.values() if array.ndim == 2 and array.dtype.kind in "fiu"]
    texts = {name: array for name, array in arrays.items() if array.ndim == 1 and array.dtype.kind in "US"}
    if len(scores) != 1:
        raise InvalidInput(f"{source}: holds {len(scores)} matrices of scores, expected one (images × concepts)")
    (matrix,) = scores
    names = [array for name, array in texts.items() if name.lower() in (*CONCEPT_NAMES, "names", "vocabulary", "texts")]
    keys = [array for name, array in texts.items() if name.lower() in (*KEY_NAMES, "keys", "images", "files", "paths")]
    listed = keys[0].astype(str).tolist() if len(keys) == 1 else list(source.keys)
    if len(names) != 1 or len(names[0]) != matrix.shape[1] or len(listed) != len(matrix):
        raise InvalidInput(
            f"{source}: a matrix of {matrix.shape[0]} × {matrix.shape[1]} scores, {len(listed)} keys and "
            f"{len(names[0]) if names else 0} names of concepts do not fit",
            hint="expected arrays scores, keys and concepts",
        )
    concepts = names[0].astype(str).tolist()
    for i, (key, row) in enumerate(zip(listed, matrix, strict=True)):
        yield f"row {i}", key, concepts, row.astype(np.float64).tolist()


def _load(source: Source) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(source.path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        packed = source.path.stat().st_size
        if size > max(_MAX_BYTES, _MAX_RATIO * packed):
            raise InvalidInput(
                f"{source}: {packed:,} bytes unpack to {size:,}",
                hint="scores do not shrink that much; np.savez instead of savez_compressed, if these are real",
            )
        with np.load(source.path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, EOFError, KeyError, TypeError, SyntaxError, TokenError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"{source}: not a .npz file, or damaged ({str(error).splitlines()[0]})") from error
