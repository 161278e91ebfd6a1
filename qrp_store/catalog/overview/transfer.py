"""Copying between catalogs: the artifacts to copy, those that the target has, and their rows.

The tables are the same on both sides, so that rows travel as they are; only keys and paths are new.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from qrp_store.catalog.database import bulk
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.entities import datasets
from qrp_store.catalog.lifecycle import checksums, lease, retire
from qrp_store.catalog.lifecycle.lease import Claim, artifact_of
from qrp_store.catalog.lifecycle.owner import created_by
from qrp_store.catalog.model import tables as t
from qrp_store.catalog.model.kinds import KINDS, Kind, Rows
from qrp_store.catalog.overview.references import Reference
from qrp_store.errors import InvalidInput, NotFound
from qrp_store.records import Artifact, Dataset

_a = t.artifact.c
_ID = re.compile(r"[a-z]{2,4}-[0-9a-f]{8,32}")
_INPUT_KEYS = {key for kind in KINDS.values() for table, _, key in kind.inputs if table is kind.table}


@dataclass(frozen=True)
class Parcel:
    """A ready artifact to copy, with the ids of its inputs."""

    artifact: Artifact
    dataset: Dataset
    backbone: str | None
    inputs: tuple[str, ...]


def parcels(catalog: Catalog, reference: Reference) -> list[Parcel]:
    """Return the artifacts to copy, inputs first.

    These are an artifact and all its inputs, or everything of a dataset or backbone. Raise InvalidInput if an input
    was retired.
    """
    with catalog.read() as connection:
        chosen = _chosen(connection, reference)
        edges = retire.edges(connection)
        rows = connection.execute(sa.select(t.artifact).order_by(_a.pk)).mappings().all()
        known = {row["pk"]: row for row in rows}
        whole = retire.closure(chosen, edges)
        lost = [pk for pk in whole if known[pk]["state"] != "ready"]
        if lost and reference.kind not in ("dataset", "backbone"):
            what = ", ".join(f"{known[pk]['id']} ({known[pk]['name']})" for pk in lost)
            raise InvalidInput(
                f"{reference.id} was made from what is retired: {what}", hint="qrp-store show " + reference.id
            )
        # of a whole dataset or backbone, what was made from something retired stays behind
        complete = [pk for pk in sorted(whole) if not retire.closure({pk}, edges) & set(lost)]
        for pk in complete:  # the id becomes part of a path there
            if not _ID.fullmatch(known[pk]["id"]) or known[pk]["kind"] not in KINDS:
                raise InvalidInput(f"{known[pk]['id']!r} is no id that this program gives: it is not copied")
        return [_parcel(connection, known, pk, edges) for pk in complete]


def _chosen(connection: sa.Connection, reference: Reference) -> set[int]:
    """Return the selected ready artifacts; for a backbone also the artifacts made from its embeddings."""
    chosen = retire.belonging(connection, reference)
    if reference.kind == "backbone":
        users: dict[int, set[int]] = {}
        for made, sources in retire.edges(connection).items():
            for source in sources:
                users.setdefault(source, set()).add(made)
        chosen = retire.closure(chosen, users)
    ready = sa.select(_a.pk).where(_a.state == "ready")
    return chosen & set(connection.execute(ready).scalars())


def _parcel(
    connection: sa.Connection, known: Mapping[int, sa.RowMapping], pk: int, edges: Mapping[int, set[int]]
) -> Parcel:
    artifact = artifact_of(known[pk])
    table, d = KINDS[artifact.kind].table, t.dataset.c
    row = connection.execute(
        sa.select(t.dataset).join(table, table.c.dataset_pk == d.pk).where(table.c.artifact_pk == pk)
    )
    row_of_dataset = row.mappings().one()
    dataset = Dataset(row_of_dataset["id"], row_of_dataset["name"], row_of_dataset["n"], row_of_dataset["fingerprint"])
    query = sa.select(t.backbone.c.name).join(t.embedding, t.embedding.c.backbone_pk == t.backbone.c.pk)
    backbone = connection.execute(query.where(t.embedding.c.artifact_pk == pk)).scalar()
    return Parcel(artifact, dataset, backbone, tuple(known[i]["id"] for i in sorted(edges.get(pk, ()))))


def counterpart(source: Catalog, target: Catalog, original: Artifact) -> Artifact | None:
    """Return the same artifact in another catalog, or None.

    When that version was retired there, a later one that holds the same rows. Raises InvalidInput, with the difference,
    when that version of that name is something else there, or was retired and nothing holds the same rows.
    """
    same = sa.and_(_a.series == original.series, _a.version == original.version)
    with target.read() as connection:
        row = connection.execute(sa.select(t.artifact).where(same)).mappings().first()
    if row is None:
        return None
    same_version = artifact_of(row)
    if same_version.state != "ready":
        other = _same_rows(source, target, original)
        if other is not None:
            return other
    called = f"{original.kind} {original.name!r} version {original.version}"
    if same_version.fingerprint != original.fingerprint:
        differences = "; ".join(_differences(same_version.spec, original.spec))
        raise InvalidInput(
            f"{called} is something else in {target.name} ({same_version.id}): {differences}",
            hint="make it there under another name, or --force it here into a version that is free there",
        )
    if same_version.state != "ready":
        raise InvalidInput(f"{called} was retired in {target.name} ({same_version.id})", hint="make it there again")
    return same_version


def _same_rows(source: Catalog, target: Catalog, original: Artifact) -> Artifact | None:
    """Return the newest ready version in another catalog with the same rows and arrays as the original."""
    query = sa.select(t.artifact).where(_a.series == original.series, _a.state == "ready").order_by(_a.version.desc())
    with target.read() as connection:
        versions = [artifact_of(row) for row in connection.execute(query).mappings()]
    ours, rows = array_checksums(source, original), _portable(source, original)
    for other in versions:
        if original.kind == "embedding":  # its rows are the blocks
            same = other.fingerprint == original.fingerprint and array_checksums(target, other) == ours
        else:
            others = array_checksums(target, other) if original.kind != "result" else ours  # weights may be rounded
            same = bool(rows) and _portable(target, other) == rows and others == ours
        if same:
            return other
    return None


def _portable(catalog: Catalog, artifact: Artifact) -> dict[str, str]:
    """Return the recorded checksums that are equal in every catalog."""
    with catalog.read() as connection:
        pk = connection.execute(sa.select(_a.pk).where(_a.id == artifact.id)).scalar_one()
        recorded = checksums.recorded(connection, pk) or {}
    return {name: value for name, value in recorded.items() if name in KINDS[artifact.kind].portable}


def _differences(target: Mapping[str, Any], source: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {target.get(name)!r} there, {source.get(name)!r} here"
        for name in sorted({*target, *source})
        if target.get(name) != source.get(name)
    ]


def array_checksums(catalog: Catalog, artifact: Artifact) -> dict[str, str]:
    """Return checksums, by rows of a block or by array: equal ones mean equal bytes."""
    b = t.block.c
    query = sa.select(b.first_row, b.n_rows, b.checksum).join(t.artifact, _a.pk == b.embedding_pk)
    with catalog.read() as connection:
        rows = connection.execute(query.where(_a.id == artifact.id)).all()
    blocks = {f"rows {first} to {first + n - 1}": checksum for first, n, checksum in rows}
    return {**blocks, **{path.rpartition("/")[2]: checksum for path, checksum in arrays_of(catalog, artifact)}}


def arrays_of(catalog: Catalog, artifact: Artifact) -> list[tuple[str, str]]:
    """Return (path, checksum) of an artifact's whole arrays: centroids, weights."""
    with catalog.read() as connection:
        pk = connection.execute(sa.select(_a.pk).where(_a.id == artifact.id)).scalar_one()
    return retire.saved_arrays(catalog, pk, artifact.kind)


