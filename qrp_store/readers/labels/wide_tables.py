"""Labels in wide tables: `key` and a column of 0 and 1 for each concept, as CSV, Parquet or JSON lines; or a .npy.

An empty cell says that nobody looked: it is unknown, not absent. A number between 0 and 1 is a score.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import numpy as np

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.cells import truth
from qrp_store.readers.labels.columns import KEY, LONG, check_columns, key_of, unknown_table, wide_layout
from qrp_store.readers.labels.long_tables import json_lines, no_parquet, parquet_batches, parquet_columns
from qrp_store.readers.labels.rows import ROUNDING, Batch, LabelRows, Source, Term, number, out_of_range
from qrp_store.readers.labels.text_tables import csv_header, csv_rows
from qrp_store.samples import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MATRIX_ROWS = 4096
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")
_ROW_NUMBER = re.compile(r"|unnamed:? ?\d+|index|__index_level_\d+__", re.I)
_ASIDE = re.compile(r"ids?|uid|uuid|idx|row|row_?number|split|fold|subset|.*_(id|ids|idx|index|split|fold)", re.I)
"""Names of columns that hold ids or parts of a dataset. As concepts they would go unnoticed where they hold 0 and 1."""


def read_wide_csv(source: Source) -> Iterator[LabelRows]:
    """Wide CSV, row by row."""
    header = csv_header(source)
    key = _key_column(source, header.columns)
    yield from _tables(source, key, header.columns, csv_rows(source, header))


def read_wide_parquet(source: Source) -> Iterator[LabelRows]:
    """Wide Parquet, a batch of rows at a time."""
    import pyarrow

    columns = concept_columns(parquet_columns(source), source.table.key)
    key = _key_column(source, columns)
    try:
        yield from _tables(source, key, columns, _parquet_rows(source, columns))
    except pyarrow.ArrowException as error:
        raise no_parquet(source, error) from error


def _parquet_rows(source: Source, columns: Sequence[str]) -> Iterator[tuple[str, Sequence[Any]]]:
    number = 0
    for record in parquet_batches(source, columns):
        for row in zip(*(record.column(name).to_pylist() for name in columns), strict=True):
            number += 1
            yield f"row {number}", row


def _tables(
    source: Source, key: str, columns: Sequence[str], table: Iterable[tuple[str, Sequence[Any]]]
) -> Iterator[LabelRows]:
    at = list(columns).index(key)
    rows = _RowNumbers(source, columns, key)
    terms = _vocabulary(source, rows.other_columns(), key)
    names = [name for name, _ in terms]
    cells = [i for i, name in enumerate(columns) if i != at and name not in rows.columns]
    plain = not (source.table.true or source.table.false)
    batch = Batch(source, scored=True)
    for place, row in table:
        rows.check(place, row)
        # most cells are plain 0: somebody looked, and did not see it
        values = [
            (name, 0.0 if plain and value in ("0", 0) else truth(source, place, name, value))
            for name, value in zip(names, (row[i] for i in cells), strict=True)
        ]
        add_cells(batch, place, batch.text(place, KEY, row[at]), values)
        if batch.full:
            yield batch.take(terms)
    yield batch.take(terms)


class _RowNumbers:
    """The columns of a table that number its rows, as pandas writes its index: no concepts."""

    def __init__(self, source: Source, columns: Sequence[str], key: str) -> None:
        self._source, self._all = source, columns
        at = [i for i, name in enumerate(columns) if name != key and _ROW_NUMBER.fullmatch(name)]
        self.columns = {columns[i] for i in at}
        self._last: dict[int, float] = dict.fromkeys(at, -math.inf)
        if at:
            source.note(f"{source}: row numbers, left out: column {', '.join(shown(columns[i], 40) for i in at)}")

    def other_columns(self) -> list[str]:
        return [name for name in self._all if name not in self.columns]

    def check(self, place: str, row: Sequence[Any]) -> None:
        """Raise InvalidInput unless the next row has larger whole numbers than the one before."""
        for i, last in self._last.items():
            try:
                value = number(row[i])
            except ValueError:
                value = math.nan
            if not (value.is_integer() and value > last):
                name = self._all[i]
                what = f"column {shown(name, 40)}" if name else f"column {i + 1}, which has no name,"
                raise InvalidInput(
                    f"{self._source}: {place}: {what} does not number the rows",
                    hint="give it a concept's name, or leave it out: pandas' to_csv(…, index=False)",
                )
            self._last[i] = value


def read_wide_json_lines(source: Source) -> Iterator[LabelRows]:
    """Wide JSON lines: the first object names the concepts; what a later one leaves out is unknown."""
    batch = Batch(source, scored=True)
    key, columns, terms = KEY, list[str](), list[Term]()
    known: set[str] = set()
    for place, row in json_lines(source):
        if not terms:
            key = _key_column(source, list(row))
            columns = [name for name in row if name != key]
            known, terms = set(row), _vocabulary(source, list(row), key)
        other = None if row.keys() <= known else next(name for name in row if name not in known)
        if other is not None or key not in row:
            raise InvalidInput(
                f"{source}: {place}: "
                + (f"no {key}" if other is None else f"{shown(other, 40)} is not in the first line"),
                hint="each line has a key and the first line's concepts; null, or nothing, where nobody looked",
            )
        values = [
            (term[0], truth(source, place, name, row.get(name))) for term, name in zip(terms, columns, strict=True)
        ]
        add_cells(batch, place, batch.text(place, KEY, row[key]), values)
        if batch.full:
            yield batch.take(terms)
    yield batch.take(terms)


def concept_columns(columns: Sequence[str], key: str | None = None) -> list[str]:
    """Return a Parquet file's columns without the index that pandas adds, unless it is the `key`."""
    return [name for name in columns if name == key or not _PANDAS_INDEX.fullmatch(name)]


