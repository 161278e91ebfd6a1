"""`ingest SOURCE` for every kind of array: what comes out, and what bad ones get."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zarr

WHERE = ("--dataset", "d", "--backbone", "b")
X = np.random.default_rng(0).normal(size=(25, 4)).astype(np.float32)
KEYS = [f"a/{i:02}.jpg" for i in range(25)]


def save_h5(path: Path, **members: object) -> None:
    with h5py.File(path, "w") as file:
        for name, member in members.items():
            file[name] = member


def save_h5_in_part(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", X.shape, "f4", chunks=(13, 4))[:13] = X[:13]


def save_zarr(path: Path, x: np.ndarray, form: int = 3, member: str | None = None) -> None:
    if member is not None:
        zarr.open_group(path, mode="w", zarr_format=form)
        path = path / member
    zarr.create_array(path, data=x, chunks=(10, x.shape[1]), zarr_format=form, overwrite=True)


def save_clip(path: Path, x: np.ndarray, keys: list[str]) -> None:
    (path / "img_emb").mkdir(parents=True)
    (path / "metadata").mkdir()
    for number, part in enumerate((slice(0, 9), slice(9, None))):
        np.save(path / "img_emb" / f"img_emb_{number}.npy", x[part])
        pq.write_table(pa.table({"image_path": keys[part]}), path / "metadata" / f"metadata_{number}.parquet")


def save_pieces(path: Path, ending: str) -> None:
    path.mkdir()
    for number, part in enumerate(np.array_split(X, 11)):
        file = path / f"part_{number}.{ending}"
        np.save(file, part) if ending == "npy" else pq.write_table(pa.table({"v": list(part)}), file)


GOOD: Mapping[str, tuple[str, Callable[[Path], None]]] = {
    "pt": ("x.pt", lambda p: torch.save(torch.from_numpy(X), p)),
    "h5": ("x.h5", lambda p: save_h5(p, x=X)),
    "parquet": ("x.parquet", lambda p: pq.write_table(pa.table({"v": list(X)}), p, row_group_size=7)),
    "zarr 2": ("x.zarr", lambda p: save_zarr(p, X, 2)),
    "zarr 3": ("x.zarr", lambda p: save_zarr(p, X, 3)),
    "zarr group": ("somewhere", lambda p: save_zarr(p, X, 3, "x")),
    "pieces of npy": ("pieces", lambda p: save_pieces(p, "npy")),
    "pieces of parquet": ("pieces", lambda p: save_pieces(p, "parquet")),
    "clip-retrieval": ("clip", lambda p: save_clip(p, X, KEYS)),
}


def stored(sql: Any, store: Path, backbone: str = "b") -> np.ndarray:
    (row,) = sql(store, "SELECT array_url FROM embeddings WHERE is_newest AND backbone = ?", backbone)
    return np.asarray(zarr.open_array(row["array_url"], mode="r")[:])


@pytest.mark.parametrize("kind", GOOD)
def test_an_array_of_any_kind_is_stored_as_it_is(qrp: Any, store: Path, files: Any, sql: Any, kind: str) -> None:
    name, write = GOOD[kind]
    write(files.folder / name)
    report = qrp.ok("ingest", files.folder / name, *WHERE, "--block-rows", 8, store=store)
    assert (report["n"], report["dim"]) == (25, 4)
    np.testing.assert_array_equal(stored(sql, store), X)
    assert qrp.ok("ingest", files.folder / name, *WHERE, store=store)["cached"]


def test_the_files_own_keys_put_the_rows_in_the_datasets_order(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    qrp.ok("ingest", files.array(X), "--keys", files.keys(KEYS), *WHERE, store=store)
    order = np.random.default_rng(1).permutation(25)
    mixed = ["/data/photos/" + KEYS[i] for i in order]
    save_clip(files.folder / "clip", X[order] * 2, mixed)
    torch.save({"filenames": mixed, "embeddings": torch.from_numpy(X[order] * 3)}, files.folder / "x.pt")
    np.savez(files.folder / "x.npz", filenames=np.array(mixed), embeddings=X[order] * 4)
    for name, factor in (("clip", 2), ("x.pt", 3), ("x.npz", 4)):
        where = ("--dataset", "d", "--backbone", name)
        assert "/data/photos/a/" in qrp.fails(4, "ingest", files.folder / name, *where, store=store)
        told = qrp.fails(4, "ingest", files.folder / name, *where, "--key-root", "/data/other", store=store)
        assert "/data/other" in told
        qrp.ok("ingest", files.folder / name, *where, "--key-root", "/data/photos", "--block-rows", 6, store=store)
        np.testing.assert_array_equal(stored(sql, store, name), X * factor)


def test_given_keys_go_before_the_files_own(qrp: Any, store: Path, files: Any) -> None:
    torch.save({"keys": KEYS, "x": torch.from_numpy(X)}, files.folder / "x.pt")
    others = [key.upper() for key in KEYS]
    qrp.ok("ingest", files.folder / "x.pt", "--keys", files.keys(others), *WHERE, store=store)
    out = files.folder / "out.parquet"
    qrp.ok("export", "embedding", *WHERE, "-o", out, store=store)
    assert pq.read_table(out).column("key").to_pylist() == others


BAD: Mapping[str, tuple[str, Callable[[Path], Any], str]] = {
    "pickle": ("x.pt", lambda p: p.write_bytes(pickle.dumps(print)), "x.pt"),
    "objects": ("x.pt", lambda p: torch.save({"x": np.array([["a"]], object)}, p), "x.pt"),
    "empty pt": ("x.pt", lambda p: torch.save(torch.zeros(0, 4), p), "empty"),
    "three dimensions": ("x.pt", lambda p: torch.save(torch.zeros(2, 2, 2), p), "shape"),
    "empty h5": ("x.h5", lambda p: save_h5(p, x=np.zeros((0, 4))), "empty"),
    "h5 written in part": ("x.h5", lambda p: save_h5_in_part(p), "1 of its 2 chunks were never written"),
    "texts in h5": ("x.h5", lambda p: save_h5(p, x=np.array([[b"a"]])), "x.h5"),
    "vectors of two lengths": (
        "x.parquet",
        lambda p: pq.write_table(pa.table({"v": [[1.0], [1.0, 2.0]]}), p),
        "vector",
    ),
    "duplicate keys": (
        "x.parquet",
        lambda p: pq.write_table(pa.table({"key": ["k", "k"], "v": [[1.0]] * 2}), p),
        "'k'",
    ),
    "rows that are not keys": ("x.pt", lambda p: torch.save({"keys": KEYS[:3], "x": torch.zeros(2, 2)}, p), "3 keys"),
    "empty zarr": ("x.zarr", lambda p: zarr.create_array(p, shape=(0, 3), dtype="f4"), "empty"),
    "text in zarr": ("x.zarr", lambda p: zarr.create_array(p, shape=(3, 3), dtype="bool"), "bool"),
    "missing chunks": ("x.zarr", lambda p: zarr.create_array(p, shape=(9, 3), chunks=(3, 3), dtype="f4"), "3 chunks"),
    "no zarr": ("x.zarr", lambda p: p.mkdir(), "x.zarr"),
    "damaged zarr": ("x.zarr", lambda p: (p.mkdir(), (p / "zarr.json").write_text('{"zarr_format": 3')), "x.zarr"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_arrays_are_exit_4_and_nothing_shows(qrp: Any, store: Path, files: Any, kind: str) -> None:
    name, write, said = BAD[kind]
    write(files.folder / name)
    assert said in qrp.fails(4, "ingest", files.folder / name, *WHERE, store=store)
    for what in ("datasets", "backbones", "embeddings"):
        assert qrp.rows("ls", what, store=store) == []


def test_another_dimension_under_the_same_backbone_is_refused(qrp: Any, store: Path, files: Any) -> None:
    qrp.ok("ingest", files.array(X), *WHERE, store=store)
    save_h5(files.folder / "x.h5", x=X[:, :3])
    told = qrp.fails(4, "ingest", files.folder / "x.h5", *WHERE, "--force", store=store)
    assert "dim: 4 there, 3 here" in told


def test_the_roles_of_a_tables_columns_are_printed_and_recorded(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    header = ["", "filename", *(f"feat_{i}" for i in range(4)), "class_id"]
    lines = [[i, key, *map(repr, map(float, x)), i % 3] for i, (key, x) in enumerate(zip(KEYS, X, strict=True))]
    path = files.folder / "x.csv"
    path.write_text("\n".join(",".join(map(str, line)) for line in [header, *lines]) + "\n")
    ran = qrp.run("ingest", path, *WHERE, "--json", store=store)
    roles = {"vector": header[2:6], "key": "filename", "left_out": ["", "class_id"]}
    assert ran.json["columns"] == roles
    assert "vector feat_0 … feat_3 (4 columns); key filename; left out '', class_id" in ran.err
    np.testing.assert_array_equal(stored(sql, store), X)
    assert qrp.ok("show", ran.json["id"], store=store)["provenance"]["columns"] == roles
    again = qrp.ok("ingest", path, *WHERE, store=store)
    assert again["cached"]
    assert again["columns"] == roles
    path.write_text(path.read_text().replace("feat_0", "red").replace("feat_1", "green").replace("feat_2", "blue"))
    told = qrp.fails(4, "ingest", path, "--dataset", "d", "--backbone", "c", store=store)
    assert "'class_id'" in told
    assert "--field" in told
    named = qrp.ok(
        *("ingest", path, "--dataset", "d", "--backbone", "c", "--field", "red,green,blue", "--key-column", "filename"),
        store=store,
    )
    assert named["columns"]["vector"] == ["red", "green", "blue"]


def test_a_missing_vector_is_a_bad_row_named_by_its_key(qrp: Any, store: Path, files: Any) -> None:
    table = pa.table({"id": KEYS, "v": [None if i == 7 else list(x) for i, x in enumerate(X)]})
    pq.write_table(table, files.folder / "x.parquet")
    assert f"'{KEYS[7]}'" in qrp.fails(4, "ingest", files.folder / "x.parquet", *WHERE, store=store)
    report = qrp.ok("ingest", files.folder / "x.parquet", *WHERE, "--skip-bad", store=store)
    assert (report["n"], report["n_bad"]) == (25, 1)
