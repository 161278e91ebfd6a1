"""The story of label: human concepts in, a versioned concept set out.

gather: the dataset and its keys. compute: read the source into (position, concept, score). commit: rows in bulk while
the set is still being written, then `ready`.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qrp_store.catalog import concept_sets, datasets, lease
from qrp_store.catalog.concept_sets import Vocabulary
from qrp_store.concepts.readers import read_labels, source_digest
from qrp_store.errors import InvalidInput, NotFound
from qrp_store.progress import Progress, silent
from qrp_store.records import Artifact, Dataset, Spec
from qrp_store.samples import shown
from qrp_store.store import Store, check_name

ALGORITHM = 1
_EXAMPLES = 5


@dataclass(frozen=True)
class LabelReport:
    """What `label` did. `groups` counts the concepts of each group."""

    id: str
    version: int
    fingerprint: str
    dataset: str
    concepts: str
    n_concepts: int
    n_labels: int
    n_labelled_samples: int
    n_unknown_keys: int
    groups: dict[str, int]
    cached: bool
    timings: dict[str, float]


def label(
    store: Store,
    source: str,
    *,
    dataset: str,
    concepts: str,
    threshold: float = 0.5,
    group: str | None = None,
    exclusive: bool = False,
    ignore_unknown_keys: bool = False,
    force: bool = False,
    wait: bool = True,
    progress: Progress = silent,
) -> LabelReport:
    """Make a concept set of a dataset from a label file or an ImageFolder.

    A score counts when it is greater than `threshold`; a label without score always does; a repeated (key, concept)
    counts once, with its highest score. Raises NotFound for the dataset, InvalidInput for the file.
    """
    started = time.perf_counter()
    check_name(concepts, "concept set")
    if not (math.isfinite(threshold) and 0 <= threshold <= 1):
        raise InvalidInput(f"--threshold {threshold}: a score is between 0 and 1")
    path = Path(source).expanduser()
    if not path.exists():
        raise NotFound(f"{source}: no such file or folder")
    owner = datasets.get_dataset(store.catalog, dataset)
    document = {
        "algorithm": ALGORITHM,
        "dataset": owner.fingerprint,
        "source": source_digest(path),
        "threshold": threshold,
        "group": group,
        "exclusive": exclusive,
        "ignore_unknown_keys": ignore_unknown_keys,
    }
    spec = Spec("concepts", concepts, concept_sets.series(dataset, concepts), document)
    found = None if force else lease.find(store.catalog, spec)
    if found is not None:
        return _report(store, found, started, cached=True)
    # Read before anything is claimed: a bad file leaves no trace.
    table = _read(store, path, owner, group, threshold, ignore_unknown_keys, progress)
    if exclusive:
        _check_exclusive(table, path)
    claimed = lease.claim(store.catalog, spec, force=force, wait=wait, progress=progress)
    if isinstance(claimed, Artifact):
        return _report(store, claimed, started, cached=True)
    with lease.held(store.catalog, claimed):
        labels = (table.positions, table.concepts, table.scores)
        concept_sets.write(store.catalog, claimed, owner, table.vocabulary, labels, exclusive=exclusive)
        provenance = {"source": str(path.absolute()), "n_unknown_keys": table.n_unknown}
        concept_sets.commit(store.catalog, claimed, provenance)
    made = concept_sets.get(store.catalog, dataset, concepts)
    return _report(store, made.artifact, started, cached=False)


@dataclass(frozen=True)
class _Table:
    """Labels by position and concept number, sorted and unique; NaN for no score."""

    vocabulary: Vocabulary
    positions: np.ndarray
    concepts: np.ndarray
    scores: np.ndarray
    keys: list[str] = field(repr=False)
    n_unknown: int = 0


@dataclass
class _Numbers:
    """Concept names in order of first appearance, with their groups."""

    source: Path
    number: dict[str, int] = field(default_factory=dict)
    group: list[str | None] = field(default_factory=list)

    def of(self, name: str, group: str | None) -> int:
        number = self.number.setdefault(name, len(self.number))
        if number == len(self.group):
            self.group.append(group)
        elif group is not None and self.group[number] != group:
            if self.group[number] is not None:
                raise InvalidInput(
                    f"{self.source}: concept {shown(name)} stands in two groups, "
                    f"{shown(str(self.group[number]))} and {shown(group)}",
                    hint="give the two concepts different names",
                )
            self.group[number] = group
        return number


def _read(
    store: Store,
    path: Path,
    owner: Dataset,
    group: str | None,
    threshold: float,
    ignore_unknown: bool,
    progress: Progress,
) -> _Table:
    keys = datasets.keys(store.catalog, owner)
    position = {key: i for i, key in enumerate(keys)}
    numbers, unknown = _Numbers(path), Counter[str]()
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    n_rows = 0
    with progress.task(f"label {owner.name}", None, "labels") as task:
        for rows in read_labels(path, group=group):
            at = np.fromiter((position.get(key, -1) for key in rows.keys), np.int64, len(rows.keys))
            unknown.update(rows.keys[i] for i in np.flatnonzero(at < 0))
            concept = np.fromiter(map(numbers.of, rows.concepts, rows.groups), np.int32, len(rows.keys))
            scores = np.full(len(at), np.nan) if rows.scores is None else rows.scores
            kept = (at >= 0) & ~(scores <= threshold)
            parts.append((at[kept], concept[kept], scores[kept]))
            task.advance(len(at))
            n_rows += len(at)
    if unknown and not ignore_unknown:
        examples = ", ".join(shown(key) for key in list(unknown)[:_EXAMPLES])
        raise InvalidInput(
            f"{path}: {len(unknown)} keys are not in dataset {owner.name!r}, for example {examples}",
            hint="--ignore-unknown-keys leaves them out",
        )
    if unknown:
        progress.warn(f"{path}: {len(unknown)} keys are not in dataset {owner.name!r} and are left out")
    if n_rows == sum(unknown.values()):
        raise InvalidInput(f"{path}: none of its {n_rows} labels is of dataset {owner.name!r}")
    return _sorted(numbers, parts, keys, len(unknown))


def _sorted(
    numbers: _Numbers, parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]], keys: list[str], n_unknown: int
) -> _Table:
    """Number the concepts by group and name, sort the labels, keep the highest score of repeated ones."""
    names = list(numbers.number)
    order = sorted(range(len(names)), key=lambda i: (numbers.group[i] is None, numbers.group[i] or "", names[i]))
    rank = np.empty(len(names), np.int32)
    rank[order] = np.arange(len(names), dtype=np.int32)
    at = np.concatenate([p[0] for p in parts])
    concept = rank[np.concatenate([p[1] for p in parts])]
    scores = np.concatenate([p[2] for p in parts])
    # A label without a score holds for certain: it sorts after every score, and the last of equals is kept.
    by = np.lexsort((scores, concept, at))
    at, concept, scores = at[by], concept[by], scores[by]
    last = np.ones(len(at), bool)
    last[:-1] = (at[1:] != at[:-1]) | (concept[1:] != concept[:-1])
    at, concept, scores = at[last], concept[last], scores[last]
    counts = np.bincount(concept, minlength=len(names))
    vocabulary = Vocabulary(
        tuple(names[i] for i in order), tuple(numbers.group[i] for i in order), tuple(int(c) for c in counts)
    )
    return _Table(vocabulary, at, concept, scores, keys, n_unknown)


def _check_exclusive(table: _Table, path: Path) -> None:
    twice = np.flatnonzero(table.positions[1:] == table.positions[:-1])
    if len(twice):
        i = int(twice[0])
        names = [shown(table.vocabulary.names[table.concepts[j]]) for j in (i, i + 1)]
        raise InvalidInput(
            f"{path}: --exclusive, but {len(np.unique(table.positions[twice]))} samples have more than one label; "
            f"{shown(table.keys[table.positions[i]])} has {names[0]} and {names[1]}",
            hint="leave --exclusive out, or raise --threshold",
        )


def _report(store: Store, found: Artifact, started: float, *, cached: bool) -> LabelReport:
    with store.catalog.read() as connection:
        dataset = concept_sets.dataset_name(connection, found.id)
    stored = concept_sets.get(store.catalog, dataset, found.name, found.version)
    groups = concept_sets.vocabulary(store.catalog, found.id).groups
    return LabelReport(
        id=found.id,
        version=found.version or 0,
        fingerprint=found.fingerprint,
        dataset=dataset,
        concepts=found.name,
        n_concepts=stored.n_concepts,
        n_labels=stored.n_labels,
        n_labelled_samples=stored.n_labelled_samples,
        n_unknown_keys=int(found.provenance.get("n_unknown_keys", 0)),
        groups=dict(Counter(g for g in groups if g is not None)),
        cached=cached,
        timings={"total_s": time.perf_counter() - started},
    )
