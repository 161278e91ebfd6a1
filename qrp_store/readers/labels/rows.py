"""What a reader of labels hands out, and how each label is checked on its way in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qrp_store.errors import InvalidInput
from qrp_store.samples import key_problem, shown

BATCH_ROWS = 100_000
Term = tuple[str, str | None]
"""A concept and its group."""


@dataclass(frozen=True)
class LabelRows:
    """Some labels, in the source's order: row i says that `concepts[i]` holds for the sample `keys[i]`.

    `scores` (float64, in [0, 1]; NaN: it simply holds) is None when the batch has none. A group may be None.
    Missing is not absent, so a source that knows what it looked at says so: `verified` (bool) marks the rows that
    somebody checked (with score 0: and found absent), `seen` are keys whose every concept was checked. `vocabulary`
    are the source's concepts whether or not they hold for anything.
    """

    keys: list[str]
    concepts: list[str]
    scores: NDArray[np.float64] | None
    groups: list[str | None]
    verified: NDArray[np.bool_] | None = None
    seen: Sequence[str] = ()
    vocabulary: Sequence[Term] = ()


@dataclass(frozen=True)
class Source:
    """What is read: a file or folder, the group of concepts without one, and the keys of the dataset in order.

    `keys` serves sources whose rows have none of their own.
    """

    path: Path
    group: str | None = None
    keys: Sequence[str] = ()

    def __str__(self) -> str:
        return str(self.path)


@dataclass
class Batch:
    """Labels being gathered; each is checked as it comes in."""

    source: Source
    scored: bool
    keys: list[str] = field(default_factory=list)
    concepts: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    groups: list[str | None] = field(default_factory=list)
    verified: list[bool] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def add(
        self, place: str, key: object, concept: object, score: object, group: object, *, verified: bool = False
    ) -> None:
        """One label; `place` says where it stands ("line 7")."""
        self.keys.append(self.text(place, "key", key))
        self.concepts.append(self.text(place, "concept", concept))
        self.scores.append(self.score(place, score) if self.scored else math.nan)
        self.groups.append(self.source.group if group is None or group == "" else self.text(place, "group", group))
        self.verified.append(verified)

    def text(self, place: str, column: str, value: object) -> str:
        """A key, concept or group as text; raises InvalidInput naming the place."""
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # row numbers as keys, class numbers as concepts
        if not isinstance(value, str):
            raise InvalidInput(f"{self.source}: {place}: {column} is {kind(value)}, expected text")
        problem = key_problem(value)
        if problem is not None:
            raise InvalidInput(
                f"{self.source}: {place}: the {column} {problem}" + (f": {shown(value)}" if value else "")
            )
        return value

    def score(self, place: str, value: object) -> float:
        """A score in [0, 1]; raises InvalidInput naming the place."""
        try:
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise ValueError
            score = float(value)
        except (ValueError, OverflowError):
            said = shown(value) if isinstance(value, str) else kind(value)
            raise InvalidInput(f"{self.source}: {place}: score {said} is not a number") from None
        if not (math.isfinite(score) and 0.0 <= score <= 1.0):
            raise InvalidInput(
                f"{self.source}: {place}: score {score} is outside [0, 1]",
                hint="scores are probabilities; logits need a sigmoid or softmax first",
            )
        return score

    @property
    def full(self) -> bool:
        return max(len(self.keys), len(self.seen)) >= BATCH_ROWS

    def take(self, vocabulary: Sequence[Term] = ()) -> LabelRows:
        """The labels gathered so far; then gathering starts again."""
        scores = np.array(self.scores, dtype=np.float64) if self.scored else None
        verified = np.array(self.verified, dtype=bool) if any(self.verified) else None
        rows = LabelRows(self.keys, self.concepts, scores, self.groups, verified, self.seen, vocabulary)
        self.keys, self.concepts, self.scores, self.groups, self.verified, self.seen = [], [], [], [], [], []
        return rows


def kind(value: object) -> str:
    """What a value of the wrong type is called."""
    return "missing" if value is None else f"of type {type(value).__name__}"
