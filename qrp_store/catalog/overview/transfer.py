"""From one catalog to another: what belongs together, what is there already, and the rows themselves.

The tables are the same on both sides, so that rows travel as they are; only keys and paths are new.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from qrp_store.catalog.database import bulk
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.entities import datasets
from qrp_store.catalog.lifecycle import lease, retire
from qrp_store.catalog.lifecycle.lease import Claim, artifact_of
from qrp_store.catalog.lifecycle.owner import created_by
from qrp_store.catalog.model import tables as t
from qrp_store.catalog.overview.references import Reference
from qrp_store.errors import InvalidInput, NotFound
from qrp_store.records import Artifact, Dataset

_a = t.artifact.c


@dataclass(frozen=True)
class Parcel:
    """A ready artifact that travels, with the ids of the artifacts it was made from."""

    artifact: Artifact
    dataset: Dataset
    backbone: str | None
    inputs: tuple[str, ...]


def parcels(catalog: Catalog, wanted: Reference) -> list[Parcel]:
    """What copying a thing means, inputs first: an artifact and all it was made from; of a dataset or backbone
    everything. Raises InvalidInput when an input was retired."""
    with catalog.read() as connection:
        chosen = _chosen(connection, wanted)
        edges = _edges(connection)
        rows = connection.execute(sa.select(t.artifact).order_by(_a.pk)).mappings().all()
        known = {row["pk"]: row for row in rows}
        whole = _closed(chosen, edges)
        lost = [pk for pk in whole if known[pk]["state"] != "ready"]
        if lost and wanted.kind not in ("dataset", "backbone"):
            what = ", ".join(f"{known[pk]['id']} ({known[pk]['name']})" for pk in lost)
            raise InvalidInput(f"{wanted.id} was made from what is retired: {what}", hint="qrp-store show " + wanted.id)
        # of a whole dataset or backbone, what was made from something retired stays behind
        complete = [pk for pk in sorted(whole) if not _closed({pk}, edges) & set(lost)]
        return [_parcel(connection, known, pk, edges) for pk in complete]


def _chosen(connection: sa.Connection, wanted: Reference) -> set[int]:
    if wanted.kind not in ("dataset", "backbone"):
        return set(connection.execute(sa.select(_a.pk).where(_a.id == wanted.id)).scalars())
    if wanted.kind == "dataset":
        owner = sa.select(t.dataset.c.pk).where(t.dataset.c.id == wanted.id).scalar_subquery()
        queries = [sa.select(own.c.artifact_pk).where(own.c.dataset_pk == owner) for own in retire.OWN.values()]
    else:
        owner = sa.select(t.backbone.c.pk).where(t.backbone.c.id == wanted.id).scalar_subquery()
        embeddings = sa.select(t.embedding.c.artifact_pk).where(t.embedding.c.backbone_pk == owner)
        clusterings = sa.select(t.clustering.c.artifact_pk).where(t.clustering.c.embedding_pk.in_(embeddings))
        results = sa.select(t.result.c.artifact_pk).where(t.result.c.clustering_pk.in_(clusterings))
        queries = [embeddings, clusterings, results]
    found = {pk for query in queries for pk in connection.execute(query).scalars()}
    ready = sa.select(_a.pk).where(_a.state == "ready")
    return found & set(connection.execute(ready).scalars())


def _edges(connection: sa.Connection) -> dict[int, set[int]]:
    """Which artifacts each was made from, directly."""
    k, r, u = t.clustering.c, t.result.c, t.result_concept_set.c
    edges: dict[int, set[int]] = {}
    for query in (
        sa.select(k.artifact_pk, k.embedding_pk).where(k.embedding_pk.is_not(None)),
        sa.select(r.artifact_pk, r.clustering_pk),
        sa.select(u.result_pk, u.concept_set_pk),
    ):
        for made, source in connection.execute(query):
            edges.setdefault(made, set()).add(source)
    return edges


def _closed(chosen: set[int], edges: Mapping[int, set[int]]) -> set[int]:
    """These and everything they were made from."""
    whole, open_ = set(chosen), list(chosen)
    while open_:
        new = edges.get(open_.pop(), set()) - whole
        whole |= new
        open_ += new
    return whole


def _parcel(
    connection: sa.Connection, known: Mapping[int, sa.RowMapping], pk: int, edges: Mapping[int, set[int]]
) -> Parcel:
    artifact = artifact_of(known[pk])
    own, d = retire.OWN[artifact.kind], t.dataset.c
    row = connection.execute(sa.select(t.dataset).join(own, own.c.dataset_pk == d.pk).where(own.c.artifact_pk == pk))
    found = row.mappings().one()
    dataset = Dataset(found["id"], found["name"], found["n"], found["fingerprint"])
    query = sa.select(t.backbone.c.name).join(t.embedding, t.embedding.c.backbone_pk == t.backbone.c.pk)
    backbone = connection.execute(query.where(t.embedding.c.artifact_pk == pk)).scalar()
    return Parcel(artifact, dataset, backbone, tuple(known[i]["id"] for i in sorted(edges.get(pk, ()))))


def counterpart(target: Catalog, original: Artifact) -> Artifact | None:
    """The same artifact in another catalog, or None. Raises InvalidInput, with the difference, when that version of
    that name is something else there, or was retired."""
    same = sa.and_(_a.series == original.series, _a.version == original.version)
    with target.read() as connection:
        row = connection.execute(sa.select(t.artifact).where(same)).mappings().first()
    if row is None:
        return None
    found = artifact_of(row)
    called = f"{original.kind} {original.name!r} version {original.version}"
    if found.fingerprint != original.fingerprint:
        differences = "; ".join(_differences(found.spec, original.spec))
        raise InvalidInput(
            f"{called} is something else in {target.name} ({found.id}): {differences}",
            hint="make it there under another name, or --force it here into a version that is free there",
        )
    if found.state != "ready":
        raise InvalidInput(f"{called} was retired in {target.name} ({found.id})", hint="make it there again")
    return found


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {there.get(name)!r} there, {here.get(name)!r} here"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    ]


def checksums(catalog: Catalog, artifact: Artifact) -> dict[str, str]:
    """What tells whether two artifacts of one fingerprint hold the same bytes: by rows of a block, or by array."""
    b = t.block.c
    query = sa.select(b.first_row, b.n_rows, b.checksum).join(t.artifact, _a.pk == b.embedding_pk)
    with catalog.read() as connection:
        rows = connection.execute(query.where(_a.id == artifact.id)).all()
    blocks = {f"rows {first} to {first + n - 1}": checksum for first, n, checksum in rows}
    return {**blocks, **{path.rpartition("/")[2]: checksum for path, checksum in arrays_of(catalog, artifact)}}


def arrays_of(catalog: Catalog, artifact: Artifact) -> list[tuple[str, str]]:
    """(path, checksum) of an artifact's whole arrays: centroids, weights."""
    with catalog.read() as connection:
        pk = connection.execute(sa.select(_a.pk).where(_a.id == artifact.id)).scalar_one()
    return retire.saved_arrays(catalog, pk, artifact.kind)


