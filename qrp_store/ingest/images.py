"""Rows that a model makes of images, for ingest."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qrp_store.errors import InvalidInput
from qrp_store.ingest.rows import BlockRows, Output, SeenFile
from qrp_store.progress import Progress
from qrp_store.readers.image_folders import counted
from qrp_store.readers.image_lists import list_image_source
from qrp_store.records import ArraySpec
from qrp_store.samples import ImageFile, shown

if TYPE_CHECKING:
    from qrp_store.models.backbone import BackboneOptions
    from qrp_store.models.extract import ExtractedBlock
    from qrp_store.models.together import Embedder


@dataclass
class ImageRows:
    """Rows that a model makes of images: of a folder, tar shards, Parquet or a list of paths."""

    source: Path
    column: str | None = None
    key_root: str | None = None
    key_column: str | None = None
    files: list[ImageFile] = field(init=False)
    _options: tuple[BackboneOptions, ...] = field(default=(), init=False)
    _model: Embedder | None = field(default=None, init=False)
    _batch_size: int = field(default=64, init=False)
    _workers: int | None = field(default=None, init=False)
    _seen: dict[int, SeenFile] = field(default_factory=dict, init=False)

    content = None
    columns = None

    def __post_init__(self) -> None:
        counts: Counter[str] = Counter()
        self.files, root = list_image_source(self.source, self.column, self.key_root, self.key_column, counts)
        self._not_taken = counts
        self.keys: Sequence[str] = [f.key for f in self.files]
        self.root: str | None = root

    def choose_model(
        self,
        arch: str,
        weights: str | Sequence[str],
        layers: tuple[str, ...],
        batch_size: int,
        workers: int | None,
        **options: Any,
    ) -> None:
        """Say which models embed the images (options as `BackboneOptions` has them); `prepare` loads them."""
        from qrp_store.models.backbone import BackboneOptions

        several = [weights] if isinstance(weights, str) else weights
        self._options = tuple(BackboneOptions(arch, each, layers=layers, **options) for each in several)
        self._batch_size, self._workers = batch_size, workers

    def prepare(self, progress: Progress) -> None:
        from qrp_store.models.together import load_together

        if self._not_taken:
            progress.note(counted(self._not_taken))
        self._model = load_together(self._options)
        for line in self._model.notes:
            progress.note(line)

    @property
    def model(self) -> Embedder:
        assert self._model is not None, "prepare() comes first"
        return self._model

    @property
    def outputs(self) -> Sequence[Output]:
        ends = list(accumulate(self.model.widths, initial=0))
        each = zip(self.model.specs, pairwise(ends), self.model.provenances, strict=True)
        return [Output(spec, slice(*span), provenance) for spec, span, provenance in each]

    @property
    def provenance(self) -> Mapping[str, Any]:
        return {"device": str(self.model.device), "batch_size": self._batch_size}

    @property
    def not_taken(self) -> Mapping[str, int]:
        return dict(sorted(self._not_taken.items()))

    def reorder(self, order: np.ndarray) -> None:
        self.files = [self.files[row] for row in order]
        self.keys = [f.key for f in self.files]

    def refuse_changed(self, seen: Mapping[int, SeenFile]) -> None:
        """Raise InvalidInput when images of a known dataset have other bytes than when they were first read."""
        self._seen = dict(seen)
        self._refuse([i for i in range(len(self.files)) if self._changed(i, seen)])

    def _refuse(self, changed: Sequence[int]) -> None:
        if changed:
            keys = ", ".join(shown(self.keys[i]) for i in changed)
            raise InvalidInput(
                f"{len(changed)} images have changed since this dataset was made: {keys}",
                hint="restore them, or ingest the folder as another --dataset",
            )

    def _changed(self, position: int, seen: Mapping[int, SeenFile]) -> bool:
        """Like git: an image whose size and time are as recorded is the same; else their digests are compared."""
        before, now = seen.get(position), self.files[position]
        if before is None or (before[0], before[1]) == (now.size, now.mtime_ns):
            return False
        return before[2] is not None and _digest(now) != before[2]

    def changed_blocks(self, layout: ArraySpec, seen: Mapping[int, SeenFile]) -> set[int]:
        return {i // layout.block_rows for i in range(len(self.files)) if self._changed(i, seen)}

    def part(self, layout: ArraySpec, number: int) -> ImagePart:
        start, count = layout.rows_of(number)
        return ImagePart(
            self._options,
            self.model.specs,
            self.files[start : start + count],
            self._batch_size,
            self._workers,
            layout.dtype,
        )

    def check(self, start: int, files: Sequence[SeenFile]) -> None:
        self._refuse([start + i for i, seen in enumerate(files) if self._differs(start + i, seen[2])])

    def blocks(self, layout: ArraySpec, numbers: Sequence[int]) -> Iterator[BlockRows]:
        from qrp_store.models.extract import extract

        batches = [self.files[start : start + count] for start, count in map(layout.rows_of, numbers)]
        extracted = extract(self.model, batches, batch_size=self._batch_size, workers=self._workers)
        for number, files, block in zip(numbers, batches, extracted, strict=True):
            made = _seen_rows(files, block, layout.dtype)
            self.check(layout.rows_of(number)[0], made.files)
            yield made

    def _differs(self, position: int, digest: str | None) -> bool:
        before = self._seen.get(position)
        return before is not None and before[2] is not None and digest is not None and digest != before[2]


def _digest(image: ImageFile) -> str | None:
    from qrp_store.images import digest_of, read_image

    try:
        return digest_of(read_image(image))
    except InvalidInput:
        return None


@dataclass(frozen=True)
class ImagePart:
    """The images of one block, and the model that embeds them. `specs` is what the model has to be, wherever it is."""

    options: tuple[BackboneOptions, ...]
    specs: Sequence[Mapping[str, Any]]
    files: Sequence[ImageFile]
    batch_size: int
    workers: int | None
    dtype: str

    def compute(self, threads: int) -> BlockRows:
        """The rows, with a model loaded in this process. Raises InvalidInput when it is another model."""
        from qrp_store.models.extract import extract

        with _embedding:
            model = _loaded(self.options)
            if model.specs != self.specs:
                raise InvalidInput(
                    f"{self.options[0].arch} with weights {self.options[0].weights!r} is another model here",
                    hint="the same file, torch, torchvision and timm on every worker",
                )
            (block,) = extract(model, [self.files], batch_size=self.batch_size, workers=self.workers or threads)
        return _seen_rows(self.files, block, self.dtype)


_embedding = threading.Lock()  # torch's number of threads, which decides the last bits, belongs to the process


@lru_cache(1)
def _loaded(options: tuple[BackboneOptions, ...]) -> Embedder:
    from qrp_store.models.together import load_together

    return load_together(options)


def _seen_rows(files: Sequence[ImageFile], block: ExtractedBlock, dtype: str) -> BlockRows:
    seen = [(f.size, f.mtime_ns, None if i in block.bad else block.digests[i]) for i, f in enumerate(files)]
    with np.errstate(over="ignore"):
        rows = block.rows.astype(dtype)
    lost = np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist()
    return BlockRows(rows, {i: block.bad.get(i, f"does not fit into {dtype}") for i in lost}, seen)
