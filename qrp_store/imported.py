"""Groupings made elsewhere as clusterings: SeLa, SwAV prototypes, VQ codebooks, human groupings, scored like our own.

A grouping has one split a seed. Asked for another seed, the same assignments are split anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qrp_store.catalog import clusterings, datasets, lease
from qrp_store.catalog.clusterings import ClusteringRow, StoredClustering
from qrp_store.cluster import ClusterReport, report_of
from qrp_store.clustering.split import split
from qrp_store.errors import InvalidInput
from qrp_store.progress import Progress, silent
from qrp_store.records import TEST, TRAIN, VAL, Artifact, Dataset, Spec, derive_seed, fingerprint
from qrp_store.samples import shown
from qrp_store.sources.groupings import MISSING, read_grouping
from qrp_store.store import Store, check_name

ALGORITHM = 1
MAX_CLUSTERS = 1_000_000


def import_clustering(
    store: Store,
    source: str,
    *,
    dataset: str,
    name: str,
    seed: int = 0,
    force: bool = False,
    wait: bool = True,
    progress: Progress = silent,
) -> ClusterReport:
    """A clustering called `name` from a file of assignments; `cached` when it was there already.

    Samples without a cluster are left out. Raises NotFound, and InvalidInput for a file that does not fit.
    """
    check_name(name, "clustering")
    owner = datasets.get_dataset(store.catalog, dataset)
    grouping = read_grouping(Path(source).expanduser())
    clusters = grouping.clusters
    if grouping.keys is not None:
        clusters = _by_position(store, owner, grouping.keys, clusters, source)
    elif len(clusters) != owner.n:
        raise InvalidInput(f"{source} has {len(clusters)} rows, dataset {dataset!r} has {owner.n} samples")
    provenance: dict[str, object] = {"engine": "import", "source": str(Path(source).absolute())}
    if grouping.names is not None:
        provenance["cluster_names"] = list(grouping.names)
    made, cached = _make(store, owner, name, seed, clusters, provenance, force, wait, progress)
    return report_of(store, made.artifact, dataset, cached=cached)


def with_seed(
    store: Store, dataset: str, name: str, seed: int, *, wait: bool = True, progress: Progress = silent
) -> StoredClustering:
    """The imported clustering of that name split by that seed. Raises NotFound."""
    owner = datasets.get_dataset(store.catalog, dataset)
    newest = clusterings.newest_imported(store.catalog, dataset, name)
    if newest.row.seed == seed:
        return newest
    positions, found, _ = clusterings.assignments(store.catalog, newest.artifact.id)
    clusters = np.full(owner.n, MISSING, np.int64)
    clusters[positions] = found
    provenance = {**newest.artifact.provenance, "split_of": newest.artifact.id}
    return _make(store, owner, name, seed, clusters, provenance, False, wait, progress)[0]


def _by_position(store: Store, owner: Dataset, keys: Sequence[str], clusters: np.ndarray, source: str) -> np.ndarray:
    position = {key: i for i, key in enumerate(datasets.keys(store.catalog, owner))}
    unknown = [key for key in keys if key not in position]
    if unknown:
        examples = ", ".join(shown(key) for key in unknown[:5])
        raise InvalidInput(f"{source}: {len(unknown)} keys are not in dataset {owner.name!r}, for example {examples}")
    out = np.full(owner.n, MISSING, np.int64)
    out[[position[key] for key in keys]] = clusters
    return out


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
    document = {
        "algorithm": ALGORITHM,
        "dataset": owner.fingerprint,
        "content": hashlib.sha256(clusters.astype("<i8").tobytes()).hexdigest(),
        "options": {"clusters": k, "imported": True},
        "seed": seed,
    }
    series = fingerprint(["clustering", owner.name, "imported", name, seed])
    spec = Spec("clustering", name, series, document)
    found = None if force else lease.find(store.catalog, spec)
    claimed = found or lease.claim(store.catalog, spec, force=force, wait=wait, progress=progress)
    if isinstance(claimed, Artifact):
        return clusterings.by_id(store.catalog, claimed.id), True
    with lease.held(store.catalog, claimed):
        keys = datasets.keys(store.catalog, owner)
        own = [keys[i] for i in positions.tolist()]
        parts, n_small = split(labels, own, owner.name, derive_seed(seed, "split"))
        if n_small:
            progress.warn(f"{n_small} of {k} clusters have under 5 rows and stay wholly in the training part")
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
        clusterings.write(store.catalog, claimed, owner, None, row, sizes, (positions, labels, parts))
        clusterings.commit(store.catalog, claimed, provenance)
    return clusterings.by_id(store.catalog, claimed.id), False
