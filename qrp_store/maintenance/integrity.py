"""Compare the store with its catalog: every block, array and row of a ready artifact, part by part.

An unreadable part is a problem like any other and does not stop the check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from qrp_store.arrays import blocked as arrays
from qrp_store.catalog.entities import datasets, embeddings
from qrp_store.catalog.lifecycle import checksums, retire
from qrp_store.errors import Busy, Corrupt, Interrupted, NotFound, QrpStoreError, Unavailable
from qrp_store.progress import Progress
from qrp_store.store import Store

ROWS, METADATA, TABLE = "rows", "zarr.json", "table "
Problem = tuple[str, str]  # the part, and what is wrong with it


@dataclass(frozen=True)
class Damage:
    """A damaged part.

    `kind` is a kind of artifact, or dataset, backbone, catalog. `part` is `block N`, `zarr.json`, the name of an array,
    `rows` (unreadable rows), `table NAME` (changed rows), `database`, `keys` or `spec`.
    """

    id: str
    kind: str
    name: str
    part: str
    problem: str

    @property
    def block(self) -> int | None:
        """Number of the damaged block; None for other parts."""
        word, _, number = self.part.partition(" ")
        return int(number) if word == "block" else None

    @property
    def table(self) -> str | None:
        """Name of the table with changed rows; None for other parts."""
        return self.part.removeprefix(TABLE) if self.part.startswith(TABLE) else None


@dataclass
class Checked:
    """Number of checked items by kind; `unsealed` artifacts are from versions without row checksums."""

    counts: dict[str, int]
    unsealed: int = 0


def examine(store: Store, deep: bool, progress: Progress) -> tuple[Checked, list[Damage]]:
    """Return the number of checked items and the damage. `deep` reads every byte of every block and every row."""
    checked, damages = Checked({}), []
    if deep:
        damages += _database(store) if store.catalog.sqlite else []
        damages += _datasets(store)
    ready = list(retire.ready(store.catalog))
    with progress.task("verify", len(ready), "artifacts") as task:
        for row in ready:
            checked.counts[row["kind"]] = checked.counts.get(row["kind"], 0) + 1
            problems = _artifact(store, row, deep, checked)
            if problems and not retire.is_ready(store.catalog, row["pk"]):
                problems = []  # retired meanwhile, and collected
            damages += [Damage(row["id"], row["kind"], row["name"], part, problem) for part, problem in problems]
            task.advance()
    if deep and not store.catalog.sqlite:  # Postgres counts the damaged pages that were read
        damages += _database(store)
    return checked, damages


def _artifact(store: Store, row: dict[str, Any], deep: bool, checked: Checked) -> list[Problem]:
    problems = _guarded(ROWS, lambda: _counts(store, row))
    if deep:
        known = {part for part, _ in problems}
        problems += [p for p in _guarded(ROWS, lambda: _tables(store, row, checked)) if p[0] not in known]
    problems += _guarded(ROWS, lambda: _arrays(store, row))
    if row["kind"] == "embedding":
        problems += _guarded(ROWS, lambda: _blocks(store, row["id"], deep, checked.counts))
    return list(dict.fromkeys(problems))


def _guarded(part: str, look: Callable[[], Iterable[Problem]]) -> list[Problem]:
    """Return the problems of a part; any exception of its reader becomes a problem."""
    problems: list[Problem] = []
    try:
        problems.extend(look())
    except (Unavailable, Busy, Interrupted):
        raise
    except Exception as error:
        message = error.message if isinstance(error, QrpStoreError) else f"{type(error).__name__}: {error}"
        problems.append((part, f"cannot be read: {' '.join(message.split())[:300]}"))
    return problems


def _database(store: Store) -> list[Damage]:
    """Return damage that the database itself finds."""
    catalog = store.catalog
    problems = _guarded("database", lambda: (("database", p) for p in checksums.database_problems(catalog)))
    return [Damage("catalog", "catalog", catalog.name, part, problem) for part, problem in problems]


def _datasets(store: Store) -> list[Damage]:
    """Return damage of the datasets' keys and of the backbones' specifications."""
    catalog = store.catalog
    try:
        held = datasets.every(catalog)
        known = datasets.every_backbone(catalog)
    except QrpStoreError as error:
        return [Damage("catalog", "catalog", catalog.name, "rows", error.message)]
    damages = []
    for dataset in held:
        for part, problem in _guarded("keys", partial(_keys, store, dataset)):
            damages.append(Damage(dataset.id, "dataset", dataset.name, part, problem))
    damages += [Damage(of, "backbone", name, "spec", problem) for of, name, problem in known if problem is not None]
    return damages


def _keys(store: Store, dataset: Any) -> Iterator[Problem]:
    try:
        keys = datasets.keys(store.catalog, dataset)
    except Corrupt as error:
        yield "keys", error.message
        return
    except NotFound:  # retired meanwhile
        return
    if len(keys) != dataset.n:
        yield "keys", f"{len(keys)} keys instead of {dataset.n}"


def _counts(store: Store, row: dict[str, Any]) -> Iterator[Problem]:
    for count in retire.counts(store.catalog, row["pk"], row["kind"]):
        if count.found != count.expected:
            yield f"{TABLE}{count.table}", f"{count.found} {count.what} instead of {count.expected}"


def _tables(store: Store, row: dict[str, Any], checked: Checked) -> Iterator[Problem]:
    differing = checksums.differences(store.catalog, row["pk"])
    if differing is None:
        checked.unsealed += 1
        return
    for table, problem in differing.items():
        yield f"{TABLE}{table}", problem


def _arrays(store: Store, row: dict[str, Any]) -> Iterator[Problem]:
    for path, checksum in retire.saved_arrays(store.catalog, row["pk"], row["kind"]):
        name = path.rpartition("/")[2]
        yield from _guarded(name, partial(_array, store, path, checksum, name))


def _array(store: Store, path: str, checksum: str, name: str) -> Iterator[Problem]:
    try:
        arrays.load_array(store.arrays, path, checksum)
    except Corrupt as error:
        yield name, error.message


def _blocks(store: Store, identifier: str, deep: bool, checked: dict[str, int]) -> Iterator[Problem]:
    stored = embeddings.by_id(store.catalog, identifier)
    known = {b.index: b for b in stored.blocks}
    for number in range(stored.array.n_blocks):
        checked["block"] = checked.get("block", 0) + 1
        block = known.get(number)
        if block is None:
            yield f"block {number}", f"block {number} is not in the catalog"
            continue
        part = f"block {number}"
        yield from _guarded(part, partial(_block, store, stored.array, block, part, deep))
    yield from _guarded(METADATA, lambda: _layout(store, stored.array))


def _block(store: Store, array: Any, block: Any, part: str, deep: bool) -> Iterator[Problem]:
    problem = arrays.verify_block(store.arrays, array, block, deep)
    if problem is not None:
        yield part, f"{part} {problem}"


def _layout(store: Store, array: Any) -> Iterator[Problem]:
    problem = arrays.layout_problem(store.arrays, array)
    if problem is not None:
        yield METADATA, f"its zarr.json {problem}"
