"""Embeddings that somebody else computed: a two-dimensional array in a file, read row by row in bounded memory.

Nothing is ever unpickled. A format is one function `(path, wanted) -> ArraySource` in `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from qrp_store.errors import InvalidInput, NotFound
from qrp_store.readers.arrays.matrix import ArrayRequest, ArraySource
from qrp_store.readers.arrays.nested import read_hdf5, read_pt
from qrp_store.readers.arrays.plain import read_npy, read_npz, read_safetensors
from qrp_store.readers.arrays.vector_tables import read_csv, read_parquet
from qrp_store.readers.compressed import refuse_compressed
from qrp_store.samples import check_keys


def open_array(
    path: Path, field: str | None = None, key_column: str | None = None, *, keyed: bool = False
) -> ArraySource:
    """Open the matrix in a file, by its ending. `field` names one of several arrays or columns, `key_column` the one
    that holds the keys; `keyed`: the keys come from elsewhere.

    Reads the header only. Raises NotFound when there is no such file; InvalidInput, naming file and fault, for an
    unknown ending, a damaged or truncated file, a pickled array, and whatever is not a non-empty matrix of numbers.
    """
    if not path.exists():
        raise NotFound(f"{path}: no such file")
    reader = READERS.get(path.suffix.lower())
    try:
        refuse_compressed(path)
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror or error})") from error
    if reader is None or not path.is_file():  # a pipe would be waited for
        raise InvalidInput(
            f"{path}: not a kind of array file that can be read", hint="known endings: " + " ".join(sorted(READERS))
        )
    try:
        return reader(path, ArrayRequest(field, key_column, keyed))
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror or error})") from error


def read_keys(path: Path) -> list[str]:
    """The keys of an array's rows: a UTF-8 text file with one per line; spaces are part of a key.

    Raises NotFound, or InvalidInput naming the line of an empty key, a duplicate, a NUL or undecodable bytes.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file") from error
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"{path}: line {line} is not UTF-8", hint="save the file as UTF-8") from error
    keys = text.removesuffix("\n").split("\n") if text else []
    keys = [key.removesuffix("\r") for key in keys]
    check_keys(keys, str(path), place="line")
    return keys


READERS: Mapping[str, Callable[[Path, ArrayRequest], ArraySource]] = {
    ".csv": read_csv,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".npy": read_npy,
    ".npz": read_npz,
    ".parquet": read_parquet,
    ".pt": read_pt,
    ".pth": read_pt,
    ".safetensors": read_safetensors,
    ".tsv": read_csv,
}
