"""The story of export: write files for other tools. A file appears complete or not at all."""

from __future__ import annotations

import csv
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qrp_store.catalog.entities import clusterings, datasets, embeddings
from qrp_store.catalog.model.column_types import arrow_table
from qrp_store.catalog.overview import references
from qrp_store.catalog.overview.listing import listing, with_flags
from qrp_store.errors import InvalidInput, NotFound, Unavailable
from qrp_store.export.elsewhere import card, fiftyone_labels
from qrp_store.options import ExportOptions, taken, takes
from qrp_store.records import StoredEmbedding, Table
from qrp_store.store import Store, split_version

ENDINGS = (".csv", ".parquet", ".json", ".npy")
_OWN_ENDING = {"card": ".md", "fiftyone": ".json"}


@dataclass(frozen=True)
class ExportReport:
    """The written file; `rows` is the number of its rows."""

    what: str
    output: str
    rows: int
    columns: tuple[str, ...]


@takes(ExportOptions)
def export(
    store: Store,
    what: str,
    *,
    output: str,
    reference: str | None = None,
    dataset: str | None = None,
    backbone: str | None = None,
    concepts: str | None = None,
    k: int | None = None,
    seed: int | None = None,
) -> ExportReport:
    """Write `results`, `assignments`, `labels` or an `embedding` to a file, in the format of its ending; a dataset's
    `card` as Markdown; or a clustering with labels for `fiftyone` as JSON.

    `reference` (an id or name) or the other arguments select. `.npy` holds an embedding (n, dim), or the cluster of
    every sample in dataset order for one clustering (−1: no cluster).
    """
    return export_with(store, what, reference, taken(ExportOptions, locals()))


def export_with(store: Store, what: str, reference: str | None, options: ExportOptions) -> ExportReport:
    """Do what `export` does, with its options in one record."""
    output, dataset = options.output, options.dataset
    path = Path(output).expanduser()
    if what in _OWN_ENDING and path.suffix.lower() != _OWN_ENDING[what]:
        raise InvalidInput(f"{output}: export {what} writes a {_OWN_ENDING[what]} file")
    if what not in _OWN_ENDING and path.suffix.lower() not in ENDINGS:
        raise InvalidInput(f"{output}: unknown format; known endings are {', '.join(ENDINGS)}")
    if dataset is not None:
        datasets.get_dataset(store.catalog, dataset)
    chosen = {name: getattr(options, name) for name in ("dataset", "backbone", "concepts", "seed")}
    chosen["clusters"] = options.k
    if what == "card":
        if dataset is None:
            raise InvalidInput("export card: which dataset?", hint="--dataset D")
        with whole_file(path) as partial:
            partial.write_text(card(store, dataset), encoding="utf-8")
        return ExportReport(what, str(path), 1, ())
    if what == "fiftyone":
        labels = fiftyone_labels(store, _one_clustering(store, reference, chosen))
        with whole_file(path) as partial:
            partial.write_text(json.dumps(labels, ensure_ascii=False) + "\n", encoding="utf-8")
        return ExportReport(what, str(path), len(labels["labels"]), ("label", "attributes"))
    if what == "embedding":
        return _embedding(store, path, reference, dataset, options.backbone)
    if path.suffix.lower() == ".npy" and what == "assignments":
        return _assignment_array(store, path, reference, chosen)
    if path.suffix.lower() == ".npy":
        raise InvalidInput(f"{output}: {what} are rows, not an array", hint="use .csv, .parquet or .json")
    table = _rows(store, what, reference, chosen)
    if not table.rows:
        raise NotFound(f"no {what} match", hint=f"qrp-store ls; or export {what} without filters")
    with whole_file(path) as partial:
        _WRITERS[path.suffix.lower()](partial, table)
    return ExportReport(what, str(path), len(table.rows), table.columns)


