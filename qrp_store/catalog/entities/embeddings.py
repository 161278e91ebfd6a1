"""Embeddings and their blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from qrp_store import __version__
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.entities import datasets
from qrp_store.catalog.lifecycle import lease
from qrp_store.catalog.lifecycle.lease import Claim
from qrp_store.catalog.model import tables as t
from qrp_store.errors import NotFound, near_names
from qrp_store.records import ArraySpec, Backbone, Block, Dataset, StoredEmbedding, fingerprint

_a, _e, _k = t.artifact.c, t.embedding.c, t.block.c
MEMBER = "embedding"  # the array's name inside its Zarr group


def series(dataset: str, backbone: str) -> str:
    """What the versions of an embedding count over."""
    return fingerprint(["embedding", dataset, backbone])


def attributes(catalog: Catalog, identifier: str) -> dict[str, str]:
    """What an embedding's array says of itself to any Zarr reader, once the embedding was begun."""
    joined = t.artifact.join(t.embedding, _e.artifact_pk == t.artifact.c.pk)
    joined = joined.join(t.dataset, t.dataset.c.pk == _e.dataset_pk).join(t.backbone, t.backbone.c.pk == _e.backbone_pk)
    columns = (t.dataset.c.name, t.backbone.c.name, _a.fingerprint)
    with catalog.read() as connection:
        row = connection.execute(sa.select(*columns).select_from(joined).where(_a.id == identifier)).one()
    names = ("dataset", "backbone", "fingerprint", "id", "made_by")
    return dict(zip(names, (*map(str, row), identifier, f"qrp-store {__version__}"), strict=True))


def begin(
    catalog: Catalog, claimed: Claim, dataset: Dataset, backbone: Backbone, array: ArraySpec
) -> tuple[ArraySpec, tuple[Block, ...]]:
    """Write down what is going to be made; returns its layout and the blocks that an earlier try finished.

    A resumed embedding keeps the block size it began with.
    """
    with catalog.write() as connection:
        lease.fence(connection, claimed)
        row = connection.execute(sa.select(t.embedding).where(_e.artifact_pk == claimed.pk)).mappings().first()
        values = {
            "dataset_pk": datasets.dataset_pk(connection, dataset.id),
            "backbone_pk": connection.execute(
                sa.select(t.backbone.c.pk).where(t.backbone.c.id == backbone.id)
            ).scalar_one(),
            "n": array.n,
            "dim": array.dim,
            "dtype": array.dtype,
            "block_rows": array.block_rows,
        }
        if row is None:
            connection.execute(t.embedding.insert().values(artifact_pk=claimed.pk, **values))
            return array, ()
        values["block_rows"] = row["block_rows"]
        connection.execute(t.embedding.update().where(_e.artifact_pk == claimed.pk).values(values))
        layout = ArraySpec(array.path, array.n, array.dim, array.dtype, row["block_rows"])
        return layout, _blocks(connection, claimed.pk)


def _blocks(connection: sa.Connection, pk: int) -> tuple[Block, ...]:
    query = sa.select(t.block).where(_k.embedding_pk == pk).order_by(_k.number)
    return tuple(
        Block(r["number"], r["first_row"], r["n_rows"], r["n_bytes"], r["checksum"], tuple(r["bad"]), r["rolling"])
        for r in connection.execute(query).mappings()
    )


def record_blocks(
    catalog: Catalog,
    claimed: Claim,
    dataset: Dataset,
    placed: Sequence[tuple[Block, Sequence[tuple[int, int, int, str | None]]]],
) -> None:
    """Write down, in one transaction, that blocks are in place, each with what was seen of its images: (position,
    size, mtime in ns, digest).
    """
    with catalog.write() as connection:
        lease.fence(connection, claimed)
        pk = datasets.dataset_pk(connection, dataset.id)
        for block, files in placed:
            connection.execute(t.block.delete().where(_k.embedding_pk == claimed.pk, _k.number == block.index))
            connection.execute(
                t.block.insert().values(
                    embedding_pk=claimed.pk,
                    number=block.index,
                    first_row=block.start,
                    n_rows=block.rows,
                    n_bytes=block.nbytes,
                    checksum=block.checksum,
                    bad=list(block.bad),
                    rolling=block.rolling,
                )
            )
            if files:
                datasets.record_image_files(connection, pk, files)


