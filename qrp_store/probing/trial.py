"""One question, asked again with other concepts: the same samples, clusters, parts, options and seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qrp_store.probing.reverse import ProbeFit, ProbeOptions
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.progress import Progress, silent
from qrp_store.records import TEST, TRAIN, VAL

if TYPE_CHECKING:
    from qrp_store.probing.metrics import Score


@dataclass(frozen=True, eq=False)
class Trial:
    """Everything of a probe but its concepts. `clusters` and `parts` are (n,); `seed` is that of the shuffles."""

    clusters: np.ndarray
    parts: np.ndarray
    n_clusters: int
    options: ProbeOptions
    seed: int
    device: str

    def fit(self, x: ConceptMatrix, progress: Progress) -> ProbeFit:
        """The probe trained with these concepts, (n, M), of the same samples."""
        from qrp_store.probing.train import fit

        train, val = (np.flatnonzero(self.parts == part) for part in (TRAIN, VAL))
        return fit(
            x.take(train),
            self.clusters[train],
            x.take(val),
            self.clusters[val],
            self.n_clusters,
            self.options,
            seed=self.seed,
            device=self.device,
            progress=progress,
        )

    def score(self, x: ConceptMatrix) -> Score:
        """What a probe with these concepts scores on the test part, without an interval."""
        from qrp_store.probing.metrics import score

        test = np.flatnonzero(self.parts == TEST)
        return score(self.fit(x, silent), x.take(test), self.clusters[test], bootstrap=0, seed=0, device=self.device)