def _rows(store: Store, what: str, reference: str | None, chosen: dict[str, Any]) -> Table:
    columns = {
        "results": ("results", "id", ("dataset", "backbone", "concepts", "clusters", "seed")),
        "assignments": ("assignments", "clustering_id", ("dataset", "backbone", "clusters", "seed")),
        "labels": ("labels", None, ("dataset", "concepts")),
    }
    if what not in columns:
        raise InvalidInput(f"export {what!r}: known are {', '.join([*columns, 'embedding'])}")
    view, by, filters = columns[what]
    where: list[str] = []
    values: list[Any] = []
    if reference is not None:
        named = references.resolve(store.catalog, reference)
        if by is not None:
            where, values = [f"{by} = ?"], [named.id]
        else:
            identity = ("dataset", "name", "version")  # another dataset may have a set with this name and version
            sets = {row["id"]: [row[x] for x in identity] for row in listing(store.catalog, "concepts").named()}
            where, values = ["dataset = ?", "concepts = ?", "version = ?"], sets.get(named.id, [None] * len(identity))
    elif what != "results":
        where = ["is_newest"]
    for name in filters:
        if chosen[name] is not None:
            where.append(f"{name} = ?")
            values.append(chosen[name])
    condition = f" WHERE {' AND '.join(where)}" if where else ""
    return with_flags(store.sql(f"SELECT * FROM {view}{condition}", tuple(values)).table)


def _embedding(
    store: Store, path: Path, reference: str | None, dataset: str | None, backbone: str | None
) -> ExportReport:
    import numpy as np

    from qrp_store.embedding import Embedding

    if reference is not None:
        stored = _named_embedding(store, reference, dataset)
    elif dataset is not None and backbone is not None:
        stored = embeddings.get(store.catalog, dataset, *split_version(backbone))
    else:
        raise InvalidInput("export embedding: which embedding?", hint="an id, or --dataset and --backbone")
    embedding = Embedding(store.arrays, stored)
    if path.suffix.lower() == ".npy":
        with whole_file(path) as partial:
            out = np.lib.format.open_memmap(partial, mode="w+", dtype=embedding.dtype, shape=embedding.shape)
            for start, rows in embedding.blocks():
                out[start : start + len(rows)] = rows
            out.flush()
        return ExportReport("embedding", str(path), len(embedding), ())
    with whole_file(path) as partial:
        _VECTORS[path.suffix.lower()](partial, embedding, datasets.keys(store.catalog, stored.dataset))
    return ExportReport("embedding", str(path), len(embedding), ("key", "embedding"))


_KINDS = {
    "dataset": "a dataset",
    "concepts": "a concept set",
    "clustering": "a clustering",
    "result": "a result",
}


def _named_embedding(store: Store, reference: str, dataset: str | None) -> StoredEmbedding:
    """The embedding that an id, a `dataset/backbone` or a backbone's name means."""
    thing = references.resolve(store.catalog, reference)
    if thing.kind == "embedding":
        return embeddings.by_id(store.catalog, thing.id)
    if thing.kind != "backbone":
        raise InvalidInput(
            f"{reference!r} names no embedding but {_KINDS[thing.kind]}",
            hint="give an embedding's id, or --dataset and --backbone",
        )
    backbone, version = split_version(reference)
    rows = [row for row in listing(store.catalog, "embeddings").named() if row["is_newest"]]
    backbone = next((row["backbone"] for row in rows if row["backbone"] == backbone), thing.name)
    among = sorted(
        {row["dataset"] for row in rows if row["backbone"] == backbone and dataset in (None, row["dataset"])}
    )
    if len(among) != 1:
        where = f"in dataset {dataset!r}" if dataset is not None else "in any dataset"
        what = f"embeddings in {len(among)} datasets: {', '.join(among)}" if among else f"no embedding {where}"
        raise InvalidInput(f"backbone {reference!r} has {what}", hint=f"--dataset D --backbone {backbone}")
    return embeddings.get(store.catalog, among[0], backbone, version)


