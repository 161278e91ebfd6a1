"""What the tests of label readers share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from qrp_store.readers.labels.formats import read_labels


@dataclass
class Labels:
    """All labels of a source: pairs that hold, their scores and groups, pairs and samples that were looked at."""

    pairs: set[tuple[str, str]] = field(default_factory=set)
    scores: dict[tuple[str, str], float] = field(default_factory=dict)
    group: dict[str, str | None] = field(default_factory=dict)
    looked_at: set[tuple[str, str]] = field(default_factory=set)
    seen: list[str] = field(default_factory=list)
    vocabulary: dict[str, str | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@pytest.fixture
def labels_of() -> Callable[..., Labels]:
    def read(path: Path, **options: Any) -> Labels:
        labels = Labels()
        for rows in read_labels(path, note=labels.notes.append, warn=labels.warnings.append, **options):
            scores = [math.nan] * len(rows.keys) if rows.scores is None else rows.scores.tolist()
            verified = [False] * len(rows.keys) if rows.verified is None else rows.verified.tolist()
            columns = zip(rows.keys, rows.concepts, scores, rows.groups, verified, strict=True)
            for key, concept, score, group, checked in columns:
                labels.group[concept] = group
                if math.isnan(score) or score > 0:
                    labels.pairs.add((key, concept))
                if score > 0:
                    labels.scores[key, concept] = score
                if checked:
                    labels.looked_at.add((key, concept))
            labels.seen += rows.seen
            labels.vocabulary.update(rows.vocabulary)
        return labels

    return read
