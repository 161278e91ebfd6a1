"""Data on stdout: documents as JSON, listings as table, json, jsonl, csv, md or latex."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from qrp_store.errors import Unavailable
from qrp_store.options import Format
from qrp_store.records import Table
from qrp_store.samples import width

_NARROW = 12  # minimum width of a folded name
READER_GONE = 141  # 128 + SIGPIPE: the reader of stdout has gone
_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "–": "--",
    "[": "{[}",  # after the end of a row LaTeX would take it for an option
}


def write(text: str) -> None:
    """Write text and a newline to stdout; end silently if its reader has gone (`… | head`)."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        # the rest of the buffer would be flushed at exit and fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(READER_GONE) from None
        raise Unavailable(f"stdout cannot be written: {error.strerror}") from error


def document(value: object) -> Any:
    """Return a report as plain JSON values: dataclasses → dicts, tuples → lists, NaN and infinities → null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: document(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): document(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [document(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    if hasattr(value, "item"):  # a numpy scalar
        return document(value.item())
    return str(value)


def to_json(value: object) -> str:
    """Return one line of JSON."""
    return json.dumps(document(value), ensure_ascii=False, allow_nan=False)


def listing(rows: Table, form: Format, schema: str, more: Mapping[str, Any] | None = None) -> str:
    """Return the rows in a format; json also holds `more`. Only `table`, `md` and `latex` round numbers."""
    if form == "table":
        return _plain(rows) if not sys.stdout.isatty() else _rich(rows)
    if form == "csv":
        return _csv(rows)
    if form == "md":
        return _markdown(rows)
    if form == "latex":
        return _latex(rows)
    if form == "jsonl":
        return "\n".join(map(to_json, rows.named()))
    return to_json({"schema": schema, "rows": rows.named(), **(more or {})})


def details(report: object) -> str:
    """Return a report as aligned `name  value` lines; lists of rows follow as tables."""
    values: dict[str, Any] = document(report)
    rows = {name: v for name, v in values.items() if isinstance(v, list) and v and isinstance(v[0], dict)}
    plain = {name: cell(v) for name, v in values.items() if name not in rows}
    widest = max(map(len, plain), default=0)
    parts = ["\n".join(f"{name:<{widest}}  {value}".rstrip() for name, value in plain.items())]
    parts += [f"{name}:\n{listing(table(v), 'table', '')}" for name, v in rows.items()]
    return "\n\n".join(parts)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> Table:
    """Return dicts as a table; without `columns`, with every key that appears."""
    names = tuple(columns or dict.fromkeys(name for row in rows for name in row))
    return Table(names, [tuple(row.get(name) for name in names) for row in rows])


def cell(value: object) -> str:
    """Return a value as text: four significant digits, control characters escaped, never markup."""
    value = document(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {cell(v)}" for name, v in value.items())
    return visible(str(value))


def visible(text: str, keep: str = "") -> str:
    """Return the text with control characters as escapes, except those to keep: a terminal must not obey them."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def _numeric(table: Table) -> list[bool]:
    def number(value: object) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    return [
        any(number(row[i]) for row in table.rows) and all(row[i] is None or number(row[i]) for row in table.rows)
        for i in range(len(table.columns))
    ]


def _plain(table: Table) -> str:
    lines = [list(table.columns), *([cell(v) for v in row] for row in table.rows)]
    widths = [max(width(line[i]) for line in lines) for i in range(len(table.columns))]
    right = _numeric(table)

    def padded(value: str, to: int, right: bool) -> str:
        space = " " * (to - width(value))
        return space + value if right else value + space

    return "\n".join("  ".join(map(padded, line, widths, right)).rstrip() for line in lines)


def _rich(table: Table) -> str:
    """Return the table for a terminal; row by row if even folded names leave no room for whole numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(file=sys.stdout)
    table, same = (table, "") if _width(table) <= console.width else _lift(table)
    wide = _width(table) > console.width
    shown = RichTable(box=box.SIMPLE_HEAD)
    least = 1
    for number, right in enumerate(_numeric(table)):
        uncut = right or table.columns[number].endswith("id")  # ids are copied, so they stay whole
        values = [width(cell(row[number])) for row in table.rows]
        name = _folded(table.columns[number], max([6, *values])) if wide else table.columns[number]
        full_width = max([*map(width, name.split("\n")), *values])
        narrowest = full_width if uncut else min(full_width, _NARROW)
        least += 3 + narrowest
        shown.add_column(
            Text(name), justify="right" if right else "left", overflow="fold", no_wrap=uncut, min_width=narrowest
        )
    with console.capture() as captured:
        if same:
            console.print(Text(same))
        if least <= console.width:
            for row in table.rows:
                shown.add_row(*(Text(cell(v)) for v in row))
            console.print(shown)
        else:
            for row in table.rows:
                console.print(Text(details(dict(zip(table.columns, row, strict=True))) + "\n"))
    return captured.get().rstrip("\n")


def _folded(name: str, most: int) -> str:
    """Fold a column's name to `most` characters per line where its words allow."""
    lines: list[str] = []
    for word in name.replace("_", "_ ").split():
        if lines and len(lines[-1]) + len(word) <= most:
            lines[-1] += word
        else:
            lines.append(word)
    return "\n".join(lines)


def _width(table: Table) -> int:
    columns = zip(table.columns, *([cell(v) for v in row] for row in table.rows), strict=True)
    return 1 + sum(3 + max(map(width, column)) for column in columns)  # rich pads a column with three


def _lift(table: Table) -> tuple[Table, str]:
    """Return the table without its constant columns, and their values."""
    if len(table.rows) < 2:
        return table, ""
    same = {i for i in range(len(table.columns)) if len({cell(row[i]) for row in table.rows}) == 1}
    constants = ", ".join(f"{table.columns[i]} {value}" for i in sorted(same) if (value := cell(table.rows[0][i])))
    kept = [i for i in range(len(table.columns)) if i not in same]
    return Table(tuple(table.columns[i] for i in kept), [tuple(row[i] for i in kept) for row in table.rows]), constants


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([_flat(v) for v in row] for row in table.rows)
    return text.getvalue().removesuffix("\n")


def _flat(value: object) -> object:
    value = document(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value


def markdown(text: str) -> str:
    """The text with what Markdown would take for markup escaped."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def latex(text: str) -> str:
    """The text with LaTeX's own signs escaped."""
    return "".join(_LATEX.get(c, c) for c in text)


def _markdown(table: Table) -> str:
    def line(values: Sequence[str]) -> str:
        return "| " + " | ".join(map(markdown, values)) + " |"

    rule = "|" + "|".join("---:" if right else "---" for right in _numeric(table)) + "|"
    return "\n".join([line(table.columns), rule, *(line([cell(v) for v in row]) for row in table.rows)])


def _latex(table: Table) -> str:
    def line(values: Sequence[str]) -> str:
        return " & ".join(map(latex, values)) + r" \\"

    right = _numeric(table)
    columns = "".join("r" if number else "l" for number in right)
    body = [line([cell(v) for v in row]) for row in table.rows]
    head = [f"\\begin{{tabular}}{{{columns}}}", r"\toprule", line(table.columns), r"\midrule"]
    return "\n".join([*head, *body, r"\bottomrule", r"\end{tabular}"])