def _embedding_parquet(path: Path, embedding: Any, keys: Sequence[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.from_numpy_dtype(embedding.dtype)
    schema = pa.schema([("key", pa.string()), ("embedding", pa.list_(kind, embedding.shape[1]))])
    with pq.ParquetWriter(path, schema) as writer:
        for start, rows in embedding.blocks():
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), embedding.shape[1])
            names = pa.array(keys[start : start + len(rows)], pa.string())
            writer.write_table(pa.table([names, vectors], schema=schema))


def _embedding_csv(path: Path, embedding: Any, keys: Sequence[str]) -> None:
    """key, 0 … d-1; the row of a sample without a vector is empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("key", *range(embedding.shape[1])))
        for start, rows in embedding.blocks():
            for key, row in zip(keys[start:], rows, strict=False):
                writer.writerow((key, *_numbers(row)))


def _embedding_json(path: Path, embedding: Any, keys: Sequence[str]) -> None:
    """A list of {key, embedding}; null in the place of a number that a sample lacks."""
    with path.open("w", encoding="utf-8") as file:
        comma = "["
        for start, rows in embedding.blocks():
            for key, row in zip(keys[start:], rows, strict=False):
                shown = json.dumps({"key": key, "embedding": _numbers(row)}, ensure_ascii=False, allow_nan=False)
                file.write(f"{comma}\n{shown}")
                comma = ","
        file.write("\n]\n")


def _numbers(row: Any) -> list[Any]:
    """A vector's numbers with the digits of their precision, None for what is no number."""
    return [float(str(value)) if value == value else None for value in row]


def _assignment_array(store: Store, path: Path, reference: str | None, chosen: dict[str, Any]) -> ExportReport:
    import numpy as np

    identifier = _one_clustering(store, reference, chosen)
    stored = clusterings.by_id(store.catalog, identifier)
    positions, clusters, _ = clusterings.assignments(store.catalog, identifier)
    out = np.full(clusterings.dataset_of(store.catalog, identifier).n, -1, np.int32)
    out[positions] = clusters
    with whole_file(path) as partial, partial.open("wb") as file:
        np.save(file, out)
    return ExportReport("assignments", str(path), stored.row.n, ("cluster",))


def _one_clustering(store: Store, reference: str | None, chosen: dict[str, Any]) -> str:
    """The id of the clustering that is meant. Raises InvalidInput unless it is one."""
    if reference is not None:
        return references.resolve(store.catalog, reference).id
    names = ("dataset", "backbone", "clusters", "seed")
    newest = (row for row in listing(store.catalog, "clusterings").named() if row["is_newest"])
    alike = [row["id"] for row in newest if all(chosen[name] in (None, row[name]) for name in names)]
    if len(alike) != 1:
        raise InvalidInput(f"{len(alike)} clusterings are like that; the file holds one", hint="give its id")
    return str(alike[0])


def check_output(path: Path) -> None:
    """Raise InvalidInput where the path is a folder, NotFound where its folder does not exist."""
    if path.is_dir():
        raise InvalidInput(f"{path}: is a folder", hint="-o takes the name of a file")
    if not path.absolute().parent.is_dir():
        raise NotFound(f"{path.parent}: no such folder")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write beside the wanted one, which takes its place once it is finished."""
    check_output(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise Unavailable(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _csv(path: Path, table: Table) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.columns)
        writer.writerows(table.rows)


def _json(path: Path, table: Table) -> None:
    path.write_text(json.dumps(table.named(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _parquet(path: Path, table: Table) -> None:
    import pyarrow.parquet as pq

    pq.write_table(arrow_table(table), path)


_VECTORS: dict[str, Callable[[Path, Any, Sequence[str]], None]] = {
    ".csv": _embedding_csv,
    ".json": _embedding_json,
    ".parquet": _embedding_parquet,
}
_WRITERS: dict[str, Callable[[Path, Table], None]] = {".csv": _csv, ".json": _json, ".parquet": _parquet}
