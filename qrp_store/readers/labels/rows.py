"""The records that a label reader yields, and the checks that each label passes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qrp_store.errors import InvalidInput
from qrp_store.samples import key_problem, normal, shown

BATCH_ROWS = 100_000
ROUNDING = 1e-5
"""A probability may be this far outside [0, 1]: float32 sums of a softmax reach 1.0000002."""
Term = tuple[str, str | None]
"""A concept and its group."""
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+\s*")
NOT_A_NUMBER = frozenset({"nan", "<na>"})
MISSING_WORDS = NOT_A_NUMBER | {"na", "n/a", "#n/a", "null", "none"}
"""Words for a missing value in a table with a column for each concept, in lower case."""


@dataclass(frozen=True)
class LabelRows:
    """Some labels, in the source's order: row i says that `concepts[i]` holds for the sample `keys[i]`.

    `scores` (float64, in [0, 1]; NaN: the concept holds, without a score) is None when the batch has none. A group may
    be None. Missing is not absent: `verified` (bool) marks the rows that somebody checked (with score 0: and did not
    see), `seen` are keys whose every concept was checked. `vocabulary` lists concepts of the source, also those that
    hold for nothing.
    """

    keys: list[str]
    concepts: list[str]
    scores: NDArray[np.float64] | None
    groups: list[str | None]
    verified: NDArray[np.bool_] | None = None
    seen: Sequence[str] = ()
    vocabulary: Sequence[Term] = ()


@dataclass(frozen=True)
class TableOptions:
    """What a user says about a table: its columns, the separator of lists in a cell, the words for yes and no."""

    key: str | None = None
    concept: str | None = None
    score: str | None = None
    group: str | None = None
    split: str | None = None
    true: tuple[str, ...] = ()
    false: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, str]:
        """The named columns, by option."""
        named = {"--key-column": self.key, "--concept-column": self.concept}
        named |= {"--score-column": self.score, "--group-column": self.group}
        return {option: name for option, name in named.items() if name is not None}

    def document(self) -> dict[str, object]:
        """The options that are not at their default, as JSON."""
        given = {name: getattr(self, name) for name in ("key", "concept", "score", "group", "split", "true", "false")}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in given.items() if v is not None and v != ()}


def ignore(message: str) -> None:
    """Drop a remark."""


@dataclass(frozen=True)
class Source:
    """A file or folder of labels, with the options that apply to it.

    `group` is given to concepts without one. `keys` are the dataset's, in order, for sources whose rows have no key, or
    paths that end with one. `note` and `warn` receive remarks for the user. `activation` turns cosines or
    logits into probabilities.
    """

    path: Path
    group: str | None = None
    keys: Sequence[str] = ()
    table: TableOptions = TableOptions()
    activation: str | None = None
    note: Callable[[str], None] = ignore
    warn: Callable[[str], None] = ignore

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def key_set(self) -> frozenset[str]:
        """The dataset's keys, apart from row numbers."""
        return frozenset() if self.keys and self.keys[0] == "0" else frozenset(self.keys)


@dataclass
class Batch:
    """Collects labels; checks each one as it is added."""

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
        """Add one label; `place` is where it is in the source ("line 7")."""
        self.keys.append(self.text(place, "key", key))
        self.concepts.append(self.term(place, concept))
        self.scores.append(self.score(place, score) if self.scored else math.nan)
        self.groups.append(self.source.group if is_missing(group) else self.term(place, group, "group"))
        self.verified.append(verified)

    def pair(self, key: str, concept: str, group: str | None, *, holds: bool) -> None:
        """Add a checked pair of which the source says whether the concept holds. The batch is `scored`."""
        self.keys.append(key)
        self.concepts.append(concept)
        self.scores.append(math.nan if holds else 0.0)
        self.groups.append(group)
        self.verified.append(True)

    def text(self, place: str, column: str, value: object) -> str:
        """Return a key, concept or group as text. Raises InvalidInput, naming the place."""
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # row numbers as keys, class numbers as concepts
        elif isinstance(value, float) and column == "key" and value.is_integer() and abs(value) <= 2**53:
            value = str(int(value))  # pandas turns a column of ids with a missing one into floats
        elif isinstance(value, bytes):
            value = value.decode("utf-8", "surrogateescape")
        if not isinstance(value, str):
            raise InvalidInput(f"{self.source}: {place}: {column} is {kind(value)}, expected text")
        problem = key_problem(value)
        if problem is not None:
            raise InvalidInput(
                f"{self.source}: {place}: the {column} {problem}" + (f": {shown(value)}" if value else "")
            )
        return value

    def term(self, place: str, value: object, column: str = "concept") -> str:
        """Return a concept or group without outer blanks, in NFC. Raises InvalidInput, naming the place."""
        text = self.text(place, column, value)
        name = normal(text)
        if not name:
            raise InvalidInput(f"{self.source}: {place}: the {column} is empty")
        if column == "concept" and name.lower() in NOT_A_NUMBER:
            raise InvalidInput(
                f"{self.source}: {place}: the concept is {shown(name)}, a missing value",
                hint="leave rows without a concept out",
            )
        return name

    def score(self, place: str, value: object) -> float:
        """Return a score in [0, 1]. Raises InvalidInput, naming the place."""
        try:
            score = number(value)
        except ValueError:
            text = shown(value) if isinstance(value, str) else kind(value)
            raise InvalidInput(f"{self.source}: {place}: score {text} is not a number") from None
        if not (math.isfinite(score) and -ROUNDING <= score <= 1 + ROUNDING):
            raise InvalidInput(f"{self.source}: {place}: score {score} is outside [0, 1]", hint=out_of_range(score))
        return min(max(score, 0.0), 1.0)

    @property
    def full(self) -> bool:
        return max(len(self.keys), len(self.seen)) >= BATCH_ROWS

    def take(self, vocabulary: Sequence[Term] = ()) -> LabelRows:
        """Return the labels collected so far, and start anew."""
        scores = np.array(self.scores, dtype=np.float64) if self.scored else None
        verified = np.array(self.verified, dtype=bool) if any(self.verified) else None
        rows = LabelRows(self.keys, self.concepts, scores, self.groups, verified, self.seen, vocabulary)
        self.keys, self.concepts, self.scores, self.groups, self.verified, self.seen = [], [], [], [], [], []
        return rows


def number(value: object) -> float:
    """Return a number, also one written with a decimal comma (`0,9`). Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError
    if isinstance(value, str):
        if "_" in value:  # float() reads 0_1 as 1
            raise ValueError
        if _DECIMAL_COMMA.fullmatch(value):
            value = value.replace(",", ".")
    try:
        return float(value)
    except OverflowError:
        raise ValueError from None


def is_missing(value: object) -> bool:
    """Return whether a cell is empty: None, NaN, or text without anything but blanks."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def out_of_range(score: float) -> str:
    """Return the advice for a score outside [0, 1]."""
    if score != score:
        return "leave rows without a score out"
    if score == -1:
        return "are the values -1 and 1? --true 1 --false -1 reads a column a concept"
    if 1 < score <= 100:
        return "scores are probabilities; divide percentages by 100; logits need a sigmoid or softmax first"
    return "scores are probabilities; logits need a sigmoid or softmax first"


def kind(value: object) -> str:
    """Return what messages call a value of the wrong type."""
    return "missing" if value is None else f"of type {type(value).__name__}"
