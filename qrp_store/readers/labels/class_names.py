"""Names for codes: class descriptions of Open Images, synsets of ImageNet, classes of Places365, lines of a text."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from qrp_store.errors import InvalidInput, NotFound
from qrp_store.readers.labels.rows import LabelRows, Source, Term
from qrp_store.readers.labels.text_tables import not_utf8
from qrp_store.samples import key_problem, shown

_CODE_THEN_NAME = re.compile(r"(n\d{8}|/m/[^\s,]+)\s+(\S.*)")
_NAME_THEN_NUMBER = re.compile(r"(\S.*?)\s+(\d+)")


def read_names(path: Path) -> dict[str, Term]:
    """Code → (name, group or None).

    Lines are `code,name[,group]` (Open Images' class descriptions; ; and tab do, too), `n01440764 tench, Tinca tinca`
    (ImageNet's synsets: the first name), `/a/airfield 0` (Places365), or a name alone, whose code is the line's number
    from 0. A name that several codes share gets the code in brackets. Raises NotFound and InvalidInput.
    """
    try:
        lines = [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise not_utf8(Source(path)) from error
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror or error})") from error
    rows = _rows(lines)
    if not rows:
        raise InvalidInput(f"{path}: holds no names")
    shared = Counter(name for _, name, _ in rows)
    found: dict[str, Term] = {}
    for code, name, group in rows:
        problem = key_problem(name) or ("is the second of its code" if code in found else None)
        if problem is not None:
            raise InvalidInput(f"{path}: the name of {shown(code)} {problem}", hint="one line a concept: code,name")
        found[code] = (f"{name} ({code})" if shared[name] > 1 else name, group)
    return found


def _rows(lines: list[str]) -> list[tuple[str, str, str | None]]:
    coded = [_CODE_THEN_NAME.fullmatch(line) for line in lines]
    if all(coded):
        return [(m[1], m[2].split(",")[0].strip(), None) for m in coded if m]
    numbered = [_NAME_THEN_NUMBER.fullmatch(line) for line in lines]
    if all(numbered) and "," not in lines[0]:
        return [(m[2], m[1].removeprefix("/"), None) for m in numbered if m]
    for delimiter in ",;\t":
        fields = list(csv.reader(lines, delimiter=delimiter))
        if len(fields[0]) in (2, 3) and len({len(row) for row in fields}) == 1:
            heads = {"labelname", "displayname", "code", "id"}
            if fields[0][0].strip().lower() in heads:
                fields = fields[1:]
            return [(row[0].strip(), row[1].strip(), row[2].strip() or None if row[2:] else None) for row in fields]
    return [(str(number), line.strip(), None) for number, line in enumerate(lines)]


def renamed(batch: LabelRows, names: dict[str, Term], path: Path) -> LabelRows:
    """A batch with its codes replaced by names (and by their groups). Raises InvalidInput for an unknown code."""
    unknown = next((code for code in batch.concepts if code not in names), None)
    if unknown is None:
        unknown = next((code for code, _ in batch.vocabulary if code not in names), None)
    if unknown is not None:
        raise InvalidInput(f"{path}: has no name for concept {shown(unknown)}", hint="one line a concept: code,name")
    groups = [names[code][1] or group for code, group in zip(batch.concepts, batch.groups, strict=True)]
    vocabulary = [(names[code][0], names[code][1] or group) for code, group in batch.vocabulary]
    return replace(batch, concepts=[names[code][0] for code in batch.concepts], groups=groups, vocabulary=vocabulary)
