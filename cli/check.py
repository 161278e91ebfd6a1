"""compare, compare-concepts, rerun, selfcheck: compare results or concept sets, recompute, check known answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from qrp_store.options import (
    AgreementOptions,
    CompareOptions,
    Format,
    FormatOptions,
    PairOptions,
    RerunCheckOptions,
    RerunOptions,
    SelfcheckOptions,
)
from qrp_store.records import Table

from . import output
from .completion import anything, results
from .session import Session, command

Result = Annotated[
    str, typer.Argument(metavar="ID", autocompletion=results, help="A result: its id, or a unique prefix of it.")
]


def register(app: typer.Typer) -> None:
    command(
        app,
        "compare",
        example=(
            "qrp-store compare res-7f3a9c21 res-0b9e61d4\n"
            "qrp-store compare r50 vit --dataset photos --concepts objects -k 1000 --width 0.01"
        ),
    )(compare)
    command(app, "compare-concepts", example="qrp-store compare-concepts people clip --dataset photos")(
        compare_concepts
    )
    command(app, "rerun", example="qrp-store rerun res-7f3a9c21 --check")(rerun)
    command(app, "selfcheck", example="qrp-store selfcheck")(selfcheck)


def compare(
    session: Session,
    first: Annotated[
        str,
        typer.Argument(
            metavar="A", autocompletion=anything, help="A result's id; with --dataset, a backbone or concept set."
        ),
    ],
    second: Annotated[
        str,
        typer.Argument(metavar="B", autocompletion=anything, help="The result, backbone or concept set to subtract."),
    ],
    selection: CompareOptions,
    how: PairOptions,
    output_format: FormatOptions,
) -> None:
    """Compare two backbones over all common seeds (--dataset), two concept sets, or two single results.

    Backbones and concept sets: the mean difference of NMI over the common seeds, on the common test images, with
    Student's t interval. Results: the difference on the common test images with a paired bootstrap interval, which is
    conditional on one clustering.
    """
    form = output_format.form
    if selection.dataset is not None:
        _compare_backbones(session, first, second, selection.dataset, selection, form)
        return
    from qrp_store.evaluate.compare import compare

    with session.open() as store:
        report = compare(store, first, second, **how.values())
    if form not in (None, "table", "json"):
        session.list(_one_row(report), form, report.schema)
        return
    interval = "" if report.ci is None else f"  [{report.ci[0]:+.4f}, {report.ci[1]:+.4f}]"
    text = (
        f"{report.a.id} {report.a.backbone}  NMI {report.a.nmi_common:.4f} on the common test images\n"
        f"{report.b.id} {report.b.backbone}  NMI {report.b.nmi_common:.4f} on the common test images\n"
        f"difference {report.difference:+.4f}{interval} on {report.n_common:,} common test images"
    )
    printed = replace(session, as_json=session.as_json or form == "json")
    printed.show(report, "\n".join([text, *(f"differs: {what}" for what in report.differs), report.note]))


def _compare_backbones(
    session: Session, first: str, second: str, dataset: str, selection: CompareOptions, form: Format | None
) -> None:
    from qrp_store.evaluate.compare_backbones import compare_backbones

    with session.open() as store:
        report = compare_backbones(store, first, second, **{**selection.values(), "dataset": dataset})
    lo, hi = report.ci or (None, None)
    row = {"a": first, "b": second, "difference": report.difference, "ci_lo": lo, "ci_hi": hi}
    row |= {"p_value": report.p_value, "n_seeds": report.n_seeds, "sd_seeds": report.sd_seeds}
    if form not in (None, "table", "json"):
        session.list(output.table([{**row, "se_images": report.se_images}]), form, report.schema)
        return
    interval = "" if lo is None else f"  [{lo:+.4f}, {hi:+.4f}], p = {report.p_value:.3g}"
    text = (
        f"{output.cell(first)}  NMI {report.a.nmi_common:.4f}\n{output.cell(second)}  NMI {report.b.nmi_common:.4f}\n"
        f"difference {report.difference:+.4f}{interval} over {report.n_seeds} common seeds "
        f"(K {report.clusters}, {report.protocol}, setting {report.setting})\n{report.advice}"
    )
    replace(session, as_json=session.as_json or form == "json").show(report, text)


def _one_row(report: Any) -> Table:
    """The comparison as a row, for a table in a paper."""
    lo, hi = report.ci or (None, None)
    row = {"a": report.a.id, "a_backbone": report.a.backbone, "a_nmi": report.a.nmi}
    row |= {"b": report.b.id, "b_backbone": report.b.backbone, "b_nmi": report.b.nmi}
    row |= {"difference": report.difference, "ci_lo": lo, "ci_hi": hi, "n_common": report.n_common}
    return output.table([row])


def compare_concepts(
    session: Session,
    first: Annotated[
        str, typer.Argument(metavar="A", autocompletion=anything, help="The reference: labels that are trusted.")
    ],
    second: Annotated[
        str,
        typer.Argument(metavar="B", autocompletion=anything, help="The concept set to judge, for example an expert's."),
    ],
    selection: AgreementOptions,
    output_format: FormatOptions,
) -> None:
    """Compare two concept sets of the same images, concept by concept: F1, Cohen's kappa, average precision."""
    from qrp_store.label.agreement import compare_concepts

    with session.open() as store:
        report = compare_concepts(store, first, second, **selection.values())
    rows = output.table(output.document(report.rows))
    form = output_format.form
    if form not in (None, "table", "json"):
        session.list(rows, form, report.schema)
        return
    means = (("F1", report.f1_mean), ("kappa", report.kappa_mean), ("average precision", report.ap_mean))
    text = (
        f"{output.listing(rows, 'table', '')}\n"
        f"{report.n_common} concepts in common, {len(report.only_a)} of {output.cell(first)} alone, "
        f"{len(report.only_b)} of {output.cell(second)} alone\n"
        f"mean {', '.join(f'{name} {value:.3f}' for name, value in means if value is not None)}"
    )
    replace(session, as_json=session.as_json or form == "json").show(report, text)


