"""ingest: images or arrays become embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from qrp_store.options import IngestOptions

from .session import Session, command

if TYPE_CHECKING:
    from qrp_store.ingest import IngestReport


def register(app: typer.Typer) -> None:
    command(
        app,
        "ingest",
        example=(
            "qrp-store ingest photos/ --dataset photos --backbone r50 --arch torchvision/resnet50 --weights moco.pth\n"
            "qrp-store ingest features.npy --keys keys.txt --dataset photos --backbone mine"
        ),
    )(ingest)


def ingest(
    session: Session,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Folder, .tar or list of images; or an array or table.")
    ],
    options: IngestOptions,
) -> None:
    """Store the embeddings of a dataset under a backbone; the first ingest creates the dataset."""
    from qrp_store.ingest.story import ingest_with

    with session.open() as store:
        report = ingest_with(store, source, options, session.progress)
    session.show(report, "\n".join(_told(one) for one in report.layers or (report,)))


def _told(report: IngestReport) -> str:
    left_out = f", {report.n_bad} bad rows left out" if report.n_bad else ""
    blocks = f"{report.blocks['total']:,} block{'s' if report.blocks['total'] > 1 else ''}"
    origin = "already there" if report.cached else f"{report.bytes / 1e6:,.1f} MB in {blocks}"
    shape = f"{report.n:,} × {report.dim:,} {report.dtype}"
    return f"{report.id}  {report.dataset} under {report.backbone}: {shape}, {origin}{left_out}"