def write_rows(
    source: Catalog, target: Catalog, claimed: Claim, original: Artifact, dataset: Dataset, inputs: Mapping[str, str]
) -> None:
    """Write a concept set's, clustering's or result's rows into another catalog, and make it ready there.

    `inputs`: the ids of the artifacts it was made from, here → there. Large tables go in short transactions.
    """
    own = retire.OWN[original.kind]
    children = [child for child in retire.CHILDREN[original.kind] if child[0] not in t.BESIDE]  # beside.bring does
    with source.read() as connection:
        pk = connection.execute(sa.select(_a.pk).where(_a.id == original.id)).scalar_one()
    row = _own_row(source, target, claimed, original, own, pk, inputs)
    for table, owner in children:  # what an earlier try left
        retire.clear(target, table, owner, claimed.pk, claimed)
    if original.kind != "result":
        with target.write() as connection:
            lease.fence(connection, claimed)
            connection.execute(own.delete().where(own.c.artifact_pk == claimed.pk))
            _put(connection, own, [{**row, "dataset_pk": datasets.dataset_pk(connection, dataset.id)}])
        for table, owner in children:
            for rows in _pieces(source, table, owner, pk, claimed.pk):
                with target.write() as connection:
                    lease.fence(connection, claimed)
                    _put_rows(connection, table, rows)
    with target.write() as connection:
        lease.fence(connection, claimed)
        owner_pk = datasets.publish_dataset(connection, dataset)
        if original.kind == "result":  # small, and never changes once it is there: in one piece
            _put(connection, own, [{**row, "dataset_pk": owner_pk}])
            _put(connection, t.result_concept_set, _uses(source, target, claimed, pk, inputs))
            for table, owner in children:
                for rows in _pieces(source, table, owner, pk, claimed.pk):
                    _put_rows(connection, table, rows)
        else:
            connection.execute(own.update().where(own.c.artifact_pk == claimed.pk).values(dataset_pk=owner_pk))
        _require_ready(source, original)
        lease.commit_copy(connection, claimed, original, provenance(source, original))


