"""The difference between two backbones over seeds and images, with Student's t interval.

An interval over images alone is conditional on one clustering: more images reduce the noise of sampling images, not
the variance of K-means.
Over S common seeds the difference is Δ̄ ± t(S − 1, 0.975) · sd(Δ) / √S, each Δ on the test images that both share.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrp_store.catalog.entities import concept_sets, datasets
from qrp_store.errors import InvalidInput, NotFound, near_names
from qrp_store.evaluate.compare import paired_scores
from qrp_store.evaluate.rerun import inputs_of
from qrp_store.options import CompareOptions, takes
from qrp_store.probing.student import quantile, two_sided
from qrp_store.store import Store

SCHEMA = "qrp-store/compare/2"
_FEWEST = 3
_MOST_SEEDS = 100_000
Row = dict[str, Any]


@dataclass(frozen=True)
class Compared:
    """One side of the comparison; `nmi_common` is its mean NMI over the common seeds and test images."""

    backbone: str
    concepts: str
    nmi_common: float


@dataclass(frozen=True)
class SeedDifference:
    """The difference under one seed: NMI of result `a` − NMI of result `b` on `n_common` test images.

    `se_images` is its standard error over images, given the clustering.
    """

    seed: int
    a: str
    b: str
    nmi_common_a: float
    nmi_common_b: float
    difference: float
    se_images: float
    n_common: int


@dataclass(frozen=True)
class BackbonesReport:
    """`difference`: mean over seeds, with its 95 % t interval `ci` and `p_value`, None below three common seeds.

    `sd_seeds`: standard deviation (n − 1) of the seeds' differences; `se_images`: root mean square of their standard
    errors over images. `narrow_by`: whether more seeds or more images would narrow the interval most.
    `n_seeds_for_width`: number of seeds for an interval of this `width`. `advice` states both, with a command.
    """

    schema: str
    dataset: str
    clusters: int
    protocol: str
    setting: str
    a: Compared
    b: Compared
    difference: float
    ci: tuple[float, float] | None
    p_value: float | None
    n_seeds: int
    sd_seeds: float | None
    se_images: float
    per_seed: tuple[SeedDifference, ...]
    conditional: bool
    narrow_by: str
    width: float | None
    n_seeds_for_width: int | None
    advice: str
    timings: dict[str, float]


@takes(CompareOptions)
def compare_backbones(
    store: Store,
    first: str,
    second: str,
    *,
    dataset: str,
    concepts: str | None = None,
    k: int | None = None,
    protocol: str | None = None,
    backbone: str | None = None,
    width: float | None = None,
) -> BackbonesReport:
    """Compare two backbones of a dataset over all seeds that both have, or two concept sets under one `backbone`.

    `width` is a target width of the interval. Raise NotFound for names without results or without a common seed, and
    InvalidInput if the options allow several comparisons.
    """
    started = time.perf_counter()
    options = CompareOptions(dataset=dataset, concepts=concepts, k=k, protocol=protocol, backbone=backbone, width=width)
    width = options.width
    datasets.get_dataset(store.catalog, dataset)
    rows = _rows(store, dataset, options.concepts, options.k, options.protocol)
    pairs = _pairs(store, dataset, rows, first, second, options.backbone)
    seeds = tuple(_difference(store, one, other) for one, other in pairs)
    one, other = pairs[0]
    differences = [seed.difference for seed in seeds]
    mean, n = statistics.fmean(differences), len(seeds)
    sd = statistics.stdev(differences) if n > 1 else None
    images = math.sqrt(statistics.fmean(seed.se_images**2 for seed in seeds))
    enough = n >= _FEWEST and sd is not None
    half = quantile(n - 1) * sd / math.sqrt(n) if enough and sd is not None else None
    # the difference under a seed varies with clustering and test images; name the larger source
    narrow_by = "images" if sd is not None and images**2 > sd**2 / 2 else "seeds"
    needed = _seeds_for(sd, width) if width is not None and enough and sd is not None else None
    return BackbonesReport(
        schema=SCHEMA,
        dataset=dataset,
        clusters=one["clusters"],
        protocol=one["protocol"],
        setting=one["setting"],
        a=_compared(one, [seed.nmi_common_a for seed in seeds]),
        b=_compared(other, [seed.nmi_common_b for seed in seeds]),
        difference=mean,
        ci=None if half is None else (mean - half, mean + half),
        p_value=None if half is None or sd is None else _p_value(mean, sd, n),
        n_seeds=n,
        sd_seeds=sd,
        se_images=images,
        per_seed=seeds,
        conditional=n == 1,
        narrow_by=narrow_by,
        width=width,
        n_seeds_for_width=needed,
        advice=_advice(one, other, n, narrow_by, width, needed),
        timings={"total_s": time.perf_counter() - started},
    )


def _rows(store: Store, dataset: str, concepts: str | None, k: int | None, protocol: str | None) -> list[Row]:
    """Return the leaderboard's results that match the options."""
    query = "SELECT * FROM results WHERE dataset = ? AND NOT permuted AND nmi IS NOT NULL ORDER BY seed, id"
    current = {row["id"] for row in store.sql("SELECT id FROM clusterings WHERE is_current")}
    rows = [row for row in store.sql(query, (dataset,)) if row["clustering_id"] in current]
    for name, value in (("concepts", concepts), ("clusters", k), ("protocol", protocol)):
        if value is not None:
            known = sorted({str(row[name]) for row in rows})
            rows = [row for row in rows if row[name] == value]
            if not rows:
                hint = near_names(str(value), known, "none; qrp-store evaluate makes some")
                raise NotFound(f"dataset {dataset!r} has no results of {name} {value!r}", hint=hint)
    return rows


