"""How a text table of vectors is written: its encoding, separator, decimal point, and the lines before its header."""

from __future__ import annotations

import codecs
import csv
import re
from dataclasses import dataclass
from pathlib import Path

_HEADER_BYTES = 8 << 20
_ROWS_BYTES = 1 << 16  # behind the header
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.I)
_LINE_END = re.compile(r"\r\n|\n|\r")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*")
_DECIMAL_POINT = re.compile(r"\s*[+-]?\d*\.\d+([eE][+-]?\d+)?\s*")


@dataclass(frozen=True)
class Dialect:
    """`skipped`: the number of lines before the header."""

    encoding: str
    delimiter: str
    decimal: str
    skipped: int


def dialect_of(path: Path) -> Dialect:
    """Return how a table is written. Raises OSError and UnicodeError.

    The separator is a tab in a .tsv file, that of Excel's `sep=` line, else the first of , ; tab | that the header has.
    Lines before the header are blank, or begin with # and have another number of cells than the first that does not.
    """
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
    encoding = "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf8"
    lines = _LINE_END.split(codecs.getincrementaldecoder(encoding)("replace").decode(start))
    separator = _SEPARATOR_LINE.fullmatch(lines[0].removeprefix("\ufeff").strip())
    skipped = 0 if separator is None else 1
    delimiter = "\t" if path.suffix.lower() == ".tsv" else separator[1] if separator is not None else None
    while skipped + 1 < len(lines):
        line, following = lines[skipped].removeprefix("\ufeff"), _first_plain(lines[skipped + 1 :])
        comma = delimiter or _delimiter(following)
        if line.strip() and not (line.startswith("#") and line.count(comma) != following.count(comma)):
            break
        skipped += 1
    delimiter = delimiter or _delimiter(lines[min(skipped, len(lines) - 1)])
    return Dialect(encoding, delimiter, _decimal(lines[skipped + 1 :], delimiter), skipped)


def _first_plain(lines: list[str]) -> str:
    """Return the first line that is neither blank nor a comment; "" without one."""
    return next((line for line in lines if line.strip() and not line.startswith("#")), "")


def _delimiter(header: str) -> str:
    return next((delimiter for delimiter in ",;\t|" if delimiter in header), ",")


def _decimal(rows: list[str], delimiter: str) -> str:
    """Return the decimal point of the first rows: a comma where numbers have commas and none has a point."""
    if delimiter == ",":
        return "."
    text = "\n".join(rows[:200])[:_ROWS_BYTES].splitlines()[:-1] or rows[:1]
    try:
        cells = [cell for row in csv.reader(text, delimiter=delimiter) for cell in row]
    except csv.Error:
        return "."
    commas = any(_DECIMAL_COMMA.fullmatch(cell) for cell in cells)
    return "," if commas and not any(_DECIMAL_POINT.fullmatch(cell) for cell in cells) else "."
