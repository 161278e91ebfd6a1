"""verify, rm and migrate: check what the catalog promises, retire artifacts, renew the schema."""

from __future__ import annotations

from dataclasses import dataclass

from qrp_store.catalog.database import schema
from qrp_store.catalog.lifecycle import checksums
from qrp_store.catalog.lifecycle import retire as promises
from qrp_store.catalog.overview import references
from qrp_store.errors import InvalidInput
from qrp_store.maintenance.gc import list_objects
from qrp_store.maintenance.integrity import examine
from qrp_store.options import MigrateOptions, RetireOptions, VerifyOptions, takes
from qrp_store.progress import Progress, silent
from qrp_store.settings import Location, resolve
from qrp_store.store import Store, give_new_identity


@dataclass(frozen=True)
class VerifyReport:
    """What was checked, counted by kind, and everything that is wrong.

    `unnamed` counts arrays that no row of the catalog names, with their objects and bytes: no damage, `gc` deletes
    them. `foreign` counts objects below the arrays' root that no store writes.
    """

    checked: dict[str, int]
    problems: tuple[dict[str, str], ...]
    deep: bool
    unnamed: dict[str, int]
    foreign: int


@dataclass(frozen=True)
class MigrateReport:
    """The schema's revision before and now; `uuid` is the store's new one, if it got one."""

    store: str
    before: str | None
    after: str
    uuid: str | None = None


@dataclass(frozen=True)
class RetireReport:
    """What no longer shows."""

    retired: tuple[str, ...]


@takes(VerifyOptions)
def verify(store: Store, *, deep: bool = False, progress: Progress = silent) -> VerifyReport:
    """Check every ready artifact: its blocks and arrays are there with their size (`deep`: every byte is read and
    its checksum compared), its rows are as many as promised (`deep`: and those that were written)."""
    checked, damages = examine(store, deep, progress)
    if checked.unsealed:
        progress.note(
            f"{checked.unsealed} artifacts have no checksums of their rows yet: qrp-store migrate records them"
        )
    problems = tuple({"id": d.id, "kind": d.kind, "name": d.name, "problem": d.problem} for d in damages)
    present = list_objects(store)
    unnamed = present.unnamed(store)
    objects = [entry for entries in unnamed.values() for entry in entries]
    counts = {"arrays": len(unnamed), "objects": len(objects), "bytes": sum(entry.size for entry in objects)}
    return VerifyReport(checked.counts, problems, deep, counts, present.foreign)


@takes(RetireOptions)
def retire(store: Store, reference: str, *, cascade: bool = False, yes: bool = False) -> RetireReport:
    """Make a thing (`cascade`: and everything made from it) show no more. Nothing happens without `yes`.

    A retired dataset's keys are deleted by `gc`; a dataset or backbone of that name can be made anew.
    """
    artifact = references.resolve(store.catalog, reference)
    if artifact.state != "ready":
        raise InvalidInput(f"{artifact.id} is retired already")
    users = promises.dependants(store.catalog, artifact)
    if users and not cascade:
        shown = ", ".join(f"{identifier} ({name})" for identifier, _, name in users[:8])
        raise InvalidInput(
            f"{len(users)} things were made from {artifact.id}: {shown}", hint="--cascade retires them too"
        )
    retired = [*(identifier for identifier, _, _ in users), artifact.id]
    if not yes:
        raise InvalidInput(f"this would retire {', '.join(retired)}", hint="--yes does it")
    promises.retire(store.catalog, retired, artifact)
    return RetireReport(tuple(retired))


@takes(MigrateOptions)
def migrate(
    store: str | None = None, arrays: str | None = None, *, check: bool = False, new_identity: bool = False
) -> MigrateReport:
    """Bring a store's schema up to date; `check` only looks and raises SchemaMismatch when it is not.

    `new_identity` then makes a copied catalog, with the copied `arrays`, a store of its own (see `give_new_identity`).
    """
    if check and new_identity:
        raise InvalidInput("--check changes nothing, --new-identity does: name one of them")
    location = resolve(store)
    before, after = schema.migrate(location, check=check)
    if not check:
        fill_checksums(location)
    uuid = give_new_identity(store, arrays) if new_identity else None
    return MigrateReport(location.name, before, after, uuid)


def fill_checksums(location: Location) -> int:
    """Record checksums of the rows of artifacts that were made before there were any; returns how many."""
    catalog = schema.open_catalog(location)
    try:
        return checksums.fill(catalog)
    finally:
        catalog.close()
