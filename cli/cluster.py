"""cluster: K-means over an embedding, or a grouping made elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import typer

from qrp_store.options import ClusterOptions, ClusterSource, PlaceOptions, RunOptions, described

from . import output
from .session import Session, command

if TYPE_CHECKING:
    from qrp_store.cluster import ClusterReport
    from qrp_store.progress import Progress
    from qrp_store.store import Store


def register(app: typer.Typer) -> None:
    example = (
        "qrp-store cluster --dataset photos --backbone r50 -k 1000 --memory 2GB\n"
        "qrp-store cluster --dataset photos --import swav-prototypes.npy --name swav\n"
        "qrp-store cluster --dataset photos-val --centroids-of clu-7f3a9c21"
    )
    command(app, "cluster", example=example)(cluster)


def cluster(session: Session, source: ClusterSource, options: ClusterOptions, run: RunOptions) -> None:
    """Quantize an embedding with K-means, and assign every sample to a cluster and a part.

    The parts are train, validation and test. --import and --centroids-of replace K-means.
    """
    ways = [source.backbone is not None and source.centroids_of is None, source.source is not None]
    ways += [source.centroids_of is not None]
    if sum(ways) != 1 or (source.source is None) != (source.name is None):
        raise typer.BadParameter("name either --backbone, or --import together with --name, or --centroids-of")
    if source.match != "key" and source.source is None:
        raise typer.BadParameter("--match is for the keys of --import")
    with session.open() as store:
        _show(session, _clustered(store, source, options, run, session.progress))


def _clustered(
    store: Store, source: ClusterSource, options: ClusterOptions, run: RunOptions, progress: Progress
) -> ClusterReport:
    """Return the clustering of an embedding, of an imported grouping, or by another one's centroids."""
    if source.source is not None and source.name is not None:
        _refuse(options, ("dataset", "seed"), "--import")
        from qrp_store.cluster.imported import import_clustering

        return import_clustering(
            store,
            source.source,
            dataset=source.dataset,
            name=source.name,
            match=source.match,
            seed=options.seed,
            force=run.force,
            wait=run.wait,
            progress=progress,
        )
    if source.centroids_of is not None:
        kept = [each.name for each in described(PlaceOptions)]
        _refuse(options, ("k", "seed", *kept), "--centroids-of")
        from qrp_store.cluster.centroids import cluster_by

        return cluster_by(
            store,
            source.centroids_of,
            dataset=source.dataset,
            backbone=source.backbone,
            k=options.k,
            seed=options.seed,
            **{name: getattr(options, name) for name in kept},
            force=run.force,
            wait=run.wait,
            progress=progress,
        )
    from qrp_store.cluster.story import cluster_with

    assert source.backbone is not None
    return cluster_with(
        store, source.dataset, source.backbone, options, force=run.force, wait=run.wait, progress=progress
    )


def _refuse(options: ClusterOptions, used: Collection[str], flag: str) -> None:
    """Raise a usage error for options that mean nothing to this way of clustering."""
    unused = [each for each in described(ClusterOptions) if each.name not in used]
    given = [each.flag for each in unused if getattr(options, each.name) != each.default]
    if given:
        raise typer.BadParameter(f"{', '.join(given)}: {flag} takes no such option")


def _show(session: Session, report: ClusterReport) -> None:
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
