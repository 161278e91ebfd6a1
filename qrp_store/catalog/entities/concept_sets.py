"""Concept sets: a vocabulary over a dataset, and which concept holds for which sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from qrp_store.catalog.database import bulk
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.entities import datasets
from qrp_store.catalog.lifecycle import checksums, lease
from qrp_store.catalog.lifecycle.lease import Claim
from qrp_store.catalog.model import tables as t
from qrp_store.catalog.model.kinds import Rows
from qrp_store.errors import Corrupt, NotFound, near_names
from qrp_store.records import Artifact, Dataset, fingerprint

if TYPE_CHECKING:
    import numpy as np

_CONCEPT_ROWS = Rows(t.concept, "concept_set_pk")
_a, _s, _c, _l = t.artifact.c, t.concept_set.c, t.concept.c, t.label.c


@dataclass(frozen=True)
class Vocabulary:
    """The concepts of a set in order of their number, each with its group (or None) and count of positives."""

    names: tuple[str, ...]
    groups: tuple[str | None, ...]
    n_positive: tuple[int, ...]


@dataclass(frozen=True)
class StoredConcepts:
    """A ready concept set."""

    artifact: Artifact
    dataset: str
    exclusive: bool
    n_concepts: int
    n_labels: int
    n_labelled_samples: int
    n_verified: int | None = None


def series(dataset: str, concepts: str) -> str:
    """What the versions of a concept set count over."""
    return fingerprint(["concepts", dataset, concepts])


def write(
    catalog: Catalog,
    claimed: Claim,
    dataset: Dataset,
    vocabulary: Vocabulary,
    labels: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    exclusive: bool,
    verified: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """Write a set's rows, in short transactions, while it is still `writing`.

    `labels` are positions (int64), concept numbers (int32) and scores (float, NaN for none), sorted and unique.
    `verified` are the (positions, concept numbers) that somebody looked at, -1 for every concept; None: everything.
    """
    positions, concepts, scores = labels
    for table in (t.label, t.verified_pair):
        bulk.clear(catalog, table, "concept_set_pk", claimed.pk, claimed)
    with catalog.write() as connection:
        lease.fence(connection, claimed)
        connection.execute(t.concept.delete().where(_c.concept_set_pk == claimed.pk))
        connection.execute(t.concept_set.delete().where(_s.artifact_pk == claimed.pk))
        connection.execute(
            t.concept_set.insert().values(
                artifact_pk=claimed.pk,
                dataset_pk=datasets.dataset_pk(connection, dataset.id),
                exclusive=exclusive,
                n_concepts=len(vocabulary.names),
                n_labels=len(positions),
                n_labelled_samples=int(_distinct_sorted(positions)),
                n_verified=None if verified is None else len(verified[0]),
            )
        )
        checksums.record(connection, claimed.pk, _checksums(labels, verified))
    owner = {"concept_set_pk": claimed.pk}
    columns: dict[str, Sequence[Any] | np.ndarray] = {
        "number": range(len(vocabulary.names)),
        "name": vocabulary.names,
        "concept_group": vocabulary.groups,
        "n_positive": vocabulary.n_positive,
    }
    bulk.insert(catalog, t.concept, columns, owner, claimed)
    bulk.insert(catalog, t.label, {"position": positions, "concept": concepts, "score": scores}, owner, claimed)
    if verified is not None:
        bulk.insert(catalog, t.verified_pair, {"position": verified[0], "concept": verified[1]}, owner, claimed)


def _checksums(
    labels: tuple[np.ndarray, np.ndarray, np.ndarray], verified: tuple[np.ndarray, np.ndarray] | None
) -> dict[str, str]:
    import numpy as np

    looked_at = (np.empty(0, np.int64),) * 2 if verified is None else verified
    return {
        "label": checksums.of_numbers(*labels[:2]),
        "label.score": checksums.of_numbers(*labels),
        "verified_pair": checksums.of_numbers(*looked_at),
    }


def _distinct_sorted(values: np.ndarray) -> int:
    parts = (values[max(0, i - 1) : i + bulk.CHUNK_ROWS] for i in range(0, len(values), bulk.CHUNK_ROWS))
    return min(len(values), 1) + sum(int((part[1:] != part[:-1]).sum()) for part in parts)


def commit(catalog: Catalog, claimed: Claim, provenance: Mapping[str, Any]) -> int:
    """Make the set ready; returns its version."""
    with catalog.write() as connection:
        return lease.commit(connection, claimed, provenance)


def names(catalog: Catalog, dataset: str) -> list[str]:
    """Names of the ready concept sets of a dataset, sorted."""
    query = sa.select(_a.name).distinct().join(t.concept_set, _s.artifact_pk == _a.pk)
    query = query.join(t.dataset, t.dataset.c.pk == _s.dataset_pk)
    query = query.where(_a.state == "ready", t.dataset.c.name == dataset, t.dataset.c.state == "ready")
    with catalog.read() as connection:
        return sorted(connection.execute(query).scalars())


def get(catalog: Catalog, dataset: str, name: str, version: int | None = None) -> StoredConcepts:
    """The newest ready concept set of that name (or that version). Raises NotFound."""
    query = (
        sa.select(t.artifact)
        .add_columns(_s.exclusive, _s.n_concepts, _s.n_labels, _s.n_labelled_samples, _s.n_verified)
        .join(t.concept_set, _s.artifact_pk == _a.pk)
        .where(_a.series == series(dataset, name), _a.state == "ready")
    )
    if version is not None:
        query = query.where(_a.version == version)
    with catalog.read() as connection:
        row = connection.execute(query.order_by(_a.version.desc()).limit(1)).mappings().first()
    if row is None:
        datasets.get_dataset(catalog, dataset)
        which = f"{name}@{version}" if version else name
        hint = near_names(name, names(catalog, dataset), "none; qrp-store label makes one")
        raise NotFound(f"no concepts {which!r} of dataset {dataset!r}", hint=hint)
    return _stored(row, dataset)


def _stored(row: sa.RowMapping, dataset: str) -> StoredConcepts:
    counts = (row["n_concepts"], row["n_labels"], row["n_labelled_samples"], row["n_verified"])
    return StoredConcepts(lease.artifact_of(row), dataset, bool(row["exclusive"]), *counts)


def by_id(catalog: Catalog, identifier: str) -> StoredConcepts:
    """The concept set with that id, ready or retired. Raises NotFound."""
    query = (
        sa.select(t.artifact)
        .add_columns(_s.exclusive, _s.n_concepts, _s.n_labels, _s.n_labelled_samples, _s.n_verified)
        .add_columns(t.dataset.c.name.label("dataset_name"))
        .join(t.concept_set, _s.artifact_pk == _a.pk)
        .join(t.dataset, t.dataset.c.pk == _s.dataset_pk)
    )
    with catalog.read() as connection:
        row = connection.execute(query.where(_a.id == identifier)).mappings().first()
    if row is None:
        raise NotFound(f"no concept set {identifier!r}", hint="qrp-store ls concepts")
    return _stored(row, row["dataset_name"])


def kept(catalog: Catalog, member: str, mark: str, dataset: str | None = None) -> list[Mapping[str, Any]]:
    """Return what the provenance of ready concept sets says of an expert's arrays, newest first.

    `member`: "scores" or "texts"; `mark`: what was computed. `dataset`: of that dataset alone.
    """
    query = sa.select(_a.provenance).join(t.concept_set, _s.artifact_pk == _a.pk)
    query = query.join(t.dataset, t.dataset.c.pk == _s.dataset_pk).where(_a.state == "ready")
    if dataset is not None:
        query = query.where(t.dataset.c.name == dataset)
    with catalog.read() as connection:
        provenances = connection.execute(query.order_by(_a.pk.desc())).scalars().all()
    return [known[member] for known in provenances if known.get(member, {}).get("mark") == mark]


def _pk(connection: sa.Connection, identifier: str) -> int:
    return int(connection.execute(sa.select(_a.pk).where(_a.id == identifier)).scalar_one())


def vocabulary(catalog: Catalog, identifier: str) -> Vocabulary:
    """The concepts of a set."""
    with catalog.read() as connection:
        query = sa.select(_c.name, _c.concept_group, _c.n_positive)
        query = query.where(_c.concept_set_pk == _pk(connection, identifier)).order_by(_c.number)
        rows = connection.execute(query).all()
        of = _pk(connection, identifier)
        checksums.require(connection, of, {"concept": checksums.of_table(connection, _CONCEPT_ROWS, of)})
    return Vocabulary(tuple(r[0] for r in rows), tuple(r[1] for r in rows), tuple(r[2] for r in rows))


def labels(catalog: Catalog, identifier: str) -> tuple[np.ndarray, np.ndarray]:
    """Every (position int64, concept number int32) of a set, sorted by position, then concept.

    Raises Corrupt when they are not those that were written.
    """
    return _pairs(catalog, t.label, identifier)


def verified(catalog: Catalog, identifier: str) -> tuple[np.ndarray, np.ndarray]:
    """What somebody looked at, as `labels`; concept -1 is every concept."""
    return _pairs(catalog, t.verified_pair, identifier)


def _pairs(catalog: Catalog, table: sa.Table, identifier: str) -> tuple[np.ndarray, np.ndarray]:
    query = sa.select(_s.artifact_pk, t.dataset.c.n, _s.n_concepts).join(t.concept_set, _s.artifact_pk == _a.pk)
    query = query.join(t.dataset, t.dataset.c.pk == _s.dataset_pk).where(_a.id == identifier)
    with catalog.read() as connection:
        pk, n, width = connection.execute(query).one()
        try:
            pairs = bulk.fetch_pairs(connection, table, "concept_set_pk", pk, n, width)
        except (TypeError, ValueError, OverflowError) as error:
            raise Corrupt(f"concept set {identifier}: a label is no number", hint=checksums.HINT) from error
        checksums.require(connection, pk, {table.name: checksums.of_numbers(*pairs)})
    return pairs


def label_scores(catalog: Catalog, identifier: str) -> np.ndarray:
    """The score of every label of a set, float32, NaN where there is none, in the order of `labels`."""
    import numpy as np

    with catalog.read() as connection:
        query = sa.select(_l.score).where(_l.concept_set_pk == _pk(connection, identifier))
        (values,) = bulk.fetch(connection, query.order_by(_l.position, _l.concept), (np.float32,))
    return values


def scores_by_pair(catalog: Catalog, identifier: str) -> dict[tuple[int, int], float | None]:
    """The score of each (position, concept number) that has a row, however damaged the set's rows are."""
    with catalog.read() as connection:
        query = sa.select(_l.position, _l.concept, _l.score).where(_l.concept_set_pk == _pk(connection, identifier))
        return {(row[0], row[1]): row[2] for row in connection.execute(query)}
