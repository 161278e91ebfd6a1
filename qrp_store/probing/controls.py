"""The same probe with other concepts: one group alone or left out, permuted controls, smaller samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from qrp_store.errors import QrpStoreError
from qrp_store.options import ProbeOptions
from qrp_store.probing.sparse import ConceptMatrix, permute_rows
from qrp_store.probing.stack import fit_all
from qrp_store.progress import Progress
from qrp_store.records import TEST, TRAIN, VAL

if TYPE_CHECKING:
    from qrp_store.probing.metrics import Score
    from qrp_store.probing.train import Problem

Role = Literal["alone", "all", "without"]
EVERYTHING = "(all)"
"""The group's name in the one row of role `all`."""


@dataclass(frozen=True, eq=False)
class Trial:
    """Everything of a probe but its concepts. `clusters` and `parts` are (n,); `seed` is that of the shuffles.

    `groups`, int64 (n,) or None: the group of each sample; controls permute whole groups.
    """

    clusters: np.ndarray
    parts: np.ndarray
    n_clusters: int
    options: ProbeOptions
    seed: int
    device: str
    groups: np.ndarray | None = None

    def score(self, x: ConceptMatrix) -> Score:
        """Return the score of a probe with these concepts on the test part, without an interval."""
        (score,) = scores([(self, x)])
        return score

    def problem(self, x: ConceptMatrix) -> Problem:
        """Return the training problem with these concepts, (n, M), of the same samples."""
        from qrp_store.probing.train import Problem

        train, val = (np.flatnonzero(self.parts == part) for part in (TRAIN, VAL))
        parts = (x.take(train), self.clusters[train], x.take(val), self.clusters[val])
        return Problem(*parts, self.n_clusters, self.options, self.seed, self.device)


def scores(trials: Iterable[tuple[Trial, ConceptMatrix]]) -> Iterator[Score]:
    """Yield the score of each trial with its concepts, in their order; they are drawn when they are needed.

    Raise the error of the first one that fails.
    """
    from qrp_store.probing.metrics import score

    def work() -> Iterator[tuple[tuple[Trial, ConceptMatrix, np.ndarray], Problem]]:
        for trial, x in trials:
            test = np.flatnonzero(trial.parts == TEST)
            yield (trial, x.take(test), trial.clusters[test]), trial.problem(x)

    for (trial, x_test, c_test), fit in fit_all(work()):
        if isinstance(fit, QrpStoreError):
            raise fit
        yield score(fit, x_test, c_test, bootstrap=0, seed=0, device=trial.device)


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
    """Yield the scores of all concepts (`whole`, as EVERYTHING), of each group alone, and of all but each group.

    `groups` names the group of each of x's concepts. Samples, split, options and seed are the same, so the scores
    differ only by their concepts. `whole` has an entropy above 0.
    """
    yield _named(EVERYTHING, "all", whole)
    of = np.asarray(groups, dtype=object)
    roles: tuple[Role, Role] = ("alone", "without")
    rows = [(name, role) for name in sorted(set(groups)) for role in roles]
    kept = (np.flatnonzero((of == name) == (role == "alone")) for name, role in rows)
    with progress.task("ablation", len(rows), "probe") as task:
        for (name, role), score in zip(rows, scores((trial, x.select(some)) for some in kept), strict=True):
            yield _named(name, role, score)
            task.advance()


@dataclass(frozen=True)
class Null:
    """The NMI of probes whose concepts were permuted within each part, in the order of their seeds.

    Samples of one group are permuted together.
    """

    nmi: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.nmi))

    @property
    def std(self) -> float | None:
        """Return the standard deviation (n − 1); None for a single control."""
        return float(np.std(self.nmi, ddof=1)) if len(self.nmi) > 1 else None

    def p_value(self, nmi: float) -> float:
        """Return how often chance scores as high: (1 + controls at or above nmi) / (1 + controls)."""
        return (1 + sum(control >= nmi for control in self.nmi)) / (1 + len(self.nmi))

    def adjusted(self, nmi: float) -> float:
        """Return (nmi − mean) / (1 − mean): 0 at chance level, 1 at the maximum."""
        return (nmi - self.mean) / (1 - self.mean)


def null_distribution(trial: Trial, x: ConceptMatrix, seeds: Sequence[int], progress: Progress) -> Null:
    """Return one control for each seed, trained and scored like the probe itself."""
    nmi = []
    with progress.task("permutations", len(seeds), "probe") as task:
        for control in scores((trial, permute_rows(x, trial.parts, seed=seed, groups=trial.groups)) for seed in seeds):
            assert control.nmi is not None  # the entropy is that of the same clusters
            nmi.append(control.nmi)
            task.advance()
    return Null(tuple(nmi))


def _named(group: str, role: Role, score: Score) -> GroupScore:
    assert score.nmi is not None  # the entropy is that of the whole's clusters, whatever the concepts
    return GroupScore(group, role, score.nmi, score.mi_nats)
