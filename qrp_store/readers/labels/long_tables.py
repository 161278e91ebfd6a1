"""Labels in long tables, a label a row: CSV, JSON lines, Parquet, and Open Images' CSV.

Text tables are read by Arrow, many rows at once. Whatever Arrow stumbles over is read again from there by the plain
reader, row by row, which says what is wrong and where; so the plain readers alone decide what is accepted.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels import rows
from qrp_store.readers.labels.rows import Batch, LabelRows, Source
from qrp_store.samples import shown

if TYPE_CHECKING:
    import pyarrow

DELIMITERS = ",;\t|"
_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True)
class Long:
    """Which columns of a long table are what. Rows whose `origin` is not `unverified` were checked by somebody."""

    key: str
    concept: str
    score: str
    group: str
    origin: str | None = None
    unverified: str = ""

    @property
    def required(self) -> tuple[str, str]:
        return self.key, self.concept

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.key, self.concept, self.score, self.group, *([self.origin] if self.origin else []))


LONG = Long("key", "concept", "score", "group")
OPEN_IMAGES = Long("ImageID", "LabelName", "Confidence", "", "Source", "machine")


def csv_header(source: Source) -> tuple[list[str], str]:
    """Column names and delimiter: one under which the columns of a known layout are there, else the most columns."""
    try:
        with source.path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline(1 << 22)
    except UnicodeDecodeError as error:
        raise not_utf8(source) from error
    if not line.strip():
        raise InvalidInput(f"{source}: holds no header line", hint="the first line names the columns: key,concept")
    if "\0" in line:  # UTF-16 without its mark
        raise not_utf8(source)
    try:
        split = {d: [name.strip() for name in next(csv.reader([line], delimiter=d), [])] for d in DELIMITERS}
    except csv.Error as error:
        raise InvalidInput(f"{source}: line 1: {error}") from error
    for layout in (LONG, OPEN_IMAGES):
        for delimiter, columns in split.items():
            if set(layout.required) <= set(columns):
                return columns, delimiter
    delimiter = max(split, key=lambda d: (LONG.key in split[d], len(split[d])))
    return split[delimiter], delimiter


def check_columns(source: Source, columns: Sequence[str], layout: Long = LONG) -> None:
    """Raise InvalidInput unless a layout's columns are there, each once."""
    missing = [name for name in layout.required if name not in columns]
    if missing:
        listed = ", ".join(shown(name, 40) for name in columns[:12])
        raise InvalidInput(
            f"{source}: no column {' and no column '.join(missing)} (columns: {listed})",
            hint="expected columns key and concept (optionally score and group), or key and a column of 0 and 1 a "
            "concept; delimiter one of , ; tab |",
        )
    twice = [name for name in layout.columns if name and columns.count(name) > 1]
    if twice:
        raise InvalidInput(f"{source}: column {twice[0]} stands twice in the header")


def read_csv(source: Source, layout: Long = LONG) -> Iterator[LabelRows]:
    """Long CSV with a header line; quoted fields may hold delimiters and line breaks."""
    columns, delimiter = csv_header(source)
    check_columns(source, columns, layout)
    yield from _with_arrow(
        (fast(batch, source, layout) for batch in _arrow_csv(source, columns, delimiter, layout)),
        lambda: _plain_csv(source, columns, delimiter, layout),
    )


def read_open_images(source: Source) -> Iterator[LabelRows]:
    """Open Images' image-level labels: ImageID,Source,LabelName,Confidence. What people verified is marked so."""
    return read_csv(source, OPEN_IMAGES)


def _with_arrow(quick: Iterator[LabelRows | None], plain: Callable[[], Iterator[LabelRows]]) -> Iterator[LabelRows]:
    """The quick batches; from the first one that is None, the plain reader's rows."""
    import pyarrow

    done = 0
    try:
        for batch in quick:
            if batch is None:
                break
            yield batch
            done += len(batch.keys)
        else:
            return
    except pyarrow.ArrowException:
        pass
    for batch in plain():
        skipped = min(done, len(batch.keys))
        done -= skipped
        yield _from(batch, skipped)


def _from(batch: LabelRows, start: int) -> LabelRows:
    scores = None if batch.scores is None else batch.scores[start:]
    verified = None if batch.verified is None else batch.verified[start:]
    return LabelRows(batch.keys[start:], batch.concepts[start:], scores, batch.groups[start:], verified)


def _arrow_csv(source: Source, columns: Sequence[str], delimiter: str, layout: Long) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow
    from pyarrow import csv as arrow_csv

    used = [name for name in layout.columns if name in columns]
    names = [name if name in used else f"\0{i}" for i, name in enumerate(columns)]  # others may repeat
    reader = arrow_csv.open_csv(
        source.path,
        read_options=arrow_csv.ReadOptions(column_names=names, skip_rows=1, block_size=_BLOCK_BYTES, use_threads=False),
        parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(used, pyarrow.string()), include_columns=used, strings_can_be_null=False
        ),
    )
    with reader:
        yield from reader


