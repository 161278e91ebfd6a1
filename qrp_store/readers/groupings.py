"""Groupings made elsewhere: which cluster each sample is in, from a file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np

from qrp_store.errors import InvalidInput, NotFound, Unavailable
from qrp_store.key_matching import Positions, better_match, counts_from_one
from qrp_store.readers.arrays.columns import key_name
from qrp_store.readers.arrays.matrix import key_text
from qrp_store.readers.compressed import refuse_compressed
from qrp_store.readers.labels.rows import Source
from qrp_store.readers.labels.text_tables import csv_header, csv_rows
from qrp_store.samples import Match, check_keys, key_difference, shown

MISSING = -1
_COMPARED = 1000  # unknown keys that are compared with a dataset's
_NONE = frozenset(("", "nan", "NaN", "NAN", "<NA>", "NA", "N/A", "None", "null", "NULL"))  # in no cluster
_WHOLE_FLOAT = re.compile(r"\s*(-?[0-9]{1,4000})\.0*\s*")  # whole numbers that met a missing value once
_WHOLE = re.compile(r"\s*-?[0-9]{1,4000}\s*\Z")  # int() also takes 1_1, which is another word than 11


@dataclass(frozen=True)
class Grouping:
    """Clusters from 0, int64, MISSING where a sample has none; for `keys`, or (None) in the dataset's order.

    `names` are the clusters' names where the file has words instead of numbers.
    """

    keys: list[str] | None
    clusters: np.ndarray
    names: tuple[str, ...] | None


def read_grouping(path: Path) -> Grouping:
    """A `.npy` of whole numbers in dataset order, or `key,cluster` rows as CSV or Parquet.

    Whole numbers from 0 are kept (−1, NaN or an empty cell: no cluster); other words are numbered in sorted order.
    Raises NotFound and InvalidInput.
    """
    if not path.is_file():
        raise NotFound(f"{path}: no such file")
    ending = path.suffix.lower()
    if ending == ".npy":
        return Grouping(None, _array(path), None)
    if ending not in (".csv", ".tsv", ".txt", ".parquet"):
        raise InvalidInput(f"{path}: expected .npy, or key,cluster rows in .csv or .parquet")
    keys, values = _table(path, "cluster")
    clusters, names = _numbers(path, values)
    return Grouping(keys, clusters, names)


def read_groups(path: Path) -> tuple[list[str], list[str]]:
    """Keys and the name of each one's group ("": none) from `key,group` rows as CSV or Parquet.

    Raises NotFound and InvalidInput.
    """
    if not path.is_file():
        raise NotFound(f"{path}: no such file")
    if path.suffix.lower() not in (".csv", ".tsv", ".txt", ".parquet"):
        raise InvalidInput(f"{path}: expected key,group rows in .csv or .parquet")
    return _table(path, "group")


def positions_of(
    keys: Sequence[str], dataset_keys: Sequence[str], source: str, dataset: str, match: Match = "key"
) -> list[int]:
    """Return the positions in a dataset of a file's keys.

    Keys may differ in outer blanks and Unicode's form. Raises InvalidInput, with examples, for keys that the dataset
    lacks, and for two keys that mean one sample.
    """
    positions: list[int] = Positions(dataset_keys, match).of(keys, source).tolist()
    unknown = [key for key, position in zip(keys, positions, strict=True) if position < 0]
    if unknown:
        raise _unknown_keys(unknown, dataset_keys, source, dataset, zero=0 in positions)
    if len(set(positions)) < len(positions):
        first: dict[int, str] = {}
        key, position = next((k, p) for k, p in zip(keys, positions, strict=True) if first.setdefault(p, k) != k)
        raise InvalidInput(
            f"{source}: {shown(first[position])} and {shown(key)} both mean the sample {shown(dataset_keys[position])}",
            hint="leave one of them out",
        )
    return positions


def _unknown_keys(
    unknown: Sequence[str], dataset_keys: Sequence[str], source: str, dataset: str, *, zero: bool
) -> InvalidInput:
    """Return the error for keys that a dataset lacks; `zero`: the file has the key of the first sample."""
    examples = ", ".join(shown(key) for key in unknown[:5])
    difference = key_difference(unknown[:_COMPARED], dataset_keys)
    message = f"{source}: {len(unknown)} keys are not in dataset {dataset!r}, for example {examples}"
    message += f"; {difference}" if difference else ""
    hint = better_match(unknown[:_COMPARED], dataset_keys)
    hint += "qrp-store export embedding -o FILE.csv lists the dataset's keys"
    if not zero and counts_from_one(unknown, dataset_keys):
        hint = f"the dataset's keys are the numbers 0 to {len(dataset_keys) - 1}: does the file count from 1?"
    return InvalidInput(message, hint=hint)


def _table(path: Path, column: str) -> tuple[list[str], list[str]]:
    refuse_compressed(path)
    pairs = list((_parquet if path.suffix.lower() == ".parquet" else _text)(path, column))
    keys = [key for key, _ in pairs]
    check_keys(keys, str(path), "row")
    return keys, ["" if value.strip() in _NONE else value for _, value in pairs]


def _array(path: Path) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, TypeError, SyntaxError, TokenError) as error:
        # numpy parses the header as Python
        raise InvalidInput(f"{path}: not an array that can be read ({error})") from error
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iuf" or not values.size:
        raise InvalidInput(f"{path}: expected one integer a sample, a one-dimensional .npy")
    if values.dtype.kind == "f":  # NaN: in no cluster
        values = np.where(np.isnan(values), MISSING, values)
        wrong = np.flatnonzero(values != np.round(values))
        if len(wrong) or np.isinf(values).any():
            raise InvalidInput(f"{path}: row {wrong[0] if len(wrong) else 0}: clusters are whole numbers")
    _check_range(path, int(values.min()), int(values.max()))
    clusters: np.ndarray = values.astype(np.int64)
    return clusters


def _text(path: Path, column: str) -> Iterator[tuple[str, str]]:
    source = Source(path)
    try:
        header = csv_header(source)
        key, value = _columns(path, header.columns, column)
        for _, row in csv_rows(source, header):
            yield row[key], row[value]
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror or error})") from error


def _parquet(path: Path, column: str) -> Iterator[tuple[str, str]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise Unavailable("reading Parquet needs pyarrow", hint="pip install pyarrow") from error
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            chosen = [names[at] for at in _columns(path, names, column)]
            for batch in file.iter_batches(columns=chosen):
                for key, value in zip(*(batch.column(name).to_pylist() for name in chosen), strict=True):
                    yield key_text(key) or "", "" if value is None else str(value)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{path}: cannot be read ({error})") from error


def _columns(path: Path, header: list[str], column: str) -> tuple[int, int]:
    """Return the places of the keys and of the wanted column; case does not count."""
    key = key_name(header)
    value = next((name for name in (*header, "") if name.strip().lower() == column), None)
    missing = [name for name, at in (("key", key), (column, value)) if at is None]
    if key is None or value is None:
        raise InvalidInput(f"{path}: no column {' or '.join(missing)} (there are {', '.join(map(shown, header))})")
    return header.index(key), header.index(value)


def _numbers(path: Path, values: list[str]) -> tuple[np.ndarray, tuple[str, ...] | None]:
    wholes = [_WHOLE_FLOAT.fullmatch(value) for value in values]
    if all(whole or value == "" or _WHOLE.match(value) for whole, value in zip(wholes, values, strict=True)):
        values = [value if whole is None else whole[1] for whole, value in zip(wholes, values, strict=True)]
    if not all(value == "" or _WHOLE.match(value) for value in values):
        names = tuple(sorted({value for value in values if value != ""}))
        place = {name: number for number, name in enumerate(names)} | {"": MISSING}
        return np.array([place[value] for value in values], np.int64), names
    numbers = [MISSING if value == "" else int(value) for value in values]
    _check_range(path, min(numbers), max(numbers))
    return np.array(numbers, np.int64), None


def _check_range(path: Path, low: int, high: int) -> None:
    """A number that 32 bits do not hold would silently become another cluster's."""
    if low < MISSING or high > np.iinfo(np.int32).max:
        raise InvalidInput(
            f"{path}: clusters from {low} to {high}; expected whole numbers from 0 (−1: none) below 2^31",
            hint="number them anew from 0, or use names: key,cluster rows with words",
        )
