"""Options that several commands take, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .completion import names_of
from .output import Format

Dataset = Annotated[
    str,
    typer.Option(
        "--dataset", metavar="D", autocompletion=names_of("datasets"), help="The dataset: an ordered set of samples."
    ),
]
DatasetFilter = Annotated[
    str | None, typer.Option("--dataset", metavar="D", autocompletion=names_of("datasets"), help="Only this dataset.")
]
Backbone = Annotated[
    str,
    typer.Option(
        "--backbone", metavar="B", autocompletion=names_of("backbones"), help="The backbone: NAME, or NAME@VERSION."
    ),
]
FormatOption = Annotated[Format | None, typer.Option("--format", help="How to print rows.  [default: table]")]
Force = Annotated[bool, typer.Option("--force", help="Do it again although it is there: makes the next version.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Exit 5 at once when somebody else is writing this.")]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where to write.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where models and probes run.")]
Workers = Annotated[
    int | None, typer.Option("--workers", metavar="N", help="Threads that read and search.  [default: one a core]")
]

# K-means
Niter = Annotated[int, typer.Option("--niter", metavar="N", help="K-means iterations.")]
Sample = Annotated[
    str | None,
    typer.Option("--sample", metavar="all|N", help="Rows that K-means trains on.  [default: 256 a centroid]"),
]
Init = Annotated[Literal["random", "kmeans++", "greedy-kmeans++"], typer.Option("--init", help="How centroids start.")]
Nredo = Annotated[int, typer.Option("--nredo", metavar="N", help="Starts tried; the best objective is kept.")]
Engine = Annotated[Literal["auto", "faiss", "torch"], typer.Option("--engine", help="Who searches the neighbours.")]
Normalize = Annotated[bool, typer.Option("--normalize", help="Bring every row to length 1 first.")]
Spherical = Annotated[bool, typer.Option("--spherical", help="Bring every centroid to length 1 after each step.")]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="URL",
        help="Work on the workers of this Dask scheduler, tcp://…, or on local:N of its own",
    ),
]
Memory = Annotated[str, typer.Option("--memory", metavar="SIZE", help="Memory for rows under way, e.g. 200MB.")]


def sample_size(text: str | None) -> Literal["all"] | int | None:
    """`all`, a number of rows, or None; anything else is a usage error."""
    if text is None or text == "all":
        return "all" if text else None
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither 'all' nor a number of rows", param_hint="--sample") from None
