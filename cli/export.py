"""export: results, assignments, labels and embeddings into files."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from . import output as out
from .completion import anything, names_of
from .options import DatasetFilter, Output
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
    output: Output,
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID|NAME]", autocompletion=anything, help="Which one.  [default: by the options below]"
        ),
    ] = None,
    dataset: DatasetFilter = None,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", metavar="B", autocompletion=names_of("backbones"), help="Only this backbone."),
    ] = None,
    concepts: Annotated[
        str | None,
        typer.Option("--concepts", metavar="C", autocompletion=names_of("concepts"), help="Only this concept set."),
    ] = None,
    k: Annotated[int | None, typer.Option("-k", "--clusters", metavar="K", help="Only this K.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Only this seed.")] = None,
) -> None:
    """Write rows or vectors to a file: .csv, .parquet, .json or .npy, by its ending.

    `card` is a dataset's provenance as Markdown; `fiftyone` a clustering as the labels.json of FiftyOne's
    FiftyOneImageClassificationDataset, with part and concepts of each image.
    """
    from qrp_store.export import export

    with session.open() as store:
        report = export(
            store,
            what,
            output=str(output),
            reference=reference,
            dataset=dataset,
            backbone=backbone,
            concepts=concepts,
            k=k,
            seed=seed,
        )
    rows = "" if report.what == "card" else f"{report.rows:,} row{'' if report.rows == 1 else 's'} in "
    session.show(report, f"{out.cell(report.what)}: {rows}{out.cell(report.output)}")
