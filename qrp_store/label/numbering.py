"""Labels by name, as a reader gives them, to labels by number: positions in a dataset and concepts of a vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from qrp_store.catalog.entities.concept_sets import Vocabulary
from qrp_store.errors import InvalidInput
from qrp_store.key_matching import Positions, better_match, counts_from_one, has_default_keys
from qrp_store.label.piles import Piles, columns
from qrp_store.progress import Progress
from qrp_store.readers.labels.rows import LabelRows, Term
from qrp_store.samples import key_difference, shown

_EXAMPLES = 5
_FIRST = 1000


@dataclass(frozen=True, eq=False)
class LabelTable:
    """Labels by position and concept number, sorted and unique; NaN for no score. The arrays lie on disk.

    `verified` are the (positions, concepts) that somebody looked at, sorted and unique, concept ALL for every concept;
    None when what is not there is absent. `unknown` are the keys that the dataset does not have.
    """

    vocabulary: Vocabulary
    positions: np.ndarray
    concepts: np.ndarray
    scores: np.ndarray
    keys: Sequence[str] = field(repr=False)
    verified: tuple[np.ndarray, np.ndarray] | None
    unknown: Unknown


ALL = -1
"""In place of a concept's number: all of them."""


@dataclass
class Unknown:
    """Keys that the dataset does not have: on how many rows they stand, the first thousand, and how many differ.

    They may be more than fit in memory as text, so 64 bits of each are kept: two of ten million agree once in 400,000
    files.
    """

    n_rows: int = 0
    first: dict[str, None] = field(default_factory=dict)
    _known: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    _recent: list[np.ndarray] = field(default_factory=list)

    def __len__(self) -> int:
        self._merge()
        return len(self._known)

    def add(self, keys: Sequence[str]) -> None:
        """Count the keys of some rows."""
        if not keys:
            return
        self.n_rows += len(keys)
        if len(self.first) < _FIRST:
            self.first.update(dict.fromkeys(keys[: _FIRST - len(self.first)]))
        self._recent.append(np.unique(np.fromiter(map(hash, keys), np.int64, len(keys))))
        if sum(map(len, self._recent)) > max(len(self._known), _FIRST):
            self._merge()

    def _merge(self) -> None:
        self._known, self._recent = np.unique(np.concatenate([self._known, *self._recent])), []


@dataclass
class Numbers:
    """Concepts in order of first appearance, each with its group; at most `limit` of them."""

    source: str
    limit: int
    number: dict[Term, int] = field(default_factory=dict)

    def learn(self, terms: Iterable[Term]) -> None:
        """Give new concepts their number. Raises InvalidInput beyond the limit."""
        for term in dict.fromkeys(terms):
            self.number.setdefault(term, len(self.number))
        if len(self.number) > self.limit:
            raise InvalidInput(
                f"{self.source}: more than {self.limit:,} different concepts, for example "
                f"{', '.join(shown(name, 30) for name, _ in list(self.number)[-3:])}",
                hint="are two columns swapped? --max-concepts raises the limit",
            )

    def named(self) -> tuple[list[Term], list[int]]:
        """Return the concepts as they are stored, and for each number the index of its concept.

        A concept without a group is the one of its name that has a group, if there is one such. Of several with one
        name, each gets its group in brackets: `bat (animal)`, `bat (sports)`.
        """
        groups = self._groups()
        stored: dict[Term, int] = {}
        index = []
        for name, group in self.number:
            several = groups.get(name, [])
            if len(several) == 1:
                term: Term = name, several[0]
            elif group is None:
                term = name, None
            else:
                term = f"{name} ({group})", group
                if term in self.number:
                    raise InvalidInput(
                        f"{self.source}: concept {shown(name)} of group {shown(group)} would be called like another",
                        hint=f"rename {shown(term[0])}",
                    )
            index.append(stored.setdefault(term, len(stored)))
        return list(stored), index

    def shared(self) -> list[str]:
        """Return the names that several groups have."""
        return [name for name, groups in self._groups().items() if len(groups) > 1]

    def _groups(self) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for name, group in self.number:
            if group is not None:
                groups.setdefault(name, []).append(group)
        return groups


def gather(
    batches: Iterable[LabelRows],
    numbers: Numbers,
    positions: Positions,
    threshold: float,
    labels: Piles,
    looked_at: Piles,
    progress: Progress,
) -> tuple[Unknown, int, bool]:
    """Put aside the `labels` above the threshold and what was `looked_at`.

    Return the unknown keys, the number of rows, and whether a row is of the dataset's first sample.
    """
    unknown, n_rows, first = Unknown(), 0, False
    with progress.task(f"read {numbers.source}", None, "labels") as task:
        for rows in batches:
            numbers.learn(rows.vocabulary)
            numbers.learn(zip(rows.concepts, rows.groups, strict=True))
            at = positions.of(rows.keys, numbers.source)
            seen = positions.of(rows.seen, numbers.source)
            unknown.add([rows.keys[i] for i in np.flatnonzero(at < 0).tolist()])
            unknown.add([rows.seen[i] for i in np.flatnonzero(seen < 0).tolist()])
            terms = zip(rows.concepts, rows.groups, strict=True)
            concept = np.fromiter(map(numbers.number.__getitem__, terms), np.int32, len(at))
            scores = np.full(len(at), np.nan) if rows.scores is None else rows.scores
            kept = (at >= 0) & ~(scores <= threshold)
            labels.add(at[kept], concept[kept], scores[kept])
            if rows.verified is not None:
                checked = rows.verified & (at >= 0)
                looked_at.add(at[checked], concept[checked])
            seen = seen[seen >= 0]
            looked_at.add(seen, np.full(len(seen), ALL, np.int32))
            n_rows += len(at) + len(rows.seen)
            first = first or bool((at == 0).any() or (seen == 0).any())
            task.advance(len(at))
    return unknown, n_rows, first


