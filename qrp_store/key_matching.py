"""Which sample of a dataset a key of a file means: by the whole key, its basename or its stem."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import repeat

import numpy as np

from qrp_store.errors import InvalidInput
from qrp_store.samples import Match, normal, shown

_EXAMPLES = 5
_AMBIGUOUS = -2
_WHOLE_FLOAT = re.compile(r"(\d+)\.0+")  # pandas writes a column of ids with a missing one as floats


def reduced(key: str, match: Match) -> str:
    """Return the part of a key that is compared. A backslash separates folders like a slash."""
    if match == "key":
        return key
    name = normal(key).replace("\\", "/").rstrip("/").rpartition("/")[2]
    stem, _, ending = name.rpartition(".")
    return stem if match == "stem" and stem and ending else name


class Positions:
    """Positions in a dataset of the keys of a file, by the whole key, its basename or its stem.

    `ids`: a key that the dataset lacks may be the stem of one of its keys. By basename or stem, a sample has one key in
    the whole file.
    """

    def __init__(self, keys: Sequence[str], match: Match = "key", *, ids: bool = False) -> None:
        self._keys = keys
        self._match = match
        self._position: dict[str, int] = {}
        if match != "key" or ids:
            for i, key in enumerate(keys):
                name = reduced(key, "stem" if match == "key" else match)
                self._position[name] = _AMBIGUOUS if name in self._position else i
        if match == "key":
            self._position.update((key, i) for i, key in enumerate(keys))
        self._normal: dict[str, int] | None = None
        self._hashes = np.zeros(0 if match == "key" else len(keys), np.int64)

    def of(self, keys: Sequence[str], source: str) -> np.ndarray:
        """Return positions (int64), -1 for an unknown key.

        Raises InvalidInput for a key that means several samples, and for two keys that mean one.
        """
        names = keys if self._match == "key" else [reduced(key, self._match) for key in keys]
        positions = np.fromiter(map(self._position.get, names, repeat(-1)), np.int64, len(names))
        if self._match == "key":
            for i in np.flatnonzero(positions == -1).tolist():
                positions[i] = self._by_normal_form(names[i])
        ambiguous = np.flatnonzero(positions == _AMBIGUOUS)
        if len(ambiguous):
            name = names[ambiguous[0]]
            match: Match = "stem" if self._match == "key" else self._match
            meant = [shown(key) for key in self._keys if reduced(key, match) == name][:_EXAMPLES]
            raise InvalidInput(
                f"{source}: {shown(keys[ambiguous[0]])} means several samples: {', '.join(meant)}",
                hint="--match key tells them apart",
            )
        if self._match != "key":
            self._refuse_two(keys, positions, source)
        return positions

    def _by_normal_form(self, key: str) -> int:
        """Return the position of the key that differs in outer blanks, Unicode's form or `.0` alone, or -1."""
        if self._normal is None:
            self._normal = {}
            for i, known in enumerate(self._keys):
                name = normal(known)
                if name != known:
                    self._normal[name] = _AMBIGUOUS if name in self._normal or name in self._position else i
        name = normal(key)
        if name not in self._normal and name not in self._position:
            whole = _WHOLE_FLOAT.fullmatch(name)
            name = name if whole is None else whole[1]
        return self._normal.get(name, self._position.get(name, -1))

    def _refuse_two(self, keys: Sequence[str], positions: np.ndarray, source: str) -> None:
        hashes = np.fromiter(map(hash, keys), np.int64, len(keys)) | 1
        known = np.flatnonzero(positions >= 0)
        new = known[self._hashes[positions[known]] == 0]
        self._hashes[positions[new]] = hashes[new]
        other = known[self._hashes[positions[known]] != hashes[known]]
        if len(other):
            at = positions[other[0]]
            both = [key for key, position in zip(keys, positions.tolist(), strict=True) if position == at]
            named = " and ".join(shown(key) for key in list(dict.fromkeys(both))[:2])
            raise InvalidInput(
                f"{source}: {named if len(set(both)) > 1 else f'{named} and a key before it'} both mean the sample "
                f"{shown(self._keys[at])} by --match {self._match}",
                hint="--match key tells them apart, or leave one of them out",
            )


def has_default_keys(keys: Sequence[str]) -> bool:
    """Return whether keys are the row numbers that `ingest` gives without --keys."""
    return all(key == str(i) for i, key in enumerate(keys))


def counts_from_one(unknown: Iterable[str], keys: Sequence[str]) -> bool:
    """Return whether a file with these unknown keys seems to number a dataset's rows from 1 instead of from 0."""
    return {reduced(key, "stem") for key in unknown} == {str(len(keys))} and has_default_keys(keys)


def better_match(unknown: Iterable[str], keys: Sequence[str]) -> str:
    """Return the beginning of a hint: the --match that finds an unknown key; "" where none does."""
    matches: tuple[Match, ...] = ("basename", "stem")
    for match in matches:
        known = {reduced(key, match) for key in keys}
        if any(reduced(key, match) in known for key in unknown):
            return f"--match {match} would find them; "
    return ""
