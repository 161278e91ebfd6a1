"""The options of `ingest`: which model embeds images, which part of an array is read, how blocks are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qrp_store.errors import InvalidInput
from qrp_store.options.declaring import Options, option, required
from qrp_store.options.running import DeviceOptions, RunOptions, SchedulerOptions, WorkerOptions

Precision = Literal["float32", "tf32", "float16", "bfloat16"]
Dtype = Literal["float32", "float16"]


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Which network embeds images, and how it computes."""

    arch: str | None = option(
        None,
        "For images: torchvision/NAME, timm/NAME, hf/FOLDER, open_clip/NAME, or onnx/FILE and others.",
        metavar="LIB/NAME",
    )
    weights: tuple[str, ...] = option(
        ("default",),
        "For images: checkpoint, default or random; several, or a pattern, make backbones B/STEM in one pass.",
        metavar="FILE|default|random",
        default_text="default",
    )
    recipe: str = option("auto", "Layout of the checkpoint; auto detects and reports it.", metavar="R")
    layer: tuple[str, ...] = option(
        (),
        "Module whose output becomes the vector (L:cls, L:patches for tokens); several make backbones B:L in one pass.",
        metavar="L",
        default_text="the input of the classifier",
    )
    container: str | None = option(
        None, "Dotted path of the tensors in the checkpoint.", metavar="KEY", default_text="the recipe's", younger=True
    )
    prefix: str | None = option(
        None,
        "Prefix of the tensors' names in the checkpoint.",
        metavar="P",
        default_text="the recipe's",
        younger=True,
    )
    mean: str | None = option(
        None,
        "Mean of the pixels: M, R,G,B, imagenet, clip, half or none.",
        metavar="M",
        default_text="the model's",
        younger=True,
    )
    std: str | None = option(
        None,
        "Standard deviation of the pixels: S, R,G,B, imagenet, clip, half or none.",
        metavar="S",
        default_text="the model's",
        younger=True,
    )
    resize: int | None = option(
        None, "Pixels to which images are scaled.", metavar="PX", default_text="the model's", younger=True
    )
    crop: str | None = option(
        None,
        "Crop after scaling: center, squash (scales both sides), border (pads), or pixels.",
        metavar="MODE|PX",
        default_text="the model's",
        younger=True,
    )
    interpolation: str | None = option(
        None,
        "Interpolation of scaling: bilinear, bicubic, nearest, lanczos, box or hamming.",
        metavar="I",
        default_text="the model's",
        younger=True,
    )
    interpolate_positions: bool = option(False, "Interpolate position embeddings of another image size.", younger=True)
    image_size: int | None = option(
        None, "Side of the model's input in pixels.", metavar="PX", default_text="the model's"
    )
    precision: Precision = option("float32", "Number format of the model's arithmetic; tf32 needs a GPU.")
    channels_last: bool = option(True, "Memory layout of the model's images.", flags=("--channels-last/--contiguous",))
    batch_size: int = option(64, "Images per forward pass.", metavar="N", minimum=1, identity=False)
    seed: int = option(0, "Random seed of --weights random.", metavar="SEED")

    def __post_init__(self) -> None:
        super().__post_init__()
        twice = next((layer for layer in self.layer if self.layer.count(layer) > 1), None)
        if twice is not None:
            raise InvalidInput(f"--layer {twice} is given twice")


@dataclass(frozen=True, kw_only=True)
class SourceOptions(Options):
    """Which part of the source holds vectors and keys."""

    keys: str | None = option(
        None,
        "For arrays: file with one key per line.",
        metavar="FILE",
        default_text="the array's keys, else 0…n-1",
        identity=False,
    )
    key_root: str | None = option(
        None, "Folder to which paths used as keys become relative.", metavar="DIR", identity=False
    )
    field: str | None = option(None, "Array or columns with the vectors: a name, a prefix, or A,B,…", metavar="F")
    key_column: str | None = option(None, "Array or column that holds the keys.", metavar="C", identity=False)
    dtype: Dtype = option("float32", "Number format of the stored vectors.")


@dataclass(frozen=True, kw_only=True)
class StorageOptions(Options):
    """How blocks are cut, and whether bad rows may be missing."""

    block_rows: int | None = option(
        None,
        "Rows per stored block.",
        metavar="N",
        default_text="about 16 MB",
        minimum=1,
        maximum=1 << 24,
        identity=False,
    )
    skip_bad: bool = option(False, "Leave out samples that cannot be read.", identity=False)


@dataclass(frozen=True, kw_only=True)
class IngestOptions(
    RunOptions, SchedulerOptions, WorkerOptions, DeviceOptions, StorageOptions, SourceOptions, ModelOptions
):
    """One ingest."""

    dataset: str = required("Name of the dataset; the first ingest creates it.", metavar="D", completes="datasets")
    backbone: str = required("Name of the backbone.", metavar="B", completes="backbones")
