"""The options of `report` and `export`: what is written where."""

from __future__ import annotations

from dataclasses import dataclass

from qrp_store.options.declaring import Options, plain_option, required


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """What a page shows. It leads with one of the selected settings: most backbones, results, images a cluster."""

    dataset: str = required("Name of the dataset.", metavar="D", completes="datasets", identity=False)
    output: str = required("File to write.", flags=("-o", "--output"), metavar="FILE.html", identity=False)
    backbones: tuple[str, ...] = plain_option(
        (), "Only this backbone; repeatable.", flags=("--backbone",), metavar="B", completes="backbones"
    )
    concepts: str | None = plain_option(None, "Only this concept set.", metavar="C", completes="concepts")
    k: int | None = plain_option(None, "Only this K.", flags=("-k", "--clusters"), metavar="K")
    protocol: str | None = plain_option(None, "Only this protocol.", metavar="P")
    images: str | None = plain_option(
        None, "Folder of the images.", metavar="FOLDER", default_text="where they were ingested"
    )
    no_images: bool = plain_option(False, "Write a page without pictures.")
    published: str | None = plain_option(
        None,
        "Also show published ImageNet top-1 accuracies: a CSV of backbone,top1[,source].",
        metavar="FILE",
    )


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """What is exported where."""

    output: str = required("File to write.", flags=("-o", "--output"), metavar="FILE", identity=False)
    dataset: str | None = plain_option(None, "Only this dataset.", metavar="D", completes="datasets")
    backbone: str | None = plain_option(None, "Only this backbone.", metavar="B", completes="backbones")
    concepts: str | None = plain_option(None, "Only this concept set.", metavar="C", completes="concepts")
    k: int | None = plain_option(None, "Only this K.", flags=("-k", "--clusters"), metavar="K")
    seed: int | None = plain_option(None, "Only this seed.", metavar="SEED")
