"""Which columns of a table are its vectors and which its keys: written by pandas' and other tools' habits."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from safetensors.numpy import save_file

from qrp_store.errors import InvalidInput
from qrp_store.ingest.arrays import ArrayRows
from qrp_store.readers.arrays.matrix import ArrayRequest

N = 30
X = np.random.default_rng(0).normal(size=(N, 8))
FILES = [f"{(7 * i) % N:04d}.jpg" for i in range(N)]
FEATURES = {f"feat_{i}": X[:, i] for i in range(8)}
NUMBERED = {str(i): X[:, i] for i in range(8)}
NAMED = dict(zip(("red", "green", "blue", "area", "edges", "hue", "tone", "grain"), X.T, strict=True))
ROWS = np.arange(N)


def table(path: Path, columns: Mapping[str, Any], index: list[str] | None = None) -> Path:
    """A table in the format of the path's ending; `index` as pandas records it."""
    if path.suffix == ".parquet":
        content = pa.table(dict(columns))
        if index is not None:
            content = content.replace_schema_metadata({"pandas": f'{{"index_columns": {index!r}}}'.replace("'", '"')})
        pq.write_table(content, path)
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(columns)
        writer.writerows(zip(*(list(column) for column in columns.values()), strict=True))
    return path


def rows(path: Path, field: str | None = None, key_column: str | None = None, keys: Path | None = None) -> ArrayRows:
    return ArrayRows(path, field, keys, None, np.dtype(np.float64), key_column)


def check(source: ArrayRows, keys: list[str], key: str | None, left_out: set[str], x: np.ndarray = X) -> None:
    np.testing.assert_allclose(source._source.read(0, N), x)
    assert list(source.keys) == keys
    assert source.columns is not None
    assert (source.columns["key"], set(source.columns["left_out"])) == (key, left_out)
    assert len(source.columns["vector"]) in (1, x.shape[1])


DEFAULT = [str(i) for i in range(N)]
CERTAIN: Mapping[str, tuple[dict[str, Any], list[str] | None, list[str], str | None, set[str]]] = {
    "pandas' to_csv": ({"": ROWS, **NUMBERED}, None, DEFAULT, None, {""}),
    "pandas' to_csv, read and written again": ({"Unnamed: 0": ROWS, **FEATURES}, None, DEFAULT, None, {"Unnamed: 0"}),
    "R's write.csv": ({"": ROWS + 1, **FEATURES}, None, DEFAULT, None, {""}),
    "an index and names": ({"": ROWS, "filename": FILES, **FEATURES}, None, FILES, "filename", {""}),
    "ids and classes beside names": (
        {"id": ROWS + 1000, "filename": FILES, **FEATURES, "class_id": ROWS % 3, "split": ROWS % 2},
        None,
        FILES,
        "filename",
        {"id", "class_id", "split"},
    ),
    "an index of row numbers beside named features": ({"index": ROWS, **NAMED}, None, DEFAULT, None, {"index"}),
    "numbers as ids": (
        {"image_id": ROWS * 3 + 7, **NAMED},
        None,
        [str(3 * i + 7) for i in range(N)],
        "image_id",
        set(),
    ),
    "ids as floats": ({"ID": ROWS * 2.0, **FEATURES}, None, [str(2 * i) for i in range(N)], "ID", set()),
    "a numeric key": ({"key": ROWS + 5, **FEATURES}, None, [str(i + 5) for i in range(N)], "key", set()),
    "a numeric path": ({"path": ROWS[::-1].copy(), **NAMED}, None, DEFAULT[::-1], "path", set()),
    **{
        f"texts in {name}": ({name: FILES, **FEATURES, "label": ROWS % 3}, None, FILES, name, {"label"})
        for name in ("id", "image_id", "uid", "name", "image", "url", "filepath", "__key__", "file", "File Name", "KEY")
    },
    "pandas' index in Parquet": (
        {**NAMED, "__index_level_0__": ROWS},
        ["__index_level_0__"],
        DEFAULT,
        None,
        {"__index_level_0__"},
    ),
    "pandas' index of names": (
        {**NAMED, "__index_level_0__": FILES},
        ["__index_level_0__"],
        FILES,
        "__index_level_0__",
        set(),
    ),
    "pandas' named index": ({**NAMED, "frame": ROWS, "key": FILES}, ["frame"], FILES, "key", {"frame"}),
}


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("kind", CERTAIN)
def test_keys_indices_and_classes_are_no_features(tmp_path: Path, kind: str, ending: str) -> None:
    columns, index, keys, key, left_out = CERTAIN[kind]
    if index is not None and ending != ".parquet":
        return
    check(rows(table(tmp_path / f"x{ending}", columns, index)), keys, key, left_out)


