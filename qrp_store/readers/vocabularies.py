"""Vocabularies of zero-shot experts: `concept[,group]` a line, in a file of the user's or one that is shipped."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from qrp_store.errors import InvalidInput, NotFound, near_names
from qrp_store.readers.labels.rows import Source, Term
from qrp_store.readers.labels.text_tables import encoding_of, not_utf8
from qrp_store.samples import key_problem, normal, shown

_ENDING = ".txt"


@dataclass(frozen=True)
class Shipped:
    """A vocabulary that comes with this package."""

    name: str
    about: str
    source: str
    licence: str
    terms: tuple[Term, ...]


def read_vocabulary(name: str) -> tuple[Term, ...]:
    """Return the concepts of a file, or of the shipped vocabulary of that name, each with its group or None.

    Blank lines and lines that begin with # are left out, and so is a header `concept,group`. A concept with a comma is
    quoted. Raises NotFound and InvalidInput, with the line.
    """
    path = Path(name).expanduser()
    if path.is_file():
        try:
            text = path.read_text(encoding_of(path))
        except UnicodeError as error:
            raise not_utf8(Source(path)) from error
        except OSError as error:
            raise InvalidInput(f"{path}: cannot be read ({error.strerror or error})") from error
        return _terms(name, text)
    known = _names()
    if name not in known:
        hint = near_names(name, sorted(known), "qrp-store ls vocabularies")
        raise NotFound(f"--vocabulary {name}: no such file, and no such vocabulary is shipped", hint=hint)
    return shipped(name).terms


def shipped(name: str) -> Shipped:
    """Return a shipped vocabulary with its source and licence, which its first lines hold."""
    text = _names()[name].read_text(encoding="utf-8")
    head = dict(line[2:].split(": ", 1) for line in text.splitlines() if line.startswith("# "))
    return Shipped(name, head["about"], head["source"], head["licence"], _terms(name, text))


def all_shipped() -> list[Shipped]:
    """Return every shipped vocabulary, by name."""
    return [shipped(name) for name in sorted(_names())]


def _names() -> dict[str, Traversable]:
    folder = files("qrp_store.readers") / "words"
    return {file.name.removesuffix(_ENDING): file for file in folder.iterdir() if file.name.endswith(_ENDING)}


def _terms(name: str, text: str) -> tuple[Term, ...]:
    lines = text.splitlines()
    terms: dict[Term, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            (cells,) = csv.reader([line], strict=True)
        except (csv.Error, ValueError) as error:
            raise InvalidInput(f"{name}: line {number} is not concept[,group] ({error})") from error
        concept, group = normal(cells[0]), normal(cells[1]) if cells[1:] else ""
        if not terms and (concept.lower(), group.lower()) == ("concept", "group"):
            continue
        problem = "has more than two cells" if len(cells) > 2 else key_problem(concept)
        if problem is not None:
            raise InvalidInput(
                f"{name}: line {number}: {shown(line)}: {problem}",
                hint='concept[,group] a line; a concept with a comma in quotes: "salt, sea"',
            )
        term = concept, group or None
        if term in terms:
            raise InvalidInput(
                f"{name}: line {number}: {shown(concept)} is also on line {terms[term]}", hint="remove one of them"
            )
        terms[term] = number
    if not terms:
        raise InvalidInput(f"{name}: holds no concepts", hint="concept[,group] a line")
    return tuple(terms)
