"""Arrays in files that only one library reads: PyTorch's .pt and HDF5. One of several is named by `--field`."""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qrp_store.errors import InvalidInput, Unavailable, first_line
from qrp_store.readers.arrays.columns import Columns
from qrp_store.readers.arrays.matrix import ArrayRequest, ArraySource, Rows, choose_arrays, matrix, with_columns
from qrp_store.samples import shown

_CHUNK_BYTES = 2 << 30
_CELLS = 65_536  # keys read at once


def read_pt(path: Path, request: ArrayRequest) -> ArraySource:
    """A tensor, or one of a (nested) dictionary, its name's parts joined by dots. Mapped from the file where the file
    is of PyTorch's zip format, else loaded whole."""
    try:
        import torch
    except ImportError as error:
        raise Unavailable(f"{path}: .pt files need torch", hint="pip install 'qrp-store[cpu]'") from error
    content = _load(path)
    tensors: dict[str, torch.Tensor] = {}
    texts: dict[str, list[object]] = {}
    _collect(content, "", tensors, texts)
    field, roles = request.field, None
    if not isinstance(content, torch.Tensor) or field is not None or request.key_column is not None:
        by_size = {n: [name for name, tensor in tensors.items() if tensor.ndim == n] for n in (1, 2)}
        whole = [name for name, cells in texts.items() if not any(isinstance(cell, str) for cell in cells)]
        numbers = by_size[1] + whole
        others = [name for name, tensor in tensors.items() if tensor.ndim not in by_size]
        roles = choose_arrays(path, by_size[2], [n for n in texts if n not in numbers], numbers, others, request)
        (field,) = roles.vector
        if field not in tensors:
            raise InvalidInput(f"{path}[{field}]: a list, not a matrix", hint="--field names the matrix")
    tensor = tensors[field or ""].detach()
    name = str(path) if field is None else f"{path}[{field}]"
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise InvalidInput(f"{name}: a sparse or quantized tensor", hint="save numbers: tensor.to_dense().float()")
    short = tensor.dtype == torch.bfloat16  # numpy has none
    try:
        kind = torch.empty(0, dtype=torch.float32 if short else tensor.dtype).numpy().dtype
    except TypeError as error:
        raise InvalidInput(f"{name}: numbers of type {tensor.dtype}", hint="save tensor.float()") from error

    def rows(start: int, stop: int) -> Rows:
        part = tensor[start:stop]
        numbers: Rows = (part.float() if short else part.resolve_conj()).contiguous().numpy()
        return numbers

    source = matrix(path, field, tuple(tensor.shape), kind, rows)

    def keys() -> list[object]:
        name = "" if roles is None or roles.key is None else roles.key
        return texts[name] if name in texts else tensors[name].tolist()

    return source if roles is None else with_columns(source, roles, keys)


