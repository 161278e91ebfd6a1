"""The story of ingest: images or an array in, an embedding out.

gather: the source, its dataset, the blocks that exist. compute: every missing
block, while the one before is being written. commit: one short transaction. Blocks are in place before the catalog
says so, and the embedding (with a new dataset and backbone) shows only when all of them are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from qrp_store.arrays import blocked as arrays
from qrp_store.catalog.entities import datasets, embeddings
from qrp_store.catalog.lifecycle import lease
from qrp_store.errors import InvalidInput, NotFound
from qrp_store.ingest.arrays import ArrayRows, is_array
from qrp_store.ingest.images import ImageRows
from qrp_store.ingest.job import Job, make_blocks
from qrp_store.ingest.rows import Output, RowSource
from qrp_store.ingest.series import Member, expanded, members
from qrp_store.options import (
    Dtype,
    IngestOptions,
    ModelOptions,
    Precision,
    Several,
    SourceOptions,
    described,
    taken,
    takes,
)
from qrp_store.progress import Progress, silent
from qrp_store.records import ArraySpec, Artifact, Dataset, Spec, StoredEmbedding
from qrp_store.samples import key_difference, shown
from qrp_store.store import Store, check_name

ALGORITHM = 1
_COMPARED = 1000  # unknown keys that are compared with a dataset's
_MODEL = (*(each.name for each in described(ModelOptions) if each.name != "layer"), "device")
_SOURCE = tuple(each.name for each in described(SourceOptions))


@dataclass(frozen=True)
class IngestReport:
    """What `ingest` did. `bytes` are those of all blocks; `blocks` counts total, written now and reused. `columns` has
    the roles of a table's columns, `not_taken` the number of files that are no images, by ending; `preprocessing` is
    that of images. `layers`: one report each if several layers were requested."""

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
    columns: Mapping[str, Any] | None = None
    not_taken: Mapping[str, int] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] | None = None
    layers: tuple[IngestReport, ...] = ()


@takes(IngestOptions)
def ingest(
    store: Store,
    source: str,
    *,
    dataset: str,
    backbone: str,
    # images: the model
    arch: str | None = None,
    weights: Several[str] = ("default",),
    recipe: str = "auto",
    layer: Several[str] = (),
    container: str | None = None,
    prefix: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    resize: int | None = None,
    crop: str | None = None,
    interpolation: str | None = None,
    interpolate_positions: bool = False,
    image_size: int | None = None,
    precision: Precision = "float32",
    channels_last: bool = True,
    batch_size: int = 64,
    seed: int = 0,
    # arrays and tables
    keys: str | None = None,
    key_root: str | None = None,
    field: str | None = None,
    key_column: str | None = None,
    # what is stored, and how it is made
    dtype: Dtype = "float32",
    block_rows: int | None = None,
    skip_bad: bool = False,
    device: str = "auto",
    workers: int | None = None,
    scheduler: str | None = None,
    force: bool = False,
    wait: bool = True,
    progress: Progress = silent,
) -> IngestReport:
    """Store the embeddings of a dataset under a backbone; the first ingest creates the dataset.

    `source` is an image folder, tar shards, Parquet or a list of images (with `arch`), or an array (n, dim). Arguments
    are the options of `qrp-store ingest`, see docs/options.md. An equal embedding that exists is returned; after a
    crash finished blocks are kept. With a `scheduler` its Dask workers make the blocks; they must reach source and
    arrays under the same names, and give the bits of one process. Raise InvalidInput for bad rows unless `skip_bad`.

    Several layers or weights make as many embeddings, of the backbones `backbone:layer` or `backbone/STEM`, in one pass
    over the images (on workers: one pass each); the report is the first one's and holds all of them in `layers`.
    """
    return ingest_with(store, source, taken(IngestOptions, locals()), progress)


def ingest_with(store: Store, source: str, options: IngestOptions, progress: Progress) -> IngestReport:
    """Do what `ingest` does, with its options in one record."""
    started = time.perf_counter()
    check_name(options.dataset, "dataset")
    check_name(options.backbone, "backbone")
    request = _request(options)
    made = members(options.backbone, request["weights"], options.layer)
    for member in made:
        check_name(member.name, "backbone")
    how = _How(
        source,
        options.dataset,
        options.dtype,
        options.block_rows,
        options.skip_bad,
        options.force,
        options.wait,
        options.scheduler,
        started,
        progress,
    )
    passes = [made] if options.scheduler is None else [[member] for member in made]
    reports = [report for some in passes for report in _ingest(store, how, some, request, options.workers)]
    datasets.place_in_series(store.catalog, {m.name: (m.series, m.position or 0) for m in made if m.series is not None})
    return replace(reports[0], layers=tuple(reports)) if len(made) > 1 else reports[0]


def _request(options: IngestOptions) -> dict[str, Any]:
    """Return the options that say which vectors are made, with absolute paths: provenance from which `repair` works."""
    request = {name: getattr(options, name) for name in (*_MODEL, *_SOURCE)}
    request["weights"] = expanded(options.weights)
    if options.arch is not None:
        from qrp_store.models.architectures import located

        request["arch"] = located(options.arch)
    if options.keys is not None:
        request["keys"] = str(Path(options.keys).expanduser().absolute())
    return request


@dataclass(frozen=True)
class _How:
    """The options of one ingest, apart from those of the model."""

    source: str
    dataset: str
    dtype: str
    block_rows: int | None
    skip_bad: bool
    force: bool
    wait: bool
    scheduler: str | None
    started: float
    progress: Progress


def _ingest(
    store: Store,
    how: _How,
    of_pass: Sequence[Member],
    request: Mapping[str, Any],
    workers: int | None,
) -> list[IngestReport]:
    """Make the embeddings of one pass, one for each member."""
    known = datasets.find_dataset(store.catalog, how.dataset)
    of_name = {member.name: member for member in of_pass}
    names = list(of_name)
    chosen = {
        "weights": tuple(dict.fromkeys(member.weights for member in of_pass)),
        "layers": tuple(dict.fromkeys(member.layer for member in of_pass if member.layer is not None)),
    }
    rows = open_rows(store, how.source, known, {**request, **chosen}, workers, how.progress)
    outputs = dict(zip(names, rows.outputs, strict=True))
    mark = known.fingerprint if known is not None else datasets.keys_fingerprint(rows.keys)
    for name, output in outputs.items():
        _refuse_other_model(store, output, name)
    # The keys of a new dataset are written while the digest of the array is computed.
    target = known or datasets.stage_dataset(store.catalog, how.dataset, rows.keys, mark, rows.root)
    specs = {name: _spec(rows, output, how, name, mark) for name, output in outputs.items()}
    for spec in specs.values():
        _refuse_other_numbers(store, rows, spec, how.force)
    widest = max(output.dim for output in outputs.values())
    block_rows = how.block_rows or arrays.default_block_rows(widest, np.dtype(how.dtype).itemsize, target.n)
    ready: dict[str, str] = {}
    jobs: dict[str, Job] = {}
    with ExitStack() as held:
        for name in sorted(names):  # in one order: two commands cannot deadlock
            output, existing = outputs[name], None if how.force else lease.find(store.catalog, specs[name])
            if existing is not None:
                ready[name] = existing.id
                continue
            model = datasets.stage_backbone(store.catalog, name, output.backbone)
            work = held.enter_context(
                lease.find_or_hold(store.catalog, specs[name], force=how.force, wait=how.wait, progress=how.progress)
            )
            if isinstance(work, Artifact):
                ready[name] = work.id
                continue
            layout = ArraySpec(f"{work.claim.path}/{embeddings.MEMBER}", target.n, output.dim, how.dtype, block_rows)
            jobs[name] = Job(store, rows, output, target, model, work.claim, work.heartbeat, layout)
        for job in jobs.values():
            job.begin()
        make_blocks(list(jobs.values()), how.scheduler, how.progress)
        for name, job in jobs.items():
            job.finish(how.skip_bad, how.progress)
            recorded = {**request, "weights": of_name[name].weights, "layer": of_name[name].layer}
            provenance = {"source": str(Path(how.source).absolute()), "skip_bad": how.skip_bad, "asked": recorded}
            embeddings.commit(
                store.catalog,
                job.claimed,
                target,
                job.backbone,
                {**provenance, **rows.provenance, **outputs[name].provenance},
            )
    written = {name: len(job.missing) for name, job in jobs.items()}
    made = {name: job.claimed.id for name, job in jobs.items()}
    reports = [_report(store, {**ready, **made}[name], how.started, written.get(name)) for name in names]
    return [replace(report, columns=rows.columns, not_taken=rows.not_taken) for report in reports]


def open_rows(
    store: Store,
    source: str,
    known: Dataset | None,
    request: Mapping[str, Any],
    workers: int | None,
    progress: Progress,
) -> RowSource:
    """Return the rows of a source, in the order of the dataset if that exists.

    `request`: options of `ingest` by name, and `layers` or, as in provenance, one `layer`.
    """
    rows = _open_source(source, request)
    if isinstance(rows, ImageRows):
        one = request.get("layer")
        layers = request.get("layers", () if one is None else (one,))
        rows.choose_model(layers=layers, workers=workers, **{name: request[name] for name in _MODEL if name in request})
    if known is not None:
        _align(store, rows, known, progress)
    rows.prepare(progress)
    return rows


def _open_source(source: str, request: Mapping[str, Any]) -> RowSource:
    keys, field, key_root, key_column = (request.get(name) for name in ("keys", "field", "key_root", "key_column"))
    path = Path(source).expanduser().absolute()
    if not path.exists():
        raise NotFound(f"{source}: no such file or folder")
    if request["arch"] is not None:
        if keys is not None:
            raise InvalidInput("--keys is for arrays; the keys of images are their paths")
        return ImageRows(path, field, key_root, key_column)
    if (path.is_dir() and not is_array(path)) or path.suffix.lower() in (".tar", ".txt"):
        raise InvalidInput(
            f"{source} holds images: which model embeds them?",
            hint="--arch torchvision/resnet50 or --arch timm/NAME, with --weights",
        )
    key_file = None if keys is None else Path(keys).expanduser()
    return ArrayRows(path, field, key_file, key_root, np.dtype(request["dtype"]), key_column)


def _align(store: Store, rows: RowSource, known: Dataset, progress: Progress) -> None:
    """Check that the source has the keys of the dataset, and reorder it."""
    expected = datasets.keys(store.catalog, known)
    if list(rows.keys) != expected:
        rows.reorder(_order(known.name, expected, rows.keys))
        progress.note(f"the keys are dataset {known.name!r}'s in another order; rows are put in the dataset's order")
    if isinstance(rows, ImageRows):
        rows.refuse_changed(datasets.image_files(store.catalog, known))


def _order(name: str, expected: Sequence[str], given: Sequence[str]) -> np.ndarray:
    """Return the source's row for every position of the dataset. Raise InvalidInput with the first difference."""
    place = {key: row for row, key in enumerate(given)}
    missing = next((key for key in expected if key not in place), None)
    if missing is not None or len(expected) != len(given):
        known = set(expected)
        extra = next((key for key in given if key not in known), None)
        parts = [] if missing is None else [f"{shown(missing)} is missing here"]
        parts += [] if extra is None else [f"{shown(extra)} is not in it"]
        what = ", and ".join(parts)
        extras = islice((key for key in given if key not in known), _COMPARED)
        difference = key_difference(extras, expected)
        what += f"; {difference}" if difference else ""
        raise InvalidInput(
            f"dataset {name!r} has other keys ({len(expected)}, here {len(given)}); first difference: {what}",
            hint="the same images are one dataset; choose another --dataset name for others",
        )
    return np.fromiter((place[key] for key in expected), np.int64, len(expected))