def _pairs(
    store: Store, dataset: str, rows: Sequence[Row], first: str, second: str, backbone: str | None
) -> list[tuple[Row, Row]]:
    """Return the two results of each common seed."""
    backbones, sets = ({row[name] for row in rows} for name in ("backbone", "concepts"))
    if first == second:
        raise InvalidInput(f"{first!r} cannot be compared with itself")
    known_sets = {*sets, *concept_sets.names(store.catalog, dataset)}
    name = "concepts" if {first, second} <= known_sets and not {first, second} <= backbones else "backbone"
    for side in (first, second):
        known = sorted(sets if name == "concepts" else backbones)
        if side not in known:
            raise NotFound(f"dataset {dataset!r} has no results of {name} {side!r}", hint=near_names(side, known))
    # what must be equal: the setting for backbones, clustering and options for concept sets
    same = ("concepts", "clusters", "protocol", "setting") if name == "backbone" else _SAME_CLUSTERING
    if name == "concepts" and backbone is not None:
        rows = [row for row in rows if row["backbone"] == backbone]
    groups: dict[tuple[Any, ...], dict[str, dict[int, Row]]] = {}
    for row in rows:
        if row[name] in (first, second):
            groups.setdefault(tuple(row[part] for part in same), {}).setdefault(row[name], {})[row["seed"]] = row
    common = {
        key: [(one[seed], two[seed]) for seed in sorted(one.keys() & two.keys())]
        for key, sides in groups.items()
        if (one := sides.get(first, {})) and (two := sides.get(second, {}))
    }
    common = {key: pairs for key, pairs in common.items() if pairs}
    if not common:
        raise NotFound(
            f"{first!r} and {second!r} have no common seed in any setting",
            hint=f"qrp-store evaluate --dataset {dataset} --seed 0 1 2",
        )
    questions = {key[:3] for key in common}
    if len(questions) > 1:
        choices = "; ".join(", ".join(f"{n} {v}" for n, v in zip(same, key, strict=False)) for key in sorted(questions))
        raise InvalidInput(f"several comparisons are possible: {choices}", hint="name --concepts, -k, --protocol")
    return max(common.values(), key=lambda pairs: (len(pairs), pairs[0][0]["created_at"]))


_SAME_CLUSTERING = ("backbone", "clusters", "protocol", "solver", "n_permutations")


def _difference(store: Store, one: Row, other: Row) -> SeedDifference:
    first, second = paired_scores(store, inputs_of(store, one["id"], "cpu"), inputs_of(store, other["id"], "cpu"))
    influence = []
    scores = []
    for log_q, log_p in (first.T, second.T):
        ratio = log_q.mean() / log_p.mean()
        scores.append(float(1 - ratio))
        influence.append((ratio * log_p - log_q) / log_p.mean())
    n = len(first)
    error = float(np.std(influence[0] - influence[1], ddof=1) / math.sqrt(n))
    a, b = scores
    return SeedDifference(one["seed"], one["id"], other["id"], a, b, a - b, error, n)


def _compared(row: Row, scores: Sequence[float]) -> Compared:
    return Compared(row["backbone"], row["concepts"], statistics.fmean(scores))


def _p_value(mean: float, sd: float, n: int) -> float:
    if sd == 0:
        return 0.0 if mean else 1.0
    return two_sided(mean * math.sqrt(n) / sd, n - 1)


def _seeds_for(sd: float, width: float) -> int | None:
    """Return the fewest seeds with an interval of at most `width`; None if more than _MOST_SEEDS."""
    n = _FEWEST
    while 2 * quantile(n - 1) * sd / math.sqrt(n) > width:
        # this step never overshoots: the quantile decreases with n
        n = max(n + 1, min(math.floor((2 * 1.9599 * sd / width) ** 2), _MOST_SEEDS + 1))
        if n > _MOST_SEEDS:
            return None
    return n


def _advice(one: Row, other: Row, n: int, narrow_by: str, width: float | None, needed: int | None) -> str:
    names = " ".join(f"--backbone {name}" for name in dict.fromkeys((one["backbone"], other["backbone"])))
    sets = " ".join(f"--concepts {name}" for name in dict.fromkeys((one["concepts"], other["concepts"])))
    line = f"qrp-store evaluate --dataset {one['dataset']} {names} {sets} -k {one['clusters']}"
    line += f" --protocol {one['protocol']}"
    if n < _FEWEST:
        what = "one seed: conditional on one clustering, no test of the two" if n == 1 else "two seeds: no interval"
        return f"{what}; at least three common seeds give one: {line} --seed 0 1 2"
    parts = [f"more {narrow_by} would narrow the interval most"]
    if width is not None:
        seeds = f"more than {_MOST_SEEDS:,}" if needed is None else str(needed)
        parts.append(f"a width of {width:g} takes about {seeds} seeds")
    more = max(n + 2, needed or 0)
    if narrow_by == "seeds" or (needed is not None and needed > n):
        parts.append(f"{line} --seed {' '.join(map(str, range(min(more, 20))))}")
    return "; ".join(parts)
