"""The story of cluster: an embedding in, assignments with their part out.

gather: the embedding and its usable rows. compute: K-means streamed over its blocks, then the split. commit:
centroids first, assignments in bulk while the clustering is still being written, then `ready`.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from qrp_store.arrays.blocked import save_array
from qrp_store.catalog.entities import clusterings, datasets, embeddings
from qrp_store.catalog.entities.clusterings import ClusteringRow
from qrp_store.catalog.lifecycle import lease
from qrp_store.cluster.checkpoint import Checkpoint
from qrp_store.cluster.quantize import Place, UsableBlocks, place_for, refuse_zero_rows
from qrp_store.embedding import Embedding
from qrp_store.errors import InvalidInput
from qrp_store.options import (
    ClusterOptions,
    ClusterSource,
    Engine,
    Init,
    RunOptions,
    automatic_k,
    parse_memory,
    suggested_k,
    taken,
    takes,
)
from qrp_store.progress import Progress, silent
from qrp_store.records import TEST, TRAIN, VAL, Artifact, Spec, StoredEmbedding, derive_seed, fingerprint
from qrp_store.store import Store, split_version

if TYPE_CHECKING:
    from qrp_store.kmeans.lloyd import KMeansResult, KMeansState

ALGORITHM = 2  # 1: distances from 0, and clusters split in the last iteration, too
TIMINGS = ("read_s", "train_s", "assign_s", "total_s")


@dataclass(frozen=True)
class ClusterReport:
    """A clustering. `objective`: sum of squared distances of all usable rows to their centroid; times in seconds.
    `imbalance`: from 1 (clusters of one size) to K (one cluster has all rows).

    `centroids_of` is the clustering from which the centroids come, None for its own. `splits_per_iteration`: how many
    empty clusters each iteration replaced by half of another; None if nothing was trained, or before 0.2.0.
    """

    id: str
    version: int
    fingerprint: str
    dataset: str
    backbone: str
    clusters: int
    seed: int
    n: int
    dim: int | None
    n_sampled: int | None
    objective: float | None
    objective_per_iteration: tuple[float, ...] | None
    sizes: dict[str, float]
    n_train: int
    n_val: int
    n_test: int
    n_small_clusters: int
    engine: str
    device: str
    cached: bool
    timings: dict[str, float]
    peak_rss_bytes: int
    imbalance: float
    centroids_of: str | None = None
    splits_per_iteration: tuple[int, ...] | None = None


@takes(ClusterSource, ClusterOptions, RunOptions)
def cluster(
    store: Store,
    *,
    dataset: str,
    backbone: str,
    k: int | Literal["auto"] = "auto",
    seed: int = 0,
    niter: int = 25,
    sample: int | Literal["all"] | None = None,
    init: Init = "random",
    nredo: int = 1,
    normalize: bool = False,
    spherical: bool = False,
    engine: Engine = "auto",
    device: str = "auto",
    memory: str | int = "2GB",
    workers: int | None = None,
    scheduler: str | None = None,
    force: bool = False,
    wait: bool = True,
    progress: Progress = silent,
) -> ClusterReport:
    """Cluster the embedding of a dataset under a backbone by K-means. An equal clustering that exists is returned.

    Arguments are the options of `qrp-store cluster`, see docs/options.md. Raise InvalidInput for K < 2 or more than
    the usable rows.
    """
    options, run = taken(ClusterOptions, locals()), taken(RunOptions, locals())
    datasets.get_dataset(store.catalog, dataset)
    return cluster_with(store, dataset, backbone, options, force=run.force, wait=run.wait, progress=progress)


def automatic_k_note(stored: StoredEmbedding) -> str:
    """Return the note that tells which number `-k auto` means for an embedding."""
    return f"{stored.artifact.name}: {stored.usable:,} usable rows, so -k auto is {automatic_k(stored.usable)}"


def sized(options: ClusterOptions, stored: StoredEmbedding) -> ClusterOptions:
    """Return the options with the number of clusters that they mean for an embedding."""
    return options if options.k != "auto" else replace(options, k=automatic_k(stored.usable))


def cluster_spec(options: ClusterOptions, stored: StoredEmbedding, called: str | None = None) -> Spec:
    """Return what clustering an embedding means. `called`: the backbone as its series of versions knows it."""
    document = {
        "algorithm": ALGORITHM,
        "embedding": stored.artifact.identity,
        "options": options.document(),
        "seed": options.seed,
    }
    backbone = called or stored.backbone.name
    series = fingerprint(["clustering", stored.dataset.name, backbone, options.document(), options.seed])
    return Spec("clustering", f"{backbone}/k{options.k}/s{options.seed}", series, document)


def called(store: Store, stored: StoredEmbedding) -> str:
    """Return the backbone's name, with @N if the embedding is not the newest: each old version has its own series."""
    newest = embeddings.get(store.catalog, stored.dataset.name, stored.backbone.name)
    same = newest.artifact.id == stored.artifact.id
    return stored.backbone.name if same else f"{stored.backbone.name}@{stored.artifact.version}"