UNCLEAR: Mapping[str, tuple[dict[str, Any], str]] = {
    "classes beside named features": ({"key": FILES, **NAMED, "class_id": ROWS % 3}, "'class_id'"),
    "a fold beside named features": ({**NAMED, "fold": ROWS % 5}, "'fold'"),
    "an unknown column beside numbered ones": ({**FEATURES, "width": ROWS % 7}, "'width'"),
    "row numbers under any name": ({"frame": ROWS, **NAMED}, "'frame'"),
    "an index of another table": ({"": ROWS * 2, **FEATURES}, "''"),
    "a text among numbers": ({**FEATURES, "feat_8": ["1"] * (N - 1) + ["x"]}, "feat_8"),
    "only ids": ({"id": ROWS, "class_id": ROWS % 3}, "'class_id'"),
}


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize("kind", UNCLEAR)
def test_what_is_unclear_is_refused_until_the_columns_are_named(tmp_path: Path, kind: str, ending: str) -> None:
    columns, named = UNCLEAR[kind]
    path = table(tmp_path / f"x{ending}", columns)
    with pytest.raises(InvalidInput) as caught:
        rows(path)
    assert named in caught.value.message
    assert "--field" in str(caught.value.hint)
    numbers = [name for name in columns if name in FEATURES or name in NAMED]
    if numbers:
        source = rows(path, ",".join(numbers))
        np.testing.assert_allclose(source._source.read(0, N), X)


def test_the_options_choose_the_columns(tmp_path: Path) -> None:
    columns = {"": ROWS * 2, "id": ROWS + 9, "name": FILES, **FEATURES, "width": ROWS}
    for ending in (".csv", ".parquet"):
        path = table(tmp_path / f"x{ending}", columns)
        check(rows(path, "feat_"), FILES, "name", {"", "id", "width"})
        check(rows(path, "feat_", "id"), [str(i + 9) for i in range(N)], "id", {"", "name", "width"})
        check(rows(path, "feat_", "-"), DEFAULT, None, {"", "name", "id", "width"})
        key_file = tmp_path / "keys.txt"
        key_file.write_text("".join(f"k{i}\n" for i in range(N)))
        check(rows(path, "feat_", None, key_file), [f"k{i}" for i in range(N)], None, {"", "name", "id", "width"})
        wide = np.column_stack([X[:, :2], ROWS])
        check(rows(path, "feat_0,feat_1,width"), FILES, "name", {"", "id", *list(FEATURES)[2:]}, wide)
        with pytest.raises(InvalidInput, match="no column 'who'"):
            rows(path, "feat_", "who")
        with pytest.raises(InvalidInput, match="both name the keys"):
            rows(path, "feat_", "id", key_file)


def test_a_column_of_vectors_leaves_every_other_out(tmp_path: Path) -> None:
    columns = {"v": list(X), "id": ROWS + 4, "label": ROWS % 3, "width": ROWS}
    check(rows(table(tmp_path / "x.parquet", columns)), [str(i + 4) for i in range(N)], "id", {"label", "width"})


def save_h5(path: Path, **members: Any) -> None:
    with h5py.File(path, "w") as file:
        for name, member in members.items():
            file[name] = member


def save_zarr(path: Path, **members: Any) -> None:
    group = zarr.open_group(path, mode="w")
    for name, member in members.items():
        group.create_array(name, data=np.asarray(member))


NAMED_ARRAYS: Mapping[str, tuple[Callable[..., object], type]] = {
    "x.npz": (lambda p, **a: np.savez(p, **{k: np.asarray(v) for k, v in a.items()}), str),
    "x.h5": (save_h5, str),
    "x.pt": (
        lambda p, **a: torch.save({k: v if isinstance(v, list) else torch.as_tensor(v) for k, v in a.items()}, p),
        str,
    ),
    "x.zarr": (save_zarr, int),
    "x.safetensors": (lambda p, **a: save_file({k: np.asarray(v) for k, v in a.items()}, p), int),
}


