"""Arrays in folders: clip-retrieval's numbered pieces with their metadata, thingsvision's features, and plain pieces
(`part-0.npy`, `part-1.npy`, …) one below the other."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from qrp_store.errors import InvalidInput, first_line
from qrp_store.readers.arrays.columns import Column, choose_key
from qrp_store.readers.arrays.formats import open_array, read_keys
from qrp_store.readers.arrays.matrix import ArrayRequest, ArraySource, Rows
from qrp_store.readers.arrays.vector_tables import kind_of

_CLIP = ("img_emb", "text_emb")
_THINGSVISION_KEYS = "file_names.txt"
_PIECES = (".npy", ".parquet")


def is_array_folder(folder: Path) -> bool:
    """Whether a folder is one of those that `open_array_folder` reads."""
    return _is_clip(folder) or (folder / _THINGSVISION_KEYS).is_file() or bool(_pieces(folder))


def _is_clip(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in _CLIP)


def open_array_folder(folder: Path, request: ArrayRequest = ArrayRequest()) -> ArraySource:
    """The matrix in a folder: of clip-retrieval (field img_emb or text_emb), of thingsvision (`file_names.txt`), or of
    numbered .npy or .parquet pieces.

    Raises InvalidInput for pieces that do not fit together, by name.
    """
    if _is_clip(folder) or (folder / _THINGSVISION_KEYS).is_file():
        if request.key_column is not None:
            raise InvalidInput(f"--key-column goes with a file of columns or named arrays; {folder} has keys")
        return _clip(folder, request.field) if _is_clip(folder) else _thingsvision(folder, request.field)
    pieces = _pieces(folder)
    _refuse_gaps(folder, pieces)
    sources = [open_array(path, request.field, request.key_column, keyed=request.keyed) for path in pieces]
    first = sources[0]
    for source in sources:
        if source.columns != first.columns:
            raise InvalidInput(
                f"{source.path}: other columns than {first.path.name}", hint="--field names the vector's"
            )
    return replace(_joined(folder, sources), field=request.field, columns=first.columns)


def _pieces(folder: Path) -> list[Path]:
    """The .npy or .parquet files of a folder, in the order of the numbers in their names; none where both are there."""
    if not folder.is_dir():
        return []
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith((".", "_"))]
    pieces = [path for path in files if path.suffix.lower() in _PIECES]
    if len({path.suffix.lower() for path in pieces}) != 1:
        return []
    return sorted(pieces, key=lambda path: [int(part) if part.isdigit() else part for part in _parts(path)])


def _parts(path: Path) -> list[str]:
    """A file's name as texts and, at every second place, numbers."""
    return re.split(r"([0-9]+)", path.stem)


def _refuse_gaps(folder: Path, pieces: list[Path]) -> None:
    """Raise InvalidInput unless the pieces differ in one number that counts from 0 or 1 without a gap."""
    if len(pieces) == 1:
        return
    names = [_parts(path) for path in pieces]
    varying = [at for at in range(len(names[0])) if len({name[at] for name in names if len(name) > at}) > 1]
    if len({len(name) for name in names}) > 1 or len(varying) != 1 or varying[0] % 2 == 0:
        raise InvalidInput(
            f"{folder}: which comes first of {pieces[0].name} and {pieces[1].name}?",
            hint="name one file, or number the pieces: part-0, part-1, …",
        )
    numbers = [int(name[varying[0]]) for name in names]
    total = re.search(r"[-_]of[-_]([0-9]+)", pieces[0].stem)
    missing = sorted(set(range(min(numbers[0], 1), numbers[-1] + 1)) - set(numbers))
    if missing or len(set(numbers)) < len(numbers) or (total is not None and int(total[1]) != len(pieces)):
        gap = f"number {missing[0]} is missing" if missing else f"{len(pieces)} of them"
        raise InvalidInput(f"{folder}: pieces {pieces[0].name} to {pieces[-1].name}: {gap}", hint="copy all of them")


