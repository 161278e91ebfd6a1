"""Labels in long tables, a label a row: CSV, JSON lines, Parquet, and Open Images' CSV.

Text tables are read by Arrow, many rows at once. From the first batch that Arrow cannot read, or that needs a closer
look, the plain reader goes on row by row; so the plain readers alone decide what is accepted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels import rows
from qrp_store.readers.labels.cells import LIST_LIKE, WHOLE, add
from qrp_store.readers.labels.columns import CONCEPT, KEY, LONG, OPEN_IMAGES, Long, check_columns, layout_of
from qrp_store.readers.labels.rows import NOT_A_NUMBER, ROUNDING, Batch, LabelRows, Source, is_missing
from qrp_store.readers.labels.text_tables import Header, csv_header, csv_rows, not_utf8
from qrp_store.samples import normal, shown

if TYPE_CHECKING:
    import pyarrow

_BLOCK_BYTES = 4 << 20
_LINE_BYTES = 256 << 20


def read_csv(source: Source) -> Iterator[LabelRows]:
    """Long CSV with a header line; quoted fields may hold delimiters and line breaks."""
    header = csv_header(source)
    yield from _read_text(source, header, _layout(source, header.columns))


def read_open_images(source: Source) -> Iterator[LabelRows]:
    """Open Images' image-level labels: ImageID,Source,LabelName,Confidence. What people verified is marked so."""
    header = csv_header(source)
    check_columns(source, header.columns, OPEN_IMAGES)
    yield from _read_text(source, header, OPEN_IMAGES)


def _layout(source: Source, columns: Sequence[str]) -> Long:
    """Return the columns to read; note them when they are not called `key` and `concept`. Raises InvalidInput."""
    layout = layout_of(source, columns) or LONG
    check_columns(source, columns, layout)
    if layout.required != (KEY, CONCEPT):
        uses = {"key": layout.key, "concept": layout.concept, "score": layout.score, "group": layout.group}
        text = ", ".join(f"{use} = {shown(name, 40)}" for use, name in uses.items() if name)
        unused = [shown(name, 40) for name in columns if name and name not in layout.columns]
        source.note(f"{source}: columns: {text}" + (f"; not used: {', '.join(unused[:12])}" if unused else ""))
    return layout


def _read_text(source: Source, header: Header, layout: Long) -> Iterator[LabelRows]:
    def plain() -> Iterator[LabelRows]:
        return _plain_csv(source, header, layout)

    if header.encoding == "utf-16":
        yield from plain()
        return
    batches = (fast(batch, source, layout) for batch in _arrow_csv(source, header, layout))
    yield from _with_arrow(batches, plain)


def _with_arrow(quick: Iterator[LabelRows | None], plain: Callable[[], Iterator[LabelRows]]) -> Iterator[LabelRows]:
    """Yield the quick batches; from the first one that is None, the plain reader's rows."""
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


def _arrow_csv(source: Source, header: Header, layout: Long) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow
    from pyarrow import csv as arrow_csv

    columns = [*header.columns, *([""] * header.unnamed)]
    used = [name for name in layout.columns if name in columns]
    names = [name if name in used else f"\0{i}" for i, name in enumerate(columns)]  # others may repeat
    reader = arrow_csv.open_csv(
        source.path,
        read_options=arrow_csv.ReadOptions(
            column_names=names, skip_rows=header.line, block_size=_BLOCK_BYTES, use_threads=False
        ),
        parse_options=arrow_csv.ParseOptions(delimiter=header.delimiter, newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(used, pyarrow.string()), include_columns=used, strings_can_be_null=False
        ),
    )
    with reader:
        yield from reader


def fast(batch: pyarrow.RecordBatch, source: Source, layout: Long) -> LabelRows | None:
    """Return a record batch as labels, checked column by column; None when a row needs the plain reader."""
    import pyarrow
    from pyarrow import compute

    key, concept = _text(batch.column(layout.key)), _text(batch.column(layout.concept))
    if key is None or concept is None or not _storable(key):
        return None
    concepts = _terms(concept, None if source.table.split == WHOLE else source.table.split or "")
    if concepts is None or None in concepts:
        return None
    scores = None
    if layout.score in batch.schema.names:
        scores = batch.column(layout.score)
        if scores.null_count or not _is_number(scores.type):
            return None
        scores = scores.cast(pyarrow.float64()).to_numpy(zero_copy_only=False)
        if not ((scores >= -ROUNDING) & (scores <= 1 + ROUNDING)).all():  # false for NaN, too
            return None
        scores = scores.clip(0, 1)
    groups: list[str | None] = [source.group] * len(key)
    if layout.group in batch.schema.names:
        column = _text(batch.column(layout.group))
        named = None if column is None else _terms(column, None)
        if named is None:
            return None
        groups = [group or source.group for group in named]
    verified = None
    if layout.origin is not None and layout.origin in batch.schema.names:
        origin = _text(batch.column(layout.origin))
        if origin is None:
            return None
        verified = compute.not_equal(origin, layout.unverified).to_numpy(zero_copy_only=False)
    return LabelRows(key.to_pylist(), [name for name in concepts if name is not None], scores, groups, verified)


