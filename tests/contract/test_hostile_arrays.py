"""Arrays made to read other files or to take all memory: exit 4 with the name, and nothing of them in the store."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

WHERE = ("--dataset", "d", "--backbone", "b")
X = np.arange(40, dtype="u1").reshape(10, 4)


def external_h5(path: Path, member: str = "x") -> None:
    (path.parent / "secret").write_bytes(b"secret-secret-secret-secret-secret-secret-secret")
    with h5py.File(path, "w") as file:
        if member == "x":
            file.create_dataset("x", (10, 4), dtype="u1", external=[(str(path.parent / "secret"), 0, 40)])
        else:
            file["x"] = X
            file.create_dataset("keys", (10,), "S4", external=[(str(path.parent / "secret"), 0, 40)])


def virtual_h5(path: Path) -> None:
    with h5py.File(path.parent / "other.h5", "w") as file:
        file["y"] = X
    layout = h5py.VirtualLayout((10, 4), "u1")
    layout[:] = h5py.VirtualSource(path.parent / "other.h5", "y", (10, 4))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("x", layout)


def linked_h5(path: Path) -> None:
    with h5py.File(path.parent / "other.h5", "w") as file:
        file["y"] = X
    with h5py.File(path, "w") as file:
        file["x"] = h5py.ExternalLink(str(path.parent / "other.h5"), "y")


def linked_zarr(path: Path) -> None:
    zarr.create_array(path, data=X, chunks=(10, 4), compressors=None)
    (path.parent / "secret").write_bytes(b"s" * 40)
    (path / "c/0/0").unlink()
    os.symlink(path.parent / "secret", path / "c/0/0")


def huge_zarr(path: Path, shape: list[int], chunks: list[int]) -> None:
    zarr.create_array(path, data=X, chunks=(10, 4))
    document = json.loads((path / "zarr.json").read_text())
    document["shape"] = shape
    document["chunk_grid"]["configuration"]["chunk_shape"] = chunks
    (path / "zarr.json").write_text(json.dumps(document))


def bomb_npz(path: Path, length: int, rows: int) -> None:
    np.savez_compressed(path, x=np.zeros((rows, 2), "f4"), keys=np.full(rows, "a" * length))


def safetensors(path: Path, header: str) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(64))


def repeated_text(path: Path) -> None:
    table = pa.table({"key": pa.array(["k" * 200_000] * 20_000).dictionary_encode(), "v": [[1.0]] * 20_000})
    pq.write_table(table, path)


HOSTILE: Mapping[str, tuple[str, Callable[[Path], object], str]] = {
    "external storage": ("x.h5", external_h5, "other files"),
    "external keys": ("x.h5", lambda p: external_h5(p, "keys"), "other files"),
    "a virtual dataset": ("x.h5", virtual_h5, "other files"),
    "an external link": ("x.h5", linked_h5, "x.h5"),
    "a link in zarr": ("x.zarr", linked_zarr, "link out of"),
    "a zarr of many chunks": ("x.zarr", lambda p: huge_zarr(p, [90_000_000, 10_000_000], [1, 1]), "missing"),
    "a zarr of many rows": ("x.zarr", lambda p: huge_zarr(p, [10**15, 4], [10**15, 4]), "rows"),
    "a zarr of one large chunk": ("x.zarr", lambda p: huge_zarr(p, [90_000_000, 4000], [90_000_000, 4000]), "chunks"),
    "long keys in npz": ("x.npz", lambda p: bomb_npz(p, 200_000, 200), "at most"),
    "many keys in npz": ("x.npz", lambda p: bomb_npz(p, 8_000, 10_000), "characters a row"),
    "long keys in parquet": ("x.parquet", repeated_text, "characters a row"),
    "infinity in safetensors": (
        "x.safetensors",
        lambda p: safetensors(p, '{"x":{"dtype":"F32","shape":[Infinity,2],"data_offsets":[0,64]}}'),
        "damaged",
    ),
    "a nested safetensors header": ("x.safetensors", lambda p: safetensors(p, "[" * 100_000), "damaged"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_arrays_are_refused_in_bounded_memory(qrp: Any, store: Path, files: Any, kind: str) -> None:
    import resource

    name, write, word = HOSTILE[kind]
    write(files.folder / name)
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    told = qrp.fails(4, "ingest", files.folder / name, *WHERE, store=store)
    assert name in told
    assert word in told
    assert qrp.rows("ls", "embeddings", store=store) == []
    # KiB, the largest of all children so far: other tests may have had larger ones in this process
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= max(largest, 2 << 20)


def test_a_sharded_zarr_array_is_read(qrp: Any, store: Path, files: Any) -> None:
    x = np.random.default_rng(0).normal(size=(23, 4)).astype("f4")
    zarr.create_array(files.folder / "x.zarr", data=x, chunks=(2, 4), shards=(10, 4))
    assert qrp.ok("ingest", files.folder / "x.zarr", *WHERE, store=store)["n"] == 23
