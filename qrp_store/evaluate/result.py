"""A probe result as evaluate reports it: what its row says, and whether it was there already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qrp_store.catalog.entities import results
from qrp_store.store import Store


@dataclass(frozen=True)
class Result:
    """One probe result. Information in nats unless the name says bits; times in seconds.

    `nmi` is None when all test samples are in one cluster: there is nothing to explain. `forward`,
    `curve` and `thresholds` are there when asked for: rows of the views `forward_scores`, `curve_scores` and
    `threshold_scores`.
    """

    id: str
    version: int
    fingerprint: str
    dataset: str
    backbone: str
    clustering_id: str
    concepts: str
    clusters: int
    seed: int
    protocol: str
    solver: str
    setting: str
    permuted: bool
    n_train: int
    n_val: int
    n_test: int
    n_small_clusters: int
    n_concepts: int
    entropy_nats: float
    cross_entropy_nats: float
    mi_nats: float
    mi_bits: float
    nmi: float | None
    nmi_ci_lo: float | None
    nmi_ci_hi: float | None
    top1: float
    top5: float
    train_loss: float
    grad_norm: float
    converged: bool
    epochs_run: int
    best_epoch: int
    device: str
    engine: str
    weight_decay: float
    train_cross_entropy_nats: float
    entropy_miller_madow_nats: float
    n_permutations: int
    null_nmi_mean: float | None
    null_nmi_std: float | None
    p_value: float | None
    nmi_adjusted: float | None
    cached: bool
    timings: dict[str, float]
    forward: tuple[dict[str, Any], ...] | None = None
    curve: tuple[dict[str, Any], ...] | None = None
    thresholds: tuple[dict[str, Any], ...] | None = None


def stored_result(store: Store, identifier: str, *, cached: bool) -> Result:
    """A ready result as `evaluate` reports it. Raises NotFound."""
    stored = results.by_id(store.catalog, identifier)
    row = dict(stored.row)
    own = {name: row[name] for name in Result.__dataclass_fields__ if name in row}
    for name in ("permuted", "converged"):
        own[name] = bool(own[name])
    return Result(
        id=stored.artifact.id,
        version=stored.artifact.version or 0,
        fingerprint=stored.artifact.fingerprint,
        clustering_id=stored.clustering_id,
        cached=cached,
        **own,
    )
