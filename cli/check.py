"""rerun: is a number what it says it is?"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from . import output
from .boundary import exit_code
from .session import Session, command

Result = Annotated[str, typer.Argument(metavar="ID", help="A result: its id, or a unique start of it.")]


def register(app: typer.Typer) -> None:
    command(app, "rerun", example="qrp-store rerun res-7f3a9c21 --check")(rerun)


def rerun(
    session: Session,
    reference: Result,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 unless it comes out the same.")] = False,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option("--device", help="Where.  [default: where it was computed]")
    ] = None,
) -> None:
    """Compute a result again from its row alone, and compare; nothing is written.

    On the CPU, with the same library versions, every number has to come out equal to the bit; else scores within 0.001.
    """
    from qrp_store.rerun import rerun

    with session.open() as store:
        report = rerun(store, reference, device=device, progress=session.progress)
    if report.equal:
        text = f"{report.id}  NMI {report.nmi:.4f}: all {report.n_compared} numbers and tables are equal"
    else:
        within = f"within {report.tolerance:g}" if report.agrees else "not the same"
        rows = output.listing(output.table(output.document(report.differences)), "table", "")
        text = f"{report.id}  NMI {report.nmi:.4f}: {within}\n{rows}"
    session.show(report, text)
    if check and not report.agrees:
        raise typer.Exit(exit_code("failed"))
