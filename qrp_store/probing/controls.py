"""What a score is made of, and what chance would give: the same probe with some, or with permuted concepts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from qrp_store.probing.sparse import ConceptMatrix, permute_rows
from qrp_store.probing.trial import Trial, scores
from qrp_store.progress import Progress

if TYPE_CHECKING:
    from qrp_store.probing.metrics import Score

Role = Literal["alone", "all", "without"]
EVERYTHING = "(all)"
"""What the one row of role `all` has for a group."""


@dataclass(frozen=True)
class GroupScore:
    """The score with one group of concepts alone, with all of them, or with all but that group."""

    group: str
    role: Role
    nmi: float
    mi_nats: float


def ablate(
    trial: Trial, x: ConceptMatrix, groups: Sequence[str], whole: Score, progress: Progress
) -> Iterator[GroupScore]:
    """Scores of each group alone, of all (`whole`, once, as EVERYTHING), and of all but each.

    `groups` names the group of each of x's concepts. Same samples, split, options and seed throughout, so the scores
    differ by nothing but their concepts. `whole` has an entropy above 0.
    """
    yield _named(EVERYTHING, "all", whole)
    of = np.asarray(groups, dtype=object)
    roles: tuple[Role, Role] = ("alone", "without")
    asked = [(name, role) for name in sorted(set(groups)) for role in roles]
    kept = (np.flatnonzero((of == name) == (role == "alone")) for name, role in asked)
    with progress.task("ablation", len(asked), "probe") as task:
        for (name, role), found in zip(asked, scores((trial, x.select(some)) for some in kept), strict=True):
            yield _named(name, role, found)
            task.advance()


@dataclass(frozen=True)
class Null:
    """The NMI of probes whose concepts were permuted within each part, in the order of their seeds.

    Samples that belong together are permuted together.
    """

    nmi: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.nmi))

    @property
    def std(self) -> float | None:
        """With n − 1; None for a single one."""
        return float(np.std(self.nmi, ddof=1)) if len(self.nmi) > 1 else None

    def p_value(self, nmi: float) -> float:
        """How often chance scores as high: (1 + controls at or above nmi) / (1 + controls)."""
        return (1 + sum(control >= nmi for control in self.nmi)) / (1 + len(self.nmi))

    def adjusted(self, nmi: float) -> float:
        """(nmi − mean) / (1 − mean): 0 for what chance gives, 1 for everything."""
        return (nmi - self.mean) / (1 - self.mean)


def null_distribution(trial: Trial, x: ConceptMatrix, seeds: Sequence[int], progress: Progress) -> Null:
    """One control for each seed, trained and scored like the probe itself."""
    found = []
    with progress.task("permutations", len(seeds), "probe") as task:
        for control in scores((trial, permute_rows(x, trial.parts, seed=seed, groups=trial.groups)) for seed in seeds):
            assert control.nmi is not None  # the entropy is that of the same clusters
            found.append(control.nmi)
            task.advance()
    return Null(tuple(found))


def _named(group: str, role: Role, score: Score) -> GroupScore:
    assert score.nmi is not None  # the entropy is that of the whole's clusters, whatever the concepts
    return GroupScore(group, role, score.nmi, score.mi_nats)
