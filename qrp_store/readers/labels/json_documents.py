"""Large JSON documents, streamed: bounded in depth before anything is parsed, and read although they hold NaN."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import IO, Any

import numpy as np

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.rows import Source
from qrp_store.readers.labels.text_tables import not_utf8

MAX_DEPTH = 500
"""Published layouts nest about ten deep; the parser's memory grows with the square of the depth."""
_CHUNK = 1 << 20
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.S)
_REST = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*"', re.S)
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*("|\\?\Z)|-?Infinity|NaN', re.S)
_CUT_WORD = re.compile(rb"-?[A-Za-z]*\Z")
_NOT_BRACKETS = bytes(sorted(set(range(256)) - set(b"[]{}")))
_STEP = np.zeros(256, np.int64)
_STEP[[ord("["), ord("{")]] = 1
_STEP[[ord("]"), ord("}")]] = -1
_NAN = (b"NaN", b"Infinity")


@contextmanager
def opened(source: Source) -> Iterator[IO[bytes]]:
    """Open a JSON document at its first character. Raises InvalidInput for UTF-16."""
    with source.path.open("rb") as file:
        start = file.read(4)
        if b"\0" in start or start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise not_utf8(source)
        file.seek(len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0)
        yield file


class Document:
    """A JSON document whose nesting was checked. Raises InvalidInput when it is deeper than `MAX_DEPTH`."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._has_nan = _check_depth(source)

    def items(self, prefix: str) -> Iterator[Any]:
        """Yield the elements at a place of the document, one after the other. Raises InvalidInput."""
        import ijson

        with opened(self.source) as file:
            try:
                yield from ijson.items(self._readable(file), prefix, use_float=True)
            except (ijson.JSONError, UnicodeDecodeError) as error:
                raise not_json(self.source, error) from error

    def pairs(self, prefix: str) -> Iterator[tuple[str, Any]]:
        """Yield the names and values of an object at a place of the document. Raises InvalidInput."""
        import ijson

        with opened(self.source) as file:
            try:
                yield from ijson.kvitems(self._readable(file), prefix, use_float=True)
            except (ijson.JSONError, UnicodeDecodeError) as error:
                raise not_json(self.source, error) from error

    def start(self, events: int) -> list[tuple[str, Any]]:
        """Return the first events of the document, at most so many: `start_map`, `map_key`, … Raises InvalidInput."""
        import ijson

        with opened(self.source) as file:
            try:
                first = list(islice(ijson.basic_parse(self._readable(file), use_float=True), events))
            except (ijson.JSONError, UnicodeDecodeError) as error:
                raise not_json(self.source, error) from error
        if not first:
            raise not_json(self.source, ValueError("it is empty"))
        return first

    def holds(self, text: bytes) -> bool:
        """Return whether the document's bytes hold a text."""
        before = b""
        with self.source.path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                if text in before + chunk:
                    return True
                before = chunk[-len(text) :]
        return False

    def _readable(self, file: IO[bytes]) -> Any:
        return _WithoutNaN(file) if self._has_nan else file


class _WithoutNaN:
    """A JSON document with null in place of NaN and infinities, which Python's json writes and others refuse."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._held = b""  # the start of a word that a chunk cut
        self._open = self._escaped = False

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, whatever `size` is but 0; b"" at the end."""
        while size:
            chunk = self._file.read(_CHUNK)
            if not chunk:
                held, self._held = self._held, b""
                return held
            before = b""
            if self._open:
                rest = _REST.match(chunk, 1 if self._escaped else 0)
                if rest is None:
                    self._escaped = _ends_escaped(chunk[1 if self._escaped else 0 :])
                    return chunk
                before, chunk, self._open = chunk[: rest.end()], chunk[rest.end() :], False
            text = _TOKEN.sub(self._replaced, self._held + chunk)
            self._held = b""
            if not self._open:
                cut = _CUT_WORD.search(text)
                end = len(text) if cut is None else cut.start()
                text, self._held = text[:end], text[end:]
            if before or text:
                return before + text
        return b""

    def _replaced(self, match: re.Match[bytes]) -> bytes:
        text = match[0]
        if not text.startswith(b'"'):
            return b"null"
        if match[1] != b'"':
            self._open, self._escaped = True, _ends_escaped(text)
        return text


def _check_depth(source: Source) -> bool:
    """Return whether NaN or an infinity appears outside text. Raises InvalidInput for too deep a document."""
    depth, open_text, escaped, has_nan, tail = 0, False, False, False, b""
    with opened(source) as file:
        while chunk := file.read(_CHUNK):
            if open_text:
                rest = _REST.match(chunk, 1 if escaped else 0)
                if rest is None:
                    escaped = _ends_escaped(chunk[1 if escaped else 0 :])
                    continue
                chunk, open_text = chunk[rest.end() :], False
            outside, quote, cut = _STRING.sub(b"", chunk).partition(b'"')
            if quote:
                open_text, escaped = True, _ends_escaped(cut)
            has_nan = has_nan or any(word in tail + outside for word in _NAN)
            tail = (tail + outside)[-8:]
            steps = _STEP[np.frombuffer(outside.translate(None, _NOT_BRACKETS), np.uint8)]
            if len(steps):
                depths = depth + np.cumsum(steps)
                if depths.max() > MAX_DEPTH:
                    raise InvalidInput(
                        f"{source}: nests more than {MAX_DEPTH} objects and lists in one another",
                        hint="no layout of labels nests that deep; is this file from a trustworthy source?",
                    )
                depth = int(depths[-1])
    return has_nan


def _ends_escaped(text: bytes) -> bool:
    return (len(text) - len(text.rstrip(b"\\"))) % 2 == 1


def not_json(source: Source, error: Exception) -> InvalidInput:
    """Return the error for a file that is not JSON."""
    reason = (str(error) or "it is empty").splitlines()[0]
    return InvalidInput(f"{source}: not JSON, or damaged ({reason})")