def _spec(rows: RowSource, output: Output, how: _How, backbone: str, mark: str) -> Spec:
    document = {
        "algorithm": ALGORITHM,
        "dataset": mark,
        "backbone": dict(output.backbone),
        "content": rows.content,
        "dtype": how.dtype,
    }
    return Spec("embedding", f"{how.dataset}/{backbone}", embeddings.series(how.dataset, backbone), document)


def _refuse_other_model(store: Store, output: Output, backbone: str) -> None:
    """Raise InvalidInput if the name belongs to another model."""
    known = datasets.find_backbone(store.catalog, backbone)
    if known is not None:
        datasets.require_same_backbone(known, output.backbone)


def _refuse_other_numbers(store: Store, rows: RowSource, spec: Spec, force: bool) -> None:
    """Raise InvalidInput if the name belongs to other numbers, unless with --force."""
    with store.catalog.read() as connection:
        newest = lease.newest(connection, spec.series)
    if newest is not None and not force and newest.spec["content"] != rows.content:
        raise InvalidInput(
            f"{spec.name} exists as {newest.id} (version {newest.version}) with other numbers",
            hint="--force makes a new version; or choose another --backbone name",
        )


def _report(store: Store, identifier: str, started: float, written: int | None) -> IngestReport:
    """Return the report of an embedding; `written` counts its new blocks, None: it existed."""
    stored: StoredEmbedding = embeddings.by_id(store.catalog, identifier)
    total = stored.array.n_blocks
    return IngestReport(
        id=identifier,
        version=stored.artifact.version or 0,
        fingerprint=stored.artifact.fingerprint,
        dataset=stored.dataset.name,
        backbone=stored.backbone.name,
        n=stored.array.n,
        dim=stored.array.dim,
        dtype=stored.array.dtype,
        n_bad=len(stored.bad),
        preprocessing=stored.backbone.spec.get("preprocessing"),
        blocks={"total": total, "written": written or 0, "reused": total - (written or 0)},
        bytes=sum(b.nbytes for b in stored.blocks),
        cached=written is None,
        timings={"total_s": time.perf_counter() - started},
    )
