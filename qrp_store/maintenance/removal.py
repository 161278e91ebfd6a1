"""A store's upkeep: is what the catalog promises there (verify), and what may go (rm, gc)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qrp_store.catalog.database import schema
from qrp_store.catalog.lifecycle import retire as promises
from qrp_store.catalog.overview import references
from qrp_store.errors import InvalidInput, NotFound
from qrp_store.maintenance.integrity import examine
from qrp_store.progress import Progress, silent
from qrp_store.settings import resolve
from qrp_store.store import Store


@dataclass(frozen=True)
class VerifyReport:
    """What was checked, counted by kind, and everything that is wrong."""

    checked: dict[str, int]
    problems: tuple[dict[str, str], ...]
    deep: bool


@dataclass(frozen=True)
class GcReport:
    """What gc deleted, or (dry run) would delete. `bytes` counts stored objects."""

    dry_run: bool
    artifacts: tuple[str, ...]
    rows: int
    objects: int
    bytes: int


@dataclass(frozen=True)
class MigrateReport:
    """The schema's revision before and now."""

    store: str
    before: str | None
    after: str


@dataclass(frozen=True)
class RetireReport:
    """What no longer shows."""

    retired: tuple[str, ...]


def verify(store: Store, *, deep: bool = False, progress: Progress = silent) -> VerifyReport:
    """Check every ready artifact: its blocks and arrays are there with their size (`deep`: every byte is read and
    its checksum compared), its rows are as many as promised."""
    checked, found = examine(store, deep, progress)
    problems = tuple({"id": d.id, "kind": d.kind, "name": d.name, "problem": d.problem} for d in found)
    return VerifyReport(checked, problems, deep)


def gc(store: Store, *, dry_run: bool = False) -> GcReport:
    """Delete what no ready artifact needs: the content of retired artifacts (results leave a tombstone), what failed
    or was abandoned more than a day ago, and objects that no artifact owns. What a live lease writes stays."""
    # Objects first: an artifact's row is there before its first object, so none of a newcomer's can be taken.
    present: dict[str, list[str]] = {}
    for path in store.arrays.list(""):
        if path.count("/") >= 2:
            present.setdefault(_owner(path), []).append(path)
    survey = promises.survey(store.catalog)
    at = {f"{kept.kind}/{kept.id}": kept.fate for kept in survey}
    going = _Going(store, dry_run)
    # First what nobody can take up again: where a disk is full, the catalog needs its room to write anything.
    for owner, paths in present.items():
        if at.get(owner) in (None, "collect"):
            going.drop(paths)
    rows, gone = 0, []
    for kept in survey:
        if kept.fate == "keep":
            continue
        own = present.get(f"{kept.kind}/{kept.id}", [])
        if kept.fate == "forget":
            if not dry_run and not promises.condemn(store.catalog, kept):
                continue
            going.drop(own)
        if kept.fate == "forget" or own:
            gone.append(kept.id)
        rows += promises.remove_rows(store.catalog, kept, dry_run=dry_run)
    size = going.bytes + (0 if dry_run else store.arrays.sweep(promises.GRACE_SECONDS))
    rows += promises.remove_staged(store.catalog, dry_run=dry_run)
    return GcReport(dry_run, tuple(gone), rows, going.objects, size)


def _owner(path: str) -> str:
    """KIND/ID of the artifact that an object would belong to."""
    return "/".join(path.split("/")[:2])


@dataclass
class _Going:
    """Objects that gc deletes (or, in a dry run, would), counted."""

    store: Store
    dry_run: bool
    objects: int = 0
    bytes: int = 0

    def drop(self, paths: Iterable[str]) -> None:
        for path in paths:
            try:
                self.bytes += self.store.arrays.size(path)
            except NotFound:  # another gc was faster
                continue
            self.objects += 1
            if not self.dry_run:
                self.store.arrays.delete(path)


def retire(store: Store, reference: str, *, cascade: bool = False, yes: bool = False) -> RetireReport:
    """Make a thing (`cascade`: and everything made from it) show no more. Nothing happens without `yes`.

    A retired dataset's keys are deleted by `gc`; a dataset or backbone of that name can be made anew.
    """
    found = references.resolve(store.catalog, reference)
    if found.state != "ready":
        raise InvalidInput(f"{found.id} is retired already")
    users = promises.dependants(store.catalog, found)
    if users and not cascade:
        shown = ", ".join(f"{identifier} ({name})" for identifier, _, name in users[:8])
        raise InvalidInput(f"{len(users)} things were made from {found.id}: {shown}", hint="--cascade retires them too")
    wanted = [*(identifier for identifier, _, _ in users), found.id]
    if not yes:
        raise InvalidInput(f"this would retire {', '.join(wanted)}", hint="--yes does it")
    promises.retire(store.catalog, wanted, found)
    return RetireReport(tuple(wanted))


def migrate(store: str | None = None, *, check: bool = False) -> MigrateReport:
    """Bring a store's schema up to date; `check` only looks and raises SchemaMismatch when it is not."""
    location = resolve(store)
    before, after = schema.migrate(location, check=check)
    return MigrateReport(location.name, before, after)