def fast(batch: pyarrow.RecordBatch, source: Source, layout: Long) -> LabelRows | None:
    """A record batch as labels, all checked at once; None when a row needs the plain reader."""
    import pyarrow
    from pyarrow import compute

    def text(name: str) -> pyarrow.Array | None:
        column = batch.column(name)
        if pyarrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        kinds = pyarrow.types
        known = (kinds.is_string, kinds.is_large_string, kinds.is_string_view, kinds.is_integer)
        if column.null_count or not any(is_kind(column.type) for is_kind in known):
            return None
        return column if kinds.is_string(column.type) else column.cast(pyarrow.string())

    def storable(column: pyarrow.Array | None) -> bool:
        if column is None or not len(column):
            return column is not None
        short = compute.min(compute.binary_length(column)).as_py()
        return bool(short) and not compute.any(compute.match_substring(column, "\0")).as_py()

    there = set(batch.schema.names)
    key, concept = text(layout.key), text(layout.concept)
    if key is None or concept is None or not storable(key) or not storable(concept):
        return None
    scores = None
    if layout.score in there:
        scores = batch.column(layout.score)
        if scores.null_count or pyarrow.types.is_boolean(scores.type):
            return None
        scores = scores.cast(pyarrow.float64()).to_numpy(zero_copy_only=False)
        if not ((scores >= 0) & (scores <= 1)).all():  # false for NaN, too
            return None
    groups: list[str | None] = [source.group] * len(key)
    if layout.group in there:
        own = text(layout.group)
        if own is None or compute.any(compute.match_substring(own, "\0")).as_py():
            return None
        groups = [group or source.group for group in own.to_pylist()]
    verified = None
    if layout.origin is not None and layout.origin in there:
        origin = text(layout.origin)
        if origin is None:
            return None
        verified = compute.not_equal(origin, layout.unverified).to_numpy(zero_copy_only=False)
    return LabelRows(key.to_pylist(), concept.to_pylist(), scores, groups, verified)


def _plain_csv(source: Source, columns: Sequence[str], delimiter: str, layout: Long) -> Iterator[LabelRows]:
    places = {name: columns.index(name) for name in layout.columns if name in columns}
    batch = Batch(source, scored=layout.score in places)
    for line, row in csv_rows(source, columns, delimiter):
        values = {name: row[place] for name, place in places.items()}
        checked = layout.origin in values and values[layout.origin] != layout.unverified
        batch.add(
            line,
            values[layout.key],
            values[layout.concept],
            values.get(layout.score),
            values.get(layout.group),
            verified=checked,
        )
        if batch.full:
            yield batch.take()
    yield batch.take()


def csv_rows(source: Source, columns: Sequence[str], delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """("line 7", fields) of every row after the header; blank lines are left out. Raises InvalidInput."""
    with source.path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        next(reader, None)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise InvalidInput(f"{source}: line {reader.line_num}: {error}") from error
            except UnicodeDecodeError as error:
                raise not_utf8(source) from error
            if not row:
                continue
            place = f"line {reader.line_num}"
            if len(row) != len(columns):
                raise InvalidInput(f"{source}: {place}: {len(row)} fields, but {len(columns)} in the header")
            yield place, row


def not_utf8(source: Source) -> InvalidInput:
    """The error for a file that is not UTF-8, naming the line where it stops being so (1 when it is UTF-16)."""
    number = 0
    with source.path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                if number == 1 and b"\0" in line:
                    break
                line.decode("utf-8")
            except UnicodeDecodeError:
                break
    return InvalidInput(f"{source}: line {number} is not UTF-8", hint="save the file as UTF-8")


def json_lines(source: Source) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """("line 7", object) of every line; blank lines are left out. Raises InvalidInput."""
    with source.path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not content.strip():
                continue
            try:
                found = json.loads(content.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise not_utf8(source) from error
            except (ValueError, RecursionError) as error:
                raise InvalidInput(f"{source}: line {number}: not JSON ({error})") from error
            if not isinstance(found, dict):
                raise InvalidInput(f"{source}: line {number}: expected an object with key and concept")
            yield f"line {number}", found


def read_json_lines(source: Source) -> Iterator[LabelRows]:
    """One JSON object a line; a line without `score` counts as 1."""
    batch = Batch(source, scored=True)
    for place, label in json_lines(source):
        for name in LONG.required:
            if name not in label:
                raise InvalidInput(f"{source}: {place}: no {name}")
        batch.add(place, label["key"], label["concept"], label.get("score", 1.0), label.get("group"))
        if batch.full:
            yield batch.take()
    yield batch.take()


def read_parquet(source: Source) -> Iterator[LabelRows]:
    """Long Parquet, row group by row group; only the columns that are needed are read."""
    check_columns(source, parquet_columns(source))
    yield from _with_arrow(
        (fast(batch, source, LONG) for batch in parquet_batches(source, LONG.columns)), lambda: _plain_parquet(source)
    )


def parquet_columns(source: Source) -> list[str]:
    """The columns of a Parquet file. Raises InvalidInput."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(source.path) as file:
            return list(file.schema_arrow.names)
    except pyarrow.ArrowException as error:
        raise no_parquet(source, error) from error


def no_parquet(source: Source, error: Exception) -> InvalidInput:
    """The error for a file that is not Parquet."""
    return InvalidInput(f"{source}: not a Parquet file, or damaged ({str(error).splitlines()[0]})")


def parquet_batches(source: Source, columns: Sequence[str] | None) -> Iterator[pyarrow.RecordBatch]:
    """The rows, those of `columns` that are there, in batches. Raises Arrow's errors."""
    from pyarrow import parquet

    with parquet.ParquetFile(source.path) as file:
        names = list(file.schema_arrow.names)
        used = names if columns is None else [name for name in columns if name in names]
        yield from file.iter_batches(batch_size=rows.BATCH_ROWS, columns=used, use_threads=False)


def _plain_parquet(source: Source) -> Iterator[LabelRows]:
    import pyarrow

    row = 0
    try:
        for record in parquet_batches(source, LONG.columns):
            values = {name: record.column(name).to_pylist() for name in record.schema.names}
            batch = Batch(source, scored="score" in values)
            missing = [None] * record.num_rows
            for label in zip(*(values.get(name, missing) for name in LONG.columns), strict=True):
                row += 1
                batch.add(f"row {row}", *label)
            yield batch.take()
    except pyarrow.ArrowException as error:
        raise no_parquet(source, error) from error
