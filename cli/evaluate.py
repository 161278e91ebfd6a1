"""evaluate: from embeddings and concepts to scores."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from . import options as opt
from . import output
from .completion import names_of
from .session import Session, command

SHOWN = ("backbone", "concepts", "clusters", "seed", "nmi", "nmi_ci_lo", "nmi_ci_hi", "mi_nats", "top1", "n_test", "id")
SAID = ("kind", "message", "hint")
BESIDE = ("forward", "curve", "thresholds")


class _Lists(TyperCommand):
    """Takes `--seed 0 1 2` for `--seed 0 --seed 1 --seed 2`: this command has no arguments to confuse them with."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        repeatable = {name for p in self.params if getattr(p, "multiple", False) for name in p.opts}
        spread: list[str] = []
        option = None
        for i, word in enumerate(args):
            if word.startswith("-"):
                option = name if (name := word.partition("=")[0]) in repeatable else None
            elif option is not None and args[i - 1] != option:
                spread.append(option)
            spread.append(word)
        return super().parse_args(ctx, spread)


def register(app: typer.Typer) -> None:
    command(
        app,
        "evaluate",
        example=(
            "qrp-store evaluate --dataset photos\n"
            "qrp-store evaluate --dataset photos --backbone r50 --backbone vit -k 1000 --seed 0 1 2"
        ),
        cls=_Lists,
    )(evaluate)


def evaluate(
    session: Session,
    dataset: opt.Dataset,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone",
            metavar="B",
            autocompletion=names_of("backbones"),
            help="Repeatable.  [default: all of the dataset]",
        ),
    ] = None,
    concepts: Annotated[
        list[str] | None,
        typer.Option(
            "--concepts",
            metavar="C",
            autocompletion=names_of("concepts"),
            help="Repeatable; C1+C2 joins sets.  [default: each of the dataset]",
        ),
    ] = None,
    clustering: Annotated[
        list[str] | None,
        typer.Option("--clustering", metavar="N", help="Repeatable; one that is there: an imported NAME, or an ID."),
    ] = None,
    k: Annotated[
        list[int] | None, typer.Option("-k", "--clusters", metavar="K", help="Repeatable.  [default: 1000]")
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option("--seed", help="Repeatable; drives K-means, split and shuffles.  [default: 0]"),
    ] = None,
    protocol: Annotated[
        Literal["laina2022", "tight"], typer.Option("--protocol", help="How the probe is trained; see docs/method.md.")
    ] = "laina2022",
    solver: Annotated[
        Literal["sgd", "lbfgs"] | None, typer.Option("--solver", help="[default: the protocol's]")
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", metavar="N", help="Most epochs of SGD.")] = 100,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", help="Samples a step of SGD.")] = 512,
    lr: Annotated[float, typer.Option("--lr", help="Learning rate; a tenth of it from 60 and again from 80 %.")] = 3.5,
    momentum: Annotated[float, typer.Option("--momentum", help="Momentum of SGD.")] = 0.9,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="λ of λ/2 (‖W‖² + ‖b‖²).")] = 3e-6,
    bootstrap: Annotated[int, typer.Option("--bootstrap", metavar="N", help="Replicates of the interval.")] = 1000,
    permute: Annotated[
        bool, typer.Option("--permute", help="The control instead: concepts permuted within each part.")
    ] = False,
    permutations: Annotated[
        int,
        typer.Option(
            "--permutations", metavar="N", help="A null of N such controls beside the score: p-value, adjusted."
        ),
    ] = 0,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Each concept group alone and left out, too: see view group_scores.")
    ] = False,
    labelled_only: Annotated[
        bool, typer.Option("--labelled-only", help="Leave out samples without any concept.")
    ] = False,
    only_verified: Annotated[
        bool, typer.Option("--only-verified", help="Only samples and concepts of which every pair was looked at.")
    ] = False,
    min_count: Annotated[
        int, typer.Option("--min-count", metavar="N", help="Leave out concepts that hold for fewer samples.")
    ] = 0,
    group_by: Annotated[
        str | None,
        typer.Option("--group-by", metavar="FILE", help="key,group rows: a group stays in one part of the split."),
    ] = None,
    forward: Annotated[
        bool,
        typer.Option(
            "--forward", help="The usual probes beside it, embedding to concepts: linear and kNN, see forward_scores."
        ),
    ] = False,
    knn_queries: Annotated[
        int, typer.Option("--knn-queries", metavar="N", help="Test samples that --forward's kNN looks at; 0: all.")
    ] = 20_000,
    curve: Annotated[
        bool,
        typer.Option("--curve", help="Scores with less training data and random parts of the vocabulary, too."),
    ] = False,
    thresholds: Annotated[
        str | None,
        typer.Option("--thresholds", metavar="T,T…", help="Scores with only the labels above these scores, too."),
    ] = None,
    soft: Annotated[bool, typer.Option("--soft", help="Labels count by their score instead of 1.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is to do.")] = False,
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
    """Score backbones: cluster, split, train the reverse probe, score; what exists is reused.

    One backbone's failure keeps the others; the exit code is the first failure's.
    """
    rows = opt.sample_size(sample)
    from qrp_store.evaluate import evaluate

    with session.open() as store:
        report = evaluate(
            store,
            dataset=dataset,
            backbones=tuple(backbone or ()),
            concepts=tuple(concepts or ()),
            imported=tuple(clustering or ()),
            k=tuple(k or (1000,)),
            seeds=tuple(seed) if seed else None,
            protocol=protocol,
            solver=solver,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            bootstrap=bootstrap,
            permute=permute,
            permutations=permutations,
            ablate=ablate,
            labelled_only=labelled_only,
            min_count=min_count,
            only_verified=only_verified,
            group_by=group_by,
            forward=forward,
            knn_queries=knn_queries,
            curve=curve,
            thresholds=_numbers(thresholds),
            soft=soft,
            dry_run=dry_run,
            force=force,
            wait=not no_wait,
            progress=session.progress,
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
        )
    _show(session, report)


