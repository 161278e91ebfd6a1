"""The options of `label`: where labels come from, how a table is read, which model labels images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qrp_store.options.declaring import Options, option, required
from qrp_store.options.running import DeviceOptions, WorkerOptions
from qrp_store.samples import Match

Activation = Literal["softmax", "sigmoid"]
LabelFormat = Literal[
    "long",
    "wide",
    "celeba",
    "coco",
    "lvis",
    "inaturalist",
    "hf",
    "tags",
    "clip-scores",
    "vaw",
    "label-studio",
    "fiftyone",
    "cvat",
    "voc",
    "yolo",
    "cub",
    "awa2",
    "dtd",
    "sun",
    "ade20k",
    "open-images",
    "visual-genome",
    "broden",
    "image-list",
    "imagenet-synsets",
    "imagenet-x",
    "matrix",
    "image-folder",
]


@dataclass(frozen=True, kw_only=True)
class LabelOptions(Options):
    """What becomes of labels, wherever they come from."""

    dataset: str = required("Name of the dataset.", metavar="D", completes="datasets")
    concepts: str = required("Name of the concept set.", metavar="C")
    threshold: float | None = option(
        None,
        "A score counts if it is greater; a segmenter's share of pixels also if it is equal.",
        metavar="T",
        default_text="0.5; segmenters 0.01",
        minimum=0,
        maximum=1,
    )
    group: str | None = option(None, "Group of the concepts for which the file gives none.", metavar="G")
    exclusive: bool = option(False, "Single-label: refuse samples with two concepts.")
    ignore_unknown_keys: bool = option(False, "Leave out labels of samples that are not in the dataset.")
    names: str | None = option(
        None, "Table with names for SOURCE's codes: code,name[,group] per line.", metavar="FILE", younger=True
    )
    match: Match = option("key", "Part of a key that must agree with the dataset's.", younger=True)
    activation: Activation | None = option(
        None,
        "Turn a classifier's outputs, or the cosines or logits of a file, into probabilities.",
        default_text="softmax for --expert; sigmoid for SigLIP",
        younger=True,
    )


@dataclass(frozen=True, kw_only=True)
class LabelFormatOptions(Options):
    """What kind of source labels are read from."""

    format: LabelFormat | None = option(
        None, "Format of SOURCE.", default_text="detected from its content", younger=True
    )


@dataclass(frozen=True, kw_only=True)
class LabelTableOptions(Options):
    """What the columns and cells of a table mean."""

    key_column: str | None = option(None, "Column of the keys.", metavar="NAME", younger=True, recorded="key")
    concept_column: str | None = option(
        None,
        "Column of the concepts, in a table with one label per row.",
        metavar="NAME",
        younger=True,
        recorded="concept",
    )
    score_column: str | None = option(None, "Column of the scores.", metavar="NAME", younger=True, recorded="score")
    group_column: str | None = option(
        None, "Column of the concepts' groups.", metavar="NAME", younger=True, recorded="group"
    )
    split: str | None = option(
        None, "Separator of several concepts in one cell; none: never split.", metavar="SEP", younger=True
    )
    true: tuple[str, ...] = option(
        (), "Values that mean yes, in a table with one column per concept.", metavar="V…", younger=True
    )
    false: tuple[str, ...] = option((), "Values that mean no; empty cells are unknown.", metavar="V…", younger=True)


@dataclass(frozen=True, kw_only=True)
class LabelLimitOptions(Options):
    """How much a source of labels may hold."""

    max_concepts: int = option(
        100_000, "Refuse a source with more distinct concepts.", metavar="N", minimum=1, identity=False
    )


@dataclass(frozen=True, kw_only=True)
class LabelFileOptions(LabelLimitOptions, LabelTableOptions, LabelFormatOptions):
    """How a label file is read."""


@dataclass(frozen=True, kw_only=True)
class ExpertModelOptions(Options):
    """Which model labels which images."""

    expert: str | None = option(
        None, "Label --images by a model: torchvision/NAME, timm/NAME, open_clip/NAME or hf/FOLDER.", metavar="MODEL"
    )
    images: str | None = option(None, "Folder of the images that --expert labels.", metavar="FOLDER")
    weights: str = option("default", "Weights of the expert: checkpoint, or default.", metavar="FILE|default")
    vocabulary: str | None = option(
        None,
        "Concepts of open_clip/… and hf/…: a file with concept[,group] per line, or a name of `ls vocabularies`.",
        metavar="FILE|NAME",
    )
    template: tuple[str, ...] = option(
        (),
        "Text with {} for the concept; repeat it for the mean of several.",
        metavar="TEXT",
        default_text="seven templates, see docs/concepts.md",
    )
    top_k: int | None = option(None, "Keep only the K best categories of an image.", metavar="K", minimum=1)
    batch_size: int = option(16, "Images per forward pass of --expert.", metavar="N", minimum=1, identity=False)
    skip_bad: bool = option(False, "Leave images that --expert cannot read without labels.", identity=False)
    seed: int = option(0, "Random seed of --weights random.", metavar="SEED")


@dataclass(frozen=True, kw_only=True)
class LabelExpertOptions(WorkerOptions, DeviceOptions, ExpertModelOptions):
    """Which model labels which images, and where."""
