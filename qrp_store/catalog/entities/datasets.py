"""Datasets and backbones: what embeddings are of and by. Both are staged first and show once an embedding is ready."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from qrp_store.catalog.database import bulk
from qrp_store.catalog.database.clock import now_seconds, now_text
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.lifecycle.lease import new_id, one_at_a_time
from qrp_store.catalog.lifecycle.owner import created_by
from qrp_store.catalog.model import tables as t
from qrp_store.errors import Corrupt, InvalidInput, NotFound, near_names
from qrp_store.records import Backbone, Dataset, fingerprint
from qrp_store.samples import shown

_d, _b = t.dataset.c, t.backbone.c


def keys_fingerprint(keys: Sequence[str]) -> str:
    """sha256 (hex) over the keys in order, each with its length before it."""
    digest = hashlib.sha256()
    for start in range(0, len(keys), 4096):
        encoded = [key.encode("utf-8", "surrogatepass") for key in keys[start : start + 4096]]
        digest.update(b"".join(len(data).to_bytes(8, "little") + data for data in encoded))
    return digest.hexdigest()


def find_dataset(catalog: Catalog, name: str) -> Dataset | None:
    """The ready dataset of that name, or None."""
    with catalog.read() as connection:
        row = connection.execute(sa.select(t.dataset).where(_d.name == name, _d.state == "ready")).mappings().first()
    return _dataset(row) if row else None


def get_dataset(catalog: Catalog, name: str) -> Dataset:
    """The ready dataset of that name. Raises NotFound with the names there are."""
    dataset = find_dataset(catalog, name)
    if dataset is None:
        raise NotFound(
            f"no dataset {name!r} in this store",
            hint=near_names(name, _names(catalog), "none yet; qrp-store ingest makes one"),
        )
    return dataset


def _names(catalog: Catalog) -> list[str]:
    query = sa.select(_d.name).where(_d.state == "ready").order_by(_d.name)
    with catalog.read() as connection:
        return list(connection.execute(query).scalars())


def _dataset(row: sa.RowMapping) -> Dataset:
    return Dataset(row["id"], row["name"], row["n"], row["fingerprint"])


def dataset_pk(connection: sa.Connection, identifier: str) -> int:
    """The key of a dataset's row. Raises NotFound when the dataset was retired: nothing more is made of it."""
    row = connection.execute(sa.select(_d.pk, _d.name, _d.retired_at).where(_d.id == identifier)).first()
    if row is None:
        raise NotFound(f"dataset {identifier} was removed meanwhile", hint="run the command again")
    if row.retired_at is not None:
        raise NotFound(f"dataset {row.name!r} was retired meanwhile", hint="qrp-store ls datasets")
    return int(row.pk)


def stage_dataset(
    catalog: Catalog, name: str, keys: Sequence[str], mark: str, image_root: str | None = None
) -> Dataset:
    """Write a new dataset's samples; it shows once an embedding of it is committed. `mark`: the keys' fingerprint.

    A dataset that an earlier, unfinished ingest staged with the same keys is used again.
    """
    staged = sa.select(t.dataset).where(_d.name == name, _d.fingerprint == mark, _d.state == "staged")
    with catalog.read() as connection:
        row = connection.execute(staged.order_by(_d.pk)).mappings().first()
    if row is not None:
        return _dataset(row)
    identifier = new_id("dataset")
    values = {
        "id": identifier,
        "name": name,
        "n": len(keys),
        "fingerprint": mark,
        "state": "writing",
        "image_root": image_root,
        **_made(),
    }
    with catalog.write() as connection:
        pk = connection.execute(t.dataset.insert().values(values).returning(_d.pk)).scalar_one()
    bulk.insert(catalog, t.sample, {"position": range(len(keys)), "key": keys}, {"dataset_pk": pk})
    with catalog.write() as connection:
        connection.execute(t.dataset.update().where(_d.pk == pk).values(state="staged"))
    return Dataset(identifier, name, len(keys), mark)


def _made() -> dict[str, Any]:
    return {"created_at": now_text(), "created_at_seconds": now_seconds(), "created_by": created_by()}