def cluster_with(
    store: Store, dataset: str, backbone: str, options: ClusterOptions, *, force: bool, wait: bool, progress: Progress
) -> ClusterReport:
    """Do what `cluster` does, with its options in one record."""
    stored, settings, spec = requested(store, dataset, backbone, options)
    if options.k == "auto":
        progress.note(automatic_k_note(stored))

    def make(work: lease.Held, place: Place, memory: int) -> None:
        _make(store, work, stored, settings, place, memory, progress)

    return found_or_made(store, spec, stored, settings, make, force=force, wait=wait, progress=progress)


def requested(
    store: Store, dataset: str, backbone: str, options: ClusterOptions
) -> tuple[StoredEmbedding, ClusterOptions, Spec]:
    """Return the embedding, the options with K as a number, and what such a clustering means.

    Raise NotFound, and InvalidInput for options that do not fit the embedding.
    """
    stored = embeddings.get(store.catalog, dataset, *split_version(backbone))
    settings = sized(options, stored)
    _check(settings, stored)
    return stored, settings, cluster_spec(settings, stored, called(store, stored))


def found_or_made(
    store: Store,
    spec: Spec,
    stored: StoredEmbedding,
    settings: ClusterOptions,
    make: Callable[[lease.Held, Place, int], None],
    *,
    force: bool,
    wait: bool,
    progress: Progress,
) -> ClusterReport:
    """Return the clustering that a spec means: the existing one, or what `make` computes.

    `make` gets the held claim, the place to run, and the memory in bytes.
    """
    memory, dataset = parse_memory(settings.memory), stored.dataset.name
    existing = None if force else lease.find(store.catalog, spec)
    if existing is not None:
        return report_of(store, existing, dataset, cached=True)
    _require_room(memory, stored)
    with place_for(settings, stored.usable, stored.array.dim) as place:
        place.require_readable(UsableBlocks(Embedding(store.arrays, stored)))
        with lease.find_or_hold(store.catalog, spec, force=force, wait=wait, progress=progress) as work:
            if isinstance(work, Artifact):
                return report_of(store, work, dataset, cached=True)
            make(work, place, memory)
    done = clusterings.by_id(store.catalog, work.claim.id)
    return report_of(store, done.artifact, dataset, cached=False)


def _make(
    store: Store,
    work: lease.Held,
    stored: StoredEmbedding,
    settings: ClusterOptions,
    place: Place,
    memory: int,
    progress: Progress,
) -> None:
    """Compute and commit the claimed clustering."""
    claimed = work.claim
    started = time.perf_counter()
    keys = datasets.keys(store.catalog, stored.dataset)
    blocks = UsableBlocks(Embedding(store.arrays, stored))
    if settings.normalize:
        refuse_zero_rows(blocks, keys)
    checkpoint = Checkpoint(store.arrays, claimed.path)
    resume = Checkpoint(store.arrays, claimed.previous_path or claimed.path).load(settings.clusters, blocks.dim)
    if resume is not None:
        progress.note(f"resuming after iteration {resume.iteration}")

    def after_iteration(state: KMeansState) -> None:
        work.heartbeat.check()
        checkpoint.save(state)

    result = place.kmeans(blocks, keys, settings, memory, resume, after_iteration, progress)
    total_s = time.perf_counter() - started
    commit(store, claimed, stored, settings, place, blocks, keys, result, total_s, progress)
    checkpoint.forget()


def _check(options: ClusterOptions, stored: StoredEmbedding) -> None:
    """Raise InvalidInput for a K or a sample that does not fit the usable rows."""
    k, usable = options.clusters, stored.usable
    if not 2 <= k <= usable:
        raise InvalidInput(
            f"-k {k}: {stored.artifact.name} has {usable} usable rows",
            hint=f"choose K between 2 and {usable}{suggested_k(k, usable)}",
        )
    if isinstance(options.sample, int) and options.sample < k:
        raise InvalidInput(f"--sample {options.sample}: K-means needs at least the {k} rows of -k")