def rerun(
    session: Session,
    reference: Result,
    options: RerunOptions,
    result: RerunCheckOptions,
) -> None:
    """Recompute a result from its row alone and compare; nothing is written.

    On the CPU, with the same library versions, every number must be bit-identical; otherwise scores within 0.001.
    """
    from qrp_store.evaluate.rerun import rerun

    with session.open() as store:
        report = rerun(store, reference, device=options.device, progress=session.progress)
    nmi = "none" if report.nmi is None else f"{report.nmi:.4f}"  # all test images in one cluster
    if report.equal:
        text = f"{report.id}  NMI {nmi}: all {report.n_compared} numbers and tables are equal"
    else:
        within = f"within {report.tolerance:g}" if report.agrees else "not the same"
        rows = output.listing(output.table(output.document(report.differences)), "table", "")
        text = f"{report.id}  NMI {nmi}: {within}\n{rows}"
    message = f"{report.id} does not come out the same: {len(report.differences)} differences"
    other = {"kind": "failed", "message": message, "hint": "compare device and versions: qrp-store show ID"}
    session.show(report, text, other if result.check and not report.agrees else None)


def selfcheck(session: Session, options: SelfcheckOptions) -> None:
    """Check cases with known answers on this machine; exit 1 if one is wrong. Needs no store."""
    from qrp_store.evaluate.selfcheck import selfcheck

    report = selfcheck(device=options.device, progress=session.progress)
    rows = output.listing(output.table(output.document(report.cases)), "table", "")
    where = f"{report.device}, {report.threads} threads, {report.instructions}, torch {report.versions['torch']}"
    wrong = {"kind": "failed", "message": "a known answer does not come out on this machine", "hint": None}
    text = f"{rows}\n{'all well' if report.ok else 'NOT all well'}: {where}"
    session.show(report, text, None if report.ok else wrong)
