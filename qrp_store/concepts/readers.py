"""Labels from files: which human concepts hold for which sample, read in batches.

A format is one generator `(source, group) -> Iterator[LabelRows]` in `READERS`; the ImageFolder layout is a folder.
Every reader refuses, with InvalidInput naming file and line: keys and concepts that are empty or hold NUL, scores that
are not numbers in [0, 1], text that is not UTF-8, and a source without labels.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qrp_store.errors import InvalidInput, NotFound, Unavailable
from qrp_store.samples import key_problem, list_images, shown

BATCH_ROWS = 100_000
DELIMITERS = ",;\t|"
COLUMNS = ("key", "concept", "score", "group")


@dataclass(frozen=True)
class LabelRows:
    """Some labels, in the source's order: row i says that `concepts[i]` holds for the sample `keys[i]`.

    `scores` (float64, in [0, 1]) is None when the source has none: every label then simply holds. A group may be None.
    """

    keys: list[str]
    concepts: list[str]
    scores: NDArray[np.float64] | None
    groups: list[str | None]


def read_labels(source: Path, *, group: str | None = None) -> Iterator[LabelRows]:
    """The labels of a source, in batches of at most 100,000.

    A folder is an ImageFolder: the class is the first folder below the root, the key the POSIX relative path. Files go
    by ending: long CSV (`.csv .tsv .txt`, delimiter among , ; tab |), JSON lines (`.jsonl .ndjson`), Parquet; with
    `key` and `concept`, and optionally `score` and `group`, in any order; other columns are ignored. `group` is given
    to labels that have none of their own. Raises NotFound, InvalidInput (also while iterating) and Unavailable.
    """
    if not source.exists():
        raise NotFound(f"{source}: no such file or folder")
    reader = read_image_folder if source.is_dir() else READERS.get(source.suffix.lower())
    if reader is None:
        raise InvalidInput(
            f"{source}: not a kind of label file that can be read",
            hint=f"known endings: {' '.join(sorted(READERS))}, or a folder with one folder a class",
        )
    return _not_empty(source, reader(source, group))


def source_digest(source: Path) -> str:
    """sha256 (hex) of a file's bytes, or of an ImageFolder's sorted relative paths."""
    digest = hashlib.sha256()
    if source.is_dir():
        for image in list_images(source):
            digest.update(image.key.encode() + b"\0")
        return digest.hexdigest()
    try:
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise NotFound(f"{source}: no such file or folder") from error
    except OSError as error:
        raise InvalidInput(f"{source}: cannot be read ({error.strerror or error})") from error


def _not_empty(source: Path, batches: Iterator[LabelRows]) -> Iterator[LabelRows]:
    empty = True
    try:
        for batch in batches:
            if batch.keys:
                empty = False
                yield batch
    except OSError as error:
        raise InvalidInput(f"{source}: cannot be read ({error.strerror or error})") from error
    if empty:
        raise InvalidInput(f"{source}: holds no labels")


@dataclass
class _Batch:
    """Labels being gathered; each is checked as it comes in."""

    source: Path
    group: str | None
    scored: bool
    keys: list[str] = field(default_factory=list)
    concepts: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    groups: list[str | None] = field(default_factory=list)

    def add(self, place: str, key: object, concept: object, score: object, group: object) -> None:
        """One label; `place` says where it stands ("line 7")."""
        self.keys.append(self._text(place, "key", key))
        self.concepts.append(self._text(place, "concept", concept))
        self.scores.append(self._score(place, score) if self.scored else 1.0)
        self.groups.append(self.group if group is None or group == "" else self._text(place, "group", group))

    def _text(self, place: str, column: str, value: object) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # row numbers as keys, class numbers as concepts
        if not isinstance(value, str):
            raise InvalidInput(f"{self.source}: {place}: {column} is {_kind(value)}, expected text")
        problem = key_problem(value)
        if problem is not None:
            raise InvalidInput(
                f"{self.source}: {place}: the {column} {problem}" + (f": {shown(value)}" if value else "")
            )
        return value

    def _score(self, place: str, value: object) -> float:
        try:
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise ValueError
            score = float(value)
        except (ValueError, OverflowError):
            said = shown(value) if isinstance(value, str) else _kind(value)
            raise InvalidInput(f"{self.source}: {place}: score {said} is not a number") from None
        if not (math.isfinite(score) and 0.0 <= score <= 1.0):
            raise InvalidInput(f"{self.source}: {place}: score {score} is outside [0, 1]")
        return score

    @property
    def full(self) -> bool:
        return len(self.keys) >= BATCH_ROWS

    def take(self) -> LabelRows:
        """The labels gathered so far; then gathering starts again."""
        scores = np.array(self.scores, dtype=np.float64) if self.scored else None
        rows = LabelRows(self.keys, self.concepts, scores, self.groups)
        self.keys, self.concepts, self.scores, self.groups = [], [], [], []
        return rows


def _kind(value: object) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"


def read_csv(source: Path, group: str | None) -> Iterator[LabelRows]:
    """Long CSV with a header line; quoted fields may hold delimiters and line breaks."""
    columns, delimiter = _csv_header(source)
    places = {name: columns.index(name) for name in COLUMNS if name in columns}
    batch = _Batch(source, group, scored="score" in places)
    key, concept, score, own = (places.get(name) for name in COLUMNS)
    assert key is not None
    assert concept is not None
    with source.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        for row in _csv_rows(source, rows):
            place = f"line {rows.line_num}"
            if len(row) != len(columns):
                raise InvalidInput(f"{source}: {place}: {len(row)} fields, but {len(columns)} in the header")
            batch.add(
                place, row[key], row[concept], None if score is None else row[score], None if own is None else row[own]
            )
            if batch.full:
                yield batch.take()
    yield batch.take()


def _csv_rows(source: Path, rows: Any) -> Iterator[list[str]]:
    """The rows after the header; blank lines are left out."""
    next(rows, None)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise InvalidInput(f"{source}: line {rows.line_num}: {error}") from error
        except UnicodeDecodeError as error:
            raise _not_utf8(source) from error
        if row:
            yield row


def _csv_header(source: Path) -> tuple[list[str], str]:
    """Column names and delimiter: the one under which the header has `key` and `concept`."""
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline(1 << 20)
    except UnicodeDecodeError as error:
        raise _not_utf8(source) from error
    if not line.strip():
        raise InvalidInput(f"{source}: holds no header line", hint="the first line names the columns: key,concept")
    found: list[str] = []
    for delimiter in DELIMITERS:
        columns = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
        found = columns if len(columns) > len(found) else found
        if "key" in columns and "concept" in columns:
            _check_columns(source, columns)
            return columns, delimiter
    _check_columns(source, found)
    raise InvalidInput(f"{source}: the header line cannot be read")


def _check_columns(source: Path, columns: list[str]) -> None:
    missing = [name for name in ("key", "concept") if name not in columns]
    if missing:
        listed = ", ".join(shown(name, 40) for name in columns[:12])
        raise InvalidInput(
            f"{source}: no column {' and no column '.join(missing)} (columns: {listed})",
            hint="expected columns key and concept, optionally score and group",
        )
    twice = [name for name in COLUMNS if columns.count(name) > 1]
    if twice:
        raise InvalidInput(f"{source}: column {twice[0]} stands twice in the header")


def _not_utf8(source: Path) -> InvalidInput:
    """The error for a file that is not UTF-8, naming the line where it stops being so."""
    number = 0
    with source.open("rb") as file:
        for number, line in enumerate(file, start=1):  # noqa: B007
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                break
    return InvalidInput(f"{source}: line {number} is not UTF-8", hint="save the file as UTF-8")


def read_json_lines(source: Path, group: str | None) -> Iterator[LabelRows]:
    """One JSON object a line; a line without `score` counts as 1. Blank lines are left out."""
    batch = _Batch(source, group, scored=True)
    with source.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            label = _json_label(source, number, line)
            batch.add(f"line {number}", label["key"], label["concept"], label.get("score", 1.0), label.get("group"))
            if batch.full:
                yield batch.take()
    yield batch.take()


def _json_label(source: Path, number: int, line: bytes) -> Mapping[str, Any]:
    try:
        label = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _not_utf8(source) from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{source}: line {number}: not JSON ({error})") from error
    if not isinstance(label, dict):
        raise InvalidInput(f"{source}: line {number}: expected an object with key and concept")
    for name in ("key", "concept"):
        if name not in label:
            raise InvalidInput(f"{source}: line {number}: no {name}")
    return label


def read_parquet(source: Path, group: str | None) -> Iterator[LabelRows]:
    """Long Parquet, row group by row group; only the columns that are needed are read."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise Unavailable(f"{source}: reading Parquet needs pyarrow", hint="pip install pyarrow") from error
    row = 0
    try:
        with parquet.ParquetFile(source) as file:
            names = list(file.schema_arrow.names)
            _check_columns(source, names)
            used = [name for name in COLUMNS if name in names]
            batch = _Batch(source, group, scored="score" in used)
            for record in file.iter_batches(batch_size=BATCH_ROWS, columns=used):
                values = {name: record.column(name).to_pylist() for name in used}
                missing = [None] * record.num_rows
                for label in zip(*(values.get(name, missing) for name in COLUMNS), strict=True):
                    row += 1
                    batch.add(f"row {row}", *label)
                yield batch.take()
    except arrow.ArrowException as error:
        raise InvalidInput(f"{source}: not a Parquet file, or damaged ({str(error).splitlines()[0]})") from error


def read_image_folder(source: Path, group: str | None) -> Iterator[LabelRows]:
    """Classes as folders: each image's concept is the first folder of its key."""
    batch = _Batch(source, group, scored=False)
    for image in list_images(source):
        concept, slash, _ = image.key.partition("/")
        if not slash:
            raise InvalidInput(
                f"{source}: {shown(image.key)} lies in no class folder", hint="expected FOLDER/CLASS/IMAGE"
            )
        batch.add(shown(image.key), image.key, concept, None, None)
        if batch.full:
            yield batch.take()
    yield batch.take()


READERS: Mapping[str, Callable[[Path, str | None], Iterator[LabelRows]]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".txt": read_csv,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".parquet": read_parquet,
}