def write_rows(
    source: Catalog, target: Catalog, claimed: Claim, original: Artifact, dataset: Dataset, inputs: Mapping[str, str]
) -> None:
    """Write an artifact's rows into another catalog, and make it ready there; large tables in short transactions.

    `inputs`: the ids of the artifacts it was made from, here → there. Raises Corrupt when a row here is not the
    one that was written.
    """
    kind = KINDS[original.kind]
    with source.read() as connection:
        pk = connection.execute(sa.select(_a.pk).where(_a.id == original.id)).scalar_one()
    row = _own_row(source, target, claimed, original, kind.table, pk, inputs)
    large = [rows for rows in kind.rows if rows.bulk]
    small = [rows for rows in kind.rows if not rows.bulk and not rows.later]  # extra_scores.bring copies later ones
    if large:
        with target.write() as connection:
            lease.fence(connection, claimed)
            _clear_small(connection, kind, claimed)
            _put(connection, kind.table, [{**row, "dataset_pk": datasets.dataset_pk(connection, dataset.id)}])
        for rows in large:
            _copy_large(source, target, claimed, pk, rows)
    with target.write() as connection:
        lease.fence(connection, claimed)
        owner_pk = datasets.publish_dataset(connection, dataset)
        if large:
            this = kind.table.c.artifact_pk == claimed.pk
            connection.execute(kind.table.update().where(this).values(dataset_pk=owner_pk))
        else:  # in one piece
            _put(connection, kind.table, [{**row, "dataset_pk": owner_pk}])
        for rows in small:
            for held in _pieces(source, rows.table, rows.owner, pk, claimed.pk):
                _put_rows(connection, rows, _with_inputs(source, target, rows, held, inputs))
        _commit(connection, source, claimed, original, pk)


def _commit(connection: sa.Connection, source: Catalog, claimed: Claim, original: Artifact, pk: int) -> None:
    """Make a copied artifact ready in the caller's transaction, if its rows have the original's checksums."""
    _require_ready(source, original)
    lease.commit_copy(connection, claimed, original, provenance(source, original))
    portable = KINDS[original.kind].portable
    copied = checksums.recorded(connection, claimed.pk) or {}
    with source.read() as reading:
        checksums.require(reading, pk, {name: value for name, value in copied.items() if name in portable})