def keys(catalog: Catalog, dataset: Dataset) -> list[str]:
    """Every key of a dataset, in order of position. Raises Corrupt when they are not those that were written."""
    with catalog.read() as connection:
        pk = dataset_pk(connection, dataset.id)
        query = sa.select(t.sample.c.key).where(t.sample.c.dataset_pk == pk).order_by(t.sample.c.position)
        values = list(connection.execute(query).scalars())
    if not all(isinstance(key, str) for key in values) or keys_fingerprint(values) != dataset.fingerprint:
        raise Corrupt(
            f"the keys of dataset {dataset.name!r} ({dataset.id}) are not those that were written",
            hint="restore the catalog from a backup",
        )
    return values


def every(catalog: Catalog) -> list[Dataset]:
    """The ready datasets."""
    with catalog.read() as connection:
        rows = connection.execute(sa.select(t.dataset).where(_d.state == "ready").order_by(_d.pk)).mappings().all()
    return [_dataset(row) for row in rows]


def every_backbone(catalog: Catalog) -> list[tuple[str, str, str | None]]:
    """(id, name, what is wrong with its specification or None) of the ready backbones."""
    with catalog.read() as connection:
        query = sa.select(_b.id, _b.name, _b.fingerprint, sa.cast(_b.spec, sa.Text)).where(_b.state == "ready")
        rows = connection.execute(query.order_by(_b.pk)).all()
    return [(row[0], row[1], _spec_problem(row[3], row[2])) for row in rows]


def _spec_problem(text: str, mark: str) -> str | None:
    try:
        same = fingerprint(json.loads(text)) == mark
    except (ValueError, TypeError) as error:
        return f"its specification cannot be read: {error}"
    return None if same else "its fingerprint is not that of its specification"


def keys_at(catalog: Catalog, dataset: Dataset, positions: Sequence[int]) -> dict[int, str]:
    """The keys of these samples, by position."""
    keys_by_position: dict[int, str] = {}
    k = t.sample.c
    with catalog.read() as connection:
        query = sa.select(k.position, k.key).where(k.dataset_pk == dataset_pk(connection, dataset.id))
        for start in range(0, len(positions), 500):
            rows = connection.execute(query.where(k.position.in_(positions[start : start + 500])))
            keys_by_position.update((row[0], row[1]) for row in rows)
    return keys_by_position


def digests_at(catalog: Catalog, dataset: Dataset, positions: Sequence[int]) -> dict[int, str]:
    """The digests of these samples' image files, by position; only of those that were ingested from files."""
    digests: dict[int, str] = {}
    f = t.image_file.c
    with catalog.read() as connection:
        query = sa.select(f.position, f.digest).where(
            f.dataset_pk == dataset_pk(connection, dataset.id), f.digest.is_not(None)
        )
        for start in range(0, len(positions), 500):
            rows = connection.execute(query.where(f.position.in_(positions[start : start + 500])))
            digests.update((row[0], row[1]) for row in rows)
    return digests


def position_of(catalog: Catalog, dataset: Dataset, key: str) -> int:
    """The position of a sample's key. Raises NotFound."""
    k = t.sample.c
    with catalog.read() as connection:
        query = sa.select(k.position).where(k.dataset_pk == dataset_pk(connection, dataset.id), k.key == key)
        position = connection.execute(query).scalar()
    if position is None:
        raise NotFound(f"dataset {dataset.name!r} has no key {shown(key)}")
    return int(position)


def publish_dataset(connection: sa.Connection, dataset: Dataset) -> int:
    """Make a staged dataset ready; returns the key of the row that bears the name from now on.

    When another ingest published the same samples meanwhile, theirs is taken. Raises InvalidInput for other samples.
    """
    one_at_a_time(connection, f"dataset {dataset.name}")
    row = (
        connection.execute(sa.select(t.dataset).where(_d.name == dataset.name, _d.state == "ready")).mappings().first()
    )
    if row is None:
        pk = dataset_pk(connection, dataset.id)
        connection.execute(t.dataset.update().where(_d.pk == pk).values(state="ready"))
        return pk
    if row["fingerprint"] != dataset.fingerprint:
        raise InvalidInput(
            f"dataset {dataset.name!r} was made meanwhile with other keys (or the same in another order)",
            hint="run the command again, or choose another --dataset name",
        )
    return int(row["pk"])


def image_files(catalog: Catalog, dataset: Dataset) -> dict[int, tuple[int, int, str | None]]:
    """What is recorded of the images: position → (size in bytes, mtime in ns, digest or None if undecodable)."""
    f = t.image_file.c
    with catalog.read() as connection:
        query = sa.select(f.position, f.size, f.mtime_ns, f.digest).where(
            f.dataset_pk == dataset_pk(connection, dataset.id)
        )
        return {row[0]: (row[1], row[2], row[3]) for row in connection.execute(query)}


