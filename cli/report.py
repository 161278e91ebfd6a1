"""report: one page for people to look at."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as opt
from . import output as out
from .completion import names_of
from .session import Session, command


def register(app: typer.Typer) -> None:
    command(
        app,
        "report",
        example=(
            "qrp-store report --dataset photos -o photos.html\n"
            "qrp-store report --dataset photos --images /data/photos -k 1000 -o photos.html\n"
            "qrp-store report --dataset photos --published top1.csv -o photos.html"
        ),
    )(report)


def report(
    session: Session,
    dataset: opt.Dataset,
    output: opt.Output,
    images: Annotated[
        str | None,
        typer.Option("--images", metavar="FOLDER", help="Where the images are.  [default: where they were ingested]"),
    ] = None,
    no_images: Annotated[bool, typer.Option("--no-images", help="A page without pictures.")] = False,
    published: Annotated[
        str | None,
        typer.Option(
            "--published",
            metavar="FILE",
            help="Published ImageNet top-1 to show beside: a CSV of backbone,top1[,source].",
        ),
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone", metavar="B", autocompletion=names_of("backbones"), help="Only this one; repeatable."
        ),
    ] = None,
    concepts: Annotated[
        str | None,
        typer.Option("--concepts", metavar="C", autocompletion=names_of("concepts"), help="Only this concept set."),
    ] = None,
    k: Annotated[int | None, typer.Option("-k", "--clusters", metavar="K", help="Only this K.")] = None,
) -> None:
    """Write one self-contained HTML page: ranking, figures, and the clusters with their images and concepts.

    It loads nothing and opens from disk or a mail. Figures are of the setting with most backbones; --concepts and -k
    choose another.
    """
    from qrp_store.report import report

    with session.open() as store:
        done = report(
            store,
            dataset=dataset,
            output=str(output),
            backbones=tuple(backbone or ()),
            concepts=concepts,
            k=k,
            images=images,
            no_images=no_images,
            published=published,
            progress=session.progress,
        )
    backbones = "1 backbone" if done.n_backbones == 1 else f"{done.n_backbones} backbones"
    about = f"{backbones}, {done.n_clusters:,} clusters, {done.n_images:,} pictures"
    session.show(done, f"{out.cell(done.path)}: {about}, {done.bytes / 1e6:.1f} MB")
