"""Arrays of other libraries' files and of other tools' folders: rows and keys come back as they were saved."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from qrp_store.errors import InvalidInput
from qrp_store.readers.arrays import vector_tables as tables
from qrp_store.readers.arrays.folders import is_array_folder, open_array_folder
from qrp_store.readers.arrays.formats import open_array
from qrp_store.readers.arrays.matrix import ArrayRequest

X = np.random.default_rng(0).normal(size=(37, 5)).astype(np.float32)
KEYS = [f"photos/{i}.jpg" for i in range(len(X))]


def lists(x: np.ndarray, size: int | None = None) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(x).ravel())
    if size is not None:
        return pa.FixedSizeListArray.from_arrays(flat, size)
    return pa.ListArray.from_arrays(pa.array(np.arange(len(x) + 1, dtype=np.int32) * x.shape[1]), flat)


def save_parquet(path: Path, columns: Mapping[str, object], rows: int = 10) -> None:
    pq.write_table(pa.table(dict(columns)), path, row_group_size=rows)


def save_h5(path: Path, **datasets: object) -> None:
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name.replace("__", "/")] = value


def save_csv(path: Path, x: np.ndarray, keys: list[str]) -> None:
    lines = [",".join(["filenames", *(f"embedding_{i}" for i in range(x.shape[1])), "labels"])]
    lines += [",".join([key, *map(repr, map(float, row)), "3"]) for key, row in zip(keys, x, strict=True)]
    path.write_text("\n".join(lines) + "\n")


WRITERS: Mapping[str, tuple[str, Callable[[Path], None]]] = {
    "tensor": ("x.pt", lambda p: torch.save(torch.from_numpy(X), p)),
    "tensor of an old file": (
        "x.pt",
        lambda p: torch.save(torch.from_numpy(X), p, _use_new_zipfile_serialization=False),
    ),
    "transposed parameter": ("x.pth", lambda p: torch.save(torch.nn.Parameter(torch.from_numpy(X.T.copy()).T), p)),
    "lightly's dictionary": ("x.pt", lambda p: torch.save({"filenames": KEYS, "embeddings": torch.from_numpy(X)}, p)),
    "npz with keys": ("x.npz", lambda p: np.savez(p, labels=np.arange(37), features=X, filenames=np.array(KEYS))),
    "hdf5": ("x.h5", lambda p: save_h5(p, a__features=X)),
    "hdf5 with keys": ("x.hdf5", lambda p: save_h5(p, features=X, filenames=[k.encode() for k in KEYS], n=3)),
    "list column": ("x.parquet", lambda p: save_parquet(p, {"image_path": KEYS, "v": lists(X), "label": [1] * 37})),
    "fixed-size list column": ("x.parquet", lambda p: save_parquet(p, {"v": lists(X, 5)})),
    "columns of numbers": (
        "x.parquet",
        lambda p: save_parquet(p, {"key": KEYS, **{f"f{i}": X[:, i] for i in range(5)}, "label": [1] * 37}),
    ),
    "lightly's csv": ("x.csv", lambda p: save_csv(p, X, KEYS)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_rows_and_keys_come_back_as_they_were_saved(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_BATCH_ROWS", 4)
    name, write = WRITERS[kind]
    write(tmp_path / name)
    source = open_array(tmp_path / name)
    assert (source.n, source.dim) == X.shape
    for start, stop in [(0, 10), (10, 37), (3, 4), (36, 37), (5, 5), (0, 37), (9, 31)]:
        rows = source.read(start, stop)
        assert rows.flags.c_contiguous
        np.testing.assert_array_equal(rows.astype(np.float32), X[start:stop])
    without = {"tensor", "tensor of an old file", "transposed parameter", "hdf5", "fixed-size list column"}
    assert source.keys == (None if kind in without else KEYS)


def test_bfloat16_tensors_are_read_as_float32(tmp_path: Path) -> None:
    torch.save(torch.from_numpy(X).bfloat16(), tmp_path / "x.pt")
    source = open_array(tmp_path / "x.pt")
    assert source.dtype == np.float32
    np.testing.assert_array_equal(source.read(0, 37), torch.from_numpy(X).bfloat16().float().numpy())


def test_one_of_several_is_named_by_a_field(tmp_path: Path) -> None:
    torch.save(
        {"a": torch.zeros(2, 3), "deep": {"b": torch.from_numpy(X)}, "scale": torch.tensor(1.0)}, tmp_path / "x.pt"
    )
    save_h5(tmp_path / "x.h5", a=np.zeros((2, 3)), deep__b=X)
    save_parquet(tmp_path / "x.parquet", {"a": lists(X * 2), "deep": lists(X), "f_0": X[:, 0], "f_1": X[:, 1]})
    for name, field in [("x.pt", "deep.b"), ("x.h5", "deep/b"), ("x.h5", "/deep/b"), ("x.parquet", "deep")]:
        with pytest.raises(InvalidInput, match="holds 2 arrays") as caught:
            open_array(tmp_path / name)
        assert field.strip("/") in str(caught.value.hint)
        with pytest.raises(InvalidInput, match="no array 'c'"):
            open_array(tmp_path / name, "c")
        np.testing.assert_array_equal(open_array(tmp_path / name, field).read(0, 37), X)
    np.testing.assert_array_equal(open_array(tmp_path / "x.parquet", "f_").read(0, 37), X[:, :2])


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("new", [True, False])
def test_a_pt_file_that_needs_code_is_refused_and_never_run(tmp_path: Path, new: bool) -> None:
    content = {"x": torch.zeros(2, 2), "y": Hostile(tmp_path / "ran")}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(InvalidInput, match="would run code"):
        open_array(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


def save_h5_in_part(path: Path, chunks: tuple[int, int] | None, rows: int) -> None:
    """As a job leaves it that was killed while it wrote."""
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", (len(X), 3), "f4", chunks=chunks)
        if rows:
            x[:rows] = X[:rows, :3]


def save_virtual_h5(path: Path) -> None:
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource("there.h5", "x", (4, 3))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("x", layout)


def ragged(path: Path) -> None:
    save_parquet(path, {"v": [[1.0, 2.0]] * 20 + [[1.0]]})


BAD: Mapping[str, tuple[str, Callable[[Path], object], str]] = {
    "no rows in pt": ("x.pt", lambda p: torch.save(torch.zeros(0, 3), p), "empty"),
    "one dimension": ("x.pt", lambda p: torch.save(torch.zeros(3), p), "shape"),
    "a number": ("x.pt", lambda p: torch.save(torch.tensor(3.0), p), "shape"),
    "complex": ("x.pt", lambda p: torch.save(torch.zeros(3, 2, dtype=torch.complex64), p), "complex64"),
    "sparse": ("x.pt", lambda p: torch.save(torch.eye(3).to_sparse(), p), "sparse"),
    "no tensor": ("x.pt", lambda p: torch.save({"a": 1}, p), "0 arrays"),
    "no torch file": ("x.pt", lambda p: p.write_bytes(b"hello"), "not a PyTorch file"),
    "wrong number of names": ("x.pt", lambda p: torch.save({"keys": KEYS[:5], "x": torch.zeros(3, 2)}, p), "5 keys"),
    "other names in npz": ("x.npz", lambda p: np.savez(p, x=X, keys=np.array(["a"])), "37 rows and 1 keys"),
    "names alone in npz": ("x.npz", lambda p: np.savez(p, keys=np.array(KEYS), y=np.arange(3)), "shape"),
    "no rows in h5": ("x.h5", lambda p: save_h5(p, x=np.zeros((0, 3))), "empty"),
    "objects in h5": ("x.h5", lambda p: save_h5(p, x=[[b"a", b"b"]]), "texts"),
    "half of an h5": ("x.h5", lambda p: save_h5_in_part(p, (10, 3), 9), "3 of its 4 chunks were never written"),
    "an h5 never written": ("x.h5", lambda p: save_h5_in_part(p, None, 0), "was never written"),
    "an h5 of other files' parts": ("x.h5", lambda p: save_virtual_h5(p), r"in other files \('there.h5'\)"),
    "no h5 file": ("x.h5", lambda p: p.write_bytes(b"hello"), "not an HDF5 file"),
    "nothing in h5": ("x.h5", lambda p: save_h5(p), "0 arrays"),
    "no rows in parquet": (
        "x.parquet",
        lambda p: save_parquet(p, {"v": pa.array([], pa.list_(pa.float32()))}),
        "empty",
    ),
    "vectors of two lengths": ("x.parquet", ragged, "a vector has 1 numbers, the first has 2"),
    "a vector of integers missing": (
        "x.parquet",
        lambda p: save_parquet(p, {"v": [[1], None]}),
        "row 1: a value is missing",
    ),
    "an integer missing": ("x.parquet", lambda p: save_parquet(p, {"v": [[1], [None]]}), "row 1: a value is missing"),
    "texts alone": ("x.parquet", lambda p: save_parquet(p, {"key": ["a"], "b": ["c"]}), "no column holds vectors"),
    "no parquet file": ("x.parquet", lambda p: p.write_bytes(b"hello"), "not a Parquet file"),
    "a key missing": (
        "x.parquet",
        lambda p: save_parquet(p, {"key": ["a", None], "v": [[1.0]] * 2}),
        "row 1: the key in 'key' is missing",
    ),
    "no numbers in csv": ("x.csv", lambda p: p.write_text("key,a\nx,1\ny,two\n"), "rows 0:2|no column holds"),
    "nothing in csv": ("x.csv", lambda p: p.write_text(""), "not a CSV file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_matrix_of_numbers_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    name, write, said = BAD[kind]
    write(tmp_path / name)
    with pytest.raises(InvalidInput, match=said) as caught:
        open_array(tmp_path / name).digest()
    assert name in caught.value.message


def clip(folder: Path, cuts: tuple[int, ...] = (0, 20, 37), metadata: bool = True) -> Path:
    for number, (start, stop) in enumerate(pairwise(cuts)):
        for name in ("img_emb", "text_emb", "metadata"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", X[start:stop])
        np.save(folder / "text_emb" / f"text_emb_{number}.npy", -X[start:stop])
        if metadata:
            table = pa.table({"image_path": KEYS[start:stop], "caption": ["c"] * (stop - start)})
            pq.write_table(table, folder / "metadata" / f"metadata_{number}.parquet")
    return folder


def test_a_clip_retrieval_folder(tmp_path: Path) -> None:
    cuts = (0, *range(4, 37, 3), 37)  # more than ten pieces: numbers, not names, order them
    folder = clip(tmp_path / "c", cuts)
    source = open_array_folder(folder)
    assert source.keys == KEYS
    for start, stop in [(0, 37), (2, 9), (36, 37), (7, 7)]:
        np.testing.assert_array_equal(source.read(start, stop), X[start:stop])
    np.testing.assert_array_equal(open_array_folder(folder, ArrayRequest("text_emb")).read(0, 37), -X)
    assert open_array_folder(clip(tmp_path / "d", metadata=False)).keys is None
    with pytest.raises(InvalidInput, match="no other"):
        open_array_folder(folder, ArrayRequest("other"))


def test_pieces_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    folder = clip(tmp_path / "c")
    np.save(folder / "img_emb" / "img_emb_1.npy", X[20:, :3])
    with pytest.raises(InvalidInput, match=r"img_emb_1\.npy: rows of 3 numbers"):
        open_array_folder(folder)
    np.save(folder / "img_emb" / "img_emb_1.npy", X[21:])
    with pytest.raises(InvalidInput, match=r"metadata_1\.parquet: has 17 keys"):
        open_array_folder(folder)
    (folder / "metadata" / "metadata_1.parquet").unlink()
    with pytest.raises(InvalidInput, match="keys for 1 of 2 pieces"):
        open_array_folder(folder)


def test_a_thingsvision_folder(tmp_path: Path) -> None:
    (tmp_path / "file_names.txt").write_text("".join(f"{key}\n" for key in KEYS))
    assert is_array_folder(tmp_path)
    with pytest.raises(InvalidInput, match=r"no features\.npy"):
        open_array_folder(tmp_path)
    for number, part in enumerate(np.array_split(X, 12), start=1):
        np.save(tmp_path / f"features_{number:02}.npy", part)
    pieces = open_array_folder(tmp_path)
    np.save(tmp_path / "features.npy", X)
    for source in (pieces, open_array_folder(tmp_path)):
        assert source.keys == KEYS
        np.testing.assert_array_equal(source.read(0, 37), X)
    torch.save(torch.from_numpy(X), tmp_path / "features.pt")
    with pytest.raises(InvalidInput, match="2 arrays"):
        open_array_folder(tmp_path)
    (tmp_path / "features.pt").unlink()
    (tmp_path / "file_names.txt").write_text("a\n")
    with pytest.raises(InvalidInput, match="37 rows"):
        open_array_folder(tmp_path)


def test_a_folder_of_numbered_pieces(tmp_path: Path) -> None:
    parts = np.array_split(np.arange(37), 12)
    for number, part in enumerate(parts):
        for name in ("npy", "parquet"):
            (tmp_path / name).mkdir(exist_ok=True)
        np.save(tmp_path / "npy" / f"part-{number}.npy", X[part])
        table = pa.table({"id": [KEYS[i] for i in part], "v": lists(X[part]), "label": [1] * len(part)})
        pq.write_table(table, tmp_path / "parquet" / f"part-{number:05}-of-00012-ab1c.parquet")
    (tmp_path / "parquet" / "_SUCCESS").touch()
    for name, keys in (("npy", None), ("parquet", KEYS)):
        assert is_array_folder(tmp_path / name)
        source = open_array_folder(tmp_path / name)
        assert source.keys == keys
        for start, stop in [(0, 37), (2, 9), (36, 37), (7, 7)]:
            np.testing.assert_array_equal(source.read(start, stop), X[start:stop])
    next((tmp_path / "parquet").glob("part-00011*")).unlink()
    with pytest.raises(InvalidInput, match="11 of them"):
        open_array_folder(tmp_path / "parquet")
    (tmp_path / "npy" / "part-4.npy").unlink()
    with pytest.raises(InvalidInput, match="number 4 is missing"):
        open_array_folder(tmp_path / "npy")
    np.save(tmp_path / "npy" / "test.npy", X)
    with pytest.raises(InvalidInput, match="which comes first"):
        open_array_folder(tmp_path / "npy")
