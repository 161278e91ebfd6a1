"""The `zarr.json` documents: made by zarr itself, kept through a Root, read back without zarr."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from qrp_store.arrays.root import Root
from qrp_store.errors import Corrupt, InvalidInput, NotFound, Unavailable

DTYPES = ("float16", "float32", "float64", "uint8", "int32", "int64")
_LAYOUT = ("shape", "data_type", "chunk_grid", "chunk_key_encoding", "codecs", "fill_value", "node_type", "zarr_format")


def put_metadata(
    root: Root,
    path: str,
    shape: tuple[int, ...],
    chunk: tuple[int, ...],
    dtype: str,
    dimension_names: tuple[str, ...] | None = None,
    attributes: Mapping[str, Any] | None = None,
    *,
    replace: bool = False,
) -> None:
    """Write the metadata of the array at `path` and of the group it lies in, unless the same is there already.

    Corrupt when an array of another layout is there, unless `replace`; InvalidInput for a dtype that is not stored.
    """
    if dtype not in DTYPES:
        raise InvalidInput(f"array {path}: dtype {dtype} is not stored", hint=f"use one of {', '.join(DTYPES)}")
    group, _, _ = path.rpartition("/")
    _put_group(root, group)
    fresh = _array_document(path, shape, chunk, dtype, dimension_names, attributes)
    try:
        existing = None if replace else read_metadata(root, path)
    except NotFound:
        existing = None
    if existing is None:
        root.put(f"{path}/zarr.json", fresh, replace=replace)
        return
    other = _other_layout(existing, json.loads(fresh))
    if other is not None:
        raise Corrupt(f"array {path}: already there with {other}")


def metadata_problem(
    root: Root, path: str, shape: tuple[int, ...], chunk: tuple[int, ...], dtype: str, dimension_names: tuple[str, ...]
) -> str | None:
    """What is wrong with the metadata of an array and of the group it lies in, or None."""
    if not root.exists(f"{path.rpartition('/')[0]}/zarr.json"):
        return "of its group is missing"
    try:
        existing = read_metadata(root, path)
    except NotFound:
        return "is missing"
    except Corrupt as error:
        return f"is damaged ({error.message})"
    other = _other_layout(existing, json.loads(_array_document(path, shape, chunk, dtype, dimension_names, None)))
    return None if other is None else f"says {other}"


def _other_layout(stored: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    # Written by another zarr the text may differ where the meaning does not.
    differs = next((key for key in _LAYOUT if stored.get(key) != expected[key]), None)
    return None if differs is None else f"{differs} {stored.get(differs)}, not {expected[differs]}"


def read_metadata(root: Root, path: str) -> dict[str, Any]:
    """The array's `zarr.json`. NotFound when there is none, Corrupt when it is no JSON document of an array."""
    text = root.get(f"{path}/zarr.json")
    try:
        document = json.loads(text)
        if document["node_type"] != "array":
            raise ValueError(f"node_type {document['node_type']}")
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"array {path}: its zarr.json is damaged ({error})") from error
    return cast(dict[str, Any], document)


def _array_document(
    path: str,
    shape: tuple[int, ...],
    chunk: tuple[int, ...],
    dtype: str,
    dimension_names: tuple[str, ...] | None,
    attributes: Mapping[str, Any] | None,
) -> bytes:
    zarr, codec, memory = _zarr()
    kept: dict[str, Any] = {}
    zarr.create_array(
        memory(kept),
        shape=shape,
        chunks=chunk,
        dtype=dtype,
        filters=None,
        compressors=(codec(),),
        # A plain reader that meets a missing chunk then sees NaN, never a believable zero.
        fill_value=float("nan") if np.dtype(dtype).kind == "f" else 0,
        dimension_names=dimension_names,
        attributes=dict(attributes) if attributes else None,
        zarr_format=3,
    )
    return bytes(kept["zarr.json"].to_bytes())


def _put_group(root: Root, path: str) -> None:
    place = f"{path}/zarr.json" if path else "zarr.json"
    if root.exists(place):
        return
    zarr, _, memory = _zarr()
    kept: dict[str, Any] = {}
    zarr.create_group(memory(kept), zarr_format=3)
    root.put(place, bytes(kept["zarr.json"].to_bytes()))


def _zarr() -> tuple[Any, Any, Any]:
    try:
        import zarr
        from zarr.codecs import Crc32cCodec
        from zarr.storage import MemoryStore
    except ImportError as error:
        raise Unavailable("writing arrays needs zarr", hint="pip install qrp-store") from error
    return zarr, Crc32cCodec, MemoryStore