def _clear_small(connection: sa.Connection, kind: Kind, claimed: Claim) -> None:
    """Delete the rows of an interrupted copy from the small tables."""
    for rows in kind.rows:
        if not rows.bulk:
            connection.execute(rows.table.delete().where(rows.table.c[rows.owner] == claimed.pk))
    connection.execute(kind.table.delete().where(kind.table.c.artifact_pk == claimed.pk))


def _copy_large(source: Catalog, target: Catalog, claimed: Claim, pk: int, rows: Rows) -> None:
    if claimed.resumed:
        retire.clear(target, rows, claimed.pk, claimed)
    passing = checksums.LargeTable(rows, rows.table.c.keys())
    for held in _pieces(source, rows.table, rows.owner, pk, claimed.pk):
        passing.add(held)
        with target.write() as connection:
            lease.fence(connection, claimed)
            _put_rows(connection, rows, held)
    with target.write() as connection:
        lease.fence(connection, claimed)
        checksums.record(connection, claimed.pk, passing.values())


def commit_embedding(
    source: Catalog, target: Catalog, claimed: Claim, original: Artifact, dataset: Dataset, backbone: Any
) -> None:
    """Make a copied embedding ready, with its dataset and backbone if they are new in the target."""
    with target.write() as connection:
        lease.fence(connection, claimed)
        values = {
            "dataset_pk": datasets.publish_dataset(connection, dataset),
            "backbone_pk": datasets.publish_backbone(connection, backbone),
        }
        connection.execute(t.embedding.update().where(t.embedding.c.artifact_pk == claimed.pk).values(values))
        with source.read() as reading:
            pk = reading.execute(sa.select(_a.pk).where(_a.id == original.id)).scalar_one()
            blocks = checksums.of_table(reading, KINDS["embedding"].rows[0], pk)
            checksums.require(reading, pk, {t.block.name: blocks})
        _require_ready(source, original)
        lease.commit_copy(connection, claimed, original, provenance(source, original))


def _require_ready(source: Catalog, original: Artifact) -> None:
    """Check after reading that the artifact is still ready: `gc` may have deleted a part of a retired one."""
    with source.read() as connection:
        state = connection.execute(sa.select(_a.state).where(_a.id == original.id)).scalar()
    if state != "ready":
        raise NotFound(f"{original.id} ({original.name}) was retired in {source.name} meanwhile", hint="qrp-store ls")


def provenance(source: Catalog, original: Artifact) -> dict[str, Any]:
    """Return the provenance of the original, with the source and author of the copy."""
    return {**original.provenance, "copied": {"from": source.name, "id": original.id, "by": created_by()}}


def _put(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(table.insert(), rows)


def _put_rows(connection: sa.Connection, rows: Rows, held: list[tuple[Any, ...]]) -> None:
    names = rows.table.c.keys()
    if rows.bulk:
        bulk.put(connection, rows.table, names, held)
    else:  # documents among the columns need their types
        _put(connection, rows.table, [dict(zip(names, row, strict=True)) for row in held])


def _with_inputs(
    source: Catalog, target: Catalog, rows: Rows, held: list[tuple[Any, ...]], inputs: Mapping[str, str]
) -> list[tuple[Any, ...]]:
    """Return the rows with the keys of their inputs in the target catalog."""
    keys = [i for i, name in enumerate(rows.table.c.keys()) if name.endswith("_pk") and name != rows.owner]
    if not keys:
        return held
    moved = {row[i]: _moved(source, target, row[i], inputs) for row in held for i in keys}
    return [tuple(moved[value] if i in keys else value for i, value in enumerate(row)) for row in held]


def _own_row(
    source: Catalog,
    target: Catalog,
    claimed: Claim,
    original: Artifact,
    table: sa.Table,
    pk: int,
    inputs: Mapping[str, str],
) -> dict[str, Any]:
    """Return the artifact's row with keys and paths of the target catalog, without the key of the dataset."""
    with source.read() as connection:
        row = dict(connection.execute(sa.select(table).where(table.c.artifact_pk == pk)).mappings().one())
    for name, value in row.items():
        if name.endswith("_path") and value is not None:
            row[name] = claimed.path + value.removeprefix(str(original.path))
        elif name in _INPUT_KEYS and value is not None:
            row[name] = _moved(source, target, value, inputs)
    return {**row, "artifact_pk": claimed.pk}


def _moved(source: Catalog, target: Catalog, pk: int, inputs: Mapping[str, str]) -> int:
    """Return an artifact's key in the target catalog for its key in the source."""
    with source.read() as connection:
        identifier = connection.execute(sa.select(_a.id).where(_a.pk == pk)).scalar_one()
    with target.read() as connection:
        return int(connection.execute(sa.select(_a.pk).where(_a.id == inputs[identifier])).scalar_one())


def _pieces(catalog: Catalog, table: sa.Table, owner: str, pk: int, new_pk: int) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of an owner under its new key in bulk chunks, each read in a separate transaction."""
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
