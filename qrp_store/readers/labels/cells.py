"""Cells of tables: lists of concepts in one cell, and the words for yes and no."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.rows import MISSING_WORDS, Batch, Source, is_missing, kind, number, out_of_range
from qrp_store.samples import shown

WHOLE = "none"
"""`--split none`: a cell is one concept, whatever it looks like."""
_PART = r"""[^|;<>"'=]+"""  # of a list; code and markup are one odd concept
LIST_LIKE = rf"^{_PART}([|;]{_PART})+[|;]?\s*$|^\s*(\[[^\[\]]*\]|\([^()]*,[^()]*\)|\{{[^{{}}]*\}})\s*$"
_LIST_LIKE = re.compile(LIST_LIKE, re.S)
_BRACKETED = re.compile(r"\s*[\[({](.*)[\])}]\s*", re.S)
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_BRACKETS = 20
_WORDS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}


def looks_like_list(text: str) -> bool:
    """Return whether a cell looks like several concepts: `cat|dog`, `cat;dog`, `['cat', 'dog']`."""
    return _LIST_LIKE.search(text) is not None


def concepts_in(source: Source, place: str, value: object) -> Sequence[object]:
    """Return the concepts of a cell: those of a list, of a text that `--split` splits, or the one value.

    Raises InvalidInput for a text that looks like a list while nothing says how to split it.
    """
    if isinstance(value, list | tuple):
        return value
    if not isinstance(value, str):
        return [value]
    separator = source.table.split
    if separator == WHOLE:
        return [value]
    if separator is None:
        if looks_like_list(value):
            raise list_in_cell(source, place, value)
        return [value]
    parts = _literal(value) if _BRACKETED.fullmatch(value) else None
    if parts is None:
        parts = value.split(separator)
    return [part for part in parts if not is_missing(part)]


def list_in_cell(source: Source, place: str, text: str) -> InvalidInput:
    """Return the error for a cell that looks like a list."""
    separator = ";" if ";" in text else "|" if "|" in text else ","
    return InvalidInput(
        f"{source}: {place}: the concept {shown(text, 60)} looks like a list",
        hint=f"--split '{separator}' makes several concepts of it, --split {WHOLE} keeps such cells whole",
    )


def _literal(text: str) -> Sequence[object] | None:
    """Return the elements of a list written as JSON, as Python or NumPy print it; None when it is none of these."""
    try:
        parsed: Any = json.loads(text)
    except (ValueError, RecursionError):
        parsed = _python_literal(text.strip())
    if isinstance(parsed, set):
        parsed = sorted(parsed, key=str)
    inside = _BRACKETED.fullmatch(text)
    if isinstance(parsed, list | tuple) and not (inside and _adjacent(inside[1])):
        return parsed
    quoted = [a or b for a, b in _QUOTED.findall(inside[1])] if inside else []
    if quoted:
        return quoted
    return [part.strip() for part in inside[1].split(",")] if inside else None


def _python_literal(text: str) -> Any:
    if sum(map(text.count, "[({")) > _BRACKETS:  # deep nesting exhausts the stack of Python's parser
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _adjacent(text: str) -> bool:
    """Return whether quoted words follow each other without a comma, as NumPy prints them."""
    return re.search(r"['\"]\s+['\"]", text) is not None


def add(batch: Batch, place: str, key: object, concept: object, score: object, group: object, **more: Any) -> None:
    """Add the labels of one row: one for each concept of its cell; a list of scores goes with a list of concepts."""
    source = batch.source
    several = concepts_in(source, place, concept)
    scores: Sequence[object] = [score] * len(several)
    if isinstance(score, list | tuple):
        if len(score) != len(several):
            raise InvalidInput(f"{source}: {place}: {len(several)} concepts, but {len(score)} scores")
        scores = score
    for one, of in zip(several, scores, strict=True):
        batch.add(place, key, one, of, group, **more)
    if not several:
        batch.text(place, "key", key)


def truth(source: Source, place: str, column: str, value: object) -> float | None:
    """Return a wide table's cell: 0, 1, a score between, or None where nothing is known.

    `--true` and `--false` name values; when both do, no other value is accepted. Raises InvalidInput.
    """
    options = source.table
    if options.true or options.false:
        word = _word(value)
        if word in {_word(text) for text in options.true}:
            return 1.0
        if word in {_word(text) for text in options.false}:
            return 0.0
        if options.true and options.false and word:
            raise InvalidInput(
                f"{source}: {place}: column {shown(column, 40)} holds {shown(str(value), 40)}, "
                "which neither --true nor --false names",
                hint="repeat --true and --false for every value; empty cells are unknown",
            )
    if is_missing(value):
        return None
    cell = value.strip().lower() if isinstance(value, str) else value
    if isinstance(cell, str) and cell in MISSING_WORDS:
        return None
    try:
        known = _WORDS.get(cell) if isinstance(cell, str) else float(cell) if isinstance(cell, bool) else None
        score = number(cell) if known is None else known
    except ValueError:
        raise _no_truth(source, place, column, value) from None
    if score != score:
        return None
    if not -1e-5 <= score <= 1 + 1e-5:
        raise InvalidInput(
            f"{source}: {place}: column {shown(column, 40)} holds {score}, outside [0, 1]", hint=out_of_range(score)
        )
    return min(max(score, 0.0), 1.0)


def _no_truth(source: Source, place: str, column: str, value: object) -> InvalidInput:
    if isinstance(value, str) and len(value) <= 20:
        hint = f"do such words mark concepts? --true {shown(value)} --false … (--false '' where an empty cell means no)"
    else:
        hint = "expected columns key and concept, or key and a column of 0 and 1 a concept"
    held = shown(str(value), 40) if isinstance(value, str | int | float) else kind(value)
    return InvalidInput(
        f"{source}: no column concept, and in {place} column {shown(column, 40)} holds {held}, "
        "where a table with a column for each concept has 0 or 1",
        hint=f"{hint}; --concept-column names the column of concepts in a long table",
    )


def _word(value: object) -> str:
    """Return a value as the options write it: without blanks, in lower case, whole numbers without a point."""
    if is_missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip().casefold()
    try:
        return str(int(float(text))) if float(text).is_integer() else text
    except (ValueError, OverflowError):
        return text
