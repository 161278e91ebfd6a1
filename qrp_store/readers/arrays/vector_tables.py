"""Vectors in tables, read batch by batch: Parquet, and CSV or TSV with a header.

The vectors are one column of lists, or many columns of numbers; `columns` says which column has which role.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from qrp_store.errors import InvalidInput, first_line
from qrp_store.readers.arrays.columns import Column, choose_columns
from qrp_store.readers.arrays.dialects import dialect_of
from qrp_store.readers.arrays.matrix import ArrayRequest, ArraySource, Rows, matrix, with_columns
from qrp_store.samples import shown

_BATCH_ROWS = 4096
_KEY_ROWS = 65_536  # keys converted at once
_BLOCK_BYTES = 8 << 20  # of a CSV file; a line has to fit
_POINT = re.compile(r"\s*[+-]?\d*\.\d*\s*")


def read_parquet(path: Path, request: ArrayRequest) -> ArraySource:
    """`field`: the column of lists, or columns of numbers. A vector that is missing reads as NaN."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        roles = choose_columns(
            path,
            [Column(f.name, kind_of(f.type)) for f in schema],
            request.field,
            request.key_column,
            keyed=request.keyed,
            index=_pandas_index(schema),
            has_row_numbers=lambda name: _is_range(cells_of(path, name)),
        )
        columns = roles.vector
        n, groups = file.metadata.num_rows, [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        dim, dtype = len(columns), np.dtype(np.float64)
        kind = schema.field(columns[0]).type
        if _is_list(kind):
            dtype = _numpy_type(kind.value_type)
            dim = kind.list_size if pa.types.is_fixed_size_list(kind) else _first_length(file, columns[0])
        else:
            dtype = np.result_type(*(_numpy_type(schema.field(name).type) for name in columns))
    except InvalidInput:
        raise
    except Exception as error:  # a damaged file breaks pyarrow in many ways
        raise InvalidInput(f"{path}: not a Parquet file, or damaged ({first_line(error)})") from error
    first_rows = np.concatenate([[0], np.cumsum(groups)]).astype(int)

    def batches(start: int) -> tuple[int, Iterator[Rows]]:
        group = int(np.searchsorted(first_rows, start, "right")) - 1
        first = int(first_rows[group])
        read = pq.ParquetFile(path).iter_batches(
            _BATCH_ROWS, row_groups=list(range(group, len(groups))), columns=list(columns), use_threads=False
        )
        return first, _numbered_rows(read, first, columns, dim, dtype)

    source = matrix(path, request.field, (n, dim), dtype, _Stream(batches, dim).read)
    return with_columns(source, roles, lambda: cells_of(path, roles.key or ""))


def read_csv(path: Path, request: ArrayRequest) -> ArraySource:
    """A table with a header: a column of keys, and columns of numbers. An empty cell reads as NaN."""
    import pyarrow as pa
    import pyarrow.csv as csv

    form = dialect_of(path)
    parse = csv.ParseOptions(delimiter=form.delimiter)
    read = csv.ReadOptions(block_size=_BLOCK_BYTES, encoding=form.encoding, skip_rows=form.skipped)

    def opened(names: Sequence[str], kind: Any) -> Any:
        convert = csv.ConvertOptions(
            column_types=dict.fromkeys(names, kind), include_columns=list(names), decimal_point=form.decimal
        )
        return csv.open_csv(path, read_options=read, parse_options=parse, convert_options=convert)

    def cells(name: str) -> Iterator[object]:
        with opened([written[name]], pa.string()) as table:
            for batch in table:
                yield from batch.column(0).to_pylist()

    try:
        convert = csv.ConvertOptions(decimal_point=form.decimal)
        with csv.open_csv(path, read_options=read, parse_options=parse, convert_options=convert) as head:
            schema = head.schema
        _refuse_numbers_as_names(path, schema.names)
        columns = [Column(f.name.strip(), "text" if pa.types.is_temporal(f.type) else kind_of(f.type)) for f in schema]
        written = {f.name.strip(): f.name for f in schema}
        roles = choose_columns(
            path,
            columns,
            request.field,
            request.key_column if request.key_column is None else request.key_column.strip(),
            keyed=request.keyed,
            has_row_numbers=lambda name: _is_range(cells(name)),
        )
        n = sum(1 for _ in cells(roles.key or roles.vector[0]))
        floats = roles.key is not None and pa.types.is_floating(schema.field(written[roles.key]).type)
    except InvalidInput:
        raise
    except UnicodeError as error:
        raise InvalidInput(f"{path}: is not UTF-8", hint="save the file as UTF-8") from error
    except Exception as error:  # a damaged file breaks pyarrow in many ways
        raise InvalidInput(f"{path}: not a CSV file with a header, or damaged ({first_line(error)})") from error
    dim, dtype = len(roles.vector), np.dtype(np.float64)
    vector = [written[name] for name in roles.vector]

    def batches(start: int) -> tuple[int, Iterator[Rows]]:
        return 0, _numbered_rows(opened(vector, pa.float64()), 0, vector, dim, dtype)

    def keys() -> Iterator[object]:
        return (_number(key) if floats else key or None for key in cells(roles.key or ""))

    source = matrix(path, request.field, (n, dim), dtype, _Stream(batches, dim).read)
    return with_columns(source, roles, keys)


def _refuse_numbers_as_names(path: Path, names: Sequence[str]) -> None:
    """Raise InvalidInput where the first line holds a row of numbers instead of columns' names."""
    try:
        numbers = [float(name) for name in names if name.strip()]
    except ValueError:
        return
    steps = {int(b - a) if (b - a).is_integer() else 0 for a, b in pairwise(numbers)}
    if not numbers or (steps <= {1} and numbers[0] in (0, 1)):
        return
    raise InvalidInput(
        f"{path}: its first line holds numbers, not the columns' names: {', '.join(map(shown, names[:4]))}, …",
        hint="put a line with a name for each column before it, or save the matrix as .npy",
    )


def _number(text: object) -> object:
    """A key of a column of numbers: a float where it is written with a point, else the text."""
    if not text:
        return None
    return float(str(text)) if _POINT.fullmatch(str(text)) else str(text).strip()


def _is_range(cells: Iterator[object]) -> bool:
    """Whether cells are 0…n-1 or 1…n."""
    first: int | None = None
    for row, cell in enumerate(cells):
        try:
            value = float(str(cell))
        except ValueError:
            return False
        if first is None:
            first = 1 if value == 1 else 0
        if value != row + first:
            return False
    return first is not None


def _pandas_index(schema: Any) -> frozenset[str]:
    """The columns that pandas recorded as a table's index."""
    try:
        recorded = json.loads((schema.metadata or {})[b"pandas"])["index_columns"]
        return frozenset(name for name in recorded if isinstance(name, str))
    except (KeyError, TypeError, ValueError, RecursionError):
        return frozenset()


def cells_of(path: Path, column: str) -> Iterator[object]:
    """The cells of a column of texts or numbers. Texts stay in their dictionary, where the file has one: a few bytes
    can stand for long repeated texts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, read_dictionary=[column])
    for batch in file.iter_batches(_KEY_ROWS, columns=[column], use_threads=False):
        cells = batch.column(0)
        if pa.types.is_dictionary(cells.type):
            words = cells.dictionary.to_pylist()
            yield from (None if i is None else words[i] for i in cells.indices.to_pylist())
        else:
            yield from cells.to_pylist()


class _Stream:
    """Rows of what is only read forwards. `begin(start)`: batches, and the row (at most `start`) of the first one."""

    def __init__(self, begin: Callable[[int], tuple[int, Iterator[Rows]]], dim: int) -> None:
        self._begin = begin
        self._batches: Iterator[Rows] | None = None
        self._first, self._held = 0, np.empty((0, dim))

    def read(self, start: int, stop: int) -> Rows:
        if self._batches is None or start < self._first or start > self._first + len(self._held) + _BATCH_ROWS:
            self._first, self._batches = self._begin(start)
            self._held = self._held[:0]
        parts = []
        while start < stop:
            end = self._first + len(self._held)
            if start < end:
                parts.append(self._held[start - self._first : stop - self._first])
                start = min(stop, end)
            else:
                following = next(self._batches, None)
                if following is None:
                    raise EOFError("the rows end early")
                self._first, self._held = end, following
        return np.concatenate(parts) if parts else self._held[:0]


def kind_of(kind: Any) -> str:
    """What a column of this type can hold, as `Column` has it."""
    import pyarrow as pa

    if _is_list(kind):
        return "list" if _is_number(kind.value_type) else "other"
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "float"
    kinds = {
        "text": (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        "bytes": (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view),
        "scalar": (pa.types.is_boolean, pa.types.is_temporal),
    }
    return next((name for name, tests in kinds.items() if any(test(kind) for test in tests)), "other")


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _numpy_type(kind: Any) -> np.dtype[Any]:
    import pyarrow as pa

    if pa.types.is_decimal(kind):
        return np.dtype(np.float64)
    dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
    return dtype


def _first_length(file: Any, column: str) -> int:
    """The length of the first vector of a column of lists of any length; 0 where every vector is missing."""
    for batch in file.iter_batches(_BATCH_ROWS, columns=[column], use_threads=False):
        lengths = batch.column(0).value_lengths().drop_null().to_numpy(zero_copy_only=False)
        if lengths.any():
            return int(lengths[lengths > 0][0])
    return 0


def _numbered_rows(batches: Any, first: int, columns: Sequence[str], dim: int, dtype: np.dtype[Any]) -> Iterator[Rows]:
    """The batches as (rows, dim), counting rows from `first`."""
    for batch in batches:
        yield _rows_of(batch, first, columns, dim, dtype)
        first += batch.num_rows


def _rows_of(batch: Any, first: int, columns: Sequence[str], dim: int, dtype: np.dtype[Any]) -> Rows:
    """One batch as (rows, dim); a missing number or vector is NaN. Raises ValueError, naming the row, for integers
    that are missing and for a vector of another length."""
    if len(columns) == 1 and _is_list(batch.column(0).type):
        return _vectors_of(batch.column(0), first, dim, dtype)
    if dtype.kind != "f":
        for column in batch.columns:
            if column.null_count:
                raise ValueError(f"row {first + _first_null(column)}: a value is missing")
    numbers = (_plain_numbers(batch.column(name)).to_numpy(zero_copy_only=False) for name in columns)
    return np.stack([np.asarray(column, dtype) for column in numbers], axis=1)


def _plain_numbers(column: Any) -> Any:
    """A column of decimals as floats; any other as it is."""
    import pyarrow as pa

    return column.cast(pa.float64()) if pa.types.is_decimal(column.type) else column


def _vectors_of(vectors: Any, first: int, dim: int, dtype: np.dtype[Any]) -> Rows:
    import pyarrow as pa

    present = vectors.is_valid().to_numpy(zero_copy_only=False)
    if not pa.types.is_fixed_size_list(vectors.type):
        lengths = vectors.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        present &= lengths > 0
        wrong = np.flatnonzero(present & (lengths != dim))
        if len(wrong):
            raise ValueError(f"row {first + wrong[0]}: a vector has {lengths[wrong[0]]} numbers, the first has {dim}")
    values = vectors.flatten()
    if dtype.kind != "f" and (values.null_count or not present.all()):
        row = int(np.argmin(present)) if not present.all() else _first_null(values) // dim
        raise ValueError(f"row {first + row}: a value is missing")
    flat = np.asarray(values.to_numpy(zero_copy_only=False), dtype)
    if present.all():
        return flat.reshape(-1, dim)
    rows = np.full((len(present), dim), np.nan, dtype)
    rows[present] = flat.reshape(-1, dim)
    return rows


def _first_null(column: Any) -> int:
    return int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