@pytest.mark.parametrize("name", NAMED_ARRAYS)
def test_named_arrays_have_roles_too(tmp_path: Path, name: str) -> None:
    save, kind = NAMED_ARRAYS[name]
    if kind is str:
        save(tmp_path / name, features=X, Image_ID=FILES, labels=ROWS % 3)
        check(rows(tmp_path / name), FILES, "Image_ID", {"labels"})
    save(tmp_path / name, features=X, ids=ROWS + 3, serial=ROWS + 100)
    check(rows(tmp_path / name), [str(i + 3) for i in range(N)], "ids", {"serial"})
    check(rows(tmp_path / name, key_column="serial"), [str(i + 100) for i in range(N)], "serial", {"ids"})
    check(rows(tmp_path / name, key_column="-"), DEFAULT, None, {"ids", "serial"})


def test_keys_of_objects_in_npz_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=X, keys=np.array(FILES, object))
    with pytest.raises(InvalidInput, match="array of objects") as caught:
        rows(tmp_path / "x.npz")
    assert "dtype=str" in str(caught.value.hint)
    check(rows(tmp_path / "x.npz", key_column="-"), DEFAULT, None, {"keys"})


def test_missing_vectors_are_bad_rows_with_their_keys(tmp_path: Path) -> None:
    holes = {3: "all", 11: "one"}
    lists = [None if i in holes else list(row) for i, row in enumerate(X)]
    wide = {name: [None if i in holes else v for i, v in enumerate(column)] for name, column in FEATURES.items()}
    pq.write_table(pa.table({"key": FILES, "v": lists}), tmp_path / "lists.parquet")
    pq.write_table(
        pa.table({"key": FILES, "v": pa.array(lists, pa.list_(pa.float32(), 8))}), tmp_path / "fixed.parquet"
    )
    pq.write_table(pa.table({"key": FILES, **wide}), tmp_path / "wide.parquet")
    table(tmp_path / "wide.csv", {"key": FILES, **{k: ["" if v is None else v for v in c] for k, c in wide.items()}})
    for name in ("lists.parquet", "fixed.parquet", "wide.parquet", "wide.csv"):
        read = rows(tmp_path / name)._source.read(0, N)
        assert np.flatnonzero(np.isnan(read).all(axis=1)).tolist() == sorted(holes)
        np.testing.assert_allclose(np.delete(read, list(holes), 0), np.delete(X, list(holes), 0), rtol=1e-6)
    ragged = [list(row) for row in X[:20]] + [[1.0, 2.0]]
    pq.write_table(pa.table({"v": ragged}), tmp_path / "ragged.parquet")
    with pytest.raises(InvalidInput, match="row 20: a vector has 2 numbers"):
        rows(tmp_path / "ragged.parquet")._source.read(0, 21)


def test_a_table_without_a_header_is_refused(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "x.csv", X, delimiter=",")
    with pytest.raises(InvalidInput, match="first line holds numbers"):
        rows(tmp_path / "x.csv")


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,a,b\n1,2,3\n")
    with pytest.raises(InvalidInput, match="two columns are called 'a'"):
        rows(tmp_path / "x.csv")


def test_a_worker_reads_the_same_columns(tmp_path: Path) -> None:
    path = table(tmp_path / "x.csv", {"serial": ROWS + 100, **FEATURES})
    source = rows(path, None, "serial")
    from qrp_store.ingest.arrays import ArrayPart

    part = ArrayPart(path, ArrayRequest(None, "serial"), (N, 8), range(5, 9), np.dtype(np.float64))
    np.testing.assert_allclose(part.compute(1).rows, X[5:9])
    assert source.keys[0] == "100"


