"""Hugging Face's datasets: Parquet with the names of its classes, and folders of `save_to_disk`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels import rows
from qrp_store.readers.labels.cells import concepts_in
from qrp_store.readers.labels.columns import key_of, usual_concept
from qrp_store.readers.labels.long_tables import no_parquet
from qrp_store.readers.labels.rows import Batch, LabelRows, Source, Term, is_missing, kind
from qrp_store.samples import shown

if TYPE_CHECKING:
    import pyarrow

_NO_CLASS = -1


@dataclass(frozen=True)
class _Column:
    """A column, the fields that lead to its values, and the names of its classes (none: the values are names)."""

    path: tuple[str, ...]
    names: tuple[str, ...] = ()


def is_saved(folder: Path) -> bool:
    """Return whether a folder was written by `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file()
    )


def features(source: Source) -> Mapping[str, Any]:
    """Return the features that a Parquet file's metadata describe; none without such metadata. Raises InvalidInput."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(source.path) as file:
            metadata = file.schema_arrow.metadata or {}
    except pyarrow.ArrowException as error:
        raise no_parquet(source, error) from error
    try:
        described = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return described if isinstance(described, dict) else {}


def has_classes(described: Mapping[str, Any]) -> bool:
    """Return whether features hold a ClassLabel or an Image."""
    return any(True for _ in _classes(described, ())) or _image(described) is not None


def read_hugging_face(source: Source) -> Iterator[LabelRows]:
    """A dataset's classes by name: columns of ClassLabel, or of lists of it; others by their usual name.

    The key is the key column, or the path of the Image column. Images with classes were looked at; -1 and null are
    unknown.
    """
    if not source.path.is_dir():
        yield from _read(source, features(source), _parquet(source))
        return
    if (source.path / "dataset_dict.json").is_file():
        splits = _json(source, source.path / "dataset_dict.json").get("splits")
        if not isinstance(splits, list) or not splits:
            raise InvalidInput(f"{source}: dataset_dict.json lists no splits")
    else:
        splits = ["."]
    for split in splits:
        folder = _inside(source, source.path, split)
        described = _json(source, folder / "dataset_info.json").get("features")
        if not isinstance(described, dict):
            raise InvalidInput(f"{source}: {split}/dataset_info.json describes no features")
        yield from _read(source, described, _saved(source, folder))


def _inside(source: Source, folder: Path, name: object) -> Path:
    """Return a member of a folder. Raises InvalidInput for a name that leads elsewhere."""
    path = folder / str(name)
    if not isinstance(name, str) or not path.resolve().is_relative_to(source.path.resolve()):
        raise InvalidInput(f"{source}: names {shown(str(name))}, which lies outside the folder")
    return path


def _json(source: Source, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_inside(source, path.parent, path.name).read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: not JSON, or damaged ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"{path}: expected a JSON object")
    return content


def _parquet(source: Source) -> Iterator[pyarrow.RecordBatch]:
    from pyarrow import parquet

    with parquet.ParquetFile(source.path) as file:
        # pictures are in the `bytes` of their column
        names = [leaf.path for leaf in map(file.schema.column, range(len(file.schema))) if leaf.path[-6:] != ".bytes"]
        used = sorted({name.partition(".list.")[0] for name in names})
        yield from file.iter_batches(batch_size=rows.BATCH_ROWS, columns=used, use_threads=False)


def _saved(source: Source, folder: Path) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow

    files = _json(source, folder / "state.json").get("_data_files")
    if not isinstance(files, list) or not all(isinstance(file, dict) for file in files):
        raise InvalidInput(f"{source}: state.json lists no data files")
    for file in files:
        path = _inside(source, folder, file.get("filename"))
        if not path.is_file():
            raise InvalidInput(f"{source}: {shown(str(file.get('filename')))} is missing")
        with pyarrow.memory_map(str(path)) as mapped, pyarrow.ipc.open_stream(mapped) as stream:
            yield from stream


def _read(source: Source, described: Mapping[str, Any], batches: Iterator[pyarrow.RecordBatch]) -> Iterator[LabelRows]:
    import pyarrow

    key, concept = _key(source, described), _concept(source, described)
    vocabulary: list[Term] = []
    if concept.names:
        check = Batch(source, scored=False)
        vocabulary = [(check.term("features", name), source.group) for name in concept.names]
    row = 0
    try:
        for record in batches:
            batch = Batch(source, scored=False)
            missing = [path for path in (key.path[0], concept.path[0]) if path not in record.schema.names]
            if missing:
                raise InvalidInput(f"{source}: no column {missing[0]}, which its features describe")
            (names, key_fields), (classes, fields) = _cells(record, key), _cells(record, concept)
            for name, values in zip(names, classes, strict=True):
                row += 1
                place = f"row {row}"
                sample = next(_values(name, key_fields), None)
                if is_missing(sample):
                    raise InvalidInput(
                        f"{source}: {place}: the column {shown('.'.join(key.path))} is empty",
                        hint="--key-column names a column that tells the images apart",
                    )
                classed = list(_values(values, fields))
                for value in classed:
                    _add(batch, place, sample, value, concept.names)
                if concept.names and values is not None and not {None, _NO_CLASS} & set(classed):
                    batch.seen.append(batch.text(place, "key", sample))
                if batch.full:
                    yield batch.take(vocabulary)
            yield batch.take(vocabulary)
    except pyarrow.ArrowException as error:
        raise no_parquet(source, error) from error


def _add(batch: Batch, place: str, key: object, value: object, names: Sequence[str]) -> None:
    if value is None or (names and value == _NO_CLASS):
        return
    if not names:
        for one in concepts_in(batch.source, place, value):
            batch.add(place, key, one, None, None)
        return
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise InvalidInput(f"{batch.source}: {place}: class {value!r} has no name; there are {len(names)}")
    batch.add(place, key, names[value], None, None)


def _cells(record: pyarrow.RecordBatch, column: _Column) -> tuple[list[Any], Sequence[str]]:
    """Return a column's cells, and the fields that are left within: those of a struct are taken without its others."""
    import pyarrow
    from pyarrow import compute

    array, fields = record.column(column.path[0]), column.path[1:]
    while fields and pyarrow.types.is_struct(array.type) and array.type.get_field_index(fields[0]) >= 0:
        array, fields = compute.struct_field(array, fields[0]), fields[1:]
    return array.to_pylist(), fields


def _values(cell: Any, path: Sequence[str]) -> Iterator[Any]:
    """Yield what a cell holds at a path of fields, through lists."""
    if isinstance(cell, list):
        for part in cell:
            yield from _values(part, path)
    elif path:
        yield from _values(cell.get(path[0]), path[1:]) if isinstance(cell, dict) else ()
    else:
        yield cell


def _classes(described: Any, path: tuple[str, ...]) -> Iterator[_Column]:
    """Yield the columns, or fields within, that hold classes with names."""
    if isinstance(described, list):
        for inner in described[:1]:
            yield from _classes(inner, path)
    elif isinstance(described, dict) and described.get("_type") == "ClassLabel":
        names = described.get("names")
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            yield _Column(path, tuple(names))
    elif isinstance(described, dict) and "_type" in described and len(path) < 20:
        yield from _classes(described.get("feature"), path)
    elif isinstance(described, dict) and len(path) < 20:
        for name, inner in described.items():
            yield from _classes(inner, (*path, name))


def _image(described: Mapping[str, Any]) -> str | None:
    images = [name for name, of in described.items() if isinstance(of, dict) and of.get("_type") == "Image"]
    return images[0] if len(images) == 1 else None


def _key(source: Source, described: Mapping[str, Any]) -> _Column:
    image = _image(described)
    if source.table.key is not None:
        if source.table.key not in described:
            raise InvalidInput(f"{source}: no column {shown(source.table.key)} (columns: {', '.join(described)})")
        return _Column((source.table.key, *(["path"] if source.table.key == image else [])))
    key = key_of(source, [name for name in described if name != image])
    if key is not None:
        return _Column((key,))
    if image is None:
        raise InvalidInput(
            f"{source}: no column tells which image a row is of (columns: {', '.join(described)})",
            hint="--key-column names it",
        )
    return _Column((image, "path"))


def _concept(source: Source, described: Mapping[str, Any]) -> _Column:
    columns = {".".join(column.path): column for column in _classes(described, ())}
    requested = source.table.concept
    if requested is not None:
        if requested in columns:
            return columns[requested]
        if requested not in described:
            raise InvalidInput(f"{source}: no column {shown(requested)} (columns: {', '.join(described)})")
        return _Column((requested,))
    if len(columns) == 1:
        return next(iter(columns.values()))
    usual = usual_concept(list(described)) if not columns else None
    if usual is None:
        listed = ", ".join(columns or described)
        raise InvalidInput(
            f"{source}: {'several columns hold' if columns else 'no column holds'} classes: {listed}",
            hint=f"--concept-column {next(iter(columns or described), kind(None))}, for example",
        )
    return _Column((usual,))
