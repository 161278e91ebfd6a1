"""Vectors in tables, read batch by batch: Parquet, and CSV as lightly writes it.

The vectors are one column of lists, or many columns of numbers; a column of `KEY_NAMES` holds the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qrp_store.errors import InvalidInput, first_line
from qrp_store.readers.arrays.matrix import ArraySource, Rows, choose, key_name, matrix, with_keys

_BATCH_ROWS = 4096
# Columns of numbers that tools write beside the features.
_NO_FEATURES = frozenset(("label", "labels", "target", "masked", "selected", "index", "__index_level_0__"))


def read_parquet(path: Path, field: str | None) -> ArraySource:
    """`field`: the column of lists, or what the names of the columns of numbers begin with."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        columns, is_list = _features(path, schema, field)
        n, groups = file.metadata.num_rows, [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        dim, dtype = len(columns), np.dtype(np.float64)
        if is_list:
            kind = schema.field(columns[0]).type
            dtype = _numpy_type(kind.value_type)
            dim = kind.list_size if pa.types.is_fixed_size_list(kind) else _first_length(file, columns[0])
        elif columns:
            dtype = np.result_type(*(_numpy_type(schema.field(name).type) for name in columns))
        named = key_name(schema.names)
        keys = file.read([named]).column(0).to_pylist() if named else None
    except InvalidInput:
        raise
    except Exception as error:  # a damaged file breaks pyarrow in many ways
        raise InvalidInput(f"{path}: not a Parquet file, or damaged ({first_line(error)})") from error
    first_rows = np.concatenate([[0], np.cumsum(groups)]).astype(int)

    def batches(start: int) -> tuple[int, Iterator[Rows]]:
        group = int(np.searchsorted(first_rows, start, "right")) - 1
        chosen = list(range(group, len(groups)))
        found = pq.ParquetFile(path).iter_batches(_BATCH_ROWS, row_groups=chosen, columns=columns, use_threads=False)
        return int(first_rows[group]), (_rows_of(batch, columns, dim, dtype) for batch in found)

    source = matrix(path, field, (n, dim), dtype, _Stream(batches, dim).read)
    return source if named is None or keys is None else with_keys(source, keys, named)


def read_csv(path: Path, field: str | None) -> ArraySource:
    """A table with a header: a column of keys, and columns of numbers (`field`: what their names begin with)."""
    import pyarrow as pa
    import pyarrow.csv as csv

    def opened(names: Sequence[str], kind: Any) -> Any:
        convert = csv.ConvertOptions(column_types=dict.fromkeys(names, kind), include_columns=list(names))
        return csv.open_csv(path, convert_options=convert)

    try:
        with csv.open_csv(path) as head:
            schema = head.schema
        columns, _ = _features(path, schema, field)
        named = key_name(schema.names)
        counted = [named or columns[0]]
        with opened(counted, pa.string()) as table:
            keys = [key for batch in table for key in batch.column(0).to_pylist()]
    except InvalidInput:
        raise
    except Exception as error:  # a damaged file breaks pyarrow in many ways
        raise InvalidInput(f"{path}: not a CSV file with a header, or damaged ({first_line(error)})") from error
    dim, dtype = len(columns), np.dtype(np.float64)

    def batches(start: int) -> tuple[int, Iterator[Rows]]:
        return 0, (_rows_of(batch, columns, dim, dtype) for batch in opened(columns, pa.float64()))

    source = matrix(path, field, (len(keys), dim), dtype, _Stream(batches, dim).read)
    return source if named is None else with_keys(source, keys, named)


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


def _features(path: Path, schema: Any, field: str | None) -> tuple[list[str], bool]:
    """The columns with the vectors, and whether it is one of lists."""
    import pyarrow as pa

    def is_list(kind: Any) -> bool:
        return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))

    lists = [f.name for f in schema if is_list(f.type) and _is_number(f.type.value_type)]
    numbers = [f.name for f in schema if _is_number(f.type)]
    if field is not None and field not in lists:
        numbers = [name for name in numbers if name.startswith(field)]
        if not numbers:
            choose(path, [*lists, *(f.name for f in schema if _is_number(f.type))], field)
        return numbers, False
    if lists:
        return [choose(path, lists, field)], True
    numbers = [name for name in numbers if name not in _NO_FEATURES]
    if not numbers:
        said = ", ".join(f"{f.name} ({f.type})" for f in list(schema)[:10])
        hint = f"expected a column of lists of numbers, or columns of numbers; it has: {said or 'none'}"
        raise InvalidInput(f"{path}: no column holds vectors", hint=hint)
    return numbers, False


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _numpy_type(kind: Any) -> np.dtype[Any]:
    found: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
    return found


def _first_length(file: Any, column: str) -> int:
    """The length of the first vector of a column of lists of any length; 0 without rows."""
    for batch in file.iter_batches(1, columns=[column], use_threads=False):
        first = batch.column(0)[0]
        return len(first) if first.is_valid else 0
    return 0


def _rows_of(batch: Any, columns: Sequence[str], dim: int, dtype: np.dtype[Any]) -> Rows:
    """One batch as (rows, dim)."""
    import pyarrow as pa

    for column in batch.columns:
        if column.null_count:
            raise ValueError("a value is missing")
    if len(columns) == 1 and not _is_number(batch.column(0).type):
        vectors = batch.column(0)
        if not pa.types.is_fixed_size_list(vectors.type):
            lengths = vectors.value_lengths().to_numpy(zero_copy_only=False)
            if (lengths != dim).any():
                raise ValueError(f"a vector has {lengths[lengths != dim][0]} numbers, the first has {dim}")
        values = vectors.flatten()
        if values.null_count:
            raise ValueError("a value is missing")
        return np.asarray(values.to_numpy(zero_copy_only=False), dtype).reshape(-1, dim)
    return np.stack([batch.column(name).to_numpy(zero_copy_only=False) for name in columns], axis=1).astype(dtype)