def refuse_unknown(
    source: str, dataset: str, unknown: Unknown, n_rows: int, keys: Sequence[str], *, ignore: bool, zero: bool = True
) -> None:
    """Raise InvalidInput for keys that the dataset does not have, unless `ignore` and some keys are known.

    Where the dataset's keys are the default numbers, a file that counts from 1 would label the wrong samples: it is
    refused even with `ignore`. `zero`: whether the file labels the first sample.
    """
    if not unknown.n_rows:
        return
    examples = ", ".join(shown(key) for key in list(unknown.first)[:_EXAMPLES])
    lacking = f"{source}: {len(unknown)} keys are not in dataset {dataset!r}, for example {examples}"
    numbered_by_default = has_default_keys(keys)
    if not zero and counts_from_one(unknown.first, keys):
        raise InvalidInput(
            f"{lacking}; the dataset's keys are the numbers 0 to {len(keys) - 1}, and the file seems to count from 1",
            hint="subtract 1 from the file's keys, or ingest with --keys",
        )
    better = better_match(unknown.first, keys)
    difference = key_difference(unknown.first, keys)
    lacking += f"; {difference}" if difference else ""
    if not ignore:
        leave_out = "--ignore-unknown-keys leaves them out"
        if numbered_by_default:
            leave_out = f"the dataset's keys are the numbers 0 to {len(keys) - 1}; ingest with --keys to use names"
        raise InvalidInput(lacking, hint=f"{better}{leave_out}")
    if n_rows == unknown.n_rows:
        raise InvalidInput(
            f"{source}: none of its {n_rows} labels is of dataset {dataset!r}; keys are like {examples}"
            + (f"; {difference}" if difference else ""),
            hint=better.removesuffix("; ") or None,
        )


def numbered(numbers: Numbers, labels: Piles, looked_at: Piles, keys: Sequence[str], unknown: Unknown) -> LabelTable:
    """Number the concepts by group and name, sort the labels, keep the highest score of repeated ones."""
    terms, index = numbers.named()
    names, groups = [name for name, _ in terms], [group for _, group in terms]
    order = sorted(range(len(names)), key=lambda i: (groups[i] is None, groups[i] or "", names[i]))
    place = np.empty(len(names), np.int32)
    place[order] = np.arange(len(names), dtype=np.int32)
    rank = np.append(place[np.array(index, np.int64)], np.int32(ALL)).astype(np.int32)
    counts = np.zeros(len(names), np.int64)
    with columns(np.int64, np.int32, np.float64) as parts:
        for pile in labels:
            part = _unique(pile["at"], rank[pile["concept"]], pile["score"], len(names))
            counts += np.bincount(part[1], minlength=len(names))
            parts.add(*part)
        at, concept, scores = parts.arrays()
    vocabulary = Vocabulary(
        tuple(names[i] for i in order), tuple(groups[i] for i in order), tuple(int(c) for c in counts)
    )
    return LabelTable(vocabulary, at, concept, scores, keys, _known(looked_at, rank, len(keys)), unknown)


def _known(looked_at: Piles, rank: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray] | None:
    """What was looked at, sorted and unique; None when that is everything, or nothing is said of it."""
    whole = np.zeros(n, bool)
    for pile in looked_at:
        whole[pile["at"][pile["concept"] == ALL]] = True
    if not len(looked_at) or whole.all():
        return None
    width = len(rank)  # one more than there are concepts
    with columns(np.int64, np.int32) as parts:
        for pile in looked_at:
            at, concept = np.divmod(np.unique(pile["at"] * width + rank[pile["concept"]] + 1), width)
            parts.add(at, concept - 1)
        at, concept = parts.arrays()
    return at, concept


def _unique(at: np.ndarray, concept: np.ndarray, scores: np.ndarray, n_concepts: int) -> tuple[np.ndarray, ...]:
    """Sorted by position and concept, each pair once, with its highest score."""
    pair = at * max(n_concepts, 1) + concept
    if (pair[1:] > pair[:-1]).all():
        return at, concept, scores
    # A label without a score holds for certain: NaN sorts after every score, and the last of equals is kept.
    by = np.argsort(pair, kind="stable") if np.isnan(scores).all() else np.lexsort((scores, pair))
    pair, at, concept, scores = pair[by], at[by], concept[by], scores[by]
    last = np.ones(len(pair), bool)
    last[:-1] = pair[1:] != pair[:-1]
    return at[last], concept[last], scores[last]


def check_exclusive(table: LabelTable, source: str) -> None:
    """Raise InvalidInput when a sample has two labels."""
    twice = np.flatnonzero(table.positions[1:] == table.positions[:-1])
    if len(twice):
        i = int(twice[0])
        names = [shown(table.vocabulary.names[table.concepts[j]]) for j in (i, i + 1)]
        raise InvalidInput(
            f"{source}: --exclusive, but {len(np.unique(table.positions[twice]))} samples have more than one label; "
            f"{shown(table.keys[table.positions[i]])} has {names[0]} and {names[1]}",
            hint="leave --exclusive out, or raise --threshold",
        )