def _text(column: pyarrow.Array) -> pyarrow.Array | None:
    """Return a column of text or whole numbers as text; None for one of another kind, or with empty places."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kinds = pyarrow.types
    known = (kinds.is_string, kinds.is_large_string, kinds.is_string_view, kinds.is_integer)
    if column.null_count or not any(is_kind(column.type) for is_kind in known):
        return None
    return column if kinds.is_string(column.type) else column.cast(pyarrow.string())


def _is_number(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    return any(
        is_kind(kind) for is_kind in (types.is_string, types.is_large_string, types.is_floating, types.is_integer)
    )


def _storable(column: pyarrow.Array) -> bool:
    """Return whether no text is empty or holds NUL."""
    from pyarrow import compute

    if not len(column):
        return True
    shortest = compute.min(compute.binary_length(column)).as_py()
    return bool(shortest) and not compute.any(compute.match_substring(column, "\0")).as_py()


def _terms(column: pyarrow.Array, separator: str | None) -> list[str | None] | None:
    """Return concepts or groups as they are stored, None for an empty one; None when one needs the plain reader.

    `separator` splits concepts that hold it ("": none does); it is None for texts that are never lists.
    """
    from pyarrow import compute

    coded = column.dictionary_encode()
    different = coded.dictionary
    if compute.any(compute.match_substring(different, "\0")).as_py():
        return None
    names = [normal(name) or None for name in different.to_pylist()]
    if separator is not None:
        listed = compute.match_substring_regex(different, LIST_LIKE)
        if compute.any(listed).as_py() or any(name is None or name.lower() in NOT_A_NUMBER for name in names):
            return None
        if separator and compute.any(compute.match_substring(different, separator)).as_py():
            return None
    return [names[i] for i in coded.indices.to_pylist()]


def _plain_csv(source: Source, header: Header, layout: Long) -> Iterator[LabelRows]:
    places = {name: header.columns.index(name) for name in layout.columns if name in header.columns}
    batch = Batch(source, scored=layout.score in places)
    for line, row in csv_rows(source, header):
        values = {name: row[place] for name, place in places.items()}
        checked = layout.origin in values and values[layout.origin] != layout.unverified
        concept, score, group = values[layout.concept], values.get(layout.score), values.get(layout.group)
        add(batch, line, values[layout.key], concept, score, group, verified=checked)
        if batch.full:
            yield batch.take()
    yield batch.take()


def json_lines(source: Source) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield ("line 7", object) of every line; blank lines are left out. Raises InvalidInput."""
    with source.path.open("rb") as file:
        number = 0
        while line := file.readline(_LINE_BYTES):
            number += 1
            if len(line) == _LINE_BYTES:
                raise InvalidInput(f"{source}: line {number} has over {_LINE_BYTES:,} bytes")
            content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not content.strip():
                continue
            try:
                record = json.loads(content.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise not_utf8(source) from error
            except (ValueError, RecursionError) as error:
                whole = number == 1 and content.lstrip().startswith(b"[")
                hint = "is it one JSON document? name the file .json" if whole else None
                raise InvalidInput(f"{source}: line {number}: not JSON ({error})", hint=hint) from error
            if not isinstance(record, dict):
                raise InvalidInput(f"{source}: line {number}: expected an object with key and concept")
            yield f"line {number}", record


def read_json_lines(source: Source) -> Iterator[LabelRows]:
    """One JSON object a line; a line without `score` counts as 1, a list of concepts as one label each."""
    batch = Batch(source, scored=True)
    layout: Long | None = None
    for place, label in json_lines(source):
        if layout is None:
            layout = _layout(source, list(label))
        for use, name in zip((KEY, CONCEPT), layout.required, strict=True):
            if name not in label:
                raise InvalidInput(f"{source}: {place}: no {use if use == name else shown(name, 40)}")
        score = label.get(layout.score or "score", 1.0)
        add(batch, place, label[layout.key], label[layout.concept], score, label.get(layout.group or "group"))
        if batch.full:
            yield batch.take()
    yield batch.take()


def read_parquet(source: Source) -> Iterator[LabelRows]:
    """Long Parquet, row group by row group; only the columns that are needed are read."""
    layout = _layout(source, parquet_columns(source))
    yield from _with_arrow(
        (fast(batch, source, layout) for batch in parquet_batches(source, layout.columns)),
        lambda: _plain_parquet(source, layout),
    )


def parquet_columns(source: Source) -> list[str]:
    """Return the columns of a Parquet file. Raises InvalidInput."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(source.path) as file:
            return list(file.schema_arrow.names)
    except pyarrow.ArrowException as error:
        raise no_parquet(source, error) from error


def no_parquet(source: Source, error: Exception) -> InvalidInput:
    """Return the error for a file that is not Parquet."""
    return InvalidInput(f"{source}: not a Parquet file, or damaged ({str(error).splitlines()[0]})")


def parquet_batches(source: Source, columns: Sequence[str] | None) -> Iterator[pyarrow.RecordBatch]:
    """Yield the rows, with those of `columns` that exist, in batches. Raises Arrow's errors."""
    from pyarrow import parquet

    with parquet.ParquetFile(source.path) as file:
        names = list(file.schema_arrow.names)
        used = names if columns is None else [name for name in columns if name in names]
        yield from file.iter_batches(batch_size=rows.BATCH_ROWS, columns=used, use_threads=False)


def _plain_parquet(source: Source, layout: Long) -> Iterator[LabelRows]:
    import pyarrow

    row = 0
    try:
        for record in parquet_batches(source, layout.columns):
            values = {name: record.column(name).to_pylist() for name in record.schema.names}
            batch = Batch(source, scored=layout.score in values)
            missing = [None] * record.num_rows
            names = (layout.key, layout.concept, layout.score, layout.group)
            for key, concept, score, group in zip(*(values.get(name, missing) for name in names), strict=True):
                row += 1
                add(batch, f"row {row}", key, concept, score, None if is_missing(group) else group)
            yield batch.take()
    except pyarrow.ArrowException as error:
        raise no_parquet(source, error) from error
