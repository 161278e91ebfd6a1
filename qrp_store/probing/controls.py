"""What a score is made of: the same probe with some of the concepts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.probing.trial import Trial
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
    names = sorted(set(groups))
    with progress.task("ablation", 2 * len(names), "probe") as task:
        for name in names:
            roles: tuple[tuple[Role, np.ndarray], ...] = (("alone", of == name), ("without", of != name))
            for role, kept in roles:
                yield _named(name, role, trial.score(x.select(np.flatnonzero(kept))))
                task.advance()


def _named(group: str, role: Role, score: Score) -> GroupScore:
    assert score.nmi is not None  # the entropy is that of the whole's clusters, whatever the concepts
    return GroupScore(group, role, score.nmi, score.mi_nats)