def _clip(folder: Path, field: str | None) -> ArraySource:
    chosen = field or _CLIP[0]
    pieces = _numbered(folder / chosen, "npy")
    if chosen not in _CLIP or not pieces:
        raise InvalidInput(f"{folder}: holds no {chosen}/{chosen}_N.npy", hint=f"--field {' or '.join(_CLIP)}")
    sources = [_with_metadata(folder, number, open_array(path)) for number, path in pieces.items()]
    return replace(_joined(folder, sources), field=chosen)


def _with_metadata(folder: Path, number: str, piece: ArraySource) -> ArraySource:
    """A piece of clip-retrieval's with the keys that its metadata name, if there are any."""
    import pyarrow.parquet as pq

    path = folder / "metadata" / f"metadata_{number}.parquet"
    if not path.exists():
        return piece
    try:
        file = pq.ParquetFile(path)
        columns = [Column(field.name, kind_of(field.type)) for field in file.schema_arrow]
        named = choose_key(path, [column for column in columns if column.kind == "text"], None)
        keys = file.read([named]).column(0).to_pylist() if named else None
    except Exception as error:  # a damaged footer breaks pyarrow in many ways
        raise InvalidInput(f"{path}: not a Parquet file, or damaged ({first_line(error)})") from error
    if keys is None:
        return piece
    if len(keys) != piece.n or not all(isinstance(key, str) for key in keys):
        raise InvalidInput(f"{path}: has {len(keys)} keys, {piece.path} has {piece.n} rows", hint="one text a row")
    return replace(piece, keys=keys)


def _thingsvision(folder: Path, field: str | None) -> ArraySource:
    candidates = [folder / f"features.{ending}" for ending in ("npy", "pt", "hdf5")]
    whole = [path for path in candidates if path.is_file()]
    if len(whole) > 1:
        raise InvalidInput(
            f"{folder}: holds {len(whole)} arrays", hint=f"name one file of {', '.join(map(str, whole))}"
        )
    pieces = whole or [path for ending in ("npy", "pt") for path in _numbered(folder, ending, "features").values()]
    if not pieces:
        raise InvalidInput(f"{folder}: holds {_THINGSVISION_KEYS}, but no features.npy, .pt or .hdf5")
    source = _joined(folder, [open_array(path, field) for path in pieces])
    keys = read_keys(folder / _THINGSVISION_KEYS)
    if len(keys) != source.n:
        raise InvalidInput(f"{folder}: {source.n} rows, {_THINGSVISION_KEYS} has {len(keys)} keys")
    return replace(source, keys=keys)


def _numbered(folder: Path, ending: str, stem: str | None = None) -> dict[str, Path]:
    """The files NAME_NUMBER.ending of a folder by number as written, in the numbers' order."""
    pattern = re.compile(rf"{re.escape(stem or folder.name)}_(\d+)\.{ending}")
    files = {match[1]: path for path in folder.glob(f"*.{ending}") if (match := pattern.fullmatch(path.name))}
    return dict(sorted(files.items(), key=lambda item: (int(item[0]), item[0])))


def _joined(folder: Path, pieces: list[ArraySource]) -> ArraySource:
    """The pieces one below the other."""
    first = pieces[0]
    for piece in pieces:
        if (piece.dim, piece.dtype) != (first.dim, first.dtype):
            what = f"{piece.dim} numbers of {piece.dtype}, {first.path.name} has {first.dim} of {first.dtype}"
            raise InvalidInput(f"{piece.path}: rows of {what}")
    ends = list(accumulate(piece.n for piece in pieces))
    named = [piece.keys for piece in pieces if piece.keys is not None]
    if named and len(named) < len(pieces):
        raise InvalidInput(
            f"{folder}: keys for {len(named)} of {len(pieces)} pieces", hint="name them with --keys FILE"
        )

    def rows(start: int, stop: int) -> Rows:
        parts = []
        for number in range(bisect_right(ends, start), len(pieces)):
            begin = ends[number] - pieces[number].n
            if begin >= stop:
                break
            parts.append(pieces[number].read(max(start - begin, 0), min(stop - begin, pieces[number].n)))
        return np.concatenate(parts) if parts else np.empty((0, first.dim), first.dtype)

    keys = [key for part in named for key in part] if named else None
    return ArraySource(folder, None, ends[-1], first.dim, first.dtype, rows, keys)
