"""Which sample has which concepts, in compressed rows: 10 to 30 of thousands, so never a dense matrix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qrp_store.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class ConceptMatrix:
    """A matrix (n, n_concepts) in compressed rows: 1, or the value in (0, 1], where a concept holds, else 0.

    Row i has the concepts `indices[indptr[i]:indptr[i + 1]]`, each once and ascending. `indptr` is int64 (n + 1),
    `indices` int32; `values` is float32, one for each index, or None: all 1. Raise InvalidInput when they do not
    describe such a matrix.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    n_concepts: int
    values: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "indptr", np.ascontiguousarray(self.indptr, dtype=np.int64))
        object.__setattr__(self, "indices", np.ascontiguousarray(self.indices, dtype=np.int32))
        ends = self.indptr
        if ends.ndim != 1 or len(ends) == 0 or ends[0] != 0 or ends[-1] != len(self.indices):
            raise InvalidInput(f"concept rows: indptr must run from 0 to the number of entries, {len(self.indices)}")
        if np.any(ends[1:] < ends[:-1]):
            raise InvalidInput("concept rows: indptr must not decrease")
        if len(self.indices) and not 0 <= self.indices.min() <= self.indices.max() < self.n_concepts:
            raise InvalidInput(f"concept rows: a concept lies outside 0…{self.n_concepts - 1}")
        if self.values is not None:
            object.__setattr__(self, "values", np.ascontiguousarray(self.values, dtype=np.float32))
            if self.values.shape != self.indices.shape:
                raise InvalidInput(f"concept rows: {self.values.shape} values for {len(self.indices)} entries")

    @classmethod
    def from_pairs(cls, rows: ArrayLike, concepts: ArrayLike, n_rows: int, n_concepts: int) -> ConceptMatrix:
        """Return the matrix that is 1 at (rows[i], concepts[i]), in any order; a repeated pair counts once.

        Raise InvalidInput for a pair outside (n_rows, n_concepts).
        """
        row = np.asarray(rows, dtype=np.int64)
        concept = np.asarray(concepts, dtype=np.int64)
        if row.ndim != 1 or row.shape != concept.shape:
            raise InvalidInput(f"concept pairs: {row.shape} rows for {concept.shape} concepts")
        _inside(row, n_rows, "row")
        _inside(concept, n_concepts, "concept")
        pair = row * n_concepts + concept
        if np.any(pair[1:] <= pair[:-1]):
            pair = np.unique(pair)
            row, concept = np.divmod(pair, n_concepts)
        indptr = np.zeros(n_rows + 1, dtype=np.int64)
        np.cumsum(np.bincount(row, minlength=n_rows), out=indptr[1:])
        return cls(indptr, concept.astype(np.int32), n_concepts)

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.n_concepts

    def counts(self) -> NDArray[np.int64]:
        """Return how many rows have each concept; (n_concepts,)."""
        return np.bincount(self.indices, minlength=self.n_concepts).astype(np.int64, copy=False)

    def take(self, positions: ArrayLike) -> ConceptMatrix:
        """Return the rows at these positions, in this order, repeats allowed. Raise InvalidInput outside 0…n − 1."""
        at = np.asarray(positions, dtype=np.int64)
        _inside(at, len(self), "position")
        starts = self.indptr[at]
        lengths = self.indptr[at + 1] - starts
        indptr = np.zeros(len(at) + 1, dtype=np.int64)
        np.cumsum(lengths, out=indptr[1:])
        source = np.repeat(starts - indptr[:-1], lengths)
        source += np.arange(len(source))
        return ConceptMatrix(indptr, self.indices[source], self.n_concepts, self._valued(source))

    def select(self, concepts: ArrayLike) -> ConceptMatrix:
        """Return the same rows with only these concepts (unique, ascending), renumbered from 0."""
        kept = np.asarray(concepts, dtype=np.int64)
        _inside(kept, self.n_concepts, "concept")
        number = np.full(self.n_concepts, -1, np.int32)
        number[kept] = np.arange(len(kept))
        column = number[self.indices]
        indptr = np.zeros(len(self) + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.rows()[column >= 0], minlength=len(self)), out=indptr[1:])
        return ConceptMatrix(indptr, column[column >= 0], len(kept), self._valued(column >= 0))

    def above(self, threshold: float, *, soft: bool = False) -> ConceptMatrix:
        """Return the same matrix with only the entries above the threshold; values become 1, or stay when `soft`."""
        kept = self.weights() > threshold
        indptr = np.concatenate(([0], np.cumsum(kept)))[self.indptr]
        return ConceptMatrix(indptr, self.indices[kept], self.n_concepts, self._valued(kept) if soft else None)

    def weights(self) -> NDArray[np.float32]:
        """Return the value of every entry of `indices`; (nnz,)."""
        return np.ones(len(self.indices), np.float32) if self.values is None else self.values

    def _valued(self, entries: NDArray[Any]) -> NDArray[np.float32] | None:
        return None if self.values is None else self.values[entries]

    def hstack(self, others: Iterable[ConceptMatrix]) -> ConceptMatrix:
        """Return this matrix with the others' concepts appended. Raise InvalidInput when the numbers of rows differ."""
        parts = [self, *others]
        for part in parts:
            if len(part) != len(self):
                raise InvalidInput(f"concept sets of {len(self)} and {len(part)} rows cannot be joined")
        indptr = np.sum([part.indptr for part in parts], axis=0)
        indices = np.empty(indptr[-1], dtype=np.int32)
        valued = any(part.values is not None for part in parts)
        values = np.empty(indptr[-1] if valued else 0, dtype=np.float32)
        fill, first = indptr[:-1].copy(), 0
        for part in parts:
            lengths = np.diff(part.indptr)
            target = np.repeat(fill - part.indptr[:-1], lengths)
            target += np.arange(len(target))
            indices[target] = part.indices + first
            if valued:
                values[target] = part.weights()
            fill += lengths
            first += part.n_concepts
        return ConceptMatrix(indptr, indices, first, values if valued else None)

    def rows(self) -> NDArray[np.int64]:
        """Return the row of every entry of `indices`; (nnz,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))


def block_diagonal(parts: Sequence[ConceptMatrix]) -> ConceptMatrix:
    """Return rows and concepts of all parts one after the other; no row has a concept of another part."""
    if len(parts) == 1:
        return parts[0]
    ends, concepts = np.cumsum([(0, 0), *((len(part.indices), part.n_concepts) for part in parts)], axis=0).T
    indptr = [part.indptr[1:] + first for part, first in zip(parts, ends[:-1], strict=True)]
    indices = [part.indices + first for part, first in zip(parts, concepts[:-1].astype(np.int32), strict=True)]
    valued = any(part.values is not None for part in parts)
    values = np.concatenate([part.weights() for part in parts]) if valued else None
    return ConceptMatrix(np.concatenate([[0], *indptr]), np.concatenate(indices), int(concepts[-1]), values)


def permute_rows(
    x: ConceptMatrix, parts: ArrayLike, *, seed: int, groups: NDArray[np.int64] | None = None
) -> ConceptMatrix:
    """Return the control: the concepts of the samples are permuted within each part.

    `parts` is (n,): rows change places only among equal values, so that no concepts cross from one part to another.
    With `groups` (n,), the group of each sample, whole groups change places within their part: the i-th sample of a
    group gets the concepts of the i-th sample of the other group, whose rows repeat where it is smaller. Among groups
    of equal size that is a permutation of the rows; concepts of one group stay together.
    """
    part = np.asarray(parts)
    if part.shape != (len(x),):
        raise InvalidInput(f"permutation: {part.shape} parts for {len(x)} rows")
    rng = np.random.default_rng(seed)
    source = np.arange(len(x))
    for value in np.unique(part):
        members = np.flatnonzero(part == value)
        source[members] = rng.permutation(members) if groups is None else _regrouped(members, groups[members], rng)
    return x.take(source)


def _regrouped(members: NDArray[np.int64], groups: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return for each member (ascending) the sample whose concepts it gets, when whole groups change places."""
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(number, kind="stable")  # the members group by group
    first = np.cumsum(sizes) - sizes
    within = np.empty(len(members), np.int64)
    within[order] = np.arange(len(members)) - np.repeat(first, sizes)
    donor = rng.permutation(len(sizes))[number]
    taken: NDArray[np.int64] = members[order[first[donor] + within % sizes[donor]]]
    return taken


def _inside(values: NDArray[Any], size: int, noun: str) -> None:
    if len(values) and not 0 <= values.min() <= values.max() < size:
        bad = values[(values < 0) | (values >= size)][0]
        raise InvalidInput(f"{noun} {bad} lies outside 0…{size - 1}")
