"""Assign an embedding to the centroids of another clustering: one quantizer for training and validation images.

gather: the source clustering's centroids and this embedding's usable rows. compute: one pass that assigns the rows,
then their split. commit: as `cluster` does, with a copy of the centroids, so that the source may be retired.
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
    settings = ClusterOptions(**vars(place), k=source.row.clusters, seed=seed, normalize=normalize)

    def make(work: lease.Held, place: Place, memory: int) -> None:
        _make(store, work.claim, source, stored, settings, place, memory, progress)

    spec = _spec(store, source, stored, seed)
    return found_or_made(store, spec, stored, settings, make, force=run.force, wait=run.wait, progress=progress)


def _source(store: Store, reference: str) -> StoredClustering:
    target = references.resolve(store.catalog, reference)
    if target.kind != "clustering":
        raise InvalidInput(f"{reference!r} is a {target.kind}, not a clustering", hint="qrp-store ls clusterings")
    stored = clusterings.by_id(store.catalog, target.id)
    if stored.row.centroids_path is None:
        other = stored.artifact.provenance.get("split_of")
        imported = stored.artifact.spec["options"].get("imported")
        how = "imported" if imported else "only split anew"
        raise InvalidInput(
            f"clustering {target.id} ({target.name}) has no centroids: it was {how}",
            hint=f"choose {other}, which it splits" if other and not imported else "choose one that K-means made",
        )
    return stored


def _spec(store: Store, source: StoredClustering, stored: StoredEmbedding, seed: int) -> Spec:
    origin = source.artifact
    # Results are ranked together if their centroids come from one dataset and were trained in one way. If centroids and
    # split have the same seed, seeds are repetitions; otherwise seeds share centroids and repeat the split alone.
    before: dict[str, Any] = origin.spec["options"].get("centroids_of", {})  # set if the source borrowed them, too
    trained_with = before.get("seed", source.row.seed)
    borrowed = {"dataset": before.get("dataset") or clusterings.dataset_of(store.catalog, origin.id).fingerprint}
    if trained_with != seed:
        borrowed["seed"] = trained_with
    document = {
        "algorithm": ALGORITHM,
        "embedding": stored.artifact.identity,
        "centroids_of": origin.identity,
        "options": {**origin.spec["options"], "centroids_of": borrowed},
        "seed": seed,
    }
    backbone = called(store, stored)
    series = fingerprint(["clustering", stored.dataset.name, backbone, "centroids of", origin.series, seed])
    return Spec("clustering", f"{backbone}/k{source.row.clusters}/s{seed}/{origin.id}", series, document)


def _make(
    store: Store,
    claimed: lease.Claim,
    source: StoredClustering,
    stored: StoredEmbedding,
    settings: ClusterOptions,
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
    if settings.normalize:
        refuse_zero_rows(blocks, keys)
    result = place.assign(blocks, keys, centroids, settings, memory, progress)
    total_s = time.perf_counter() - started
    commit(store, claimed, stored, settings, place, blocks, keys, result, total_s, progress, source.artifact.id)
