"""label: human concepts for the samples of a dataset."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from .options import Dataset, Device, Force, NoWait, Workers
from .session import Session, command

Form = Literal[
    "long",
    "wide",
    "celeba",
    "coco",
    "lvis",
    "open-images",
    "visual-genome",
    "broden",
    "image-list",
    "imagenet-synsets",
    "imagenet-x",
    "matrix",
    "image-folder",
]


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
            "--concepts seen --top-k 5"
        ),
    )(label)


def label(
    session: Session,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="CSV, Parquet or JSONL with key,concept[,score][,group] or a column a concept; COCO, Open Images and "
            "others (--format); an ImageFolder. Or nothing, with --expert.",
        ),
    ] = None,
    *,
    dataset: Dataset,
    concepts: Annotated[str, typer.Option("--concepts", metavar="C", help="Name of the concept set.")],
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            metavar="T",
            help="A score counts when it is greater; a segmenter's share of pixels, when it is as large.  "
            "[default: 0.5; segmenters 0.01]",
        ),
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", metavar="G", help="Group of the concepts that the file gives none.")
    ] = None,
    exclusive: Annotated[
        bool, typer.Option("--exclusive", help="Single-label: no sample may have two concepts.")
    ] = False,
    ignore_unknown_keys: Annotated[
        bool, typer.Option("--ignore-unknown-keys", help="Leave out labels of samples that the dataset does not have.")
    ] = False,
    form: Annotated[
        Form | None, typer.Option("--format", help="What SOURCE is.  [default: what its content looks like]")
    ] = None,
    key_column: Annotated[
        str | None, typer.Option("--key-column", metavar="NAME", help="Column of a table that holds the keys.")
    ] = None,
    concept_column: Annotated[
        str | None,
        typer.Option("--concept-column", metavar="NAME", help="Column of the concepts, in a table with a label a row."),
    ] = None,
    score_column: Annotated[
        str | None, typer.Option("--score-column", metavar="NAME", help="Column of the scores.")
    ] = None,
    group_column: Annotated[
        str | None, typer.Option("--group-column", metavar="NAME", help="Column of the concepts' groups.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="SEP", help="Split a cell with several concepts here; none: never split."),
    ] = None,
    true: Annotated[
        list[str] | None,
        typer.Option("--true", metavar="V…", help="Values that mean yes, in a table with a column a concept."),
    ] = None,
    false: Annotated[
        list[str] | None, typer.Option("--false", metavar="V…", help="Values that mean no; empty cells are unknown.")
    ] = None,
    names: Annotated[
        str | None, typer.Option("--names", metavar="FILE", help="Names for SOURCE's codes: code,name[,group] a line.")
    ] = None,
    match: Annotated[
        Literal["key", "basename", "stem"], typer.Option("--match", help="What of a key must agree with the dataset's.")
    ] = "key",
    max_concepts: Annotated[
        int, typer.Option("--max-concepts", metavar="N", help="Refuse a source with more different concepts.")
    ] = 100_000,
    expert: Annotated[
        str | None,
        typer.Option("--expert", metavar="MODEL", help="Label --images by a model: torchvision/NAME or timm/NAME."),
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", metavar="FOLDER", help="The images that --expert looks at.")
    ] = None,
    weights: Annotated[
        str, typer.Option("--weights", metavar="FILE|default", help="The expert's weights; default: the published.")
    ] = "default",
    top_k: Annotated[
        int | None, typer.Option("--top-k", metavar="K", help="Only a picture's K best categories count.")
    ] = None,
    activation: Annotated[
        Literal["softmax", "sigmoid"], typer.Option("--activation", help="What makes probabilities of a classifier.")
    ] = "softmax",
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", help="Images at once through --expert.")] = 16,
    workers: Workers = None,
    device: Device = "auto",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave images that --expert cannot read without labels.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of an expert with --weights random.")] = 0,
    force: Force = False,
    no_wait: NoWait = False,
) -> None:
    """Store a concept set: which of many human concepts hold for each sample."""
    if (source is None) == (expert is None):
        raise typer.BadParameter("name either a SOURCE or an --expert", param_hint="SOURCE")
    if (expert is None) != (images is None):
        raise typer.BadParameter("--expert and --images go together", param_hint="--images")
    shared: dict[str, Any] = {
        "dataset": dataset,
        "concepts": concepts,
        "group": group,
        "exclusive": exclusive,
        "ignore_unknown_keys": ignore_unknown_keys,
        "names": names,
        "match": match,
        "force": force,
        "wait": not no_wait,
        "progress": session.progress,
    }
    with session.open() as store:
        if source is not None:
            from qrp_store.label import label

            least = 0.5 if threshold is None else threshold
            report = label(
                store,
                source,
                threshold=least,
                format=form,
                max_concepts=max_concepts,
                key_column=key_column,
                concept_column=concept_column,
                score_column=score_column,
                group_column=group_column,
                split=split,
                true=tuple(true or ()),
                false=tuple(false or ()),
                **shared,
            )
        else:
            from qrp_store.label.expert import label_by_expert

            report = label_by_expert(
                store,
                expert or "",
                images=images or "",
                weights=weights,
                threshold=threshold,
                top_k=top_k,
                activation=activation,
                skip_bad=skip_bad,
                batch_size=batch_size,
                workers=workers,
                device=device,
                seed=seed,
                **shared,
            )
    counts = f"{report.n_concepts:,} concepts, {report.n_labels:,} labels on {report.n_labelled_samples:,} samples"
    there = ", already there" if report.cached else ""
    session.show(report, f"{report.id}  {report.concepts}@{report.version} of {report.dataset}: {counts}{there}")
