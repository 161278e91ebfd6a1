"""Is what the catalog promises there? Every block, array and row of a ready artifact, each problem by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qrp_store.arrays import blocked as arrays
from qrp_store.catalog.entities import embeddings
from qrp_store.catalog.lifecycle import retire
from qrp_store.errors import Corrupt, NotFound
from qrp_store.progress import Progress
from qrp_store.store import Store

ROWS, METADATA = "rows", "zarr.json"


@dataclass(frozen=True)
class Damage:
    """Something that is not as promised. `part`: `block N`, `zarr.json`, an array's name, or `rows` of the catalog."""

    id: str
    kind: str
    name: str
    part: str
    problem: str

    @property
    def block(self) -> int | None:
        """The block's number, when it is one."""
        word, _, number = self.part.partition(" ")
        return int(number) if word == "block" else None


def examine(store: Store, deep: bool, progress: Progress) -> tuple[dict[str, int], list[Damage]]:
    """How much was looked at, by kind, and what is wrong. `deep` reads every byte of every block."""
    found: list[Damage] = []
    checked: dict[str, int] = {}
    ready = list(retire.ready(store.catalog))
    with progress.task("verify", len(ready), "artifacts") as task:
        for row in ready:
            checked[row["kind"]] = checked.get(row["kind"], 0) + 1
            try:
                problems = [*_rows(store, row), *_arrays(store, row)]
                if row["kind"] == "embedding":
                    problems += _blocks(store, row["id"], deep, checked)
            except NotFound:
                if retire.is_ready(store.catalog, row["pk"]):
                    raise
                problems = []
            if problems and not retire.is_ready(store.catalog, row["pk"]):
                problems = []  # retired meanwhile, and collected
            found += [Damage(row["id"], row["kind"], row["name"], part, problem) for part, problem in problems]
            task.advance()
    return checked, found


def _rows(store: Store, row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for count in retire.counts(store.catalog, row["pk"], row["kind"]):
        if count.found != count.expected:
            yield ROWS, f"{count.found} {count.what} instead of {count.expected}"


def _arrays(store: Store, row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for path, checksum in retire.saved_arrays(store.catalog, row["pk"], row["kind"]):
        try:
            arrays.load_array(store.arrays, path, checksum)
        except Corrupt as error:
            yield path.rpartition("/")[2], error.message


def _blocks(store: Store, identifier: str, deep: bool, checked: dict[str, int]) -> Iterator[tuple[str, str]]:
    stored = embeddings.by_id(store.catalog, identifier)
    known = {b.index: b for b in stored.blocks}
    for number in range(stored.array.n_blocks):
        checked["block"] = checked.get("block", 0) + 1
        block = known.get(number)
        said = (
            "is not in the catalog" if block is None else arrays.verify_block(store.arrays, stored.array, block, deep)
        )
        if said is not None:
            yield f"block {number}", f"block {number} {said}"
    layout = arrays.layout_problem(store.arrays, stored.array)
    if layout is not None:
        yield METADATA, f"its zarr.json {layout}"
