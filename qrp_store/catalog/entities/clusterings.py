"""Clusterings: which cluster and which part (train, val, test) every usable sample is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from qrp_store.catalog.database import bulk
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.entities import datasets
from qrp_store.catalog.lifecycle import checksums, lease
from qrp_store.catalog.lifecycle.lease import Claim
from qrp_store.catalog.model import tables as t
from qrp_store.errors import Corrupt, NotFound
from qrp_store.records import Artifact, Dataset

if TYPE_CHECKING:
    import numpy as np

_a, _k, _g = t.artifact.c, t.clustering.c, t.assignment.c


@dataclass(frozen=True)
class ClusteringRow:
    """What a clustering is, without its assignments. `objective` is over all usable rows.

    `groups_path`: an array with the group of each assigned sample, int64 (n,), where the split keeps groups together.
    `centroids_of` is the id of the clustering whose centroids it has, when they are not its own.
    """

    backbone: str
    clusters: int
    seed: int
    n: int
    dim: int | None
    n_sampled: int | None
    n_train: int
    n_val: int
    n_test: int
    n_small_clusters: int
    objective: float | None
    objective_per_iteration: tuple[float, ...] | None
    centroids_path: str | None
    centroids_checksum: str | None
    centroids_of: str | None = None
    groups_path: str | None = None
    groups_checksum: str | None = None


@dataclass(frozen=True)
class StoredClustering:
    """A ready clustering. `sizes` are the clusters' numbers of rows."""

    artifact: Artifact
    row: ClusteringRow
    sizes: tuple[int, ...]

    @property
    def imbalance(self) -> float:
        """K times the sum of the squared shares of the rows: 1 when all clusters are as large, K when one has all."""
        return len(self.sizes) * sum(size * size for size in self.sizes) / sum(self.sizes) ** 2


def write(
    catalog: Catalog,
    claimed: Claim,
    dataset: Dataset,
    embedding_id: str | None,
    row: ClusteringRow,
    sizes: np.ndarray,
    assignments: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Write a clustering's rows, in short transactions, while it is still `writing`.

    `assignments` are positions (int64, ascending), clusters (int32) and parts (uint8).
    """
    positions, clusters, parts = assignments
    bulk.clear(catalog, t.assignment, "clustering_pk", claimed.pk, claimed)
    with catalog.write() as connection:
        lease.fence(connection, claimed)
        connection.execute(t.cluster.delete().where(t.cluster.c.clustering_pk == claimed.pk))
        connection.execute(t.clustering.delete().where(_k.artifact_pk == claimed.pk))
        embedding_pk = None
        if embedding_id is not None:
            embedding_pk = connection.execute(sa.select(_a.pk).where(_a.id == embedding_id)).scalar_one()
        values = dict(vars(row))
        if row.objective_per_iteration is not None:
            values["objective_per_iteration"] = list(row.objective_per_iteration)
        dataset_pk = datasets.dataset_pk(connection, dataset.id)
        connection.execute(
            t.clustering.insert().values(
                artifact_pk=claimed.pk, dataset_pk=dataset_pk, embedding_pk=embedding_pk, **values
            )
        )
        checksums.record(connection, claimed.pk, {"assignment": checksums.of_numbers(positions, clusters, parts)})
    owner = {"clustering_pk": claimed.pk}
    bulk.insert(catalog, t.cluster, {"number": range(len(sizes)), "size": sizes}, owner, claimed)
    columns: dict[str, Any] = {"position": positions, "cluster": clusters, "part": parts}
    bulk.insert(catalog, t.assignment, columns, owner, claimed)


def commit(catalog: Catalog, claimed: Claim, provenance: Mapping[str, Any]) -> int:
    """Make the clustering ready; returns its version. NotFound when its embedding was retired meanwhile."""
    with catalog.write() as connection:
        of = connection.execute(sa.select(_k.embedding_pk).where(_k.artifact_pk == claimed.pk)).scalar()
        lease.require_inputs(connection, [] if of is None else [of])
        return lease.commit(connection, claimed, provenance)


def by_id(catalog: Catalog, identifier: str) -> StoredClustering:
    """The ready clustering of that id. Raises NotFound."""
    query = sa.select(t.artifact).add_columns(*(c for c in t.clustering.c if c.name != "artifact_pk"))
    query = query.join(t.clustering, _k.artifact_pk == _a.pk).where(_a.id == identifier, _a.state == "ready")
    with catalog.read() as connection:
        row = connection.execute(query).mappings().first()
        if row is None:
            raise NotFound(f"no clustering {identifier!r}", hint="qrp-store ls clusterings")
        of = t.cluster.c
        sizes = sa.select(of.size).where(of.clustering_pk == row["pk"]).order_by(of.number)
        cluster_sizes = tuple(connection.execute(sizes).scalars())
    per_iteration = row["objective_per_iteration"]
    fields = {name: row[name] for name in ClusteringRow.__dataclass_fields__}
    fields["objective_per_iteration"] = None if per_iteration is None else tuple(per_iteration)
    return StoredClustering(lease.artifact_of(row), ClusteringRow(**fields), cluster_sizes)


def newest_named(catalog: Catalog, dataset: str, name: str, version: int | None = None) -> str | None:
    """The id of the newest ready clustering of a dataset with that name, whatever its seed; None when there is none."""
    query = (
        sa.select(_a.id)
        .join(t.clustering, _k.artifact_pk == _a.pk)
        .join(t.dataset, t.dataset.c.pk == _k.dataset_pk)
        .where(_a.state == "ready", _a.name == name, t.dataset.c.name == dataset)
        .order_by(_a.pk.desc())
        .limit(1)
    )
    if version is not None:
        query = query.where(_a.version == version)
    with catalog.read() as connection:
        identifier: str | None = connection.execute(query).scalar()
    return identifier


def assignments(catalog: Catalog, identifier: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every (position int64, cluster int32, part uint8) of a clustering, by position.

    Raises Corrupt when they are not those that were written.
    """
    import numpy as np

    with catalog.read() as connection:
        pk = connection.execute(sa.select(_a.pk).where(_a.id == identifier)).scalar_one()
        query = sa.select(_g.position, _g.cluster, _g.part).where(_g.clustering_pk == pk).order_by(_g.position)
        try:
            columns = bulk.fetch(connection, query, (np.int64, np.int32, np.uint8))
        except (TypeError, ValueError, OverflowError) as error:
            raise Corrupt(f"clustering {identifier}: an assignment is no number", hint=checksums.HINT) from error
        checksums.require(connection, pk, {"assignment": checksums.of_numbers(*columns)})
    positions, clusters, parts = columns
    return positions, clusters, parts


def embedding_id(catalog: Catalog, identifier: str) -> str | None:
    """The embedding that a clustering is of; None for an imported one."""
    clustering = t.artifact.alias("own")
    query = (
        sa.select(_a.id)
        .join(t.clustering, _k.embedding_pk == _a.pk)
        .join(clustering, clustering.c.pk == _k.artifact_pk)
    )
    with catalog.read() as connection:
        embedding: str | None = connection.execute(query.where(clustering.c.id == identifier)).scalar()
    return embedding


def dataset_of(catalog: Catalog, identifier: str) -> Dataset:
    """The dataset that a clustering is of."""
    d = t.dataset.c
    query = sa.select(d.id, d.name, d.n, d.fingerprint).join(t.clustering, _k.dataset_pk == d.pk)
    query = query.join(t.artifact, _a.pk == _k.artifact_pk).where(_a.id == identifier)
    with catalog.read() as connection:
        return Dataset(*connection.execute(query).one())
