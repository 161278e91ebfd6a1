"""The names of classes in YOLO's `data.yaml` or `classes.txt`: the few forms of YAML that such files use."""

from __future__ import annotations

import re
from pathlib import Path

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.rows import Source
from qrp_store.readers.labels.text_tables import encoding_of, not_utf8
from qrp_store.samples import shown

_BYTES = 4 << 20
_NAMES = re.compile(r"names\s*:\s*(.*)")
_NUMBERED = re.compile(r"['\"]?(\d{1,9})['\"]?\s*:\s*(.+)")
_ITEM = re.compile(r"""\s*(?:(\d{1,9})\s*:\s*)?("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^,'"\[\]{}]+?)\s*(?:,|$)""")


def names_of(path: Path) -> dict[int, str]:
    """Return the names of the classes by number. Raises InvalidInput."""
    try:
        with path.open(encoding=encoding_of(path)) as file:
            text = file.read(_BYTES)
    except UnicodeError as error:
        raise not_utf8(Source(path)) from error
    lines = text.splitlines()
    if path.suffix.lower() not in (".yaml", ".yml"):
        return dict(enumerate(line.strip() for line in lines if line.strip()))
    start = next((i for i, line in enumerate(lines) if _NAMES.fullmatch(_bare(line))), None)
    if start is None:
        raise InvalidInput(f"{path}: has no names of classes", hint="names: [cat, dog]")
    match = _NAMES.fullmatch(_bare(lines[start]))
    value = match[1] if match else ""
    names = _inline(path, value, lines[start + 1 :]) if value[:1] in ("[", "{") else _block(path, lines[start + 1 :])
    if not names:
        raise InvalidInput(f"{path}: names no class", hint="names: [cat, dog]")
    return names


def _bare(line: str) -> str:
    """Return a line without a comment at its end; # belongs to a word unless a blank precedes it."""
    return re.sub(r"(^|\s)#.*$", "", line).rstrip()


def _inline(path: Path, value: str, following: list[str]) -> dict[int, str]:
    """Return the names of `[cat, dog]` or `{0: cat, 1: dog}`, which may go on over lines."""
    closing = "]" if value[0] == "[" else "}"
    rest = iter(following)
    while not value.endswith(closing):
        line = next(rest, None)
        if line is None:
            raise InvalidInput(f"{path}: names has no closing {closing}")
        value = f"{value} {_bare(line).strip()}"
    names: dict[int, str] = {}
    inside, at = value[1:-1].strip().rstrip(","), 0
    while at < len(inside):
        item = _ITEM.match(inside, at)
        if item is None:
            raise InvalidInput(f"{path}: the names are not understood at {shown(inside[at:], 40)}")
        names[int(item[1]) if item[1] else len(names)] = _word(item[2])
        at = item.end()
    return names


def _block(path: Path, lines: list[str]) -> dict[int, str]:
    """Return the names of lines `- cat` or `0: cat`."""
    names: dict[int, str] = {}
    for line in map(_bare, lines):
        if not line.strip():
            continue
        item, numbered = line.strip(), _NUMBERED.fullmatch(line.strip())
        if item.startswith("- "):
            names[len(names)] = _word(item[2:])
        elif numbered is not None and line[:1].isspace():
            names[int(numbered[1])] = _word(numbered[2])
        else:
            break
    return names


def _word(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text
