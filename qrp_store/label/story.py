"""The story of label: human concepts in, a versioned concept set out.

gather: the dataset and its keys. compute: read the source into (position, concept, score). commit: rows in bulk while
the set is still being written, then `ready`.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from qrp_store.catalog.entities import concept_sets, datasets
from qrp_store.catalog.entities.concept_sets import Vocabulary
from qrp_store.catalog.lifecycle import lease
from qrp_store.errors import NotFound
from qrp_store.key_matching import Positions
from qrp_store.label import concept_rows
from qrp_store.label.numbering import (
    LabelTable,
    Numbers,
    check_exclusive,
    gather,
    numbered,
    refuse_unknown,
)
from qrp_store.label.piles import LABEL, LOOKED_AT, Piles
from qrp_store.options import (
    Activation,
    LabelFileOptions,
    LabelFormat,
    LabelOptions,
    LabelTableOptions,
    Match,
    RunOptions,
    Several,
    taken,
    takes,
)
from qrp_store.progress import Progress, silent
from qrp_store.readers.labels.formats import FORMATS, detect, read_labels, source_digest
from qrp_store.readers.labels.rows import TableOptions
from qrp_store.records import Artifact, Dataset, Spec
from qrp_store.samples import normal, shown
from qrp_store.store import Store, check_name

ALGORITHM = 2
_THRESHOLD = 0.5
_EXAMPLES = 5


@dataclass(frozen=True)
class LabelReport:
    """The result of `label`.

    `groups` counts the concepts of each group, `unknown_keys` are examples. `case_variants`: concepts that differ in
    upper and lower case alone, a dictionary for each name, with the number of labels of each.
    """

    id: str
    version: int
    fingerprint: str
    dataset: str
    concepts: str
    n_concepts: int
    n_labels: int
    n_labelled_samples: int
    n_unknown_keys: int
    unknown_keys: list[str]
    format: str
    groups: dict[str, int]
    case_variants: list[dict[str, int]]
    cached: bool
    timings: dict[str, float]


@takes(LabelOptions, LabelFileOptions, RunOptions)
def label(
    store: Store,
    source: str,
    *,
    dataset: str,
    concepts: str,
    threshold: float | None = None,
    group: str | None = None,
    exclusive: bool = False,
    ignore_unknown_keys: bool = False,
    names: str | None = None,
    match: Match = "key",
    activation: Activation | None = None,
    format: LabelFormat | None = None,
    key_column: str | None = None,
    concept_column: str | None = None,
    score_column: str | None = None,
    group_column: str | None = None,
    split: str | None = None,
    true: Several[str] = (),
    false: Several[str] = (),
    max_concepts: int = 100_000,
    force: bool = False,
    wait: bool = True,
    progress: Progress = silent,
) -> LabelReport:
    """Store a concept set of a dataset from a label file or folder (`readers.labels.formats.FORMATS`).

    Arguments are the options of `qrp-store label`, see docs/options.md. A score counts if it is greater than
    `threshold` (default 0.5); a label without a score always does; a repeated (key, concept) counts once, with its
    highest score. Raise NotFound for the dataset, InvalidInput for the file.
    """
    given = locals()
    options, how = taken(LabelOptions, given), taken(LabelFileOptions, given)
    return label_with(store, source, options, how, taken(RunOptions, given), progress)


def label_with(
    store: Store, source: str, options: LabelOptions, how: LabelFileOptions, run: RunOptions, progress: Progress
) -> LabelReport:
    """Do what `label` does, with its options in records."""
    started = time.perf_counter()
    concepts, exclusive = options.concepts, options.exclusive
    check_name(concepts, "concept set")
    path = Path(source).expanduser()
    if not path.exists():
        raise NotFound(f"{source}: no such file or folder")
    owner = datasets.get_dataset(store.catalog, options.dataset)
    reading = _Reading(path, options, how)
    spec = Spec("concepts", concepts, concept_sets.series(owner.name, concepts), reading.document(owner))
    ready = None if run.force else lease.find(store.catalog, spec) or _of_algorithm_1(store, spec)
    if ready is not None:
        return label_report(store, ready, started, cached=True)
    # Read before claiming: a bad file leaves no trace.
    table = reading.table(datasets.keys(store.catalog, owner), owner, progress)
    if exclusive:
        check_exclusive(table, source)
    with lease.find_or_hold(store.catalog, spec, force=run.force, wait=run.wait, progress=progress) as work:
        if isinstance(work, Artifact):
            return label_report(store, work, started, cached=True)
        provenance = {"source": str(path.absolute()), "format": reading.form}
        write(store, work.claim, owner, table, provenance, exclusive=exclusive)
    made = concept_sets.by_id(store.catalog, work.claim.id)
    return label_report(store, made.artifact, started, cached=False)


def case_variants(words: Vocabulary) -> list[dict[str, int]]:
    """Return the concepts that differ in case alone, with their numbers of labels, a dictionary for each name."""
    folded: dict[str, dict[str, int]] = {}
    for name, n in zip(words.names, words.n_positive, strict=True):
        folded.setdefault(name.casefold(), {})[name] = n
    return [names for names in folded.values() if len(names) > 1]


@dataclass(frozen=True)
class _Reading:
    """How a label file is read."""

    path: Path
    options: LabelOptions
    how: LabelFileOptions

    @cached_property
    def form(self) -> str:
        """The format of the file."""
        return self.how.format or detect(self.path, self.columns, self.options.activation)

    @property
    def columns(self) -> TableOptions:
        how = self.how
        return TableOptions(
            how.key_column, how.concept_column, how.score_column, how.group_column, how.split, how.true, how.false
        )

    @property
    def threshold(self) -> float:
        return _THRESHOLD if self.options.threshold is None else self.options.threshold

    @property
    def names(self) -> Path | None:
        """The table with names for the file's codes."""
        return None if self.options.names is None else Path(self.options.names).expanduser()

    def document(self, owner: Dataset) -> dict[str, Any]:
        """Return what decides the labels. Options younger than the first sets are absent at their default."""
        inputs = {"dataset": owner.fingerprint, "source": source_digest(self.path, self.form)}
        if self.names is not None:
            inputs["names"] = source_digest(self.names)
        # the two formats of the first sets have no name in the document
        form = {} if self.form in ("long", "image-folder") else {"format": self.form}
        columns = taken(LabelTableOptions, self.how.values()).identity()
        table = {"table": columns} if columns else {}
        options = {**self.options.identity(), "threshold": self.threshold}
        del options["concepts"]
        return {"algorithm": ALGORITHM, **options, **inputs, **form, **table}

    def table(self, keys: list[str], owner: Dataset, progress: Progress) -> LabelTable:
        """Return the labels by number. Raise InvalidInput."""
        source, options = str(self.path), self.options
        batches = read_labels(
            self.path,
            group=options.group,
            form=self.form,
            names=self.names,
            keys=keys,
            table=self.columns,
            activation=options.activation,
            note=progress.note,
            warn=progress.warn,
        )
        numbers = Numbers(source, self.how.max_concepts)
        positions = Positions(keys, options.match, ids=FORMATS[self.form].ids)
        with Piles(len(keys), LABEL) as labels, Piles(len(keys), LOOKED_AT) as looked_at:
            unknown, n_rows, zero = gather(batches, numbers, positions, self.threshold, labels, looked_at, progress)
            ignored = options.ignore_unknown_keys
            refuse_unknown(source, owner.name, unknown, n_rows, keys, ignore=ignored, zero=zero)
            if unknown.n_rows:
                progress.warn(f"{source}: {len(unknown)} keys are not in dataset {owner.name!r} and are left out")
            table = numbered(numbers, labels, looked_at, keys, unknown)
        if shared := numbers.shared():
            progress.warn(
                f"{source}: {len(shared)} concepts appear in several groups, for example {shown(shared[0], 40)}; "
                "their names get the group in brackets"
            )
        variants = case_variants(table.vocabulary)
        if variants:
            count = sum(map(len, variants))
            examples = ", ".join(f"{shown(name, 40)} ({n})" for name, n in variants[0].items())
            progress.warn(
                f"{source}: {count} concepts differ only in case, for example {examples}; they are kept apart"
            )
        if not len(table.positions):
            progress.warn(f"{source}: no score is greater than --threshold {self.threshold}: the set has no labels")
        return table


