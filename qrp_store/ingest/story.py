"""The story of ingest: images or an array in, an embedding out.

gather: what the source is, the dataset it belongs to, the blocks that are there already. compute: every missing
block, while the one before is being written. commit: one short transaction. Blocks are in place before the catalog
says so, and the embedding (with a new dataset and backbone) shows only when all of them are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qrp_store.arrays import arrays
from qrp_store.catalog import datasets, embeddings, lease
from qrp_store.errors import InvalidInput, NotFound
from qrp_store.execution import Cluster
from qrp_store.ingest.arrays import ArrayRows, is_array
from qrp_store.ingest.images import ImageRows
from qrp_store.ingest.recording import Placed, Recorder
from qrp_store.ingest.remote import place_blocks
from qrp_store.ingest.resume import standing_blocks
from qrp_store.ingest.sources import BlockRows, RowSource, SeenFile
from qrp_store.progress import Progress, Task, silent
from qrp_store.records import ArraySpec, Artifact, Backbone, Block, Dataset, Spec, StoredEmbedding
from qrp_store.samples import shown
from qrp_store.store import Store, check_name

ALGORITHM = 1
DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class IngestReport:
    """What `ingest` did. `bytes` are those of all blocks; `blocks` counts total, written now and reused."""

    id: str
    version: int
    fingerprint: str
    dataset: str
    backbone: str
    n: int
    dim: int
    dtype: str
    n_bad: int
    blocks: dict[str, int]
    bytes: int
    cached: bool
    timings: dict[str, float]


def ingest(
    store: Store,
    source: str,
    *,
    dataset: str,
    backbone: str,
    arch: str | None = None,
    weights: str = "default",
    recipe: str = "auto",
    layer: str | None = None,
    image_size: int | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    device: str = "auto",
    seed: int = 0,
    keys: str | None = None,
    key_root: str | None = None,
    field: str | None = None,
    dtype: str = "float32",
    block_rows: int | None = None,
    skip_bad: bool = False,
    force: bool = False,
    scheduler: str | None = None,
    wait: bool = True,
    progress: Progress = silent,
) -> IngestReport:
    """Put the embeddings of a dataset under a backbone into the store.

    `source` is an image folder, tar shards, Parquet or a list of images (with `arch`), or an array (n, dim). Asked
    again, the same embedding is found; after a crash the blocks that were finished are kept. Raises InvalidInput for
    bad rows unless `skip_bad`. `scheduler`: the workers of that Dask scheduler (tcp://host:port) make the blocks;
    they must reach source and arrays under the same names, and give the bits of one process.
    """
    started = time.perf_counter()
    check_name(dataset, "dataset")
    check_name(backbone, "backbone")
    _check_options(dtype, block_rows, batch_size)
    known = datasets.find_dataset(store.catalog, dataset)
    asked = {
        "arch": arch,
        "weights": weights if weights in ("default", "random") else str(Path(weights).expanduser().absolute()),
        "recipe": recipe,
        "layer": layer,
        "image_size": image_size,
        "seed": seed,
        "device": device,
        "batch_size": batch_size,
        "keys": None if keys is None else str(Path(keys).expanduser().absolute()),
        "key_root": key_root,
        "field": field,
        "dtype": dtype,
    }
    rows = open_rows(store, source, known, asked, workers, progress)
    mark = known.fingerprint if known is not None else datasets.keys_fingerprint(rows.keys)
    _refuse_other_model(store, rows, backbone)
    # A new dataset's keys go in while an array's digest is computed.
    target = known or datasets.stage_dataset(store.catalog, dataset, rows.keys, mark, rows.root)
    spec = _spec(rows, dataset, backbone, dtype, mark)
    _refuse_other_numbers(store, rows, spec, force)
    if not force:
        found = lease.find(store.catalog, spec)
        if found is not None:
            return _report(store, found, started, written=0, cached=True)
    model = datasets.stage_backbone(store.catalog, backbone, rows.backbone)
    claimed = lease.claim(store.catalog, spec, force=force, wait=wait, progress=progress)
    if isinstance(claimed, Artifact):
        return _report(store, claimed, started, written=0, cached=True)
    with lease.held(store.catalog, claimed) as heartbeat:
        layout = ArraySpec(
            f"{claimed.path}/{embeddings.MEMBER}",
            target.n,
            rows.dim,
            dtype,
            block_rows or arrays.default_block_rows(rows.dim, np.dtype(dtype).itemsize, target.n),
        )
        job = _Job(store, rows, target, model, claimed, heartbeat, skip_bad, progress, scheduler)
        written = job.run(layout)
        provenance = {"source": str(Path(source).absolute()), "skip_bad": skip_bad, "asked": asked, **rows.provenance}
        embeddings.commit(store.catalog, claimed, target, model, provenance)
    stored = embeddings.by_id(store.catalog, claimed.id)
    return _report(store, stored.artifact, started, written=written, cached=False)


def _check_options(dtype: str, block_rows: int | None, batch_size: int) -> None:
    if dtype not in DTYPES:
        raise InvalidInput(f"--dtype {dtype!r}: known are {', '.join(DTYPES)}")
    if block_rows is not None and not 1 <= block_rows <= 1 << 24:
        raise InvalidInput(f"--block-rows {block_rows}: at least 1 and at most {1 << 24}")
    if batch_size < 1:
        raise InvalidInput(f"--batch-size {batch_size}: at least 1")


def open_rows(
    store: Store, source: str, known: Dataset | None, asked: Mapping[str, Any], workers: int | None, progress: Progress
) -> RowSource:
    """The rows of a source in the order of the dataset, if it is known. `asked`: `ingest`'s options of those names."""
    rows = _open_source(source, *(asked[name] for name in ("arch", "keys", "key_root", "field", "dtype")))
    if isinstance(rows, ImageRows):
        names = ("arch", "weights", "recipe", "layer", "image_size", "seed", "device", "batch_size")
        rows.choose_model(**{name: asked[name] for name in names}, workers=workers)
    if known is not None:
        _align(store, rows, known, progress)
    rows.prepare(progress)
    return rows


def _open_source(
    source: str, arch: str | None, keys: str | None, key_root: str | None, field: str | None, dtype: str
) -> RowSource:
    path = Path(source).expanduser().absolute()
    if not path.exists():
        raise NotFound(f"{source}: no such file or folder")
    if arch is not None:
        if keys is not None:
            raise InvalidInput("--keys goes with an array; images have names of their own")
        return ImageRows(path, field, key_root)
    if (path.is_dir() and not is_array(path)) or path.suffix.lower() in (".tar", ".txt"):
        raise InvalidInput(
            f"{source} holds images: which model embeds them?",
            hint="--arch torchvision/resnet50 or --arch timm/NAME, with --weights",
        )
    return ArrayRows(path, field, None if keys is None else Path(keys).expanduser(), key_root, np.dtype(dtype))


def _align(store: Store, rows: RowSource, known: Dataset, progress: Progress) -> None:
    """Check that the source has the dataset's keys, and put it in the dataset's order."""
    there = datasets.keys(store.catalog, known)
    if list(rows.keys) != there:
        rows.reorder(_order(known.name, there, rows.keys))
        progress.note(f"the keys are dataset {known.name!r}'s in another order; rows are put in the dataset's order")
    if isinstance(rows, ImageRows):
        rows.refuse_changed(datasets.image_files(store.catalog, known))


def _order(name: str, there: Sequence[str], here: Sequence[str]) -> np.ndarray:
    """For every position of the dataset, the source's row. Raises InvalidInput at the first difference."""
    place = {key: row for row, key in enumerate(here)}
    missing = next((key for key in there if key not in place), None)
    if missing is not None or len(there) != len(here):
        known = set(there)
        extra = next((key for key in here if key not in known), None)
        parts = [] if missing is None else [f"{shown(missing)} is missing here"]
        parts += [] if extra is None else [f"{shown(extra)} is not in it"]
        what = ", and ".join(parts)
        raise InvalidInput(
            f"dataset {name!r} has other keys ({len(there)}, here {len(here)}): the first difference is that {what}",
            hint="the same images are one dataset; choose another --dataset name for others",
        )
    return np.fromiter((place[key] for key in there), np.int64, len(there))


def _spec(rows: RowSource, dataset: str, backbone: str, dtype: str, mark: str) -> Spec:
    document = {
        "algorithm": ALGORITHM,
        "dataset": mark,
        "backbone": dict(rows.backbone),
        "content": rows.content,
        "dtype": dtype,
    }
    return Spec("embedding", f"{dataset}/{backbone}", embeddings.series(dataset, backbone), document)


def _refuse_other_model(store: Store, rows: RowSource, backbone: str) -> None:
    """The same name for another model is a mistake."""
    known = datasets.find_backbone(store.catalog, backbone)
    if known is not None:
        datasets.require_same_backbone(known, rows.backbone)


def _refuse_other_numbers(store: Store, rows: RowSource, spec: Spec, force: bool) -> None:
    """The same name for other numbers is a mistake until it is said to be none."""
    with store.catalog.read() as connection:
        newest = lease.newest(connection, spec.series)
    if newest is not None and not force and newest.spec["content"] != rows.content:
        raise InvalidInput(
            f"{spec.name} is there as {newest.id} (version {newest.version}) with other numbers",
            hint="--force makes a new version; or choose another --backbone name",
        )


@dataclass
class _Job:
    """The blocks of one claimed embedding: which are missing, computing and writing them."""

    store: Store
    rows: RowSource
    dataset: Dataset
    backbone: Backbone
    claimed: lease.Claim
    heartbeat: lease.Heartbeat
    skip_bad: bool
    progress: Progress
    scheduler: str | None = None
    bad: dict[str, str] = field(default_factory=dict)

    def run(self, layout: ArraySpec) -> int:
        """Make every missing block; returns how many were written. Raises InvalidInput with every bad key."""
        layout, recorded = embeddings.begin(self.store.catalog, self.claimed, self.dataset, self.backbone, layout)
        kept = self._keep(layout, recorded)
        arrays.create(self.store.arrays, layout)
        missing = [number for number in range(layout.n_blocks) if number not in kept]
        total = sum(layout.rows_of(number)[1] for number in missing)
        title = f"ingest {self.dataset.name} / {self.backbone.name}"
        with self.progress.task(title, total, "rows") as task, Recorder(self._record) as recorder:
            if self.scheduler is None:
                self._make(layout, missing, task, recorder)
            elif missing:
                self._make_on(self.scheduler, layout, missing, task, recorder)
        self._refuse_bad()
        self.store.arrays.sync(layout.path)  # data first: the catalog's word follows
        return len(missing)

    def _make(self, layout: ArraySpec, missing: Sequence[int], task: Task, recorder: Recorder) -> None:
        """Make blocks here: one is computed while the one before is being written."""
        with ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
            pending: Future[None] | None = None
            for number, block in zip(missing, self.rows.blocks(layout, missing), strict=True):
                self.heartbeat.check()
                if pending is not None:
                    pending.result()
                pending = writer.submit(self._write, layout, number, block, recorder)
                self._count(layout, number, block.bad, task)
            if pending is not None:
                pending.result()

    def _make_on(
        self, scheduler: str, layout: ArraySpec, missing: Sequence[int], task: Task, recorder: Recorder
    ) -> None:
        """Make blocks on the workers of a Dask scheduler; they are recorded here, under the lease."""
        with Cluster(scheduler) as cluster:
            placed = place_blocks(cluster, self.store.arrays, self.rows, layout, missing)
            for number, made in zip(missing, placed, strict=True):
                self.heartbeat.check()
                self.rows.check(made.block.start, made.files)
                recorder.add(_placed(made.block, made.files))
                self._count(layout, number, made.bad, task)

    def _count(self, layout: ArraySpec, number: int, bad: Mapping[int, str], task: Task) -> None:
        start, count = layout.rows_of(number)
        self.bad.update((self.rows.keys[start + i], why) for i, why in bad.items())
        task.advance(count)

    def _keep(self, layout: ArraySpec, recorded: tuple[Block, ...]) -> set[int]:
        """The recorded blocks that stand: whole, without bad rows, of images that are still the same."""
        changed = self.rows.changed_blocks(layout, datasets.image_files(self.store.catalog, self.dataset))
        return standing_blocks(self.store, self.claimed, layout, recorded, changed)

    def _write(self, layout: ArraySpec, number: int, rows: BlockRows, recorder: Recorder) -> None:
        """Put a block in place, then say so: while the next one is being made."""
        positions = [layout.rows_of(number)[0] + local for local in rows.bad]
        block = arrays.write_block(self.store.arrays, layout, number, rows.rows, positions, replace=True, durable=False)
        recorder.add(_placed(block, rows.files))

    def _record(self, placed: Sequence[Placed]) -> None:
        embeddings.record_blocks(self.store.catalog, self.claimed, self.dataset, placed)

    def _refuse_bad(self) -> None:
        if len(self.bad) == self.dataset.n:
            raise InvalidInput(f"none of the {self.dataset.n} rows can be used: {self._listing()}")
        if not self.bad:
            return
        if not self.skip_bad:
            raise InvalidInput(
                f"{len(self.bad)} of {self.dataset.n} rows cannot be used: {self._listing()}",
                hint="mend or remove them; --skip-bad commits without them",
            )
        self.progress.warn(f"{len(self.bad)} of {self.dataset.n} rows are marked missing: {self._listing()}")

    def _listing(self) -> str:
        return "; ".join(f"{shown(key)} ({why})" for key, why in sorted(self.bad.items()))


def _placed(block: Block, files: Sequence[SeenFile]) -> Placed:
    return block, [(block.start + i, *file) for i, file in enumerate(files)]


def _report(store: Store, found: Artifact, started: float, *, written: int, cached: bool) -> IngestReport:
    stored: StoredEmbedding = embeddings.by_id(store.catalog, found.id)
    total = stored.array.n_blocks
    return IngestReport(
        id=found.id,
        version=found.version or 0,
        fingerprint=found.fingerprint,
        dataset=stored.dataset.name,
        backbone=stored.backbone.name,
        n=stored.array.n,
        dim=stored.array.dim,
        dtype=stored.array.dtype,
        n_bad=len(stored.bad),
        blocks={"total": total, "written": written, "reused": total - written},
        bytes=sum(b.nbytes for b in stored.blocks),
        cached=cached,
        timings={"total_s": time.perf_counter() - started},
    )
