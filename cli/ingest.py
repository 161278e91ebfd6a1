"""ingest: images or arrays become embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .options import Backbone, Dataset, Device, Force, NoWait, Scheduler
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
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder, .tar or list of images; or an array.")],
    dataset: Dataset,
    backbone: Backbone,
    arch: Annotated[
        str | None,
        typer.Option("--arch", metavar="LIB/NAME", help="For images: torchvision/NAME or timm/NAME."),
    ] = None,
    weights: Annotated[
        str,
        typer.Option("--weights", metavar="FILE|default|random", help="For images: a checkpoint, or which weights."),
    ] = "default",
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="R", help="Layout of the checkpoint; auto finds it out and says which.")
    ] = "auto",
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            metavar="L",
            help="Module whose output is taken (L:cls, L:patches of tokens); several are backbones B:L from one pass.  "
            "[default: the head's input]",
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", metavar="PX", help="Side of the model's input.  [default: the model's]"),
    ] = None,
    precision: Annotated[
        Literal["float32", "float16", "bfloat16"],
        typer.Option("--precision", help="Numbers that the model computes with."),
    ] = "float32",
    channels_last: Annotated[
        bool, typer.Option("--channels-last/--contiguous", help="How the model's images lie in memory.")
    ] = True,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", help="Images a forward pass.")] = 64,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", help="Threads that decode.  [default: one a core]")
    ] = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Seed of random weights.")] = 0,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="FILE", help="For arrays: a key a line.  [default: the array's, else 0…n-1]"),
    ] = None,
    key_root: Annotated[
        str | None,
        typer.Option("--key-root", metavar="DIR", help="Folder that paths used as keys become relative to."),
    ] = None,
    field: Annotated[
        str | None,
        typer.Option("--field", metavar="F", help="Array or columns with the vectors: a name, a prefix, or A,B,…"),
    ] = None,
    key_column: Annotated[
        str | None, typer.Option("--key-column", metavar="C", help="Array or column that holds the keys.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16"], typer.Option("--dtype", help="How numbers are stored.")
    ] = "float32",
    block_rows: Annotated[
        int | None, typer.Option("--block-rows", metavar="N", help="Rows a stored block.  [default: about 16 MB]")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on without the samples that cannot be read.")
    ] = False,
    scheduler: Scheduler = None,
    force: Force = False,
    no_wait: NoWait = False,
) -> None:
    """Store the embeddings of a dataset under a backbone; the first ingest makes the dataset."""
    from qrp_store.ingest import ingest

    with session.open() as store:
        report = ingest(
            store,
            source,
            dataset=dataset,
            backbone=backbone,
            arch=arch,
            weights=weights,
            recipe=recipe,
            layer=layer,
            image_size=image_size,
            precision=precision,
            channels_last=channels_last,
            batch_size=batch_size,
            workers=workers,
            device=device,
            seed=seed,
            keys=None if keys is None else str(keys),
            key_root=key_root,
            field=field,
            key_column=key_column,
            dtype=dtype,
            block_rows=block_rows,
            skip_bad=skip_bad,
            scheduler=scheduler,
            force=force,
            wait=not no_wait,
            progress=session.progress,
        )
    session.show(report, "\n".join(_told(one) for one in report.layers or (report,)))


def _told(report: IngestReport) -> str:
    left_out = f", {report.n_bad} bad rows left out" if report.n_bad else ""
    blocks = f"{report.blocks['total']:,} block{'s' if report.blocks['total'] > 1 else ''}"
    origin = "already there" if report.cached else f"{report.bytes / 1e6:,.1f} MB in {blocks}"
    shape = f"{report.n:,} × {report.dim:,} {report.dtype}"
    return f"{report.id}  {report.dataset} under {report.backbone}: {shape}, {origin}{left_out}"
