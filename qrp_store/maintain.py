"""A store's upkeep: is what the catalog promises there (verify), and what may go (rm, gc)."""

from __future__ import annotations

from dataclasses import dataclass

from qrp_store.arrays import arrays
from qrp_store.catalog import embeddings, references, schema, upkeep
from qrp_store.errors import Corrupt, InvalidInput
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
    problems: list[dict[str, str]] = []
    checked: dict[str, int] = {}
    found = list(upkeep.ready(store.catalog))
    with progress.task("verify", len(found), "artifacts") as task:
        for row in found:
            checked[row["kind"]] = checked.get(row["kind"], 0) + 1
            wrong = [
                f"{c.found} {c.what} instead of {c.expected}"
                for c in upkeep.counts(store.catalog, row["pk"], row["kind"])
                if c.found != c.expected
            ]
            if row["kind"] == "embedding":
                wrong += _blocks(store, row["id"], deep, checked)
            for path, checksum in upkeep.saved_arrays(store.catalog, row["pk"], row["kind"]):
                try:
                    arrays.load_array(store.arrays, path, checksum)
                except Corrupt as error:
                    wrong.append(error.message)
            problems += [{"id": row["id"], "kind": row["kind"], "name": row["name"], "problem": w} for w in wrong]
            task.advance()
    return VerifyReport(checked, tuple(problems), deep)


def _blocks(store: Store, identifier: str, deep: bool, checked: dict[str, int]) -> list[str]:
    stored = embeddings.by_id(store.catalog, identifier)
    wrong = []
    known = {b.index: b for b in stored.blocks}
    for number in range(stored.array.n_blocks):
        checked["block"] = checked.get("block", 0) + 1
        block = known.get(number)
        if block is None:
            wrong.append(f"block {number} is not in the catalog")
            continue
        said = arrays.verify_block(store.arrays, stored.array, block, deep)
        if said is not None:
            wrong.append(f"block {number} {said}")
    if not store.arrays.exists(f"{stored.array.path}/zarr.json"):
        wrong.append("its zarr.json is missing")
    return wrong


def gc(store: Store, *, dry_run: bool = False) -> GcReport:
    """Delete what no ready artifact needs: the content of retired artifacts (results leave a tombstone), what failed
    or was abandoned more than a day ago, and objects that no artifact owns. What a live lease writes stays."""
    rows = objects = size = 0
    gone: list[str] = []
    # Objects first: an artifact's row is there before its first object, so none of a newcomer's can be taken.
    present = list(store.arrays.list(""))
    survey = upkeep.survey(store.catalog)
    owned = {f"{kept.kind}/{kept.id}" for kept in survey if kept.fate == "keep"}
    for kept in survey:
        if kept.fate == "keep":
            continue
        if kept.fate == "forget" or any(path.startswith(f"{kept.kind}/{kept.id}/") for path in present):
            gone.append(kept.id)
        if not dry_run:
            rows += upkeep.remove_rows(store.catalog, kept)
    for path in present:
        owner = "/".join(path.split("/")[:2])
        if path.count("/") < 2 or owner in owned:
            continue
        objects += 1
        size += store.arrays.size(path)
        if not dry_run:
            store.arrays.delete(path)
    if not dry_run:
        size += store.arrays.sweep(upkeep.GRACE_SECONDS)
    rows += upkeep.remove_staged(store.catalog, dry_run=dry_run)
    return GcReport(dry_run, tuple(gone), rows, objects, size)


def retire(store: Store, reference: str, *, cascade: bool = False, yes: bool = False) -> RetireReport:
    """Make an artifact (`cascade`: and everything made from it) show no more. Nothing happens without `yes`."""
    found = references.resolve(store.catalog, reference)
    if found.kind in ("dataset", "backbone"):
        raise InvalidInput(f"{reference!r} is a {found.kind}", hint="retire its embeddings: qrp-store ls embeddings")
    if found.state != "ready":
        raise InvalidInput(f"{found.id} is retired already")
    users = upkeep.dependants(store.catalog, found.id)
    if users and not cascade:
        shown = ", ".join(f"{identifier} ({name})" for identifier, _, name in users[:8])
        raise InvalidInput(f"{len(users)} things were made from {found.id}: {shown}", hint="--cascade retires them too")
    wanted = [*(identifier for identifier, _, _ in users), found.id]
    if not yes:
        raise InvalidInput(f"this would retire {', '.join(wanted)}", hint="--yes does it")
    upkeep.retire(store.catalog, wanted)
    return RetireReport(tuple(wanted))


def migrate(store: str | None = None, *, check: bool = False) -> MigrateReport:
    """Bring a store's schema up to date; `check` only looks and raises SchemaMismatch when it is not."""
    location = resolve(store)
    before, after = schema.migrate(location, check=check)
    return MigrateReport(location.name, before, after)
