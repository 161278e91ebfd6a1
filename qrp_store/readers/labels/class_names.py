"""Names for codes: class descriptions of Open Images, synsets of ImageNet, classes of Places365, lines of a text."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from qrp_store.errors import InvalidInput, NotFound
from qrp_store.readers.labels.rows import LabelRows, Source, Term
from qrp_store.readers.labels.text_tables import encoding_of, not_utf8
from qrp_store.samples import key_problem, normal, shown

_CODE_THEN_NAME = re.compile(r"(n\d{8}|/m/[^\s,]+)\s+(\S.*)")
_NAME_THEN_NUMBER = re.compile(r"(\S.*?)\s+(\d+)")


def read_names(path: Path) -> dict[str, Term]:
    """Code → (name, group or None).

    Lines are `code,name[,group]` (Open Images' class descriptions; ; and tab do, too), `n01440764 tench, Tinca tinca`
    (ImageNet's synsets: the first name), `/a/airfield 0` (Places365), or a name alone, whose code is the line's number
    from 0. JSON is a list of names, `{"0": "tench"}`, or ImageNet's class index `{"0": ["n01440764", "tench"]}`, in
    which both the number and the synset are codes. A name that several codes share gets the code in brackets. Raises
    NotFound and InvalidInput.
    """
    try:
        text = path.read_text(encoding_of(path))
        lines = [line for line in text.splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file") from error
    except UnicodeError as error:
        raise not_utf8(Source(path)) from error
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror or error})") from error
    synsets: dict[str, str] = {}
    rows = _json_rows(path, text, synsets) if path.suffix.lower() == ".json" else _rows(lines)
    if not rows:
        raise InvalidInput(f"{path}: holds no names")
    shared = Counter(name for _, name, _ in rows)
    names: dict[str, Term] = {}
    for code, name, group in rows:
        problem = key_problem(name) or ("is the second of its code" if code in names else None)
        if problem is not None:
            raise InvalidInput(f"{path}: the name of {shown(code)} {problem}", hint="one line a concept: code,name")
        names[code] = (f"{name} ({synsets.get(code, code)})" if shared[name] > 1 else name, group)
    return names | {synset: names[code] for code, synset in synsets.items()}


def _json_rows(path: Path, text: str, synsets: dict[str, str]) -> list[tuple[str, str, str | None]]:
    """Return code, name and no group for every class of a JSON document; note the synsets by code."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: not JSON, or damaged ({error})") from error
    classes = dict(enumerate(content)) if isinstance(content, list) else content
    rows: list[tuple[str, str, str | None]] = []
    for code, name in classes.items() if isinstance(classes, dict) else ():
        if isinstance(name, list) and len(name) == 2 and all(isinstance(word, str) for word in name):
            synsets[str(code)], name = name
        if not isinstance(name, str):
            raise InvalidInput(f"{path}: {shown(str(code))}: expected an object of names, or a list of them")
        rows.append((str(code), normal(name), None))
    return rows


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
            return [(row[0].strip(), normal(row[1]), normal(row[2]) or None if row[2:] else None) for row in fields]
    return [(str(number), normal(line), None) for number, line in enumerate(lines)]


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