def commit_embedding(
    source: Catalog, target: Catalog, claimed: Claim, original: Artifact, dataset: Dataset, backbone: Any
) -> None:
    """Make a copied embedding ready, and with it a dataset or backbone that is new there."""
    with target.write() as connection:
        lease.fence(connection, claimed)
        values = {
            "dataset_pk": datasets.publish_dataset(connection, dataset),
            "backbone_pk": datasets.publish_backbone(connection, backbone),
        }
        connection.execute(t.embedding.update().where(t.embedding.c.artifact_pk == claimed.pk).values(values))
        _require_ready(source, original)
        lease.commit_copy(connection, claimed, original, provenance(source, original))


def _require_ready(source: Catalog, original: Artifact) -> None:
    """Once all of it was read: what is ready is whole, while of what was retired `gc` may have deleted a part."""
    with source.read() as connection:
        state = connection.execute(sa.select(_a.state).where(_a.id == original.id)).scalar()
    if state != "ready":
        raise NotFound(f"{original.id} ({original.name}) was retired in {source.name} meanwhile", hint="qrp-store ls")


def provenance(source: Catalog, original: Artifact) -> dict[str, Any]:
    """The original's, with where and by whom it was copied."""
    return {**original.provenance, "copied": {"from": source.name, "id": original.id, "by": created_by()}}


def _put(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(table.insert(), rows)


def _put_rows(connection: sa.Connection, table: sa.Table, rows: list[tuple[Any, ...]]) -> None:
    names = table.c.keys()
    if table.name in retire.BULK:
        bulk.put(connection, table, names, rows)
    else:  # documents among the columns need their types
        _put(connection, table, [dict(zip(names, row, strict=True)) for row in rows])


def _own_row(
    source: Catalog,
    target: Catalog,
    claimed: Claim,
    original: Artifact,
    own: sa.Table,
    pk: int,
    inputs: Mapping[str, str],
) -> dict[str, Any]:
    """The row of the artifact's own table, with the other catalog's keys and paths; the dataset's is left out."""
    with source.read() as connection:
        row = dict(connection.execute(sa.select(own).where(own.c.artifact_pk == pk)).mappings().one())
    for name, value in row.items():
        if name.endswith("_path") and value is not None:
            row[name] = claimed.path + value.removeprefix(str(original.path))
        elif name in ("embedding_pk", "clustering_pk") and value is not None:
            row[name] = _moved(source, target, value, inputs)
    return {**row, "artifact_pk": claimed.pk}


def _uses(source: Catalog, target: Catalog, claimed: Claim, pk: int, inputs: Mapping[str, str]) -> list[dict[str, Any]]:
    u = t.result_concept_set.c
    with source.read() as connection:
        used = connection.execute(sa.select(u.concept_set_pk, u.place).where(u.result_pk == pk)).all()
    return [
        {"result_pk": claimed.pk, "concept_set_pk": _moved(source, target, key, inputs), "place": place}
        for key, place in used
    ]


def _moved(source: Catalog, target: Catalog, pk: int, inputs: Mapping[str, str]) -> int:
    """The key in the other catalog of an artifact that has this one here."""
    with source.read() as connection:
        identifier = connection.execute(sa.select(_a.id).where(_a.pk == pk)).scalar_one()
    with target.read() as connection:
        return int(connection.execute(sa.select(_a.pk).where(_a.id == inputs[identifier])).scalar_one())


def _pieces(catalog: Catalog, table: sa.Table, owner: str, pk: int, new_pk: int) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of an owner under its new key, a bulk chunk at a time, each read in a transaction of its own."""
    by = [c for c in table.primary_key.columns if c.name != owner]
    columns = [sa.literal(new_pk).label(owner) if c.name == owner else c for c in table.c]
    after: tuple[Any, ...] | None = None
    while True:
        query = sa.select(*columns).where(table.c[owner] == pk).order_by(*by).limit(bulk.CHUNK_ROWS)
        if after is not None:
            query = query.where(sa.tuple_(*by) > sa.tuple_(*(sa.literal(value) for value in after)))
        with catalog.read() as connection:
            rows = [tuple(row) for row in connection.execute(query)]
        if not rows:
            return
        yield rows
        place = [table.c.keys().index(c.name) for c in by]
        after = tuple(rows[-1][i] for i in place)