def forget_blocks(catalog: Catalog, claimed: Claim, numbers: Iterable[int]) -> None:
    """Blocks that have to be made again."""
    with catalog.write() as connection:
        lease.fence(connection, claimed)
        for number in numbers:
            connection.execute(t.block.delete().where(_k.embedding_pk == claimed.pk, _k.number == number))


def commit(
    catalog: Catalog, claimed: Claim, dataset: Dataset, backbone: Backbone, provenance: Mapping[str, Any]
) -> int:
    """Make the embedding ready, and with it a dataset or backbone that is new; returns the version."""
    with catalog.write() as connection:
        lease.fence(connection, claimed)
        values = {
            "dataset_pk": datasets.publish_dataset(connection, dataset),
            "backbone_pk": datasets.publish_backbone(connection, backbone),
        }
        connection.execute(t.embedding.update().where(_e.artifact_pk == claimed.pk).values(values))
        return lease.commit(connection, claimed, provenance)


_JOINED = (
    sa.select(t.artifact)
    .add_columns(
        _e.n.label("rows"),
        _e.dim,
        _e.dtype,
        _e.block_rows,
        t.dataset.c.id.label("dataset_id"),
        t.dataset.c.name.label("dataset_name"),
        t.dataset.c.fingerprint.label("dataset_fingerprint"),
        t.dataset.c.n.label("dataset_n"),
        t.backbone.c.id.label("backbone_id"),
        t.backbone.c.name.label("backbone_name"),
        t.backbone.c.fingerprint.label("backbone_fingerprint"),
        t.backbone.c.spec.label("backbone_spec"),
    )
    .join(t.embedding, _e.artifact_pk == _a.pk)
    .join(t.dataset, t.dataset.c.pk == _e.dataset_pk)
    .join(t.backbone, t.backbone.c.pk == _e.backbone_pk)
    .where(_a.state == "ready")
)


def get(catalog: Catalog, dataset: str, backbone: str, version: int | None = None) -> StoredEmbedding:
    """The newest ready embedding (or that version) of a dataset under a backbone. Raises NotFound."""
    query = _JOINED.where(_a.series == series(dataset, backbone))
    if version is not None:
        query = query.where(_a.version == version)
    with catalog.read() as connection:
        row = connection.execute(query.order_by(_a.version.desc()).limit(1)).mappings().first()
        stored = _stored(connection, row) if row else None
    if stored is None:
        datasets.get_dataset(catalog, dataset)
        which = f"{backbone}@{version}" if version else backbone
        hint = near_names(backbone, backbones(catalog, dataset))
        raise NotFound(f"no embedding of dataset {dataset!r} by backbone {which!r}", hint=hint)
    return stored


def by_id(catalog: Catalog, identifier: str) -> StoredEmbedding:
    """The ready embedding of that id. Raises NotFound."""
    with catalog.read() as connection:
        row = connection.execute(_JOINED.where(_a.id == identifier)).mappings().first()
        if row is None:
            raise NotFound(f"no embedding {identifier!r}", hint="qrp-store ls embeddings")
        return _stored(connection, row)


def _stored(connection: sa.Connection, row: sa.RowMapping) -> StoredEmbedding:
    array = ArraySpec(f"{row['path']}/{MEMBER}", row["rows"], row["dim"], row["dtype"], row["block_rows"])
    return StoredEmbedding(
        lease.artifact_of(row),
        Dataset(row["dataset_id"], row["dataset_name"], row["dataset_n"], row["dataset_fingerprint"]),
        Backbone(row["backbone_id"], row["backbone_name"], row["backbone_fingerprint"], row["backbone_spec"]),
        array,
        _blocks(connection, row["pk"]),
    )


def backbones(catalog: Catalog, dataset: str) -> list[str]:
    """Names of the backbones that a dataset has ready embeddings of, sorted."""
    query = sa.select(t.backbone.c.name).distinct().select_from(t.embedding)
    query = query.join(t.artifact, _a.pk == _e.artifact_pk).join(t.backbone, t.backbone.c.pk == _e.backbone_pk)
    query = query.join(t.dataset, t.dataset.c.pk == _e.dataset_pk)
    query = query.where(_a.state == "ready", t.dataset.c.name == dataset, t.dataset.c.state == "ready")
    with catalog.read() as connection:
        return sorted(connection.execute(query).scalars())
