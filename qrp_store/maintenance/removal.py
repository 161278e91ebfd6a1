"""verify, rm and migrate: check the store, retire artifacts, upgrade the schema."""

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
    """Number of checked items by kind, and every problem.

    `unnamed` counts arrays that no row of the catalog names, with their objects and bytes. They are no damage; `gc`
    deletes them. `foreign` counts objects below the arrays' root that this package does not write.
    """

    checked: dict[str, int]
    problems: tuple[dict[str, str], ...]
    deep: bool
    unnamed: dict[str, int]
    foreign: int


@dataclass(frozen=True)
class MigrateReport:
    """The schema's revision before and after; `uuid` is the store's new identity, if it got one."""

    store: str
    before: str | None
    after: str
    uuid: str | None = None


@dataclass(frozen=True)
class RetireReport:
    """Ids of the retired artifacts."""

    retired: tuple[str, ...]


@takes(VerifyOptions)
def verify(store: Store, *, deep: bool = False, progress: Progress = silent) -> VerifyReport:
    """Check that blocks and arrays of every ready artifact exist with the right size, and count its rows.

    `deep` also reads every byte and row and compares checksums.
    """
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
    """Retire an artifact, dataset or backbone (`cascade`: with everything made from it). Requires `yes`.

    `gc` deletes the keys of a retired dataset. The name of a retired dataset or backbone can be used again.
    """
    artifact = references.resolve(store.catalog, reference)
    if artifact.state != "ready":
        raise InvalidInput(f"{artifact.id} is retired already")
    users = promises.dependants(store.catalog, artifact)
    if users and not cascade:
        shown = ", ".join(f"{identifier} ({name})" for identifier, _, name in users[:8])
        raise InvalidInput(
            f"{len(users)} artifacts were made from {artifact.id}: {shown}", hint="--cascade retires them too"
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
    """Bring a store's schema up to date; `check` changes nothing and raises SchemaMismatch if it is not.

    `new_identity` then makes a copied catalog and its copied `arrays` an independent store (see `give_new_identity`).
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
    """Record row checksums of artifacts from versions without them; return the number of artifacts."""
    catalog = schema.open_catalog(location)
    try:
        return checksums.fill(catalog)
    finally:
        catalog.close()
