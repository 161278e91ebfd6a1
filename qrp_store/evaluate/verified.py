"""Missing is not absent: select samples and concepts of which every pair is verified.

A concept set may record the pairs that were verified (`concept_sets.verified`); the others are unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qrp_store.catalog.entities import concept_sets
from qrp_store.catalog.entities.concept_sets import StoredConcepts
from qrp_store.errors import InvalidInput
from qrp_store.store import Store

_SHARES = (0.9, 0.75, 0.5, 0.25, 0.1, 0.05, 0.0)


@dataclass(frozen=True, eq=False)
class KnownBlock:
    """The selection: samples (bool, of the given positions) and concepts (bool, of the sets in order)."""

    samples: np.ndarray
    concepts: np.ndarray


def known_block(store: Store, sets: Sequence[StoredConcepts], positions: np.ndarray) -> KnownBlock:
    """Remove the samples and concepts with most unknown pairs until every remaining pair is verified.

    For shares falling from 0.9 to 0, remove first the samples of which a larger share of the remaining concepts is
    unknown, then the concepts of which a larger share of the remaining samples is unknown. A set that records no
    verified pairs counts as verified throughout. Raise InvalidInput when nothing remains.
    """
    n, width = len(positions), sum(part.n_concepts for part in sets)
    row_of = np.full(int(positions[-1]) + 1 if n else 1, -1, np.int64)
    row_of[positions] = np.arange(n)
    whole = np.zeros((n, len(sets)), bool)
    rows, columns, first = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    owner = np.repeat(np.arange(len(sets)), [part.n_concepts for part in sets])
    for number, part in enumerate(sets):
        if part.n_verified is None:
            whole[:, number] = True
        else:
            at, concept = concept_sets.verified(store.catalog, part.artifact.id)
            inside = at < len(row_of)
            row, concept = row_of[at[inside]], concept[inside]
            row, concept = row[row >= 0], concept[row >= 0]
            whole[row[concept < 0], number] = True
            pairs = (concept >= 0) & ~whole[row, number]
            rows.append(row[pairs])
            columns.append(first + concept[pairs].astype(np.int64))
        first += part.n_concepts
    block = _sweep(whole, owner, np.concatenate(rows), np.concatenate(columns), width)
    if not block.samples.any() or not block.concepts.any():
        raise InvalidInput(
            "--only-verified: no samples and concepts were looked at pair by pair",
            hint="without it, what is unknown counts as absent; or label with fewer concepts",
        )
    return block


def _sweep(whole: np.ndarray, owner: np.ndarray, rows: np.ndarray, columns: np.ndarray, width: int) -> KnownBlock:
    n = len(whole)
    samples, concepts = np.ones(n, bool), np.ones(width, bool)
    for share in _SHARES:
        alive = concepts[columns]
        verified = np.bincount(rows[alive], minlength=n) + whole @ np.bincount(
            owner[concepts], minlength=whole.shape[1]
        )
        samples &= concepts.sum() - verified <= share * concepts.sum()
        alive = samples[rows]
        verified = np.bincount(columns[alive], minlength=width) + whole[samples].sum(0)[owner]
        concepts &= samples.sum() - verified <= share * samples.sum()
    return KnownBlock(samples, concepts)
