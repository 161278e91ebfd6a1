"""The split into training, validation and test part: by a hash of the key, stratified by cluster."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qrp_store.errors import InvalidInput
from qrp_store.options import suggested_k
from qrp_store.records import TEST, TRAIN, VAL

TEST_PERCENT, VAL_PERCENT = 20, 16
SMALL = 5  # a cluster with fewer rows stays in the training part


def split(
    labels: npt.NDArray[np.int32], keys: Sequence[str], dataset: str, seed: int
) -> tuple[npt.NDArray[np.uint8], int]:
    """Return the part (records.TRAIN, VAL, TEST) of each sample, uint8 (n,), and the number of clusters under 5 rows.

    `labels` int (n,) and `keys` run over the same samples; `dataset` names what the keys belong to. Within each
    cluster, ordered by u = hash(dataset, seed, key) and then key, the lowest 20 % are the test part, the next 16 % the
    validation part. u does not depend on the clusters, so clusterings of one dataset share nearly the same test
    samples. Totals over the clusters with at least 5 rows are exact, by largest remainder; smaller clusters train.
    Raise InvalidInput if no sample is left for validation or test.
    """
    if len(labels) != len(keys):
        raise InvalidInput(f"{len(labels)} labels for {len(keys)} keys")
    sizes = np.bincount(labels) if len(labels) else np.zeros(0, np.int64)
    eligible = np.where(sizes >= SMALL, sizes, 0)
    n_test, n_val = _quotas(eligible, TEST_PERCENT), _quotas(eligible, VAL_PERCENT)
    if not n_test.sum() or not n_val.sum():
        n, k = len(labels), int((sizes > 0).sum())
        raise InvalidInput(
            f"{n} samples in {k} clusters leave none to validate or to test",
            hint=f"clusters need {SMALL} samples or more: choose a smaller K or more samples{suggested_k(k, n)}",
        )
    order = _order(labels, keys, dataset, seed)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    cluster = labels[order]
    parts = np.empty(len(labels), np.uint8)
    parts[order] = np.where(rank < n_test[cluster], TEST, np.where(rank < (n_test + n_val)[cluster], VAL, TRAIN))
    return parts, int(((sizes > 0) & (sizes < SMALL)).sum())


def split_groups(groups: npt.NDArray[np.int64], names: Sequence[str], dataset: str, seed: int) -> npt.NDArray[np.uint8]:
    """Return the part of each sample, uint8 (n,), such that a group's samples share one.

    `groups` int (n,) numbers each sample's group, `names` the groups. Ordered by u = hash(dataset, seed, name), groups
    that still fit go to the test part until 20 % of the samples are there, then one more if that comes closer; so with
    16 % for validation; the rest trains. Nothing depends on clusters: every clustering of the same samples is split
    alike, and no cluster is promised its share. InvalidInput when a part would be empty.
    """
    n = len(groups)
    sizes = np.bincount(groups, minlength=len(names)).tolist()
    left = np.argsort(_hashes(names, dataset, seed), kind="stable").tolist()
    part_of = np.full(len(names), TRAIN, np.uint8)
    for part, percent in ((TEST, TEST_PERCENT), (VAL, VAL_PERCENT)):
        chosen = _fill(left, sizes, (n * percent + 50) // 100)
        part_of[list(chosen)] = part
        left = [group for group in left if group not in chosen]
    parts = part_of[groups]
    if len(np.unique(parts)) < 3:
        raise InvalidInput(
            f"{n} samples in {sum(size > 0 for size in sizes)} groups cannot be divided into three parts",
            hint="--group-by needs more and smaller groups",
        )
    return parts


def _fill(ordered: Sequence[int], sizes: Sequence[int], room: int) -> set[int]:
    """Return the first of the ordered groups whose sizes add up to about `room`."""
    chosen, over = set(), []
    for group in ordered:
        if sizes[group] <= room:
            chosen.add(group)
            room -= sizes[group]
        else:
            over.append(group)
    nearest = min(over, key=lambda group: sizes[group], default=None)
    if nearest is not None and sizes[nearest] < 2 * room:
        chosen.add(nearest)
    return chosen


def _quotas(sizes: npt.NDArray[np.int64], percent: int) -> npt.NDArray[np.int64]:
    """Whole numbers that add up to the rounded percentage of all, by largest remainder; ties to the lower number."""
    whole, rest = np.divmod(sizes * percent, 100)
    missing = (int(sizes.sum()) * percent + 50) // 100 - int(whole.sum())
    whole[np.argsort(-rest, kind="stable")[:missing]] += 1
    return whole


def _order(labels: npt.NDArray[np.int32], keys: Sequence[str], dataset: str, seed: int) -> npt.NDArray[np.int64]:
    """Return the samples sorted by (cluster, u, key)."""
    u = _hashes(keys, dataset, seed)
    order = np.lexsort((u, labels))
    same = np.flatnonzero((u[order][1:] == u[order][:-1]) & (labels[order][1:] == labels[order][:-1]))
    if len(same):  # two keys with one hash: practically never
        return np.array(sorted(range(len(keys)), key=lambda i: (labels[i], u[i], keys[i])), np.int64)
    return order


def _hashes(keys: Sequence[str], dataset: str, seed: int) -> npt.NDArray[np.uint64]:
    secret = hashlib.sha256(f"{seed}:{dataset}".encode("utf-8", "surrogatepass")).digest()
    base = hashlib.blake2b(digest_size=8, key=secret)

    def digest(key: str) -> bytes:
        state = base.copy()
        state.update(key.encode("utf-8", "surrogatepass"))
        return state.digest()

    return np.frombuffer(b"".join(map(digest, keys)), ">u8").astype(np.uint64)
