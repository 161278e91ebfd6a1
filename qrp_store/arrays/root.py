"""What a place for arrays promises: write-once objects under relative paths, below one root."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from qrp_store.errors import Corrupt, InvalidInput, NotFound

IDENTITY = "qrp-store.json"
PARTIAL = ".partial-"
PIECE = 1 << 19  # bytes that are read and checked at a time
Bytes = bytes | memoryview


@dataclass(frozen=True)
class Entry:
    """One object in a listing. `modified`: seconds since 1970 on the clock of the storage; `link`: a symbolic link."""

    path: str
    size: int
    modified: float
    link: bool = False


class Root(Protocol):
    """Objects (bytes) under relative POSIX paths such as `embeddings/emb-1/vectors/c/0/0`.

    An object becomes visible whole or not at all and never changes afterwards. Every method may be called from
    several threads and processes at once. Making a Root touches nothing; writing makes what it needs.
    A path that is absolute or climbs (`..`) is InvalidInput; a store that refuses (full, no permission, gone) is
    Unavailable.
    """

    @property
    def url(self) -> str:
        """The root's URL or path, as a Zarr reader takes it."""
        ...

    def read_identity(self) -> str | None:
        """The store's UUID kept in the root, or None where none is. Corrupt when it cannot be understood."""
        ...

    def write_identity(self, uuid: str) -> None:
        """Mark the root as belonging to store `uuid`. InvalidInput when it belongs to another."""
        ...

    def put(self, path: str, *parts: Bytes, replace: bool = False, durable: bool = True) -> None:
        """Store `parts`, one after the other, as the object `path`; durable on return, or else after `sync`.

        The same bytes again are fine; other bytes under the same path are Corrupt, unless `replace`, which is for
        objects that nobody refers to yet (a block written, but not recorded, before a crash).
        """
        ...

    def sync(self, prefix: str) -> None:
        """Make the object `prefix`, or everything below the folder `prefix`, durable."""
        ...

    def get(self, path: str) -> bytes:
        """The object's bytes. NotFound when there is none."""
        ...

    def read_into(self, path: str, out: memoryview) -> Iterator[int]:
        """Fill `out` with the object's bytes, yielding after each piece how many there are so far.

        It ends early when the object is shorter, and with len(out) + 1 when it is longer. NotFound when there is none.
        """
        ...

    def read_ranges(self, path: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """The object's bytes [start, stop) of each span; shorter where the object ends. NotFound when there is none."""
        ...

    def size(self, path: str) -> int:
        """The object's length in bytes. NotFound when there is none."""
        ...

    def exists(self, path: str) -> bool: ...

    def list(self, prefix: str) -> Iterator[str]:
        """Paths of all objects below the folder `prefix` ("" for all), sorted; nothing when there is none."""
        ...

    def entries(self, prefix: str) -> Iterator[Entry]:
        """All objects below the folder `prefix` ("" for all) as they are listed, in no order."""
        ...

    def delete(self, prefix: str) -> None:
        """Remove the object `prefix` or everything below the folder `prefix`. Nothing there is fine."""
        ...

    def sweep(self, older_than_s: float) -> int:
        """Remove temporary files that writers of this package left that long ago; return their size in bytes."""
        ...

    def link(self, source: str, target: str, names: Iterable[str]) -> None:
        """Make objects `source/name` also appear as `target/name`, without moving data where that can be done."""
        ...


def checked_path(path: str) -> str:
    """The path, unless it is absolute, climbs, or has pieces that no object has (InvalidInput)."""
    pieces = path.split("/")
    if any(p in ("", ".", "..") or p.startswith(PARTIAL) for p in pieces) or re.search(r"[\\\0]", path):
        raise InvalidInput(f"{path!r} is not a path below the arrays' root")
    return path


def read_name(root: Root) -> str | None:
    """What `Root.read_identity` promises, for every kind of root."""
    document = read_document(root)
    return None if document is None else str(document["uuid"])


def read_document(root: Root) -> dict[str, Any] | None:
    """Everything that the root's `qrp-store.json` says, or None where there is none. `uuid` is always in it.

    `catalog`: the place of the catalog that these arrays belong to. `adopted_at`, `taken_over_at`: seconds since 1970
    when a root that was not empty, or one of another copy of the catalog, was taken.
    """
    try:
        text = root.get(IDENTITY)
    except NotFound:
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{root.url}/{IDENTITY}: not readable as JSON ({error})") from error
    if not isinstance(document, dict) or not isinstance(document.get("uuid"), str):
        raise Corrupt(f"{root.url}/{IDENTITY}: no store UUID in it")
    return document


def write_document(root: Root, document: Mapping[str, Any]) -> None:
    """Replace the root's `qrp-store.json`."""
    root.put(IDENTITY, json.dumps({"format": 1, **document}).encode() + b"\n", replace=True)


def write_name(root: Root, uuid: str) -> None:
    """What `Root.write_identity` promises, for every kind of root."""
    owner = root.read_identity()
    if owner is None:
        with suppress(Corrupt):  # somebody else was faster: the check below decides
            root.put(IDENTITY, json.dumps({"format": 1, "uuid": uuid}).encode() + b"\n")
        owner = root.read_identity()
    if owner != uuid:
        raise InvalidInput(
            f"{root.url} belongs to another store ({owner}, not {uuid})",
            hint="name another folder for this store's arrays",
        )
