"""The records that a report's page shows. Information is in nats unless a name says otherwise; None means no number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FEWEST = 5
"""Test images of a cluster below which its figures say little."""


@dataclass(frozen=True)
class SeedScore:
    """The score of one result, with its bootstrap interval."""

    result_id: str
    seed: int
    nmi: float
    lo: float | None
    hi: float | None


@dataclass(frozen=True)
class Ranked:
    """A backbone in one setting, over its seeds. `effective_mean`: the mean of exp(H), the effective clusters.

    `rank_lo`, `rank_hi`: the ranks that are possible at a family-wise error of 5 %; None with too few common seeds.
    `n_failed`: results whose training failed.
    """

    rank: int
    backbone: str
    nmi_mean: float
    nmi_std: float | None
    mi_nats_mean: float
    effective_mean: float
    top1_mean: float
    top5_mean: float
    seeds: tuple[SeedScore, ...]
    rank_lo: int | None = None
    rank_hi: int | None = None
    n_failed: int = 0

    @property
    def tied(self) -> bool:
        """Whether the backbone is not first, but cannot be distinguished from the first."""
        return self.rank_lo == 1 and self.rank > 1


@dataclass(frozen=True)
class Setting:
    """Results that differ only in backbone and seed, best backbone first."""

    concepts: str
    clusters: int
    protocol: str
    setting: str
    rows: tuple[Ranked, ...]


@dataclass(frozen=True)
class Claim:
    """A sentence that may be printed about a ranking, under a heading of a word or two."""

    about: str
    text: str


@dataclass(frozen=True)
class SeriesPoint:
    """A backbone's score at its position in a series (epoch, layer, …), with a 95 % interval where there is one."""

    series: str
    position: int
    backbone: str
    nmi_mean: float
    lo: float | None
    hi: float | None


@dataclass(frozen=True)
class KPoint:
    """A backbone's score at one K."""

    backbone: str
    clusters: int
    nmi_mean: float
    nmi_std: float | None


@dataclass(frozen=True)
class GroupBar:
    """NMI of one concept group alone, of all groups, and of all groups without it."""

    backbone: str
    group: str
    alone: float | None
    all: float | None
    without: float | None


@dataclass(frozen=True)
class History:
    """A training run, one entry per epoch. `train` is None for epoch 0."""

    backbone: str
    epochs: tuple[int, ...]
    train: tuple[float | None, ...]
    val: tuple[float, ...]
    best_epoch: int


@dataclass(frozen=True)
class ForwardPoint:
    """A backbone's scores under linear probing and under reverse probing."""

    backbone: str
    reverse: float
    linear: float
    metric: str


@dataclass(frozen=True)
class PublishedPoint:
    """A backbone's score under reverse probing, and the ImageNet top-1 (percent) that `source` reports for it."""

    backbone: str
    reverse: float
    top1: float
    source: str


@dataclass(frozen=True)
class ClusterConcept:
    """A concept that defines a cluster; `n` training images of the cluster have it."""

    name: str
    group: str | None
    weight: float
    lift: float | None
    n: int


@dataclass(frozen=True)
class ClusterView:
    """One cluster. `cross_entropy` and `top1` are None without a test image; `pictures` index Report.pictures.

    `lo`, `hi`: 95 % interval of `cross_entropy`. `val_cross_entropy` is that of the validation images: lists are
    ordered by it. `title` is the concept of largest weight with enough support, None without any.
    """

    number: int
    size: int
    n_test: int
    cross_entropy: float | None
    top1: float | None
    mi_nats: float
    concepts: tuple[ClusterConcept, ...]
    pictures: tuple[int, ...] = ()
    lo: float | None = None
    hi: float | None = None
    val_cross_entropy: float | None = None
    title: str | None = None

    @property
    def order(self) -> tuple[bool, bool, float, int]:
        """Sort key, most explainable first: by validation; clusters with fewer than FEWEST test images come last."""
        chosen = self.cross_entropy if self.val_cross_entropy is None else self.val_cross_entropy
        return chosen is None, self.n_test < FEWEST, chosen or 0.0, self.number


@dataclass(frozen=True)
class Gallery:
    """The clusters of one result."""

    backbone: str
    result_id: str
    seed: int
    nmi: float
    clusters: tuple[ClusterView, ...]


@dataclass(frozen=True)
class Matched:
    """For each cluster of gallery `first`, the cluster of gallery `second` with the largest overlap.

    `overlap`: images in both / images in either (Jaccard), 0…1.
    """

    first: int
    second: int
    cluster: tuple[int, ...]
    overlap: tuple[float, ...]


@dataclass(frozen=True)
class Picture:
    """A thumbnail as a data: URI, with the key of its image."""

    key: str
    uri: str


@dataclass(frozen=True)
class Report:
    """Everything that the page shows. Figures and galleries belong to the first of `settings`."""

    dataset: str
    n: int
    n_concepts: int
    settings: tuple[Setting, ...]
    across_k: tuple[KPoint, ...]
    groups: tuple[GroupBar, ...]
    histories: tuple[History, ...]
    forward: tuple[ForwardPoint, ...]
    published: tuple[PublishedPoint, ...]
    galleries: tuple[Gallery, ...]
    matches: tuple[Matched, ...]
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...]
    made_of: tuple[tuple[str, Mapping[str, Any]], ...]
    newest: str
    version: str
    claims: tuple[Claim, ...] = ()
    series: tuple[SeriesPoint, ...] = ()
    rule: str = ""

    @property
    def main(self) -> Setting:
        return self.settings[0]

    @property
    def n_clusters(self) -> int:
        return sum(len(gallery.clusters) for gallery in self.galleries)
