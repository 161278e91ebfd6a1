"""XML documents, element by element: without a tree in memory, entities, or anything outside the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from qrp_store.errors import InvalidInput

_DEPTH = 100
_TEXT = 1 << 16
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Element:
    """The start of an element (`text` None) or its end: the names from the root to it, its attributes, its text."""

    place: tuple[str, ...]
    attributes: Mapping[str, str]
    text: str | None = None


def elements(path: Path) -> Iterator[Element]:
    """Yield the start and the end of every element, in order.

    Raises InvalidInput for a document that is damaged, declares entities, or nests more than 100 deep.
    """
    parser = expat.ParserCreate()
    open_elements: list[tuple[str, Mapping[str, str], list[str]]] = []
    ready: list[Element] = []

    def refuse(reason: str) -> NoReturn:
        raise InvalidInput(f"{path}: line {parser.CurrentLineNumber}: {reason}")

    def place() -> tuple[str, ...]:
        return tuple(name for name, _, _ in open_elements)

    def on_start(name: str, attributes: dict[str, str]) -> None:
        if len(open_elements) == _DEPTH:
            refuse(f"nests more than {_DEPTH} elements in one another")
        open_elements.append((name, attributes, []))
        ready.append(Element(place(), attributes))

    def on_text(text: str) -> None:
        if open_elements and sum(map(len, open_elements[-1][2])) < _TEXT:
            open_elements[-1][2].append(text)

    def on_end(_: str) -> None:
        position = place()
        _, attributes, texts = open_elements.pop()
        ready.append(Element(position, attributes, "".join(texts)))

    def on_entity(*_: object) -> None:
        refuse("declares an entity, which label files do not need")

    parser.StartElementHandler, parser.EndElementHandler = on_start, on_end
    parser.CharacterDataHandler, parser.EntityDeclHandler = on_text, on_entity
    parser.buffer_text = True
    try:
        with path.open("rb") as file:
            while True:
                chunk = file.read(_CHUNK)
                parser.Parse(chunk, not chunk)
                yield from ready
                ready.clear()
                if not chunk:
                    return
    except expat.ExpatError as error:
        raise InvalidInput(f"{path}: not XML, or damaged ({error})") from error
