"""The agreement of two clusterings of the same samples, stored with the one that was made first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from qrp_store.catalog.database import bulk
from qrp_store.catalog.database.clock import now_text
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.entities.clusterings import StoredClustering
from qrp_store.catalog.lifecycle import checksums
from qrp_store.catalog.model import tables as t

if TYPE_CHECKING:
    import numpy as np

_a, _k, _g, _p = t.artifact.c, t.clustering.c, t.assignment.c, t.clustering_agreement.c


@dataclass(frozen=True)
class Peer:
    """A current clustering of a dataset. `options` are those that another must share to be compared with it.

    `n_samples` is the number of samples of the dataset.
    """

    id: str
    backbone: str
    seed: int
    options: Any
    imported: bool
    n_samples: int


def dataset_of(catalog: Catalog, clustering: StoredClustering) -> int:
    """Return the key of a clustering's dataset."""
    query = sa.select(_k.dataset_pk).join(t.artifact, _a.pk == _k.artifact_pk)
    with catalog.read() as connection:
        return int(connection.execute(query.where(_a.id == clustering.artifact.id)).scalar_one())


def peers(catalog: Catalog, dataset_pk: int, clusters: int) -> list[Peer]:
    """Return the clusterings of a dataset into so many clusters that are made of the newest inputs, oldest first."""
    current = sa.text("SELECT id FROM clusterings WHERE is_current")
    query = (
        sa.select(_a.id, _k.backbone, _k.seed, _a.spec, _k.embedding_pk, t.dataset.c.n)
        .join(t.clustering, _k.artifact_pk == _a.pk)
        .join(t.dataset, t.dataset.c.pk == _k.dataset_pk)
        .where(_a.state == "ready", _k.dataset_pk == dataset_pk, _k.clusters == clusters)
        .order_by(_a.pk)
    )
    with catalog.read() as connection:
        ids = set(connection.execute(current).scalars())
        rows = connection.execute(query).all()
    return [
        Peer(identifier, backbone, seed, spec.get("options"), embedding is None, n)
        for identifier, backbone, seed, spec, embedding, n in rows
        if identifier in ids
    ]


def known(catalog: Catalog, ids: Sequence[str]) -> set[frozenset[str]]:
    """Return the pairs of these clusterings whose agreement is stored."""
    query = sa.select(_a.id, _p.other_id).join(t.artifact, _a.pk == _p.clustering_pk)
    chosen = set(ids)
    with catalog.read() as connection:
        return {frozenset(pair) for pair in connection.execute(query).all() if set(pair) <= chosen}


def every_nth(catalog: Catalog, identifier: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions (int64, ascending) and clusters (int32) of a clustering's samples at multiples of n."""
    import numpy as np

    query = sa.select(_g.position, _g.cluster).join(t.artifact, _a.pk == _g.clustering_pk)
    query = query.where(_a.id == identifier, _g.position % n == 0).order_by(_g.position)
    with catalog.read() as connection:
        positions, clusters = bulk.fetch(connection, query, (np.int64, np.int32))
    return positions, clusters


def put(catalog: Catalog, rows: Sequence[tuple[str, str, float, int]]) -> None:
    """Store (clustering, other clustering, AMI, number of samples), in place of the same pairs.

    Pairs of which one was removed meanwhile are left out.
    """
    ids = {identifier for row in rows for identifier in row[:2]}
    with catalog.write() as connection:
        query = sa.select(_a.id, _a.pk).where(_a.state == "ready", _a.kind == "clustering").with_for_update()
        pks = {identifier: pk for identifier, pk in connection.execute(query).all() if identifier in ids}
        owners = set()
        for first, second, ami, n in rows:
            if first in pks and second in pks:
                pk = pks[first]
                owners.add(pk)
                table = t.clustering_agreement
                connection.execute(table.delete().where(_p.clustering_pk == pk, _p.other_id == second))
                values = {"clustering_pk": pk, "other_id": second, "ami": ami, "n": n, "created_at": now_text()}
                connection.execute(table.insert().values(**values))
        for pk in sorted(owners):
            checksums.seal_later(connection, pk, t.clustering_agreement)
