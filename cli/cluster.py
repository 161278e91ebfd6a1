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
        "qrp-store cluster --dataset photos --import swav-prototypes.npy --name swav\n"
        "qrp-store cluster --dataset photos-val --centroids-of clu-7f3a9c21"
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
    centroids_of: Annotated[
        str | None,
        typer.Option(
            "--centroids-of", metavar="ID", help="Assign to the centroids of another clustering, trained elsewhere."
        ),
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", "--clusters", metavar="K", help="How many clusters.  [default: 1000]")
    ] = None,
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
    if (source is None) != (name is None) or (source is not None and (backbone or centroids_of)):
        raise typer.BadParameter("either --backbone, or --import together with --name, or --centroids-of")
    if source is not None and name is not None:
        from qrp_store.cluster.imported import import_clustering

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
    training: dict[str, Any] = {"niter": niter, "sample": rows, "init": init, "nredo": nredo, "normalize": normalize}
    training |= {"spherical": spherical}
    running: dict[str, Any] = {
        "engine": engine,
        "device": device,
        "memory": memory,
        "workers": workers,
        "scheduler": scheduler,
    }
    asked: dict[str, Any] = {"seed": seed, "force": force, "wait": not no_wait, "progress": session.progress, **running}
    if centroids_of is not None:
        _refuse_training(training)
        from qrp_store.cluster.centroids import cluster_by

        with session.open() as store:
            report = cluster_by(store, centroids_of, dataset=dataset, backbone=backbone, k=k, **asked)
    elif backbone is not None:
        from qrp_store.cluster import cluster

        with session.open() as store:
            report = cluster(store, dataset=dataset, backbone=backbone, k=1000 if k is None else k, **training, **asked)
    else:
        raise typer.BadParameter("what to cluster: --backbone, --import with --name, or --centroids-of")
    _show(session, report)


def _refuse_training(options: dict[str, Any]) -> None:
    """Options that only say how centroids are made mean nothing where they are there."""
    default = {"niter": 25, "init": "random", "nredo": 1}
    given = [name for name, value in options.items() if value not in (default.get(name), None, False)]
    if given:
        shown = ", ".join(f"--{name}" for name in given)
        raise typer.BadParameter(f"{shown}: with --centroids-of these are those of that clustering")


def _show(session: Session, report: Any) -> None:
    wide = f" × {report.dim:,}" if report.dim else ""
    text = (
        f"{report.id}  {report.dataset} under {report.backbone}: {report.n:,}{wide} in {report.clusters:,} clusters of "
        f"{output.cell(report.sizes['min'])} to {output.cell(report.sizes['max'])} rows, "
        f"imbalance {report.imbalance:.2f}"
        + (f", objective {output.cell(report.objective)}" if report.objective is not None else "")
    )
    borrowed = f", by the centroids of {report.centroids_of}" if report.centroids_of else ""
    split = sum(report.splits_per_iteration or ())
    borrowed += f", empty clusters split from others: {split:,}" if split else ""
    session.show(report, text + borrowed + (", already there" if report.cached else ""))
