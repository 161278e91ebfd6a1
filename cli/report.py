"""report: one page for people to look at."""

from __future__ import annotations

import typer

from qrp_store.options import ReportOptions

from . import output as out
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


def report(session: Session, options: ReportOptions) -> None:
    """Write one self-contained HTML page: ranking, figures, and the clusters with their images and concepts.

    The page loads nothing from the network. Figures show the setting with most backbones, then most results,
    then most images a cluster; --concepts, -k and --protocol choose another.
    """
    from qrp_store.report.story import report_with

    with session.open() as store:
        done = report_with(store, options, session.progress)
    backbones = "1 backbone" if done.n_backbones == 1 else f"{done.n_backbones} backbones"
    about = f"{backbones}, {done.n_clusters:,} clusters, {done.n_images:,} pictures"
    session.show(done, f"{out.cell(done.path)}: {about}, {done.bytes / 1e6:.1f} MB")
