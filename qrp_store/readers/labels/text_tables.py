"""Text tables as people have them: delimiters, encodings, Excel's `sep=` line, comments, empty columns at the end."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.columns import KEY, OPEN_IMAGES, layout_of
from qrp_store.readers.labels.rows import Source
from qrp_store.samples import normal

DELIMITERS = ",;\t|"
_HEADER_LIMIT = 1 << 26
_LEADING_LINES = 100
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.I)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Header:
    """The columns of a text table and how it is written; `line` is the header's number, from 1.

    `columns` are without the unnamed ones at the end, of which there are `unnamed`.
    """

    columns: list[str]
    delimiter: str
    encoding: str
    line: int
    unnamed: int = 0


def encoding_of(path: Path) -> str:
    """Return `utf-16` for a file that begins with its mark, else `utf-8-sig`."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in _UTF16 else "utf-8-sig"


def first_line(path: Path) -> str:
    """Return the first line of a text, or "" when it is not text."""
    try:
        with path.open(encoding=encoding_of(path)) as file:
            return file.readline(1 << 20)
    except UnicodeError:
        return ""


def csv_header(source: Source) -> Header:
    """Return the header of a text table.

    The delimiter is the one under which a known layout's columns appear, else the one with the most columns. Lines
    before the header may be blank, `sep=;`, or begin with #. Raises InvalidInput.
    """
    encoding = encoding_of(source.path)
    delimiters = DELIMITERS
    try:
        with source.path.open(encoding=encoding, newline="") as file:
            for line_number in range(1, _LEADING_LINES):
                line = file.readline(_HEADER_LIMIT)
                separator = _SEPARATOR_LINE.fullmatch(line) if line_number == 1 else None
                if separator is not None:
                    delimiters = separator[1]
                elif not line or (line.strip() and not (line.startswith("#") and _is_comment(line))):
                    break
    except UnicodeError as error:
        raise not_utf8(source) from error
    if not line.strip():
        raise InvalidInput(f"{source}: holds no header line", hint="the first line names the columns: key,concept")
    if "\0" in line:  # UTF-16 without its mark
        raise not_utf8(source)
    if len(line) == _HEADER_LIMIT:
        raise InvalidInput(f"{source}: line {line_number} has over {_HEADER_LIMIT:,} characters, too many for a header")
    columns, delimiter = _split(source, line, delimiters, line_number)
    named = list(columns)
    while len(named) > 1 and not named[-1]:
        named.pop()
    return Header(named, delimiter, encoding, line_number, len(columns) - len(named))


def _is_comment(line: str) -> bool:
    return not any(line[1:].strip().lower().startswith(f"{KEY}{d}") for d in DELIMITERS)


def _split(source: Source, line: str, delimiters: str, number: int) -> tuple[list[str], str]:
    split: dict[str, list[str]] = {}
    failure: csv.Error | None = None
    for delimiter in delimiters:
        try:
            split[delimiter] = [normal(name) for name in next(csv.reader([line], delimiter=delimiter), [])]
        except csv.Error as error:  # a header without this delimiter is one long field
            failure = error
    if not split:
        raise InvalidInput(f"{source}: line {number}: {failure}") from failure

    def rank(delimiter: str) -> tuple[int, bool, int]:
        columns = split[delimiter]
        given = sum(name in columns for name in source.table.columns.values())
        known = layout_of(source, columns) is not None or set(OPEN_IMAGES.required) <= set(columns)
        return given, known or KEY in columns, len(columns)

    delimiter = max(split, key=rank)
    return split[delimiter], delimiter


def csv_rows(source: Source, header: Header) -> Iterator[tuple[str, list[str]]]:
    """Yield ("line 7", fields) of every row after the header; rows of empty fields are left out.

    Raises InvalidInput for a row that has more or fewer fields than the header.
    """
    width = len(header.columns)
    with source.path.open(encoding=header.encoding, newline="") as file:
        for _ in range(header.line - 1):
            file.readline(_HEADER_LIMIT)
        reader = csv.reader(file, delimiter=header.delimiter, strict=True)
        next(reader, None)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise InvalidInput(f"{source}: line {reader.line_num + header.line - 1}: {error}") from error
            except UnicodeError as error:
                raise not_utf8(source) from error
            if not any(row):
                continue
            place = f"line {reader.line_num + header.line - 1}"
            if len(row) != width:
                if not width <= len(row) <= width + header.unnamed or any(row[width:]):
                    raise InvalidInput(
                        f"{source}: {place}: {len(row)} fields, but {width + header.unnamed} in the header"
                    )
                row = row[:width]
            yield place, row


def rows_of(source: Source, names: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the place and these columns of every row of a text table. Raises InvalidInput for a missing column."""
    header = csv_header(source)
    missing = [name for name in names if name not in header.columns]
    if missing:
        raise InvalidInput(f"{source}: no column {' and no column '.join(missing)}")
    at = [header.columns.index(name) for name in names]
    for place, row in csv_rows(source, header):
        yield place, [row[i] for i in at]


def not_utf8(source: Source) -> InvalidInput:
    """Return the error for a file that is not UTF-8, naming its first such line (1 for UTF-16)."""
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
