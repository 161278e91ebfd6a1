"""cluster: K-means over an embedding, or a grouping made elsewhere."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import options as opt
from . import output
from .session import Session, command


def register(app: typer.Typer) -> None:
    example = (
        "qrp-store cluster --dataset photos --backbone r50 -k 1000 --memory 2GB\n"
        "qrp-store cluster --dataset photos --import swav-prototypes.npy --name swav"
    )
    command(app, "cluster", example=example)(cluster)


def cluster(
    session: Session,
    dataset: opt.Dataset,
    backbone: Annotated[
        str | None, typer.Option("--backbone", metavar="B", help="The backbone: NAME, or NAME@VERSION.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--import", metavar="FILE", help="Assignments made elsewhere: .npy in dataset order, or key,cluster."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="N", help="What to call an imported clustering.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--clusters", metavar="K", help="How many clusters.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Drives start, sample and split.")] = 0,
    niter: opt.Niter = 25,
    sample: opt.Sample = None,
    init: opt.Init = "random",
    nredo: opt.Nredo = 1,
    engine: opt.Engine = "auto",
    device: opt.Device = "auto",
    normalize: opt.Normalize = False,
    spherical: opt.Spherical = False,
    memory: opt.Memory = "2GB",
    workers: opt.Workers = None,
    scheduler: opt.Scheduler = None,
    force: opt.Force = False,
    no_wait: opt.NoWait = False,
) -> None:
    """Quantize an embedding: K-means, every sample's cluster, and who is in train, validation and test."""
    rows = opt.sample_size(sample)
    if (source is None) != (name is None) or (source is None) == (backbone is None):
        raise typer.BadParameter("either --backbone, or --import together with --name")
    if source is not None and name is not None:
        from qrp_store.imported import import_clustering

        with session.open() as store:
            made = import_clustering(
                store,
                source,
                dataset=dataset,
                name=name,
                seed=seed,
                force=force,
                wait=not no_wait,
                progress=session.progress,
            )
        _show(session, made)
        return
    assert backbone is not None
    from qrp_store.cluster import cluster

    with session.open() as store:
        report = cluster(
            store,
            dataset=dataset,
            backbone=backbone,
            k=k,
            seed=seed,
            niter=niter,
            sample=rows,
            init=init,
            nredo=nredo,
            engine=engine,
            device=device,
            normalize=normalize,
            spherical=spherical,
            memory=memory,
            workers=workers,
            scheduler=scheduler,
            force=force,
            wait=not no_wait,
            progress=session.progress,
        )
    _show(session, report)


def _show(session: Session, report: Any) -> None:
    wide = f" × {report.dim:,}" if report.dim else ""
    text = (
        f"{report.id}  {report.dataset} under {report.backbone}: {report.n:,}{wide} in {report.clusters:,} clusters of "
        f"{output.cell(report.sizes['min'])} to {output.cell(report.sizes['max'])} rows"
        + (f", objective {output.cell(report.objective)}" if report.objective is not None else "")
    )
    session.show(report, text + (", already there" if report.cached else ""))