def _of_algorithm_1(store: Store, spec: Spec) -> Artifact | None:
    """Return the set that the algorithm before made of the same source, if this one would make the same.

    It kept blanks and Unicode's forms apart, in concepts and in keys, so only a set without either serves.
    """
    before = replace(spec, document={**spec.document, "algorithm": 1})
    ready = lease.find(store.catalog, before)
    if ready is None or ready.provenance.get("n_unknown_keys"):
        return None
    words = concept_sets.vocabulary(store.catalog, ready.id)
    same = all(name == normal(name) for name in (*words.names, *filter(None, words.groups)))
    return ready if same else None


def write(
    store: Store,
    claimed: lease.Claim,
    owner: Dataset,
    table: LabelTable,
    provenance: dict[str, Any],
    *,
    exclusive: bool,
) -> None:
    """Write the rows of a claimed set and make it ready."""
    labels = (table.positions, table.concepts, table.scores)
    concept_sets.write(
        store.catalog, claimed, owner, table.vocabulary, labels, exclusive=exclusive, verified=table.verified
    )
    rows = concept_rows.compress(table.positions, table.concepts, owner.n)
    provenance = {**provenance, concept_rows.MEMBER: concept_rows.save(store, claimed.path, rows)}
    unknown = {
        "n_unknown_keys": len(table.unknown),
        "unknown_keys": [key[:200] for key in list(table.unknown.first)[:_EXAMPLES]],
    }
    concept_sets.commit(store.catalog, claimed, {**provenance, **unknown})


def label_report(store: Store, artifact: Artifact, started: float, *, cached: bool) -> LabelReport:
    """Return the report of a ready concept set."""
    stored = concept_sets.by_id(store.catalog, artifact.id)
    words = concept_sets.vocabulary(store.catalog, artifact.id)
    return LabelReport(
        id=artifact.id,
        version=artifact.version or 0,
        fingerprint=artifact.fingerprint,
        dataset=stored.dataset,
        concepts=artifact.name,
        n_concepts=stored.n_concepts,
        n_labels=stored.n_labels,
        n_labelled_samples=stored.n_labelled_samples,
        n_unknown_keys=int(artifact.provenance.get("n_unknown_keys", 0)),
        unknown_keys=list(artifact.provenance.get("unknown_keys", ())),
        format=str(artifact.provenance.get("format", "long")),
        groups=dict(Counter(g for g in words.groups if g is not None)),
        case_variants=case_variants(words),
        cached=cached,
        timings={"total_s": time.perf_counter() - started},
    )