def record_image_files(connection: sa.Connection, pk: int, files: Sequence[tuple[int, int, int, str | None]]) -> None:
    """Put what was seen of images (position, size, mtime in ns, digest) in place of what was known of them."""
    f = t.image_file.c
    first, last = files[0][0], files[-1][0]
    connection.execute(t.image_file.delete().where(f.dataset_pk == pk, f.position >= first, f.position <= last))
    names = ("position", "size", "mtime_ns", "digest")
    connection.execute(
        t.image_file.insert(), [{"dataset_pk": pk, **dict(zip(names, row, strict=True))} for row in files]
    )


def image_root(catalog: Catalog, dataset: Dataset) -> str | None:
    """The folder that the dataset's images were read from, a hint."""
    with catalog.read() as connection:
        root: str | None = connection.execute(sa.select(_d.image_root).where(_d.id == dataset.id)).scalar_one()
    return root


def find_backbone(catalog: Catalog, name: str) -> Backbone | None:
    """The ready backbone of that name, or None."""
    with catalog.read() as connection:
        row = connection.execute(sa.select(t.backbone).where(_b.name == name, _b.state == "ready")).mappings().first()
    return _backbone(row) if row else None


def _backbone(row: sa.RowMapping) -> Backbone:
    return Backbone(row["id"], row["name"], row["fingerprint"], row["spec"])


def stage_backbone(catalog: Catalog, name: str, spec: Mapping[str, Any]) -> Backbone:
    """The backbone of that name and specification. Raises InvalidInput, with the difference, when the name is
    taken by another specification."""
    mark = fingerprint(spec)
    same = sa.select(t.backbone).where(_b.name == name, _b.fingerprint == mark).order_by(_b.state, _b.pk)
    with catalog.write() as connection:
        taken = connection.execute(sa.select(t.backbone).where(_b.name == name, _b.state == "ready")).mappings().first()
        if taken is not None:
            require_same_backbone(_backbone(taken), spec)
        row = connection.execute(same).mappings().first()
        if row is None:
            values = {
                "id": new_id("backbone"),
                "name": name,
                "fingerprint": mark,
                "spec": dict(spec),
                "state": "staged",
                **_made(),
            }
            connection.execute(t.backbone.insert().values(values))
            row = connection.execute(same).mappings().one()
    return _backbone(row)


def place_in_series(catalog: Catalog, places: Mapping[str, tuple[str, int]]) -> None:
    """Record the series and the position of ready backbones, by name."""
    with catalog.write() as connection:
        for name, (series, position) in places.items():
            ready = t.backbone.update().where(_b.name == name, _b.state == "ready")
            connection.execute(ready.values(series=series, position=position))


def places_in_series(catalog: Catalog, names: Sequence[str]) -> dict[str, tuple[str, int]]:
    """The series and the position of those ready backbones that are part of one, by name."""
    query = sa.select(_b.name, _b.series, _b.position).where(
        _b.name.in_(names), _b.state == "ready", _b.series.is_not(None)
    )
    with catalog.read() as connection:
        return {name: (series, position) for name, series, position in connection.execute(query)}


def require_same_backbone(known: Backbone, spec: Mapping[str, Any]) -> None:
    """Raise InvalidInput with the difference unless the specification is the known one."""
    if known.fingerprint == fingerprint(spec):
        return
    differences = [
        f"{name}: {known.spec.get(name)!r} there, {spec.get(name)!r} here"
        for name in sorted({*known.spec, *spec})
        if known.spec.get(name) != spec.get(name)
    ]
    raise InvalidInput(
        f"backbone {known.name!r} is known with another specification ({'; '.join(differences)})",
        hint="choose another --backbone name",
    )


def publish_backbone(connection: sa.Connection, backbone: Backbone) -> int:
    """Make a staged backbone ready; returns the key of the row that bears the name from now on."""
    one_at_a_time(connection, f"backbone {backbone.name}")
    row = (
        connection.execute(sa.select(t.backbone).where(_b.name == backbone.name, _b.state == "ready"))
        .mappings()
        .first()
    )
    if row is None:
        connection.execute(t.backbone.update().where(_b.id == backbone.id).values(state="ready", retired_at=None))
        return int(connection.execute(sa.select(_b.pk).where(_b.id == backbone.id)).scalar_one())
    require_same_backbone(_backbone(row), backbone.spec)
    return int(row["pk"])