def _numbers(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in (text or "").split(",") if text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not numbers with commas between, like 0.6,0.8") from error


def _show(session: Session, report: Any) -> None:
    document = {name: v for name, v in output.document(report).items() if name not in ("exit_kind", "error")}
    # what was not asked for is not there, rather than null
    document["results"] = [
        {k: v for k, v in r.items() if v is not None or k not in BESIDE} for r in document["results"]
    ]
    rows = [{**r, **_beside(r)} for r in document["results"]]
    columns = [*SHOWN[:-1], *dict.fromkeys(k for r in rows for k in _beside(r)), SHOWN[-1]]
    text = _planned(report) if report.plan else "no results"
    if rows:
        text = output.listing(output.table(rows, columns), "table", "")
    for error in output.document(report.errors):
        about = ", ".join(f"{k} {output.cell(v)}" for k, v in error.items() if k not in SAID and v is not None)
        session.progress.warn(": ".join(filter(None, [about, str(error.get("message")), error.get("hint")])))
    session.show(document, text, report.error)


def _beside(result: dict[str, Any]) -> dict[str, float | None]:
    """What else was asked for, for people: the usual probes, the null's p-value, less data, surer labels."""
    every = [f for f in result.get("forward") or () if f["concept_group"] == "(all)"]
    found = {f"{f['probe']} {f['metric']}": f["value"] for f in every}
    if result["n_permutations"]:
        found["p_value"] = result["p_value"]
    less = [p for p in result.get("curve") or () if p["axis"] == "samples" and p["fraction"] < 1]
    found |= {f"nmi of {100 * p['fraction']:g} % samples": p["nmi"] for p in less}
    return found | {f"nmi above {t['threshold']:g}": t["nmi"] for t in result.get("thresholds") or ()}


def _planned(report: Any) -> str:
    """A dry run's lines, and all of it together."""
    hidden = ("memory_bytes", "rows")
    lines = [{name: value for name, value in line.items() if name not in hidden} for line in report.plan]
    whole = report.estimate
    made = f"to make: {whole.clusterings_to_make} clusterings and {whole.results_to_make} results"
    cost = f"about {_duration(whole.seconds)}, {whole.memory_bytes / 1e9:.1f} GB of memory, {whole.rows:,} rows of SQL"
    there = f"{made} ({whole.results_there} results are there)"
    return f"{output.listing(output.table(lines), 'table', '')}\n\n{there}\n{cost}, by {whole.by}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
