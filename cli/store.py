"""init, migrate, copy, verify, repair, rm, gc: maintain a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from qrp_store.options import (
    CopyOptions,
    GcOptions,
    InitOptions,
    MigrateOptions,
    RepairOptions,
    RetireOptions,
    VerifyOptions,
    WaitOptions,
)

from . import output
from .completion import anything
from .session import Session, command

if TYPE_CHECKING:
    from qrp_store.maintenance.copy import CopyReport

_FEW = 20  # rows that a person still reads


def register(app: typer.Typer) -> None:
    command(app, "init", example="qrp-store init --store qrp-data")(init)
    command(app, "migrate", example="qrp-store migrate --check")(migrate)
    command(app, "verify", example="qrp-store verify --deep")(verify)
    command(app, "copy", example="qrp-store copy res-7f3a9c21 --to postgresql://lab@db.example.org/qrp")(copy)
    command(app, "rm", example="qrp-store rm efficientnet-lite0@1 --cascade --yes")(remove)
    command(app, "repair", example="qrp-store repair")(repair)
    command(app, "gc", example="qrp-store gc --dry-run")(collect)


def init(session: Session, options: InitOptions) -> None:
    """Create the store, or the schema in an empty database; harmless if repeated.

    An arrays folder or prefix that is not empty is refused (exit 4) unless --adopt is given. For an existing store,
    --adopt records this catalog as the owner of the arrays; use it after restoring a backup.
    """
    from qrp_store.store import create_store

    report = create_store(session.store, session.arrays, adopt=options.adopt)
    did = "made" if report.created else "already there:"
    session.show(report, f"{did} store {report.store}\narrays in {report.arrays}\nschema {report.schema}")


def migrate(session: Session, options: MigrateOptions) -> None:
    """Bring a store's schema up to date."""
    from qrp_store.maintenance.removal import migrate

    report = migrate(session.store, session.arrays, check=options.check, new_identity=options.new_identity)
    session.show(report, output.details(report))


def verify(session: Session, options: VerifyOptions) -> None:
    """Check that all blocks and rows of the catalog exist and are intact; exit 6 if one is missing or damaged.

    Also count arrays that no row of the catalog names.
    """
    from qrp_store.maintenance.removal import verify

    with session.open() as store:
        report = verify(store, deep=options.deep, progress=session.progress)
    problems = [": ".join(map(output.cell, p.values())) for p in output.document(report.problems)]
    counts = ", ".join(f"{kind} {n:,}" for kind, n in report.checked.items()) or "nothing"
    summary = f"checked {counts}; " + (f"{len(problems)} problems" if problems else "all well")
    unnamed = [f"{report.unnamed['arrays']} arrays that no row names ({report.unnamed['bytes']:,} bytes): qrp-store gc"]
    unnamed = unnamed if report.unnamed["arrays"] else []
    message = f"{len(problems)} problems, the first: {problems[0]}" if problems else None
    error = {"kind": "corrupt", "message": message, "hint": "qrp-store repair"} if problems else None
    session.show(report, "\n".join([summary, *problems, *unnamed]), error)


def repair(session: Session, options: RepairOptions) -> None:
    """Repair the damage that `verify --deep` finds; retire artifacts that cannot be repaired.

    Blocks are read or computed again from their source; centroids and weights are recomputed; rows of the catalog are
    restored from the arrays. A restored part must have the recorded checksum. Results made from retired artifacts
    stay, but leave the leaderboard.
    """
    from qrp_store.maintenance.repair import repair

    with session.open() as store:
        report = repair(store, keep=options.keep, run_code=options.run_code, progress=session.progress)
    lines = [f"mended   {d['id']} ({d['name']}) {d['part']}: {d['how']}" for d in report.mended]
    lines += [f"not made again: {d['id']} ({d['name']}) {d['problem']}: {d['why']}" for d in report.failed]
    lines += [f"retired  {d['id']} ({d['name']})" for d in report.dropped]
    left = {"kind": "corrupt", "message": "some damage is left", "hint": "restore a backup, or repair without --keep"}
    text = "\n".join(output.cell(line) for line in lines) or "all well: nothing to mend"
    session.show(report, text, left if report.left else None)


def copy(
    session: Session,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="NAME|ID", autocompletion=anything, help="Artifact to copy, with everything it was made from."
        ),
    ],
    options: CopyOptions,
    run: WaitOptions,
) -> None:
    """Copy an artifact and everything it was made from into another store; ids, versions and fingerprints stay.

    A dataset or a backbone is copied with everything made from it. Artifacts that the target has are reused; results
    get the extra scores added since. An interrupted copy resumes. Exit 4, with the difference, if a name means
    something else in the target.
    """
    from qrp_store.maintenance.copy import copy
    from qrp_store.store import open_store

    # $QRP_STORE_ARRAYS belongs to the source store
    with session.open() as source, open_store(options.to, options.to_arrays, env={}) as target:
        report = copy(source, target, reference, wait=run.wait, progress=session.progress)
    session.show(report, "\n".join(_copied(report)))


def _copied(report: CopyReport) -> Iterator[str]:
    """A line for what was copied of each kind, and the artifacts themselves when they are few."""
    for what, rows in (("copied", report.copied), ("already there", report.found)):
        kinds = Counter(str(row["kind"]) for row in rows)
        if kinds:
            yield f"{what}: " + ", ".join(f"{kind} {n:,}" for kind, n in kinds.items())
        if len(rows) <= _FEW:
            yield from (f"  {row['id']}  {output.cell(row['name'])}@{row['version']}" for row in rows)
    yield f"{report.name} is in {report.to}: {report.bytes:,} bytes and {report.scores:,} later scores written"


def remove(
    session: Session,
    reference: Annotated[
        str,
        typer.Argument(metavar="NAME|ID", autocompletion=anything, help="Artifact, dataset or backbone to retire."),
    ],
    options: RetireOptions,
) -> None:
    """Retire an artifact: it is hidden, and `gc` deletes its data; results leave a tombstone."""
    from qrp_store.maintenance.removal import retire

    with session.open() as store:
        report = retire(store, reference, cascade=options.cascade, yes=options.yes)
    session.show(report, output.details(report))


def collect(session: Session, options: GcOptions) -> None:
    """Delete everything that no ready artifact needs."""
    from qrp_store.maintenance.gc import gc

    with session.open() as store:
        report = gc(store, dry_run=options.dry_run)
    session.show(report, output.details(report))
