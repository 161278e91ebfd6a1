"""Import groupings made elsewhere as clusterings: SeLa, SwAV prototypes, VQ codebooks, human groupings.

A grouping has one split a seed. Asked for another seed, the same assignments are split anew.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np

from qrp_store.catalog.entities import clusterings, datasets, embeddings
from qrp_store.catalog.entities.clusterings import ClusteringRow, StoredClustering
from qrp_store.catalog.lifecycle import lease
from qrp_store.catalog.overview import references
from qrp_store.cluster.story import ClusterReport, peak_rss, report_of, warn_of_small
from qrp_store.errors import InvalidInput
from qrp_store.kmeans.split import split
from qrp_store.options import ClusterSource, Match, RunOptions, takes
from qrp_store.progress import Progress, silent
from qrp_store.readers.groupings import MISSING, positions_of, read_grouping
from qrp_store.records import TEST, TRAIN, VAL, Artifact, Dataset, Spec, derive_seed, fingerprint
from qrp_store.store import Store, check_name, split_version

ALGORITHM = 1
MAX_CLUSTERS = 1_000_000


@takes(ClusterSource, RunOptions)
def import_clustering(
    store: Store,
    source: str,
    *,
    dataset: str,
    name: str,
    match: Match = "key",
    seed: int = 0,
    force: bool = False,
    wait: bool = True,
    progress: Progress = silent,
) -> ClusterReport:
    """Store a clustering called `name` from a file of assignments; `cached` if it exists.

    Samples without a cluster are left out. Raises NotFound, and InvalidInput for a file that does not fit.
    """
    check_name(name, "clustering")
    owner = datasets.get_dataset(store.catalog, dataset)
    if name in embeddings.backbones(store.catalog, dataset):
        progress.warn(f"{name!r} is a backbone of {dataset}, too: views have both as `backbone`, apart by `setting`")
    started = time.perf_counter()
    grouping = read_grouping(Path(source).expanduser())
    clusters = grouping.clusters
    if grouping.keys is not None:
        at = positions_of(grouping.keys, datasets.keys(store.catalog, owner), source, dataset, match)
        clusters = np.full(owner.n, MISSING, np.int64)
        clusters[at] = grouping.clusters
    elif len(clusters) != owner.n:
        raise InvalidInput(f"{source} has {len(clusters)} rows, dataset {dataset!r} has {owner.n} samples")
    read_s = time.perf_counter() - started
    provenance: dict[str, object] = {"engine": "import", "source": str(Path(source).absolute())}
    provenance |= {"timings": {"read_s": read_s, "total_s": read_s}, "peak_rss_bytes": peak_rss()}
    if grouping.names is not None:
        provenance["cluster_names"] = list(grouping.names)
    made, cached = _make(store, owner, name, seed, clusters, provenance, force, wait, progress)
    return report_of(store, made.artifact, dataset, cached=cached)


def with_seed(
    store: Store, dataset: str, reference: str, seed: int | None, *, wait: bool = True, progress: Progress = silent
) -> StoredClustering:
    """Return the clustering that a name or an id means; an imported one split by that seed.

    `seed` None: the one it has, or 0 for an imported one that is named. Raises NotFound, and InvalidInput for another
    dataset's or for a seed that a clustering made by K-means does not have.
    """
    stored, seed = named(store, dataset, reference, seed)
    if stored.row.seed == seed:
        return stored
    owner = datasets.get_dataset(store.catalog, dataset)
    clusters = _assigned(store, owner, stored)
    provenance = {**stored.artifact.provenance, "split_of": stored.artifact.id}
    return _make(store, owner, stored.row.backbone, seed, clusters, provenance, False, wait, progress)[0]


def find_with_seed(store: Store, owner: Dataset, stored: StoredClustering, seed: int) -> StoredClustering | None:
    """Return what `with_seed` would return if it exists."""
    if stored.row.seed == seed:
        return stored
    clusters = _assigned(store, owner, stored)
    existing = lease.find(store.catalog, _spec(owner, stored.row.backbone, seed, clusters, stored.row.clusters))
    return None if existing is None else clusterings.by_id(store.catalog, existing.id)


def _assigned(store: Store, owner: Dataset, stored: StoredClustering) -> np.ndarray:
    """Return the cluster of each position of the dataset, int64 (n,); MISSING for none."""
    positions, labels, _ = clusterings.assignments(store.catalog, stored.artifact.id)
    clusters = np.full(owner.n, MISSING, np.int64)
    clusters[positions] = labels
    return clusters


def _spec(owner: Dataset, name: str, seed: int, clusters: np.ndarray, k: int) -> Spec:
    document = {
        "algorithm": ALGORITHM,
        "dataset": owner.fingerprint,
        "content": hashlib.sha256(clusters.astype("<i8").tobytes()).hexdigest(),
        "options": {"clusters": k, "imported": True},
        "seed": seed,
    }
    series = fingerprint(["clustering", owner.name, "imported", name, seed])
    return Spec("clustering", name, series, document)


def named(store: Store, dataset: str, reference: str, seed: int | None) -> tuple[StoredClustering, int]:
    """Return the stored clustering and the seed that `with_seed` would give it."""
    owner = datasets.get_dataset(store.catalog, dataset)
    by_name = clusterings.newest_named(store.catalog, dataset, *split_version(reference))
    stored = clusterings.by_id(store.catalog, by_name or _clustering_id(store, owner, reference))
    options = stored.artifact.spec["options"]
    anew = options.get("imported") and "grouping" not in options
    if seed is None:
        seed = 0 if by_name and anew else stored.row.seed
    if stored.row.seed != seed and not anew:
        raise InvalidInput(
            f"clustering {stored.artifact.id} ({stored.artifact.name}) has seed {stored.row.seed}, not {seed}",
            hint="leave --seed out, or split anew: qrp-store cluster --centroids-of ID --seed N",
        )
    return stored, seed


def _clustering_id(store: Store, owner: Dataset, reference: str) -> str:
    target = references.resolve(store.catalog, reference)
    if target.kind != "clustering":
        raise InvalidInput(f"{reference!r} is a {target.kind}, not a clustering", hint="qrp-store ls clusterings")
    other = clusterings.dataset_of(store.catalog, target.id)
    if other.id != owner.id:
        raise InvalidInput(
            f"clustering {target.id} is of dataset {other.name!r}, not {owner.name!r}",
            hint=f"its centroids can be used: qrp-store cluster --dataset {owner.name} --centroids-of {target.id}",
        )
    return target.id


def _make(
    store: Store,
    owner: Dataset,
    name: str,
    seed: int,
    clusters: np.ndarray,
    provenance: dict[str, object],
    force: bool,
    wait: bool,
    progress: Progress,
) -> tuple[StoredClustering, bool]:
    positions = np.flatnonzero(clusters != MISSING)
    labels = clusters[positions].astype(np.int32)
    k = int(labels.max()) + 1 if len(labels) else 0
    if len(np.unique(labels)) < 2 or k > MAX_CLUSTERS:
        raise InvalidInput(
            f"clustering {name!r}: {k} clusters over {len(labels)} samples; expected 2 to {MAX_CLUSTERS}"
        )
    spec = _spec(owner, name, seed, clusters, k)
    with lease.find_or_hold(store.catalog, spec, force=force, wait=wait, progress=progress) as work:
        if isinstance(work, Artifact):
            return clusterings.by_id(store.catalog, work.id), True
        keys = datasets.keys(store.catalog, owner)
        usable = [keys[i] for i in positions.tolist()]
        parts, n_small = split(labels, usable, owner.name, derive_seed(seed, "split"))
        warn_of_small(n_small, k, name, progress)
        row = ClusteringRow(
            backbone=name,
            clusters=k,
            seed=seed,
            n=len(labels),
            dim=None,
            n_sampled=None,
            n_train=int((parts == TRAIN).sum()),
            n_val=int((parts == VAL).sum()),
            n_test=int((parts == TEST).sum()),
            n_small_clusters=n_small,
            objective=None,
            objective_per_iteration=None,
            centroids_path=None,
            centroids_checksum=None,
        )
        sizes = np.bincount(labels, minlength=k)
        clusterings.write(store.catalog, work.claim, owner, None, row, sizes, (positions, labels, parts))
        clusterings.commit(store.catalog, work.claim, provenance)
    return clusterings.by_id(store.catalog, work.claim.id), False