DECIMAL = "\n".join(";".join(f"{v:.4f}".replace(".", ",") for v in row) for row in X)
POINT = "\n".join(",".join(f"{v:.4f}" for v in row) for row in X)
HEADER = ",".join(FEATURES)
DIALECTS = {
    "Excel in German": (HEADER.replace(",", ";") + "\r\n" + DECIMAL.replace("\n", "\r\n")).encode("utf-8-sig"),
    "Excel's separator line": f"sep=;\r\n{HEADER.replace(',', ';')}\n{POINT.replace(',', ';')}\n".encode(),
    "UTF-16": f"{HEADER}\n{POINT}\n".encode("utf-16"),
    "comment lines": f"# written by a tool, 2024\n#\n\n{HEADER}\n{POINT}\n".encode(),
    "bars": f"{HEADER}\n{POINT}\n".replace(",", "|").encode(),
    "tabs": f"{HEADER}\n{POINT}\n".replace(",", "\t").encode(),
    "blanks after commas": f"{HEADER}\n{POINT}\n".replace(",", ", ").encode(),
    "old Macintosh": f"{HEADER}\n{POINT}\n".replace("\n", "\r").encode(),
    "an index called #": (f"#,{HEADER}\n" + "".join(f"{i},{r}\n" for i, r in enumerate(POINT.split("\n")))).encode(),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_of_csv_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.csv").write_bytes(DIALECTS[name])
    source = rows(tmp_path / "x.csv")
    np.testing.assert_allclose(source._source.read(0, N), X, atol=6e-5)
    assert source.columns is not None
    assert source.columns["vector"] == tuple(FEATURES)


KEY_CELLS = {
    "dates": [f"2024-01-{i + 1:02}" for i in range(N)],
    "times": [f"10:{i:02}" for i in range(N)],
    "powers of ten": [f"{i}e{i + 300}" for i in range(N)],
    "more digits than an integer has": [str(10**20 + i) for i in range(N)],
    "zeros in front": [f"{i:05}" for i in range(N)],
    "NA": ["NA", *FILES[1:]],
}


@pytest.mark.parametrize("kind", KEY_CELLS)
def test_keys_that_look_like_something_else_stay_as_they_are_written(tmp_path: Path, kind: str) -> None:
    path = table(tmp_path / "x.csv", {"key": KEY_CELLS[kind], **FEATURES})
    check(rows(path), KEY_CELLS[kind], "key", set())


def test_a_key_column_of_another_type_is_used_or_refused_but_never_left_out(tmp_path: Path) -> None:
    cells: Mapping[str, Any] = {
        "bytes": pa.array([name.encode() for name in FILES]),
        "truth": pa.array([True] * N),
        "time": pa.array(range(N), pa.timestamp("s")),
    }
    for kind, column in cells.items():
        path = table(tmp_path / f"{kind}.parquet", {"key": column, **FEATURES})
        if kind == "bytes":
            check(rows(path), FILES, "key", set())
            continue
        with pytest.raises(InvalidInput, match="column 'key' holds neither texts nor whole numbers") as caught:
            rows(path)
        assert "--key-column -" in str(caught.value.hint)
        check(rows(path, key_column="-"), DEFAULT, None, {"key"})
    torch.save({"features": torch.zeros(3, 2), "filenames": [None, "a", "b"]}, tmp_path / "x.pt")
    with pytest.raises(InvalidInput, match="row 0: the key in 'filenames' is missing"):
        rows(tmp_path / "x.pt")
    np.savez(tmp_path / "x.npz", features=X, keys=np.zeros(N, bool))
    with pytest.raises(InvalidInput, match="column 'keys' holds neither"):
        rows(tmp_path / "x.npz")


def test_decimals_are_numbers_and_truth_values_among_numbered_columns_are_refused(tmp_path: Path) -> None:
    decimals = {name: pa.array([Decimal(f"{v:.3f}") for v in x]) for name, x in NAMED.items()}
    source = rows(table(tmp_path / "x.parquet", {**decimals, "tone": NAMED["tone"]}))
    np.testing.assert_allclose(source._source.read(0, N), X, atol=6e-4)
    assert source.columns is not None
    assert source.columns["left_out"] == ()
    path = table(tmp_path / "y.parquet", {"f0": pa.array([True] * N), "f1": X[:, 0]})
    with pytest.raises(InvalidInput, match="column f0 holds other things than numbers"):
        rows(path)


def test_what_is_compressed_or_not_utf8_says_so(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "y.npy").write_bytes(gzip.compress((tmp_path / "x.npy").read_bytes()))
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"f0,f1\n1,2\n"))
    for name in ("y.npy", "x.csv.gz"):
        with pytest.raises(InvalidInput, match="is compressed \\(gzip\\)") as caught:
            rows(tmp_path / name)
        assert f"gunzip {name}" in str(caught.value.hint)
    (tmp_path / "z.csv").write_bytes("n\u00e4me,f0,f1\n\u00e4,1,2\n".encode("latin-1"))
    with pytest.raises(InvalidInput, match="is not UTF-8"):
        rows(tmp_path / "z.csv")
