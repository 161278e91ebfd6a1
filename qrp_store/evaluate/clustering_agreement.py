"""Do clusterings agree? AMI between seeds of one backbone (is it stable?) and between backbones of one seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from qrp_store.catalog.entities import agreements
from qrp_store.catalog.entities.agreements import Peer
from qrp_store.catalog.entities.clusterings import StoredClustering
from qrp_store.probing.agreement import adjusted_mutual_information
from qrp_store.progress import Progress
from qrp_store.store import Store

MOST = 50_000
"""Samples by which two clusterings are compared: of larger datasets every n-th one."""


def store_agreements(store: Store, made: Sequence[StoredClustering], progress: Progress) -> None:
    """Store the AMI of each of these clusterings with those of its dataset, K and options that lack it.

    Compared are the same backbone under two seeds, and two backbones under the same seed.
    """
    ids = {clustering.artifact.id for clustering in made}
    scopes = {(clustering.row.clusters, agreements.dataset_of(store.catalog, clustering)) for clustering in made}
    pairs: list[tuple[Peer, Peer]] = []
    for clusters, dataset in sorted(scopes):
        peers = agreements.peers(store.catalog, dataset, clusters)
        known = agreements.known(store.catalog, [peer.id for peer in peers])
        pairs += [(a, b) for a, b in _pairs(peers) if ids & {a.id, b.id} and frozenset((a.id, b.id)) not in known]
    if not pairs:
        return
    labels: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    rows = []
    with progress.task("agreement", len(pairs), "pair") as task:
        for a, b in pairs:
            for peer in (a, b):
                if peer.id not in labels:
                    labels[peer.id] = agreements.every_nth(store.catalog, peer.id, -(-peer.n_samples // MOST))
            rows.append(_row(a, b, labels[a.id], labels[b.id]))
            task.advance()
    agreements.put(store.catalog, rows)


def _pairs(peers: Sequence[Peer]) -> Iterator[tuple[Peer, Peer]]:
    for i, a in enumerate(peers):
        for b in peers[i + 1 :]:
            same_backbone = a.backbone == b.backbone
            # the seeds of an imported grouping split the same clusters
            same_clusters = a.imported and same_backbone
            if a.options == b.options and same_backbone != (a.seed == b.seed) and not same_clusters:
                yield a, b


def _row(
    a: Peer, b: Peer, first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> tuple[str, str, float, int]:
    (at, one), (at_other, two) = first, second
    if len(at) != len(at_other) or (at != at_other).any():
        _, common, common_other = np.intersect1d(at, at_other, assume_unique=True, return_indices=True)
        one, two = one[common], two[common_other]
    return a.id, b.id, adjusted_mutual_information(one, two) if len(one) else 0.0, len(one)
