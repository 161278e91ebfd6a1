"""label: human concepts for the samples of a dataset."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from .options import Dataset, Force, NoWait
from .session import Session, command

Form = Literal[
    "long",
    "wide",
    "coco",
    "open-images",
    "visual-genome",
    "broden",
    "image-list",
    "imagenet-synsets",
    "imagenet-x",
    "matrix",
    "image-folder",
]


def register(app: typer.Typer) -> None:
    command(
        app,
        "label",
        example=(
            "qrp-store label objects.csv --dataset photos --concepts objects\n"
            "qrp-store label imagefolder/ --dataset photos --concepts classes --exclusive\n"
            "qrp-store label instances_val2017.json --dataset coco --concepts things --match basename"
        ),
    )(label)


def label(
    session: Session,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="CSV, Parquet or JSONL with key,concept[,score][,group] or a column a concept; COCO, Open Images and "
            "others (--format); an ImageFolder.",
        ),
    ],
    dataset: Dataset,
    concepts: Annotated[str, typer.Option("--concepts", metavar="C", help="Name of the concept set.")],
    threshold: Annotated[
        float, typer.Option("--threshold", metavar="T", help="A score counts when it is greater.")
    ] = 0.5,
    group: Annotated[
        str | None, typer.Option("--group", metavar="G", help="Group of the concepts that the file gives none.")
    ] = None,
    exclusive: Annotated[
        bool, typer.Option("--exclusive", help="Single-label: no sample may have two concepts.")
    ] = False,
    ignore_unknown_keys: Annotated[
        bool, typer.Option("--ignore-unknown-keys", help="Leave out labels of samples that the dataset does not have.")
    ] = False,
    form: Annotated[
        Form | None, typer.Option("--format", help="What SOURCE is.  [default: what its content looks like]")
    ] = None,
    names: Annotated[
        str | None, typer.Option("--names", metavar="FILE", help="Names for SOURCE's codes: code,name[,group] a line.")
    ] = None,
    match: Annotated[
        Literal["key", "basename", "stem"], typer.Option("--match", help="What of a key must agree with the dataset's.")
    ] = "key",
    max_concepts: Annotated[
        int, typer.Option("--max-concepts", metavar="N", help="Refuse a source with more different concepts.")
    ] = 100_000,
    force: Force = False,
    no_wait: NoWait = False,
) -> None:
    """Store a concept set: which of many human concepts hold for each sample."""
    from qrp_store.label import label

    with session.open() as store:
        report = label(
            store,
            source,
            dataset=dataset,
            concepts=concepts,
            threshold=threshold,
            group=group,
            exclusive=exclusive,
            ignore_unknown_keys=ignore_unknown_keys,
            format=form,
            names=names,
            match=match,
            max_concepts=max_concepts,
            force=force,
            wait=not no_wait,
            progress=session.progress,
        )
    counts = f"{report.n_concepts:,} concepts, {report.n_labels:,} labels on {report.n_labelled_samples:,} samples"
    there = ", already there" if report.cached else ""
    session.show(report, f"{report.id}  {report.concepts}@{report.version} of {report.dataset}: {counts}{there}")
