"""evaluate: from embeddings and concepts to scores."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from qrp_store.options import (
    EvaluateRun,
    EvaluateSelection,
    ExtraOptions,
    KMeansTraining,
    ProbeOptions,
    ScoreOptions,
)

from . import output
from .session import Session, command

SHOWN = ("backbone", "concepts", "clusters", "seed", "nmi", "nmi_ci_lo", "nmi_ci_hi", "mi_nats", "top1", "n_test", "id")
SAID = ("kind", "message", "hint")
NUMBERS = ("nmi_limit", "nmi_limit_lo", "nmi_limit_hi", "nmi_upper", "code_length_nats")
BESIDE = ("forward", "curve", "thresholds", *NUMBERS, "upper", "mdl")


class _Lists(TyperCommand):
    """Accept `--seed 0 1 2` for `--seed 0 --seed 1 --seed 2`: this command has no positional arguments."""

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
    selection: EvaluateSelection,
    probe: ProbeOptions,
    score: ScoreOptions,
    extras: ExtraOptions,
    training: KMeansTraining,
    how: EvaluateRun,
) -> None:
    """Score backbones: cluster, split, train the reverse probe, score; existing parts are reused.

    If one backbone fails, the others are still scored; the exit code is that of the first failure.
    """
    from qrp_store.evaluate.story import evaluate_with

    with session.open() as store:
        report = evaluate_with(store, selection, probe, score, extras, training, how, session.progress)
    _show(session, report)


def _show(session: Session, report: Any) -> None:
    document = {name: v for name, v in output.document(report).items() if name not in ("exit_kind", "error")}
    # extras that were not requested are absent instead of null
    document["results"] = [
        {k: v for k, v in r.items() if v is not None or k not in BESIDE} for r in document["results"]
    ]
    rows = [{**r, **_extra_columns(r)} for r in document["results"]]
    columns = [*SHOWN[:-1], *dict.fromkeys(k for r in rows for k in _extra_columns(r)), SHOWN[-1]]
    text = _planned(report) if report.plan else "no results"
    if rows:
        text = output.listing(output.table(rows, columns), "table", "")
    for error in output.document(report.errors):
        about = ", ".join(f"{k} {output.cell(v)}" for k, v in error.items() if k not in SAID and v is not None)
        session.progress.warn(": ".join(filter(None, [about, str(error.get("message")), error.get("hint")])))
    session.show(document, text, report.error)


def _extra_columns(result: dict[str, Any]) -> dict[str, float | None]:
    """Return the requested extras as columns: usual probes, p-value, less data, higher thresholds."""
    all_concepts = [f for f in result.get("forward") or () if f["concept_group"] == "(all)"]
    columns = {f"{f['probe']} {f['metric']}": f["value"] for f in all_concepts}
    if result["n_permutations"]:
        columns["p_value"] = result["p_value"]
    fractions = [p for p in result.get("curve") or () if p["axis"] == "samples" and p["fraction"] < 1]
    columns |= {f"nmi of {100 * p['fraction']:g} % samples": p["nmi"] for p in fractions}
    columns |= {name: result[name] for name in NUMBERS if result.get(name) is not None}
    return columns | {f"nmi above {t['threshold']:g}": t["nmi"] for t in result.get("thresholds") or ()}


def _planned(report: Any) -> str:
    """Return the lines of a dry run and their total."""
    hidden = ("memory_bytes", "rows")
    lines = [{name: value for name, value in line.items() if name not in hidden} for line in report.plan]
    estimate = report.estimate
    missing = f"to make: {estimate.clusterings_to_make} clusterings and {estimate.results_to_make} results"
    cost = f"about {_duration(estimate.seconds)}, {estimate.memory_bytes / 1e9:.1f} GB of memory, "
    cost += f"{estimate.rows:,} rows of SQL"
    counts = f"{missing} ({estimate.results_there} results are there)"
    return f"{output.listing(output.table(lines), 'table', '')}\n\n{counts}\n{cost}, by {estimate.by}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
