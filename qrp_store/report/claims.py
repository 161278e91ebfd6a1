"""What may be claimed from a ranking, as sentences to print: ranks, the difference of the first two, and the bound."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qrp_store.probing.student import quantile
from qrp_store.rendering.captions import apart, digits
from qrp_store.rendering.content import Claim, Ranked, Setting

Row = Mapping[str, Any]
_FEWEST = 3
_MOST_NAMES = 4


@dataclass(frozen=True)
class Difference:
    """Mean difference of two backbones' NMI over `n` common seeds; `lo`, `hi`: 95 % t interval, None below three."""

    mean: float
    lo: float | None
    hi: float | None
    n: int


def difference(first: Ranked, second: Ranked) -> Difference | None:
    """The difference over the seeds that both backbones have; None without such a seed."""
    others = {score.seed: score.nmi for score in second.seeds}
    values = [score.nmi - others[score.seed] for score in first.seeds if score.seed in others]
    if not values:
        return None
    mean, (lo, hi) = statistics.fmean(values), interval_over_seeds(values) or (None, None)
    return Difference(mean, lo, hi, len(values))


def interval_over_seeds(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean; None below three values."""
    if len(values) < _FEWEST:
        return None
    mean = statistics.fmean(values)
    half = quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def claims(dataset: str, setting: Setting, results: Sequence[Row]) -> tuple[Claim, ...]:
    """The sentences for a setting. `results` are those of its first backbone, as rows of the view `results`."""
    first = setting.rows[0]
    made = [Claim("Score", _score(setting))]
    if len(setting.rows) > 1:
        made += [Claim("Rank", rank(dataset, setting)), Claim("Difference", _difference(first, setting.rows[1]))]
    made.append(Claim("Bound", _bound(first, results)))
    chance = _chance(results)
    if chance:
        made.append(Claim("Chance", chance))
    made.append(
        Claim(
            "Not claimed",
            "Nothing across settings: scores under another K, concept set, protocol or dataset answer other questions. "
            "Overlapping or separate intervals of single results say nothing about a difference of backbones.",
        )
    )
    return tuple(made)


def _score(setting: Setting) -> str:
    first = setting.rows[0]
    spread = "" if first.nmi_std is None else f" ± {digits(first.nmi_std, 3)}"
    seeds = f"{len(first.seeds)} seed{'' if len(first.seeds) == 1 else 's'}"
    return (
        f"The concepts “{apart(setting.concepts)}” explain {digits(first.nmi_mean, 3)}{spread} (NMI, {seeds}) of the "
        f"entropy of {apart(first.backbone)}'s {setting.clusters:,} clusters."
    )


def rank(dataset: str, setting: Setting) -> str:
    """What may be said of the first rank."""
    first, others = setting.rows[0], setting.rows[1:]
    if first.rank_hi is None:
        return (
            f"No rank may be claimed: a rank interval needs at least three common seeds "
            f"(qrp-store evaluate --dataset {dataset} --seed 0 1 2)."
        )
    rule = "paired t tests over seeds, Holm's correction, family-wise error 5\N{NO-BREAK SPACE}%"
    if first.rank_hi == 1:
        return f"{apart(first.backbone)} ranks first of {len(setting.rows)}: it is above each other backbone ({rule})."
    tied = [apart(row.backbone) for row in others if row.tied]
    names = _listed(tied)
    return (
        f"{apart(first.backbone)} has the highest mean, but {names} cannot be distinguished from it ({rule}). "
        f"Its rank lies between 1 and {first.rank_hi}."
    )


def _listed(names: Sequence[str]) -> str:
    if len(names) > _MOST_NAMES:
        return f"{', '.join(names[:_MOST_NAMES])} and {len(names) - _MOST_NAMES} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _difference(first: Ranked, second: Ranked) -> str:
    one, other = apart(first.backbone), apart(second.backbone)
    between = difference(first, second)
    if between is None:
        return f"{one} and {other} have no seed in common, so their difference cannot be tested."
    if between.lo is None or between.hi is None:
        seeds = f"{between.n} common seed{'' if between.n == 1 else 's'}"
        return (
            f"{one} scores {digits(between.mean, 3)} above {other} over {seeds}. No difference may be claimed: an "
            "interval over images alone is conditional on one clustering. Three common seeds are needed."
        )
    ends = f"{digits(between.lo, 3)} to {digits(between.hi, 3)}"
    interval = f"95\N{NO-BREAK SPACE}% interval {ends} over {between.n} common seeds"
    note = (
        "The interval is not corrected for the choice of this pair; the rank intervals are. qrp-store compare gives it "
        "on the test images that both share."
    )
    if between.lo > 0:
        return f"{one} exceeds {other} by {digits(between.mean, 3)} NMI ({interval}). {note}"
    return (
        f"{one} leads {other} by {digits(between.mean, 3)} NMI ({interval}). The interval holds 0: no difference may "
        f"be claimed. {note}"
    )


def _bound(first: Ranked, results: Sequence[Row]) -> str:
    text = (
        f"NMI is a lower bound in expectation: {apart(first.backbone)}'s concepts explain at least about "
        f"{digits(first.nmi_mean, 3)}. A single estimate may exceed the true value."
    )
    gaps = [row["gap_nats"] for row in results if row.get("gap_nats") is not None]
    if not gaps:
        return text
    gap = statistics.fmean(gaps)
    return (
        f"{text} On its training images the probe explains {digits(gap, 3)} nats more than on test images; the larger "
        "this gap, the looser the bound may be."
    )


def _chance(results: Sequence[Row]) -> str:
    known = [row for row in results if row.get("p_value") is not None and row.get("n_permutations")]
    if not known:
        return ""
    row = known[0]
    smallest = 1 / (1 + row["n_permutations"])
    return (
        f"p = {row['p_value']:.2g} against {row['n_permutations']:,} controls with permuted concepts (seed "
        f"{row['seed']}). So many controls give no p-value below {smallest:.2g}."
    )
