"""export: results, assignments, labels and embeddings into files."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from qrp_store.options import ExportOptions

from . import output as out
from .completion import anything
from .session import Session, command


def register(app: typer.Typer) -> None:
    command(
        app,
        "export",
        example=(
            "qrp-store export results --dataset photos -o results.parquet\n"
            "qrp-store export embedding --dataset photos --backbone r50 -o r50.npy\n"
            "qrp-store export assignments clu-7f3a9c21 -o clusters.csv\n"
            "qrp-store export fiftyone clu-7f3a9c21 -o labels.json\n"
            "qrp-store export card --dataset photos -o photos.md"
        ),
    )(export)


def export(
    session: Session,
    what: Annotated[
        Literal["results", "assignments", "labels", "embedding", "card", "fiftyone"],
        typer.Argument(help="What to write.", show_default=False),
    ],
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID|NAME]",
            autocompletion=anything,
            help="Artifact to write.  [default: selected by the options below]",
        ),
    ] = None,
    *,
    options: ExportOptions,
) -> None:
    """Write rows or vectors to a file: .csv, .parquet, .json or .npy, by its ending.

    `card` writes a dataset's provenance as Markdown. `fiftyone` writes a clustering as the labels.json of FiftyOne's
    FiftyOneImageClassificationDataset, with part and concepts of each image.
    """
    from qrp_store.export.story import export_with

    with session.open() as store:
        report = export_with(store, what, reference, options)
    rows = "" if report.what == "card" else f"{report.rows:,} row{'' if report.rows == 1 else 's'} in "
    session.show(report, f"{out.cell(report.what)}: {rows}{out.cell(report.output)}")
