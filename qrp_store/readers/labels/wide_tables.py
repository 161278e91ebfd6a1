"""Labels in wide tables: `key` and a column of 0 and 1 for each concept, as CSV, Parquet or JSON lines; or a .npy.

An empty cell says that nobody looked: it is unknown, not absent. A number between 0 and 1 is a score.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.long_tables import (
    check_columns,
    csv_header,
    csv_rows,
    json_lines,
    no_parquet,
    parquet_batches,
    parquet_columns,
)
from qrp_store.readers.labels.rows import Batch, LabelRows, Source, Term
from qrp_store.samples import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEY = "key"
_MATRIX_ROWS = 4096
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


def read_wide_csv(source: Source) -> Iterator[LabelRows]:
    """Wide CSV, row by row."""
    columns, delimiter = csv_header(source)
    at = _key_column(source, columns)
    batch = Batch(source, scored=True)
    terms = _vocabulary(source, columns)
    for place, row in csv_rows(source, columns, delimiter):
        key = batch.text(place, KEY, row[at])
        # most cells are plain 0 and say no more than that somebody looked
        values = [
            (name, 0.0 if text == "0" else cell(source, place, name, text))
            for i, (name, text) in enumerate(zip(columns, row, strict=True))
            if i != at
        ]
        _add(batch, place, key, values)
        if batch.full:
            yield batch.take(terms)
    yield batch.take(terms)


def read_wide_parquet(source: Source) -> Iterator[LabelRows]:
    """Wide Parquet, a batch of rows at a time."""
    import pyarrow

    columns = [name for name in parquet_columns(source) if not _PANDAS_INDEX.fullmatch(name)]
    _key_column(source, columns)
    terms = _vocabulary(source, columns)
    names = [name for name in columns if name != KEY]
    batch, row = Batch(source, scored=True), 0
    try:
        for record in parquet_batches(source, columns):
            lists = [record.column(name).to_pylist() for name in names]
            for key, *cells in zip(record.column(KEY).to_pylist(), *lists, strict=True):
                row += 1
                place = f"row {row}"
                values = [(n, 0.0 if v == 0 else cell(source, place, n, v)) for n, v in zip(names, cells, strict=True)]
                _add(batch, place, batch.text(place, KEY, key), values)
                if batch.full:
                    yield batch.take(terms)
    except pyarrow.ArrowException as error:
        raise no_parquet(source, error) from error
    yield batch.take(terms)


def read_wide_json_lines(source: Source) -> Iterator[LabelRows]:
    """Wide JSON lines: the first object names the concepts; what a later one leaves out is unknown."""
    batch = Batch(source, scored=True)
    names: list[str] = []
    terms: list[Term] = []
    for place, row in json_lines(source):
        if not terms:
            names = [name for name in row if name != KEY]
            terms = _vocabulary(source, names)
        other = next((name for name in row if name != KEY and name not in names), None)
        if other is not None or KEY not in row:
            raise InvalidInput(
                f"{source}: {place}: "
                + (f"no {KEY}" if other is None else f"{shown(other, 40)} is not in the first line"),
                hint="each line has a key and the first line's concepts; null, or nothing, where nobody looked",
            )
        cells = ((name, row.get(name)) for name in names)
        values = [(name, 0.0 if value == 0 else cell(source, place, name, value)) for name, value in cells]
        _add(batch, place, batch.text(place, KEY, row[KEY]), values)
        if batch.full:
            yield batch.take(terms)
    yield batch.take(terms)


def _key_column(source: Source, columns: Sequence[str]) -> int:
    if KEY not in columns or set(columns) <= {KEY, "score", "group"}:  # or a long table that lacks its concepts
        check_columns(source, columns)
    if "" in columns:
        raise InvalidInput(
            f"{source}: column {list(columns).index('') + 1} has no name",
            hint="an index that pandas wrote? to_csv(…, index=False) leaves it out",
        )
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(f"{source}: column {shown(twice)} stands twice in the header")
    return list(columns).index(KEY)


def _vocabulary(source: Source, columns: Sequence[str]) -> list[Term]:
    batch = Batch(source, scored=False)
    return [(batch.text("header", "concept", name), source.group) for name in columns if name != KEY]


def _add(batch: Batch, place: str, key: str, values: Sequence[tuple[str, float | None]]) -> None:
    """One sample's cells. One that is 1 simply holds; without empty cells, the others are known not to."""
    complete = all(value is not None for _, value in values)
    if complete:
        batch.seen.append(key)
    for name, value in values:
        if value is not None and (value > 0 or not complete):
            batch.keys.append(key)
            batch.concepts.append(name)
            batch.scores.append(math.nan if value == 1 else value)
            batch.groups.append(batch.source.group)
            batch.verified.append(not complete)


