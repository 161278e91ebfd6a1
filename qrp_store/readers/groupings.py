"""Groupings made elsewhere: which cluster each sample is in, from a file."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qrp_store.errors import InvalidInput, NotFound, Unavailable
from qrp_store.readers.arrays.columns import key_name
from qrp_store.readers.arrays.matrix import key_text
from qrp_store.samples import check_keys, key_difference, shown

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
    if ending not in (".csv", ".tsv", ".parquet"):
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
    if path.suffix.lower() not in (".csv", ".tsv", ".parquet"):
        raise InvalidInput(f"{path}: expected key,group rows in .csv or .parquet")
    return _table(path, "group")


def positions_of(keys: Sequence[str], known: Sequence[str], source: str, dataset: str) -> list[int]:
    """The positions of keys among those of a dataset. Raises InvalidInput, with examples, for keys that it lacks."""
    position = {key: i for i, key in enumerate(known)}
    unknown = [key for key in keys if key not in position]
    if unknown:
        examples = ", ".join(shown(key) for key in unknown[:5])
        difference = key_difference(unknown[:_COMPARED], known)
        more = f"; {difference}" if difference else ""
        hint = "use the dataset's keys: qrp-store export embedding -o FILE.csv lists them" if difference else None
        if known[-1] == str(len(known) - 1) and unknown == [str(len(known))]:
            hint = f"the dataset's keys are the numbers 0 to {len(known) - 1}: does the file count from 1?"
        raise InvalidInput(
            f"{source}: {len(unknown)} keys are not in dataset {dataset!r}, for example {examples}{more}", hint=hint
        )
    return [position[key] for key in keys]


def _table(path: Path, column: str) -> tuple[list[str], list[str]]:
    pairs = list((_parquet if path.suffix.lower() == ".parquet" else _csv)(path, column))
    keys = [key for key, _ in pairs]
    check_keys(keys, str(path), "row")
    return keys, ["" if value.strip() in _NONE else value for _, value in pairs]


def _array(path: Path) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
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


def _csv(path: Path, column: str) -> Iterator[tuple[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            header = next(rows, [])
            at = _columns(path, header, column)
            for number, row in enumerate(rows, start=2):
                if not row:  # a blank line
                    continue
                if len(row) != len(header):
                    raise InvalidInput(f"{path}: row {number} has {len(row)} cells, the header {len(header)}")
                yield row[at[0]], row[at[1]]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InvalidInput(f"{path}: cannot be read ({error})") from error


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
    """Where the keys and the wanted column are; case does not count."""
    key = key_name(header)
    wanted = next((name for name in (*header, "") if name.strip().lower() == column), None)
    missing = [name for name, at in (("key", key), (column, wanted)) if at is None]
    if key is None or wanted is None:
        raise InvalidInput(f"{path}: no column {' or '.join(missing)} (there are {', '.join(map(shown, header))})")
    return header.index(key), header.index(wanted)


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
