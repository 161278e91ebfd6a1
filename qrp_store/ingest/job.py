"""Making the blocks of embeddings that have been claimed: which are missing, computing, writing and recording them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby

from qrp_store.arrays import blocked as arrays
from qrp_store.catalog.entities import datasets, embeddings
from qrp_store.catalog.lifecycle import lease
from qrp_store.errors import InvalidInput
from qrp_store.execution import DaskPool
from qrp_store.ingest.recording import Placed, Recorder
from qrp_store.ingest.remote import place_blocks
from qrp_store.ingest.resume import standing_blocks
from qrp_store.ingest.rows import BlockRows, Output, RowSource, SeenFile
from qrp_store.progress import Progress, Task
from qrp_store.records import ArraySpec, Backbone, Block, Dataset
from qrp_store.samples import shown
from qrp_store.store import Store


@dataclass
class Job:
    """One claimed embedding: one output of a source of rows. `layout` is final after `begin`."""

    store: Store
    rows: RowSource
    output: Output
    dataset: Dataset
    backbone: Backbone
    claimed: lease.Claim
    heartbeat: lease.Heartbeat
    layout: ArraySpec
    missing: Sequence[int] = ()
    bad: dict[str, str] = field(default_factory=dict)

    def begin(self) -> None:
        """Write down what is going to be made, and find out which blocks of an earlier try stand: whole, without bad
        rows, of images that are still the same."""
        catalog = self.store.catalog
        self.layout, recorded = embeddings.begin(catalog, self.claimed, self.dataset, self.backbone, self.layout)
        changed = self.rows.changed_blocks(self.layout, datasets.image_files(catalog, self.dataset))
        kept = standing_blocks(self.store, self.claimed, self.layout, recorded, changed)
        named = embeddings.attributes(catalog, self.claimed.id)
        arrays.create(self.store.arrays, self.layout, attributes=named)
        self.missing = [number for number in range(self.layout.n_blocks) if number not in kept]

    def write(self, number: int, made: BlockRows, recorder: Recorder) -> None:
        """Put this output's columns of a block in place, then say so: while the next block is being made."""
        positions = [self.layout.rows_of(number)[0] + local for local in made.bad]
        rows = made.rows[:, self.output.columns]
        block = arrays.write_once(self.store.arrays, self.layout, number, rows, positions, durable=False)
        recorder.add(_placed(block, made.files))

    def settle(self, placed: Sequence[Placed]) -> None:
        """Wait until blocks that were written here are on the disk, then say so. Write-back begins with this."""
        for block, _ in placed:
            arrays.sync_block(self.store.arrays, self.layout, block)
        self.record(placed)

    def record(self, placed: Sequence[Placed]) -> None:
        embeddings.record_blocks(self.store.catalog, self.claimed, self.dataset, placed)

    def count(self, number: int, bad: Mapping[int, str]) -> None:
        """Remember why rows of a block are bad."""
        start, _ = self.layout.rows_of(number)
        self.bad.update((self.rows.keys[start + i], why) for i, why in bad.items())

    def finish(self, skip_bad: bool, progress: Progress) -> None:
        """Everything durable, so that the catalog's word can follow. Raises InvalidInput with every bad key."""
        listed = "; ".join(f"{shown(key)} ({why})" for key, why in sorted(self.bad.items()))
        if len(self.bad) == self.dataset.n:
            raise InvalidInput(f"none of the {self.dataset.n} rows can be used: {listed}")
        if self.bad and not skip_bad:
            raise InvalidInput(
                f"{len(self.bad)} of {self.dataset.n} rows cannot be used: {listed}",
                hint="mend or remove them; --skip-bad commits without them",
            )
        if self.bad:
            progress.warn(f"{len(self.bad)} of {self.dataset.n} rows are marked missing: {listed}")
        self.store.arrays.sync(self.layout.path)


def make_blocks(jobs: Sequence[Job], scheduler: str | None, progress: Progress) -> None:
    """Make the missing blocks of a source's outputs in one pass over its rows, or one for each size of blocks (what an
    earlier try began keeps its own). With a scheduler, of one output.
    """
    for _, group in groupby(sorted(jobs, key=_block_rows), key=_block_rows):
        same = list(group)
        numbers = sorted({number for job in same for number in job.missing})
        total = sum(same[0].layout.rows_of(number)[1] for number in numbers)
        title = f"ingest {same[0].dataset.name} / {', '.join(job.backbone.name for job in same)}"
        with progress.task(title, total, "rows") as task, ExitStack() as stack:
            records = [job.settle if scheduler is None else job.record for job in same]
            recorders = [stack.enter_context(Recorder(record)) for record in records]
            if scheduler is None:
                _make_here(same, recorders, numbers, task)
            elif numbers:
                (job,), (recorder,) = same, recorders
                _make_there(scheduler, job, recorder, task)


def _make_here(jobs: Sequence[Job], recorders: Sequence[Recorder], numbers: Sequence[int], task: Task) -> None:
    """Make blocks in this process: one is computed while the one before is being written."""

    def write(number: int, made: BlockRows) -> None:
        for job, recorder in zip(jobs, recorders, strict=True):
            if number in job.missing:
                job.write(number, made, recorder)

    with ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
        pending: Future[None] | None = None
        for number, made in zip(numbers, jobs[0].rows.blocks(jobs[0].layout, numbers), strict=True):
            if pending is not None:
                pending.result()
            pending = writer.submit(write, number, made)
            for job in jobs:
                job.heartbeat.check()
                job.count(number, made.bad)
            task.advance(len(made.rows))
        if pending is not None:
            pending.result()


def _make_there(scheduler: str, job: Job, recorder: Recorder, task: Task) -> None:
    """Make blocks on the workers of a Dask scheduler; they are recorded here, under the lease."""
    with DaskPool(scheduler) as pool:
        placed = place_blocks(pool, job.store.arrays, job.rows, job.layout, job.missing)
        for number, made in zip(job.missing, placed, strict=True):
            job.heartbeat.check()
            job.rows.check(made.block.start, made.files)
            recorder.add(_placed(made.block, made.files))
            job.count(number, made.bad)
            task.advance(made.block.rows)


def _block_rows(job: Job) -> int:
    return job.layout.block_rows


def _placed(block: Block, files: Sequence[SeenFile]) -> Placed:
    return block, [(block.start + i, *seen) for i, seen in enumerate(files)]