def read_matrix(source: Source) -> Iterator[LabelRows]:
    """A .npy of shape (samples, concepts) with 0, 1, scores between, or NaN (unknown); rows in the dataset's order.

    Concepts are called by their column's number; `--names` gives them names.
    """
    matrix = _open_matrix(source)
    n, width = matrix.shape
    if n != len(source.keys):
        raise InvalidInput(f"{source}: has {n} rows, the dataset {len(source.keys)} samples", hint="one row a sample")
    terms: list[Term] = [(str(i), source.group) for i in range(width)]
    for start in range(0, n, _MATRIX_ROWS):
        yield _matrix_rows(source, np.asarray(matrix[start : start + _MATRIX_ROWS], np.float64), start, terms)


def _open_matrix(source: Source) -> NDArray[Any]:
    try:
        matrix: NDArray[Any] = np.load(source.path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InvalidInput(f"{source}: not a .npy file, or damaged ({str(error).splitlines()[0]})") from error
    if matrix.ndim != 2 or not matrix.shape[1] or matrix.dtype.kind not in "biuf":
        raise InvalidInput(f"{source}: {matrix.shape} of {matrix.dtype}, expected (samples, concepts) of numbers")
    return matrix


def _matrix_rows(source: Source, block: NDArray[np.float64], first: int, terms: list[Term]) -> LabelRows:
    known: NDArray[np.bool_] = ~np.isnan(block)
    bad = np.argwhere(known & ~((block >= 0) & (block <= 1)))
    if len(bad):
        row, column = bad[0]
        raise InvalidInput(
            f"{source}: row {first + row}, column {column} is {block[row, column]}, outside [0, 1]",
            hint="scores are probabilities; logits need a sigmoid or softmax first",
        )
    complete = np.atleast_1d(known.all(axis=1))
    at, concept = np.nonzero(known & ((block > 0) | ~complete[:, None]))
    scores = block[at, concept]
    verified = ~complete[at]
    return LabelRows(
        [source.keys[first + i] for i in at.tolist()],
        [terms[i][0] for i in concept.tolist()],
        np.where(scores == 1, math.nan, scores),
        [source.group] * len(at),
        verified if verified.any() else None,
        [source.keys[first + i] for i in np.flatnonzero(complete).tolist()],
        terms,
    )


def cell(source: Source, place: str, column: str, value: object) -> float | None:
    """A wide table's cell: 0, 1, a score between them, or None where nothing is known. Raises InvalidInput."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    word = value.strip().lower() if isinstance(value, str) else value
    try:
        number = {"true": 1.0, "false": 0.0}.get(word) if isinstance(word, str) else None
        number = float(word) if number is None else number  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise InvalidInput(
            f"{source}: no column concept, and in {place} column {shown(column, 40)} holds {shown(str(value), 40)}, "
            "where a table with a column for each concept has 0 or 1",
            hint="expected columns key and concept, or key and a column of 0 and 1 a concept",
        ) from None
    if math.isnan(number):
        return None
    if not 0 <= number <= 1:
        raise InvalidInput(
            f"{source}: {place}: column {shown(column, 40)} holds {number}, outside [0, 1]",
            hint="scores are probabilities; logits need a sigmoid or softmax first",
        )
    return number
