"""The centroids of one clustering, the assignments of another embedding: one quantizer for train and val.

gather: the other clustering's centroids and this embedding's usable rows. compute: one pass that assigns them, then a
split of their own. commit: as `cluster` does, with a copy of the centroids, so that the other one may be retired.
"""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np

from qrp_store.arrays.blocked import load_array
from qrp_store.catalog.entities import clusterings, datasets, embeddings
from qrp_store.catalog.entities.clusterings import StoredClustering
from qrp_store.catalog.lifecycle import lease
from qrp_store.catalog.overview import references
from qrp_store.cluster.quantize import Place, UsableBlocks, refuse_zero_rows
from qrp_store.cluster.story import ClusterReport, called, commit, found_or_made
from qrp_store.embedding import Embedding
from qrp_store.errors import InvalidInput
from qrp_store.options import ClusterOptions, ClusterSource, Engine, PlaceOptions, RunOptions, taken, takes
from qrp_store.progress import Progress, silent
from qrp_store.records import Spec, StoredEmbedding, fingerprint
from qrp_store.store import Store, split_version

ALGORITHM = 2  # 1: distances from 0


@takes(ClusterSource, PlaceOptions, RunOptions)
def cluster_by(
    store: Store,
    reference: str,
    *,
    dataset: str,
    backbone: str | None = None,
    k: int | Literal["auto"] = "auto",
    seed: int = 0,
    engine: Engine = "auto",
    device: str = "auto",
    memory: str | int = "2GB",
    workers: int | None = None,
    scheduler: str | None = None,
    force: bool = False,
    wait: bool = True,
    progress: Progress = silent,
) -> ClusterReport:
    """Assign an embedding of a dataset to the centroids of the clustering that `reference` names.

    `backbone` None is that clustering's. Rows are normalised if that clustering's were; `seed` draws the split. Raise
    NotFound, and InvalidInput for a clustering without centroids, a `k` that it does not have, or an embedding of
    other dimensions.
    """
    given = locals()
    run = taken(RunOptions, given)
    source = _source(store, reference)
    if k not in ("auto", source.row.clusters):
        raise InvalidInput(f"-k {k}: {source.artifact.id} has {source.row.clusters} centroids", hint="leave -k out")
    stored = embeddings.get(store.catalog, dataset, *split_version(backbone or source.row.backbone))
    if stored.array.dim != source.row.dim:
        raise InvalidInput(
            f"{stored.artifact.name} has {stored.array.dim} dimensions, the centroids of {source.artifact.id} "
            f"({source.row.backbone}) have {source.row.dim}",
            hint="choose an embedding by the backbone that the centroids are of",
        )
    normalize = source.artifact.spec["options"].get("normalize", False)
    place = taken(PlaceOptions, given)
    asked = ClusterOptions(**vars(place), k=source.row.clusters, seed=seed, normalize=normalize)

    def make(work: lease.Held, place: Place, memory: int) -> None:
        _make(store, work.claim, source, stored, asked, place, memory, progress)

    spec = _spec(store, source, stored, seed)
    return found_or_made(store, spec, stored, asked, make, force=run.force, wait=run.wait, progress=progress)


def _source(store: Store, reference: str) -> StoredClustering:
    found = references.resolve(store.catalog, reference)
    if found.kind != "clustering":
        raise InvalidInput(f"{reference!r} is a {found.kind}, not a clustering", hint="qrp-store ls clusterings")
    stored = clusterings.by_id(store.catalog, found.id)
    if stored.row.centroids_path is None:
        other = stored.artifact.provenance.get("split_of")
        own = stored.artifact.spec["options"].get("imported")
        raise InvalidInput(
            f"clustering {found.id} ({found.name}) has no centroids: it was {'imported' if own else 'only split anew'}",
            hint="choose one that K-means made" if own or other is None else f"choose {other}, which it is a split of",
        )
    return stored


def _spec(store: Store, source: StoredClustering, stored: StoredEmbedding, seed: int) -> Spec:
    own = source.artifact
    # What is ranked together has its centroids from one dataset, made in one way. With the same seed for centroids and
    # split, seeds are repetitions; otherwise they share centroids, and only the split is repeated.
    before: dict[str, Any] = own.spec["options"].get("centroids_of", {})  # when these were not its own either
    made_with = before.get("seed", source.row.seed)
    borrowed = {"dataset": before.get("dataset") or clusterings.dataset_of(store.catalog, own.id).fingerprint}
    if made_with != seed:
        borrowed["seed"] = made_with
    document = {
        "algorithm": ALGORITHM,
        "embedding": stored.artifact.identity,
        "centroids_of": own.identity,
        "options": {**own.spec["options"], "centroids_of": borrowed},
        "seed": seed,
    }
    backbone = called(store, stored)
    series = fingerprint(["clustering", stored.dataset.name, backbone, "centroids of", own.series, seed])
    return Spec("clustering", f"{backbone}/k{source.row.clusters}/s{seed}/{own.id}", series, document)


def _make(
    store: Store,
    claimed: lease.Claim,
    source: StoredClustering,
    stored: StoredEmbedding,
    asked: ClusterOptions,
    place: Place,
    memory: int,
    progress: Progress,
) -> None:
    started = time.perf_counter()
    row = source.row
    assert row.centroids_path is not None
    assert row.centroids_checksum is not None
    centroids = np.asarray(load_array(store.arrays, row.centroids_path, row.centroids_checksum), np.float32)
    keys = datasets.keys(store.catalog, stored.dataset)
    blocks = UsableBlocks(Embedding(store.arrays, stored))
    if asked.normalize:
        refuse_zero_rows(blocks, keys)
    result = place.assign(blocks, keys, centroids, asked, memory, progress)
    total_s = time.perf_counter() - started
    own = source.artifact.id
    commit(store, claimed, stored, asked, place, blocks, keys, result, total_s, progress, own)
