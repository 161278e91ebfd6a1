"""gc: delete what no ready artifact needs, and nothing else.

An object is deleted only if its path has the form that this package writes, and if the root belongs to this catalog.
In addition its artifact must be retired or abandoned, or no row names it and it is older than a day. Other objects
below the root are foreign and stay.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from qrp_store.arrays import root as roots
from qrp_store.arrays.layout import artifact_folder, is_probe
from qrp_store.arrays.root import Entry
from qrp_store.catalog.database import schema
from qrp_store.catalog.lifecycle import identity
from qrp_store.catalog.lifecycle import retire as promises
from qrp_store.errors import InvalidInput, NotFound
from qrp_store.options import GcOptions, takes
from qrp_store.store import Store, belongs_here


@dataclass(frozen=True)
class GcReport:
    """What gc deleted, or would delete (dry run). `bytes` is the size of the stored objects."""

    dry_run: bool
    artifacts: tuple[str, ...]
    rows: int
    objects: int
    bytes: int


@dataclass(frozen=True)
class Listed:
    """The objects below an arrays' root: of artifacts by KIND/ID, of `doctor`, and the number of foreign objects."""

    artifacts: dict[str, list[Entry]]
    probes: list[Entry]
    foreign: int

    def unnamed(self, store: Store) -> dict[str, list[Entry]]:
        """Return the objects whose artifact has no row in the catalog.

        List the objects before the rows: an artifact's row is written before its objects.
        """
        known = promises.folders(store.catalog)
        return {folder: entries for folder, entries in self.artifacts.items() if folder not in known}


def list_objects(store: Store) -> Listed:
    """Return the objects below the root, sorted by owner."""
    artifacts: dict[str, list[Entry]] = {}
    probes: list[Entry] = []
    foreign = 0
    for entry in store.arrays.entries(""):
        folder = None if entry.link else artifact_folder(entry.path)
        if folder is not None:
            artifacts.setdefault(folder, []).append(entry)
        elif is_probe(entry.path) and not entry.link:
            probes.append(entry)
        elif entry.path != roots.IDENTITY:
            foreign += 1
    return Listed(artifacts, probes, foreign)


@takes(GcOptions)
def gc(store: Store, *, dry_run: bool = False) -> GcReport:
    """Delete what no ready artifact needs.

    That is the content of retired artifacts (results leave a tombstone), artifacts that failed or were abandoned more
    than a day ago, and objects of that age that no row names. Artifacts under a live lease stay. Raise InvalidInput,
    and delete nothing, if the arrays belong to another copy of this catalog.
    """
    require_sole_catalog(store, claim=not dry_run)
    # Objects before rows: a new artifact's row is written before its objects, so none of them is taken for unnamed.
    present = list_objects(store)
    abandoned = _abandoned(store, present)
    survey = promises.survey(store.catalog)
    deletion = _Deletion(store, dry_run)
    # First the objects that no process can resume: on a full disk the catalog needs that space to write.
    deletion.drop(abandoned)
    for kept in survey:
        if kept.fate == "collect":
            deletion.drop(present.artifacts.get(f"{kept.kind}/{kept.id}", ()))
    rows, removed = 0, []
    for kept in survey:
        if kept.fate == "keep":
            continue
        entries = present.artifacts.get(f"{kept.kind}/{kept.id}", [])
        if kept.fate == "forget":
            if not dry_run and not promises.condemn(store.catalog, kept):
                continue
            deletion.drop(entries)
        if kept.fate == "forget" or entries:
            removed.append(kept.id)
        rows += promises.remove_rows(store.catalog, kept, dry_run=dry_run)
    size = deletion.bytes + (0 if dry_run else store.arrays.sweep(promises.GRACE_SECONDS))
    rows += promises.remove_staged(store.catalog, dry_run=dry_run)
    return GcReport(dry_run, tuple(removed), rows, deletion.objects, size)


def _abandoned(store: Store, present: Listed) -> list[Entry]:
    """Return the objects that no row names and that are older than a day, by this clock and by the database's.

    Raise InvalidInput if some are newer than the catalog's last change: their rows are in another catalog.
    """
    unnamed = [entry for entries in present.unnamed(store).values() for entry in entries]
    document = roots.read_document(store.arrays) or {}
    changed = max(identity.last_change(store.catalog), float(document.get("taken_over_at", 0)))
    newer = [entry for entry in unnamed if entry.modified > changed]
    if newer:
        newest = max(newer, key=lambda entry: entry.modified)
        raise InvalidInput(
            f"nothing was deleted: {len(newer)} objects below {store.arrays.url} are newer than the last change of "
            f"{store.name} ({_date(changed)}) and no row names them: {newest.path} is of {_date(newest.modified)}. "
            "Another catalog with the same store UUID writes there",
            hint="delete with that catalog; qrp-store migrate --new-identity makes this copy an independent store; "
            "when the other catalog is gone (a backup was restored): qrp-store init --adopt, then gc a day later",
        )
    now = min(time.time(), identity.clock(store.catalog))
    oldest = float(document.get("adopted_at", 0))  # objects older than the store are foreign
    unnamed += present.probes
    return [e for e in unnamed if e.modified >= oldest and now - e.modified > promises.GRACE_SECONDS]


def require_sole_catalog(store: Store, *, claim: bool) -> None:
    """Raise InvalidInput if the arrays belong to another copy of this catalog; `claim` records that they belong here.

    A moved store keeps its arrays; a copied catalog does not get the arrays of its original.
    """
    if belongs_here(store.location, store.arrays.url):
        return
    document = roots.read_document(store.arrays) or {}
    place, recorded = identity.place_of(store.catalog), document.get("catalog")
    if recorded == place:
        return
    other = _other_catalog(store, recorded)
    if other is not None:
        raise InvalidInput(
            f"nothing was deleted: the arrays at {store.arrays.url} belong to the catalog in {other}, and {store.name} "
            "is a copy of it",
            hint="copy the arrays too, then qrp-store migrate --new-identity --arrays THE_COPY makes it an "
            "independent store; when the other catalog is gone: qrp-store init --adopt",
        )
    if claim:
        roots.write_document(store.arrays, {**document, "catalog": place})


def _other_catalog(store: Store, recorded: object) -> str | None:
    """Return the place of the catalog that owns the root, if that is (or may be) another catalog."""
    local = not store.arrays.url.startswith("s3://")
    neighbour = _same_store(Path(store.arrays.url).parent, store) if local else None
    if neighbour is not None or recorded is None:  # a root of an older version records none
        return neighbour
    place = str(recorded)
    if store.location.directory is None or place.startswith("postgresql") or not local:
        return place
    return _same_store(Path(place), store)


def _same_store(folder: Path, store: Store) -> str | None:
    """Return the folder if it holds another catalog of this store."""
    from qrp_store.settings import resolve

    file, directory = folder / "catalog.db", store.location.directory
    if not file.is_file() or (directory is not None and file.samefile(directory / "catalog.db")):
        return None
    try:
        row = schema.peek(resolve(str(folder)))
    except Exception:  # a damaged or newer catalog: it may be this store's
        return str(folder)
    return str(folder) if row is not None and row.uuid == schema.store_row(store.catalog).uuid else None


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@dataclass
class _Deletion:
    """Deletes objects and counts them; a dry run only counts."""

    store: Store
    dry_run: bool
    objects: int = 0
    bytes: int = 0

    def drop(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            try:
                self.bytes += self.store.arrays.size(entry.path)
            except NotFound:  # another gc has deleted it
                continue
            self.objects += 1
            if not self.dry_run:
                self.store.arrays.delete(entry.path)
