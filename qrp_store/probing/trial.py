"""One question, asked again with other concepts: the same samples, clusters, parts, options and seed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qrp_store.errors import QrpStoreError
from qrp_store.probing.reverse import ProbeOptions
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.records import TEST, TRAIN, VAL

if TYPE_CHECKING:
    from qrp_store.probing.metrics import Score
    from qrp_store.probing.stack import Problem


@dataclass(frozen=True, eq=False)
class Trial:
    """Everything of a probe but its concepts. `clusters` and `parts` are (n,); `seed` is that of the shuffles.

    `groups`, int64 (n,) or None: which samples belong together, so that controls permute whole groups.
    """

    clusters: np.ndarray
    parts: np.ndarray
    n_clusters: int
    options: ProbeOptions
    seed: int
    device: str
    groups: np.ndarray | None = None

    def score(self, x: ConceptMatrix) -> Score:
        """What a probe with these concepts scores on the test part, without an interval."""
        (found,) = scores([(self, x)])
        return found

    def problem(self, x: ConceptMatrix) -> Problem:
        """What is trained with these concepts, (n, M), of the same samples."""
        from qrp_store.probing.stack import Problem

        train, val = (np.flatnonzero(self.parts == part) for part in (TRAIN, VAL))
        parts = (x.take(train), self.clusters[train], x.take(val), self.clusters[val])
        return Problem(*parts, self.n_clusters, self.options, self.seed, self.device)


def scores(asked: Iterable[tuple[Trial, ConceptMatrix]]) -> Iterator[Score]:
    """What the probe of each trial scores with these concepts, in their order; they are drawn as they are needed.

    Those that follow one another may be trained together (`train.fit_all`). Raises what the first one that fails does.
    """
    from qrp_store.probing.metrics import score
    from qrp_store.probing.train import fit_all

    tests: deque[tuple[ConceptMatrix, np.ndarray, str]] = deque()

    def problems() -> Iterator[Problem]:
        for trial, x in asked:
            test = np.flatnonzero(trial.parts == TEST)
            tests.append((x.take(test), trial.clusters[test], trial.device))
            yield trial.problem(x)

    for found in fit_all(problems()):
        if isinstance(found, QrpStoreError):
            raise found
        x_test, c_test, device = tests.popleft()
        yield score(found, x_test, c_test, bootstrap=0, seed=0, device=device)