def _load(path: Path) -> object:
    import torch

    def load(mapped: bool) -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)

    try:
        try:
            return load(True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            return load(False)  # the format before PyTorch 1.6
    except pickle.UnpicklingError as error:
        raise InvalidInput(
            f"{path}: not a PyTorch file, or one that would run code to be read ({first_line(error)})",
            hint="save tensors alone: torch.save(features, …), or with their names: {'filenames': […], 'features': …}",
        ) from error
    except Exception as error:  # a damaged file breaks the reader in many ways
        raise InvalidInput(f"{path}: not a PyTorch file, or damaged ({first_line(error)})") from error


def _collect(content: object, name: str, tensors: dict[str, Any], texts: dict[str, list[object]]) -> None:
    """Every tensor and every list of texts or whole numbers in nested dictionaries, by dotted name."""
    import torch

    if isinstance(content, torch.Tensor):
        tensors[name] = content
    elif isinstance(content, (list, tuple)) and any(isinstance(cell, (str, int)) for cell in content):
        texts[name] = list(content)
    elif isinstance(content, Mapping):
        for key, value in content.items():
            _collect(value, f"{name}.{key}" if name else str(key), tensors, texts)


def read_hdf5(path: Path, request: ArrayRequest) -> ArraySource:
    """A dataset of an HDF5 file, by its path inside; keys are a dataset of texts beside it."""
    try:
        import h5py
    except ImportError as error:
        raise Unavailable(f"{path}: HDF5 files need h5py", hint="pip install 'qrp-store[hdf5]'") from error
    datasets: dict[str, Any] = {}

    def visit(name: str, member: Any) -> None:
        if isinstance(member, h5py.Dataset):
            datasets[name] = member

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
            roles = _hdf5_roles(path, datasets, request)
            (field,) = roles.vector
            shape, dtype = tuple(datasets[field].shape), datasets[field].dtype
            for name in (field, roles.key or field):
                _refuse_other_files(path, name, datasets[name])
            unwritten = _unwritten(datasets[field])
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{path}: not an HDF5 file, or damaged ({first_line(error)})") from error

    def rows(start: int, stop: int) -> Rows:
        with h5py.File(path, "r") as file:
            part: Rows = file[field][start:stop]
            return part

    source = matrix(path, field, shape, dtype, rows)
    if unwritten is not None:  # it would read as the fill value without a word
        raise InvalidInput(f"{path}[{field}]: {unwritten}", hint="let what writes it finish, or copy it again")
    return with_columns(source, roles, lambda: _hdf5_cells(path, roles.key or ""))


def _hdf5_roles(path: Path, datasets: Mapping[str, Any], request: ArrayRequest) -> Columns:
    """The roles of a file's datasets."""
    import h5py

    kinds: dict[str, list[str]] = {"matrix": [], "text": [], "number": [], "other": []}
    for name, member in datasets.items():
        is_text = h5py.check_string_dtype(member.dtype) is not None
        kind = "other" if is_text else "matrix" if member.ndim == 2 else "other"
        if member.ndim == 1:
            kind = "text" if is_text else "number" if member.dtype.kind in "iuf" else "other"
        kinds[kind].append(name)
    field = None if request.field is None else request.field.strip("/")
    key_column = None if request.key_column is None else request.key_column.strip("/")
    request = replace(request, field=field, key_column=key_column)
    return choose_arrays(path, kinds["matrix"], kinds["text"], kinds["number"], kinds["other"], request)


def _hdf5_cells(path: Path, name: str) -> Iterator[object]:
    import h5py

    with h5py.File(path, "r") as file:
        member = file[name]
        for start in range(0, len(member), _CELLS):
            yield from member[start : start + _CELLS].tolist()


def _refuse_other_files(path: Path, name: str, dataset: Any) -> None:
    """Raise InvalidInput for a dataset whose bytes are another file's, which may be any that this user can read; and
    for chunks too large to be decoded whole."""
    if dataset.external is not None:
        others = sorted({str(part[0]) for part in dataset.external})
    elif dataset.is_virtual:
        others = sorted({part.file_name for part in dataset.virtual_sources()} - {"."})
    else:
        others = []
    if others:
        raise InvalidInput(
            f"{path}[{name}]: its numbers are in other files ({', '.join(map(shown, others[:3]))})",
            hint="copy them into one file: h5py's file.create_dataset(name, data=other[name][:])",
        )
    if dataset.chunks is not None and math.prod(dataset.chunks) * dataset.dtype.itemsize > _CHUNK_BYTES:
        raise InvalidInput(f"{path}[{name}]: chunks of more than {_CHUNK_BYTES >> 30} GiB", hint="write smaller chunks")


def _unwritten(dataset: Any) -> str | None:
    """Which parts of an HDF5 dataset have no numbers, in words; None when all have."""
    if dataset.is_virtual:
        return None
    if dataset.chunks is None or not dataset.size:
        never = dataset.size and not dataset.id.get_storage_size()
        return "was never written" if never else None
    expected = math.prod(-(-extent // step) for extent, step in zip(dataset.shape, dataset.chunks, strict=True))
    missing = expected - int(dataset.id.get_num_chunks())
    return f"{missing} of its {expected} chunks were never written" if missing else None