def _require_room(memory: int, stored: StoredEmbedding) -> None:
    """Raise InvalidInput if a block of the embedding is larger than `memory` (bytes)."""
    array = stored.array
    block = min(array.block_rows, array.n) * array.dim * np.dtype(array.dtype).itemsize
    if memory < block:
        raise InvalidInput(
            f"--memory {memory:,} bytes: one block of {stored.artifact.name} alone is {block:,} bytes",
            hint=f"--memory {-(-block // 10**6)}MB or more, or ingest it with fewer --block-rows",
        )


def commit(
    store: Store,
    claimed: lease.Claim,
    stored: StoredEmbedding,
    settings: ClusterOptions,
    place: Place,
    blocks: UsableBlocks,
    keys: Sequence[str],
    result: KMeansResult,
    total_s: float,
    progress: Progress,
    centroids_of: str | None = None,
) -> None:
    """Split and store the result of K-means, and make it ready. `total_s` goes into its provenance."""
    from qrp_store.kmeans.split import split

    usable = [keys[i] for i in blocks.positions.tolist()] if len(blocks.positions) < len(keys) else keys
    parts, n_small = split(result.labels, usable, stored.dataset.name, derive_seed(settings.seed, "split"))
    warn_of_small(
        n_small, settings.clusters, f"{stored.backbone.name}, K {settings.clusters}, seed {settings.seed}", progress
    )
    path = f"{claimed.path}/centroids"
    row = ClusteringRow(
        backbone=stored.backbone.name,
        clusters=settings.clusters,
        seed=settings.seed,
        n=blocks.count,
        dim=blocks.dim,
        n_sampled=result.n_sampled,
        n_train=int((parts == TRAIN).sum()),
        n_val=int((parts == VAL).sum()),
        n_test=int((parts == TEST).sum()),
        n_small_clusters=n_small,
        objective=result.objective,
        objective_per_iteration=tuple(result.objective_per_iteration) or None,
        centroids_path=path,
        centroids_checksum=save_array(store.arrays, path, result.centroids, replace=True),
        centroids_of=centroids_of,
    )
    sizes = np.bincount(result.labels, minlength=settings.clusters)
    assignments = (blocks.positions, result.labels, parts)
    clusterings.write(store.catalog, claimed, stored.dataset, stored.artifact.id, row, sizes, assignments)
    provenance = {
        **place.provenance(),
        "timings": {**result.timings, "total_s": total_s},
        "peak_rss_bytes": peak_rss(),
        "memory": str(settings.memory),
        "cpus": os.cpu_count(),
        **({} if result.origin is None else {"origin_norm": float(np.linalg.norm(result.origin))}),
        **({} if centroids_of is None else {"centroids_of": centroids_of}),
        **({"splits_per_iteration": list(result.splits_per_iteration)} if result.splits_per_iteration else {}),
    }
    clusterings.commit(store.catalog, claimed, provenance)


def warn_of_small(n_small: int, k: int, name: str, progress: Progress) -> None:
    """Warn of clusters that are too small to be split."""
    if n_small:
        have = "has" if n_small == 1 else "have"
        progress.warn(f"{name}: {n_small} of {k} clusters {have} under 5 rows, all kept in the training part")


def peak_rss() -> int:
    """Return the peak resident memory of this process in bytes."""
    try:
        # On Linux the accounting of getrusage survives exec: it may be the parent's peak.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def report_of(store: Store, artifact: Artifact, dataset: str, *, cached: bool) -> ClusterReport:
    """Return the report of a ready clustering."""
    done = clusterings.by_id(store.catalog, artifact.id)
    row, sizes = done.row, np.array(done.sizes)
    return ClusterReport(
        id=artifact.id,
        version=artifact.version or 0,
        fingerprint=artifact.fingerprint,
        dataset=dataset,
        backbone=row.backbone,
        clusters=row.clusters,
        seed=row.seed,
        n=row.n,
        dim=row.dim,
        n_sampled=row.n_sampled,
        objective=row.objective,
        objective_per_iteration=row.objective_per_iteration,
        sizes={
            "min": int(sizes.min()),
            "median": float(np.median(sizes)),
            "max": int(sizes.max()),
            "empty": int((sizes == 0).sum()),
        },
        n_train=row.n_train,
        n_val=row.n_val,
        n_test=row.n_test,
        n_small_clusters=row.n_small_clusters,
        engine=str(artifact.provenance.get("engine", "import")),
        device=str(artifact.provenance.get("device", "cpu")),
        cached=cached,
        timings={**dict.fromkeys(TIMINGS, 0.0), **artifact.provenance.get("timings", {})},
        peak_rss_bytes=int(artifact.provenance.get("peak_rss_bytes", 0)),
        imbalance=done.imbalance,
        centroids_of=row.centroids_of,
        splits_per_iteration=tuple(artifact.provenance.get("splits_per_iteration", ())) or None,
    )
