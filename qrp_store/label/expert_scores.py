"""An expert's numbers for the images of a dataset: computed block by block, stored with the concept set, reused.

Numbers are scores of categories, or the vectors of a vision-language model's image tower: an array (samples, numbers)
of float32, NaN where there is no image, at `scores` below the concept set's path. A killed run resumes with the whole
blocks; another threshold, or another vocabulary, reads the blocks of an earlier set.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from qrp_store.arrays import blocked as arrays
from qrp_store.catalog.entities import concept_sets
from qrp_store.catalog.lifecycle import lease
from qrp_store.errors import InvalidInput
from qrp_store.images import decoded, read_image
from qrp_store.key_matching import Positions
from qrp_store.label.numbering import Unknown, refuse_unknown
from qrp_store.options import Match
from qrp_store.progress import Progress
from qrp_store.readers.image_folders import list_images
from qrp_store.records import ArraySpec, Block, Dataset, fingerprint
from qrp_store.samples import ImageFile, shown
from qrp_store.store import Store

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

MEMBER = "scores"
BLOCK_ROWS = 512  # what a kill costs: detectors label few images a second
_AHEAD = 2


class Scorer(Protocol):
    """A model that gives each picture a row of `width` numbers; `Expert` and `TwoTowers` are such."""

    @property
    def arch(self) -> str: ...

    @property
    def width(self) -> int: ...

    def prepare(self, image: Image) -> torch.Tensor: ...

    def scores(self, pictures: Sequence[torch.Tensor]) -> np.ndarray: ...


def files_of(
    folder: Path, keys: list[str], owner: Dataset, match: Match, ignore_unknown: bool, progress: Progress
) -> dict[int, ImageFile]:
    """Return the image of each position that has one. Raise InvalidInput for images that are not of the dataset."""
    listed = list_images(folder)
    at = Positions(keys, match).of([file.key for file in listed], str(folder))
    unknown = Unknown()
    unknown.add([listed[i].key for i in np.flatnonzero(at < 0).tolist()])
    refuse_unknown(str(folder), owner.name, unknown, len(listed), keys, ignore=ignore_unknown)
    files = {position: file for position, file in zip(at.tolist(), listed, strict=True) if position >= 0}
    if unknown.n_rows:
        progress.warn(f"{folder}: {len(unknown)} images are not in dataset {owner.name!r} and are left out")
    if len(files) < owner.n:
        progress.warn(f"{folder}: {owner.n - len(files)} samples of {owner.name!r} have no image here")
    return files


def digest(files: Mapping[int, ImageFile]) -> str:
    """Return the identity of the images: position, key, size and time of each."""
    return fingerprint([[at, file.key, file.size, file.mtime_ns] for at, file in sorted(files.items())])


@dataclass
class Scoring:
    """The scores of one claimed concept set: finds whole blocks and computes the others. `mark` identifies them."""

    store: Store
    expert: Scorer
    files: Mapping[int, ImageFile]
    n: int
    mark: str
    batch_size: int
    workers: int
    skip_bad: bool
    progress: Progress
    bad: dict[str, str] = field(default_factory=dict)

    def run(self, claimed: lease.Claim, heartbeat: lease.Heartbeat, dataset: str) -> tuple[ArraySpec, list[Block]]:
        """Return every block. Raise InvalidInput with all images that cannot be read, unless `skip_bad`."""
        layout = ArraySpec(f"{claimed.path}/{MEMBER}", self.n, self.expert.width, "float32", min(BLOCK_ROWS, self.n))
        self._link(layout, claimed, dataset)
        arrays.create(self.store.arrays, layout, ("sample", "concept"))
        blocks: dict[int, Block] = {}
        for number in range(layout.n_blocks):
            whole = arrays.whole_block(self.store.arrays, layout, number)
            if whole is not None:
                blocks[number] = whole
        missing = [number for number in range(layout.n_blocks) if number not in blocks]
        total = sum(layout.rows_of(number)[1] for number in missing)
        with self.progress.task(f"label {dataset} by {self.expert.arch}", total, "images") as task:
            for number, scored in zip(missing, self._blocks(layout, missing, heartbeat), strict=True):
                if scored is not None:
                    blocks[number] = arrays.write_block(self.store.arrays, layout, number, scored, replace=True)
                task.advance(layout.rows_of(number)[1])
        self._refuse_bad()
        return layout, [blocks[number] for number in range(layout.n_blocks)]

    def _link(self, layout: ArraySpec, claimed: lease.Claim, dataset: str) -> None:
        """Take over the blocks of an expired lease, or of a ready set of the same scores."""
        sources = [f"{claimed.previous_path}/{MEMBER}"] if claimed.previous_path else []
        sources += [scores["path"] for scores in concept_sets.kept(self.store.catalog, MEMBER, self.mark, dataset)]
        for path in sources:
            earlier = replace(layout, path=path)
            names = [f"c/{i}/0" for i in range(layout.n_blocks) if arrays.whole_block(self.store.arrays, earlier, i)]
            if names:
                self.store.arrays.link(path, layout.path, ["zarr.json", *names])
                return

    def _blocks(
        self, layout: ArraySpec, numbers: Sequence[int], heartbeat: lease.Heartbeat
    ) -> Iterator[np.ndarray | None]:
        """Yield the scores of these blocks; None for one with an unreadable image, unless those are skipped."""
        batches = [
            (number, positions[i : i + self.batch_size])
            for number in numbers
            for positions in [[p for p in range(*_range(layout, number)) if p in self.files]]
            for i in range(0, len(positions), self.batch_size)
        ]
        ready = self._decoded([positions for _, positions in batches])
        waiting = deque(batches)
        for number in numbers:
            start, stop = _range(layout, number)
            scored = np.full((stop - start, layout.dim), np.nan, np.float32)
            spoiled = False
            while waiting and waiting[0][0] == number:
                _, positions = waiting.popleft()
                heartbeat.check()
                pictures = next(ready)
                good = [p for p in positions if isinstance(pictures[p], Exception) is False]
                for p in positions:
                    if isinstance(pictures[p], Exception):
                        self.bad[self.files[p].key] = str(pictures[p])
                        spoiled = True
                if good:
                    scored[np.array(good) - start] = self.expert.scores([pictures[p] for p in good])
            yield None if spoiled and not self.skip_bad else scored

    def _decoded(self, batches: Sequence[Sequence[int]]) -> Iterator[dict[int, Any]]:
        """Yield pictures (or errors) by position, batch by batch; the next batches are decoded meanwhile."""
        waiting: deque[Future[dict[int, Any]]] = deque()
        with ThreadPoolExecutor(self.workers, thread_name_prefix="decode") as pool:
            try:
                for batch in batches:
                    waiting.append(pool.submit(self._decode, batch))
                    if len(waiting) > self.workers + _AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _decode(self, positions: Sequence[int]) -> dict[int, torch.Tensor | InvalidInput]:
        pictures: dict[int, torch.Tensor | InvalidInput] = {}
        for position in positions:
            try:
                with decoded(read_image(self.files[position])) as picture:
                    pictures[position] = self.expert.prepare(picture)
            except InvalidInput as error:
                pictures[position] = error
        return pictures

    def _refuse_bad(self) -> None:
        if not self.bad:
            return
        listed = "; ".join(f"{shown(key)} ({why})" for key, why in sorted(self.bad.items()))
        if not self.skip_bad:
            raise InvalidInput(
                f"{len(self.bad)} images cannot be labelled: {listed}",
                hint="repair or remove them; --skip-bad leaves them without labels",
            )
        self.progress.warn(f"{len(self.bad)} images are left without labels: {listed}")


def _range(layout: ArraySpec, number: int) -> tuple[int, int]:
    start, count = layout.rows_of(number)
    return start, start + count


def document(layout: ArraySpec, blocks: Sequence[Block], mark: str) -> dict[str, Any]:
    """Return what the catalog records of a concept set's scores."""
    return {
        "mark": mark,
        "path": layout.path,
        "n": layout.n,
        "dim": layout.dim,
        "dtype": layout.dtype,
        "block_rows": layout.block_rows,
        "checksums": [block.checksum for block in blocks],
    }


def above(
    store: Store, layout: ArraySpec, blocks: Sequence[Block], threshold: float | None, top_k: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield positions, concepts and scores of what counts in each block, and the positions that have scores."""
    for block in blocks:
        scores = arrays.read_block(store.arrays, layout, block)
        seen = ~np.isnan(scores[:, 0])
        counts = seen[:, None] & np.ones(scores.shape, bool)
        if threshold is not None:
            counts &= scores > np.float32(threshold)
        if top_k is not None and top_k < layout.dim:
            order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
            best = np.zeros(scores.shape, bool)
            np.put_along_axis(best, order, True, axis=1)
            counts &= best
        row, concept = np.nonzero(counts)
        yield (
            block.start + row.astype(np.int64),
            concept.astype(np.int32),
            scores[row, concept].astype(np.float64),
            block.start + np.flatnonzero(seen),
        )