def is_row_number(name: str) -> bool:
    """Return whether a column's name is that of row numbers."""
    return _ROW_NUMBER.fullmatch(name) is not None


def _key_column(source: Source, columns: Sequence[str]) -> str:
    """Return the key column. Raises InvalidInput for columns without a name, of one name, or without a key."""
    key = key_of(source, columns)
    if key is None or (key == KEY and set(columns) <= {KEY, "score", "group"}):  # a long table that lacks concepts
        raise unknown_table(source, columns, [name for name in LONG.required if name not in columns])
    if source.table.columns:
        check_columns(source, columns, wide_layout(key))
    aside = [name for name in columns if name != key and _ASIDE.fullmatch(name)]
    if aside:
        raise InvalidInput(
            f"{source}: column {shown(aside[0], 40)} seems to hold ids or parts of the dataset, not a concept",
            hint="leave the column out, or rename it when it is a concept",
        )
    twice = next((name for name, n in Counter(columns).items() if n > 1), None)
    if twice is not None:
        raise InvalidInput(f"{source}: column {shown(twice)} appears twice in the header")
    return key


def _vocabulary(source: Source, columns: Sequence[str], key: str) -> list[Term]:
    """Return the concepts, one for each column but the key's. Raises InvalidInput for two of one name."""
    batch = Batch(source, scored=False)
    names = [batch.term("header", name) for name in columns if name != key]
    twice = next((name for name, n in Counter(names).items() if n > 1), None)
    if twice is not None:
        raise InvalidInput(f"{source}: two columns have the name {shown(twice)}, apart from blanks and Unicode's forms")
    return [(name, source.group) for name in names]


def add_cells(
    batch: Batch, place: str, key: str, values: Sequence[tuple[str, float | None]], width: int | None = None
) -> None:
    """Add one sample's cells, of `width` concepts (default: as many).

    A cell of 1 is a label without score. When no cell is empty or missing, every pair of the sample was looked at.
    """
    complete = all(value is not None for _, value in values) and width in (None, len(values))
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
    except (ValueError, EOFError, OSError, TypeError, SyntaxError, TokenError) as error:
        # numpy parses the header as Python
        raise InvalidInput(f"{source}: not a .npy file, or damaged ({str(error).splitlines()[0]})") from error
    if matrix.ndim != 2 or not matrix.shape[1] or matrix.dtype.kind not in "biuf":
        raise InvalidInput(f"{source}: {matrix.shape} of {matrix.dtype}, expected (samples, concepts) of numbers")
    return matrix


def _matrix_rows(source: Source, block: NDArray[np.float64], first: int, terms: list[Term]) -> LabelRows:
    known: NDArray[np.bool_] = ~np.isnan(block)
    bad = np.argwhere(known & ~((block >= -ROUNDING) & (block <= 1 + ROUNDING)))
    if len(bad):
        row, column = bad[0]
        raise InvalidInput(
            f"{source}: row {first + row}, column {column} is {block[row, column]}, outside [0, 1]",
            hint=out_of_range(float(block[row, column])),
        )
    block = block.clip(0, 1)
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
