"""Keys of samples: what a key is and how keys differ; and an image on disk."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from qrp_store.errors import InvalidInput

Match = Literal["key", "basename", "stem"]


@dataclass(frozen=True)
class ImageFile:
    """An image on disk. `key` is its POSIX path relative to the folder that was listed; size in bytes."""

    key: str
    path: Path
    size: int
    mtime_ns: int

    def read(self) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        return self.path.read_bytes()


def check_keys(keys: Sequence[str], source: str, place: str = "key", *, hint: str | None = None) -> None:
    """Raise InvalidInput, with `hint`, unless keys are unique, non-empty, storable text; names the key and its `place`
    (from 1)."""
    if len(keys) == 0:
        raise InvalidInput(f"{source}: holds no keys")
    seen: dict[str, int] = {}
    for number, key in enumerate(keys, start=1):
        problem = key_problem(key)
        if problem is not None:
            raise InvalidInput(f"{source}: {place} {number}: the key {problem}: {shown(key)}", hint=hint)
        first = seen.setdefault(key, number)
        if first != number:
            raise InvalidInput(f"{source}: duplicate key {shown(key)} ({place}s {first} and {number})", hint=hint)


def key_problem(text: str) -> str | None:
    """What forbids a text as a key or a concept's name, or None. Any Unicode text without NUL will do."""
    if text == "":
        return "is empty"
    if "\0" in text:
        return "holds a NUL character"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return None


def shown(text: str, limit: int = 80) -> str:
    """A text as messages show it: quoted, control characters escaped, cut after `limit` characters."""
    quoted = repr(text[:limit])
    return quoted if len(text) <= limit else f"{quoted[:-1]}…{quoted[-1]} ({len(text)} characters)"


def key_difference(unknown: Iterable[str], keys: Sequence[str]) -> str | None:
    """How unknown keys differ from keys of a dataset, with an example; None where no known difference explains one.

    For example: "'a\\1.png' differs from 'a/1.png' by backslashes".
    """
    sample = list(unknown)
    for what, form in _KEY_FORMS:
        known: dict[str, str] = {}
        for key in keys:
            known.setdefault(form(key), key)
        for key in sample:
            other = known.get(form(key))
            if other is not None and other != key:
                return f"{shown(key)} differs from {shown(other)} by {what}"
    return None


def _stem(key: str) -> str:
    return os.path.splitext(key)[0]


def _name(key: str) -> str:
    return key.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _number(stem: str) -> str:
    """The number at the end of a name, or the whole name."""
    digits = re.search(r"[0-9]+$", stem)
    return stem if digits is None else digits[0].lstrip("0")


_HASH = re.compile(r"[0-9a-fA-F]{6,64}[-_]")
_KEY_FORMS: Sequence[tuple[str, Callable[[str], str]]] = (
    ("Unicode's normal form (NFC and NFD)", lambda key: unicodedata.normalize("NFC", key)),
    ("blanks at an end", str.strip),
    ("backslashes", lambda key: key.replace("\\", "/")),
    ("upper and lower case", str.casefold),
    ("a / or ./ at the beginning", lambda key: key.removeprefix("./").lstrip("/")),
    ("the ending", _stem),
    ("zeros at the beginning", lambda key: key.lstrip("0")),
    ("quotes around it", lambda key: key.strip("'\"")),
    ("the encoding of URLs (%20)", unquote),
    ("the folders before the name", _name),
    ("the folders before the name and the ending", lambda key: _stem(_name(key))),
    ("a hash before the name", lambda key: _HASH.sub("", _name(key), count=1)),
    ("zeros at the beginning and the ending", lambda key: _stem(_name(key)).lstrip("0")),
    ("what comes before the number, and its zeros", lambda key: _number(_stem(_name(key)))),
    ("several of case, folders, ending and Unicode's form", lambda key: _stem(_name(_plain(key))).strip()),
)


def _plain(key: str) -> str:
    return unicodedata.normalize("NFKC", key).casefold()


def width(text: str) -> int:
    """How many columns of a terminal a text takes: two for a wide character, none for a mark on another."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def normal(text: str) -> str:
    """Return a name as it is compared and stored: without outer blanks, in Unicode's form NFC."""
    text = text.strip()
    return text if text.isascii() else unicodedata.normalize("NFC", text)
