"""Folders that other tools write: clip-retrieval's numbered pieces with their metadata, thingsvision's features."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from qrp_store.errors import InvalidInput, first_line
from qrp_store.readers.arrays.columns import key_name
from qrp_store.readers.arrays.formats import open_array, read_keys
from qrp_store.readers.arrays.matrix import ArraySource, Rows

_CLIP = ("img_emb", "text_emb")
_THINGSVISION_KEYS = "file_names.txt"


def is_array_folder(folder: Path) -> bool:
    """Whether a folder is one of those that `open_array_folder` reads."""
    return any((folder / name).is_dir() for name in _CLIP) or (folder / _THINGSVISION_KEYS).is_file()


def open_array_folder(folder: Path, field: str | None = None) -> ArraySource:
    """The matrix in a folder of clip-retrieval (`field`: img_emb or text_emb) or of thingsvision (`file_names.txt`).

    Raises InvalidInput for pieces that do not fit together, by name.
    """
    if not any((folder / name).is_dir() for name in _CLIP):
        return _thingsvision(folder, field)
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
        named = key_name(file.schema_arrow.names)
        keys = file.read([named]).column(0).to_pylist() if named else None
    except Exception as error:  # a damaged footer breaks pyarrow in many ways
        raise InvalidInput(f"{path}: not a Parquet file, or damaged ({first_line(error)})") from error
    if keys is None:
        return piece
    if len(keys) != piece.n or not all(isinstance(key, str) for key in keys):
        raise InvalidInput(f"{path}: has {len(keys)} keys, {piece.path} has {piece.n} rows", hint="one text a row")
    return replace(piece, keys=keys)


def _thingsvision(folder: Path, field: str | None) -> ArraySource:
    found = [folder / f"features.{ending}" for ending in ("npy", "pt", "hdf5")]
    whole = [path for path in found if path.is_file()]
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
    found = {match[1]: path for path in folder.glob(f"*.{ending}") if (match := pattern.fullmatch(path.name))}
    return dict(sorted(found.items(), key=lambda item: (int(item[0]), item[0])))


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
