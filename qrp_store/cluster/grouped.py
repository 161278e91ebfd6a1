"""Split a clustering so that samples of one group share a part: near-duplicates, frames of one video.

A split is stored with its clustering, so this makes another clustering: the same assignments, split anew.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from qrp_store.arrays.blocked import load_array, save_array
from qrp_store.catalog.entities import clusterings, datasets
from qrp_store.catalog.entities.clusterings import StoredClustering
from qrp_store.catalog.lifecycle import lease
from qrp_store.kmeans.split import TEST_PERCENT, split_groups
from qrp_store.options import Match
from qrp_store.progress import Progress, silent
from qrp_store.readers.groupings import positions_of, read_groups
from qrp_store.records import TEST, TRAIN, VAL, Artifact, Dataset, Spec, canonical, derive_seed, fingerprint
from qrp_store.store import Store

ALGORITHM = 2  # 1: without the groups themselves
GROUPS = "groups"
"""The name of the array that holds the group of each assigned sample."""
_FAR = 5  # percentage points


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups of a dataset's samples.

    `of` int64 (n,) numbers the group of each position, `names` the groups (a sample of no group is one by itself),
    `digest` sums all of it up.
    """

    dataset: Dataset
    of: np.ndarray = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    digest: str


def groups_of(store: Store, dataset: Dataset, source: str, match: Match = "key") -> Groups:
    """Return the groups of a table of key,group rows. Raise NotFound, and InvalidInput for keys not in the dataset."""
    keys, values = read_groups(Path(source).expanduser())
    # the tag keeps apart a key and a group of one name
    dataset_keys = datasets.keys(store.catalog, dataset)
    groups = [f"key {key}" for key in dataset_keys]
    for at, value in zip(positions_of(keys, dataset_keys, source, dataset.name, match), values, strict=True):
        if value:
            groups[at] = f"group {value}"
    number = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    digest = hashlib.sha256(canonical(groups).encode("utf-8", "surrogatepass")).hexdigest()
    return Groups(dataset, np.array([number[name] for name in groups], np.int64), tuple(number), digest)


def grouped_spec(clustering: StoredClustering, groups: Groups) -> Spec:
    """Return what a clustering split by groups means."""
    artifact = clustering.artifact
    document = {
        "algorithm": ALGORITHM,
        "split_of": artifact.identity,
        "options": {**artifact.spec["options"], "grouping": groups.digest},
        "seed": clustering.row.seed,
    }
    # no imported clustering can have that name: names hold no +
    series = fingerprint(["clustering", artifact.series, "grouped", groups.digest])
    return Spec("clustering", f"{artifact.name}+grouped", series, document)


def sample_groups(store: Store, clustering: StoredClustering) -> np.ndarray | None:
    """The group of each assigned sample, int64 (n,); None where the split keeps no groups together. Raises Corrupt."""
    path, checksum = clustering.row.groups_path, clustering.row.groups_checksum
    return None if path is None or checksum is None else load_array(store.arrays, path, checksum)


def split_by(
    store: Store, clustering: StoredClustering, groups: Groups, *, wait: bool = True, progress: Progress = silent
) -> StoredClustering:
    """Return the clustering split by groups, existing or made. Raise InvalidInput for too few or too large groups."""
    spec = grouped_spec(clustering, groups)
    with lease.find_or_hold(store.catalog, spec, wait=wait, progress=progress) as work:
        if isinstance(work, Artifact):
            return clusterings.by_id(store.catalog, work.id)
        positions, labels, _ = clusterings.assignments(store.catalog, clustering.artifact.id)
        seed = derive_seed(clustering.row.seed, "split")
        parts = split_groups(groups.of[positions], groups.names, groups.dataset.name, seed)
        counts = np.bincount(parts, minlength=3).tolist()
        if abs(100 * counts[TEST] / len(parts) - TEST_PERCENT) > _FAR:
            progress.warn(f"the groups are large: {counts[TEST]} of {len(parts)} samples are in the test part")
        row = replace(
            clustering.row,
            n_train=counts[TRAIN],
            n_val=counts[VAL],
            n_test=counts[TEST],
            centroids_path=None,  # they are the other clustering's
            centroids_checksum=None,
        )
        path = f"{work.claim.path}/{GROUPS}"
        checksum = save_array(store.arrays, path, groups.of[positions], replace=True)
        row = replace(row, groups_path=path, groups_checksum=checksum)
        embedding = clusterings.embedding_id(store.catalog, clustering.artifact.id)
        sizes, assignments = np.array(clustering.sizes), (positions, labels, parts)
        clusterings.write(store.catalog, work.claim, groups.dataset, embedding, row, sizes, assignments)
        provenance = {**clustering.artifact.provenance, "split_of": clustering.artifact.id}
        clusterings.commit(store.catalog, work.claim, provenance)
    return clusterings.by_id(store.catalog, work.claim.id)
