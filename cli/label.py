"""label: human concepts for the samples of a dataset."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from qrp_store.options import LabelExpertOptions, LabelFileOptions, LabelOptions, RunOptions

from .session import Session, command


class _Words(TyperCommand):
    """Take `--true 1 yes` for `--true 1 --true yes` when it follows SOURCE; `-1` is a value, not an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        option: str | None = None
        source = bool(args) and not args[0].startswith("-")
        for i, word in enumerate(args):
            if word.startswith("-") and not word[1:2].isdigit():
                option = word if source and word in ("--true", "--false") else None
            elif option is not None and args[i - 1] != option:
                spread.append(option)
            spread.append(word)
        return super().parse_args(ctx, spread)


def register(app: typer.Typer) -> None:
    command(
        app,
        "label",
        cls=_Words,
        example=(
            "qrp-store label objects.csv --dataset photos --concepts objects\n"
            "qrp-store label table.csv --key-column image_url --concept-column tags --split ';' --dataset photos "
            "--concepts tags\n"
            "qrp-store label imagefolder/ --dataset photos --concepts classes --exclusive\n"
            "qrp-store label instances_val2017.json --dataset coco --concepts things --match basename\n"
            "qrp-store label --expert timm/efficientnet_lite0 --weights FILE --images photos/ --dataset photos "
            "--concepts seen --top-k 5\n"
            "qrp-store label --expert open_clip/ViT-B-32 --weights FILE --vocabulary words.txt --images photos/ "
            "--dataset photos --concepts words"
        ),
    )(label)


def label(
    session: Session,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="CSV, Parquet or JSONL with key,concept[,score][,group] or one column per concept; COCO, Open Images "
            "and others (--format); an ImageFolder. Or nothing, with --expert.",
        ),
    ] = None,
    *,
    options: LabelOptions,
    how: LabelFileOptions,
    expert: LabelExpertOptions,
    run: RunOptions,
) -> None:
    """Store a concept set: the human concepts of each sample, from a file or an expert model."""
    if (source is None) == (expert.expert is None):
        raise typer.BadParameter("name either a SOURCE or an --expert", param_hint="SOURCE")
    if (expert.expert is None) != (expert.images is None):
        raise typer.BadParameter("--expert and --images go together", param_hint="--images")
    with session.open() as store:
        if source is not None:
            from qrp_store.label.story import label_with

            report = label_with(store, source, options, how, run, session.progress)
        else:
            from qrp_store.label.expert import label_by_expert_with

            report = label_by_expert_with(store, options, expert, run, session.progress)
    counts = f"{report.n_concepts:,} concepts, {report.n_labels:,} labels on {report.n_labelled_samples:,} samples"
    existing = ", already there" if report.cached else ""
    session.show(report, f"{report.id}  {report.concepts}@{report.version} of {report.dataset}: {counts}{existing}")
