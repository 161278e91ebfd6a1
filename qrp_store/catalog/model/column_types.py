"""The type of each column of the views, whatever rows a query returns: for Arrow and Parquet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from qrp_store.catalog.model.values import (
    ClusterConcept,
    ClusterScore,
    ConceptScore,
    GroupScore,
    ResultValues,
    entries,
)
from qrp_store.records import Table

if TYPE_CHECKING:
    import pyarrow

_OTHERS: dict[type, str] = {
    str: "a array_url axis b backbone centroids_of clustering_a clustering_b created_at "
    "created_by dtype forward_metric group_url key metric part probe result_id retired_at series state top_concept",
    int: "dim draw position seed_a seed_b",
    float: "ami completeness fraction homogeneity objective purity score threshold value",
    bool: "flips is_current is_newest training_failed",
}
_BY_NAME = (
    (re.compile(r"n_\w+|rank\w*"), int),
    (re.compile(r"\w+_(mean|std|min|max|se|lo|hi|nats|bits)|nmi\w*"), float),
)


@cache
def _declared() -> dict[str, type]:
    named = {name: kind for kind, names in _OTHERS.items() for name in names.split()}
    for values in (ResultValues, ClusterScore, ClusterConcept, ConceptScore, GroupScore):
        named.update((entry.name, entry.kind) for entry in entries(values))
    return named


def column_type(name: str) -> type | None:
    """The Python type of a view's column: str, int, float or bool; None for a name that no view has."""
    if name in _declared():
        return _declared()[name]
    return next((kind for pattern, kind in _BY_NAME if pattern.fullmatch(name)), None)


def arrow_table(table: Table) -> pyarrow.Table:
    """Rows as a pyarrow Table. A column with the name of a view's has that column's type (string, int64, double or
    bool), also without rows or values; any other, and one with other values than that type's, has that of its values.
    """
    import pyarrow

    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.columns)
    arrays = [_array(name, column) for name, column in zip(table.columns, columns, strict=True)]
    return pyarrow.table(arrays, names=list(table.columns))


def _array(name: str, values: Sequence[Any]) -> pyarrow.Array:
    import pyarrow

    kind = column_type(name)
    if kind is None or not all(value is None or _fits(value, kind) for value in values):
        return pyarrow.array(values)
    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    return pyarrow.array([None if value is None else kind(value) for value in values], types[kind])


def _fits(value: object, kind: type) -> bool:
    """Whether a database's value is one of that type: SQLite has no booleans, Postgres sums to decimals."""
    if kind is str or isinstance(value, str):
        return isinstance(value, str) and kind is str
    number: Any = value
    try:
        return kind is float or (number in (0, 1) if kind is bool else number == int(number))
    except (TypeError, ValueError, OverflowError):
        return False
