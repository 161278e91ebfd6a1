"""doctor: check this store and this machine."""

from __future__ import annotations

import typer

from qrp_store.options import FormatOptions

from . import output
from .boundary import exit_code
from .session import Session, command


def register(app: typer.Typer) -> None:
    command(app, "doctor", example="qrp-store doctor --store postgresql://lab@db.example.org/qrp")(doctor)


def doctor(session: Session, output_format: FormatOptions) -> None:
    """Check machine, database and arrays, and advise on every problem.

    It writes small test objects below the arrays' root and removes them. Exit 1 if there is a problem; if the store
    cannot be opened, exit with the code of that error.
    """
    from qrp_store.maintenance.doctor import doctor

    report = doctor(session.store, session.arrays, progress=session.progress)
    rows = output.table(output.document(report.findings), ("status", "check", "found", "advice"))
    more = {"ok": report.ok} | ({} if report.error is None else {"error": report.error})
    session.list(rows, output_format.form, report.schema, more)
    if report.exit_kind is not None:
        raise typer.Exit(exit_code(report.exit_kind))
