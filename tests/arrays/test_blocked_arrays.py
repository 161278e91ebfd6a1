from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from qrp_store.arrays import blocked as arrays
from qrp_store.arrays.location import open_root
from qrp_store.arrays.root import Root
from qrp_store.errors import Corrupt, InvalidInput
from qrp_store.records import ArraySpec, Block

PATH = "embeddings/emb-1/vectors"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return open_root(str(tmp_path / "arrays"))


def made(
    root: Root, n: int, dim: int, block_rows: int, dtype: str = "float32"
) -> tuple[ArraySpec, np.ndarray, list[Block]]:
    spec = ArraySpec(PATH, n, dim, dtype, block_rows)
    values = np.random.default_rng(n).standard_normal((n, dim)).astype(dtype)
    arrays.create(root, spec)
    spans = [spec.rows_of(i) for i in range(spec.n_blocks)]
    return spec, values, [arrays.write_block(root, spec, i, values[s : s + c]) for i, (s, c) in enumerate(spans)]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("n", "block_rows"), [(10, 4), (8, 4), (3, 100), (1, 1)])
def test_plain_readers_see_what_we_see(root: Root, n: int, block_rows: int, dtype: str) -> None:
    spec, values, blocks = made(root, n, 5, block_rows, dtype)
    ours = np.concatenate([arrays.read_block(root, spec, b) for b in blocks])
    theirs = zarr.open_array(f"{root.url}/{PATH}", mode="r")
    assert ours.dtype == theirs.dtype == values.dtype
    np.testing.assert_array_equal(ours, values)
    np.testing.assert_array_equal(np.asarray(theirs[:]), values)
    with xarray.open_zarr(f"{root.url}/embeddings/emb-1", consolidated=False) as opened:
        assert opened["vectors"].dims == ("sample", "feature")
        np.testing.assert_array_equal(opened["vectors"].values, values)


def test_we_read_what_zarr_writes(root: Root) -> None:
    spec, values, blocks = made(root, 10, 3, 4)
    for block in blocks:
        root.delete(f"{PATH}/c/{block.index}/0")
    zarr.open_array(f"{root.url}/{PATH}", mode="r+")[:] = values
    for block in blocks[:2]:
        expected = values[block.start : block.start + block.rows]
        np.testing.assert_array_equal(arrays.read_block(root, spec, block), expected)


def test_blocks_are_recorded_with_the_size_of_their_object(root: Root) -> None:
    spec, _, blocks = made(root, 10, 3, 4)
    assert [(b.index, b.start, b.rows) for b in blocks] == [(0, 0, 4), (1, 4, 4), (2, 8, 2)]
    assert all(root.size(f"{PATH}/c/{b.index}/0") == b.nbytes == 4 * 3 * 4 + 4 for b in blocks)
    assert all(arrays.verify_block(root, spec, b, deep) is None for b in blocks for deep in (False, True))


def test_a_missing_block_is_an_error_never_zeros(root: Root) -> None:
    spec, _, blocks = made(root, 10, 3, 4)
    root.delete(f"{PATH}/c/1/0")
    with pytest.raises(Corrupt, match=f"{PATH}.*block 1 is missing"):
        arrays.read_block(root, spec, blocks[1])
    assert arrays.verify_block(root, spec, blocks[1], deep=False) == "is missing"
    assert np.isnan(zarr.open_array(f"{root.url}/{PATH}", mode="r")[4:8]).all(), "not even to a plain reader"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Root, ArraySpec, list[Block]]:
    root = open_root(str(tmp_path_factory.mktemp("stored")))
    spec, _, blocks = made(root, 10, 3, 4)
    return root, spec, blocks


@settings(deadline=None)
@given(where=st.integers(0, 4 * 3 * 4 + 3), bit=st.integers(0, 7), index=st.integers(0, 2))
def test_any_flipped_bit_is_noticed(
    stored: tuple[Root, ArraySpec, list[Block]], where: int, bit: int, index: int
) -> None:
    root, spec, blocks = stored
    file = Path(root.url) / PATH / "c" / str(index) / "0"
    good = file.read_bytes()
    try:
        file.write_bytes(good[:where] + bytes([good[where] ^ 1 << bit]) + good[where + 1 :])
        with pytest.raises(Corrupt, match=f"{PATH}: block {index} is damaged"):
            arrays.read_block(root, spec, blocks[index])
        assert arrays.verify_block(root, spec, blocks[index], deep=False) is None
        assert "damaged" in str(arrays.verify_block(root, spec, blocks[index], deep=True))
    finally:
        file.write_bytes(good)


@pytest.mark.parametrize("length", [0, 1, 51, 53, 200])
def test_a_cut_or_grown_block_is_noticed(root: Root, length: int) -> None:
    spec, _, blocks = made(root, 10, 3, 4)
    file = Path(root.url) / PATH / "c/0/0"
    file.write_bytes((file.read_bytes() * 4)[:length])
    with pytest.raises(Corrupt, match="block 0 has"):
        arrays.read_block(root, spec, blocks[0])
    assert "bytes, not 52" in str(arrays.verify_block(root, spec, blocks[0], deep=False))


def test_swapped_blocks_are_noticed_though_each_is_whole(root: Root) -> None:
    spec, _, blocks = made(root, 8, 3, 4)
    one, two = (Path(root.url) / PATH / f"c/{i}/0" for i in (0, 1))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    for block in blocks:
        with pytest.raises(Corrupt, match=f"block {block.index} is not the one recorded"):
            arrays.read_block(root, spec, block)
    assert "not the one recorded" in str(arrays.verify_block(root, spec, blocks[0], deep=True))


def test_bad_rows_are_stored_as_nan_and_remembered(root: Root) -> None:
    spec = ArraySpec(PATH, 6, 2, "float32", 3)
    arrays.create(root, spec)
    rows = np.ones((3, 2), np.float32)
    block = arrays.write_block(root, spec, 1, rows, bad=[5, 3])
    assert block.bad == (3, 5)
    assert rows.all(), "the caller's array is left alone"
    assert np.isnan(arrays.read_block(root, spec, block)).tolist() == [[True] * 2, [False] * 2, [True] * 2]
    with pytest.raises(InvalidInput, match="bad positions"):
        arrays.write_block(root, spec, 1, rows, bad=[2])


def test_a_block_that_a_worker_put_first_is_not_replaced(root: Root) -> None:
    spec, values, blocks = made(root, 10, 3, 4)
    late = arrays.write_once(root, spec, 0, values[4:8], bad=[1])
    assert late == replace(blocks[0], bad=(1,))
    np.testing.assert_array_equal(arrays.read_block(root, spec, late), values[:4])
    root.put(f"{PATH}/c/0/0", b"damaged", replace=True)
    with pytest.raises(Corrupt, match="already there"):
        arrays.write_once(root, spec, 0, values[:4])


def test_writing_again_is_harmless_and_writing_otherwise_refused(root: Root) -> None:
    spec, values, blocks = made(root, 10, 3, 4)
    arrays.create(root, spec)
    assert arrays.write_block(root, spec, 0, values[:4]) == blocks[0]
    with pytest.raises(Corrupt):
        arrays.write_block(root, spec, 0, values[4:8])
    again = arrays.write_block(root, spec, 0, values[4:8], replace=True)
    np.testing.assert_array_equal(arrays.read_block(root, spec, again), values[4:8])
    with pytest.raises(Corrupt, match="shape"):
        arrays.create(root, replace(spec, n=11))
    with pytest.raises(Corrupt, match="data_type"):
        arrays.create(root, replace(spec, dtype="float16"))


@pytest.mark.parametrize(
    "rows",
    [np.zeros((3, 3), np.float32), np.zeros((4, 2), np.float32), np.zeros((4, 3)), np.zeros((4, 3), object)],
)
def test_rows_of_another_shape_or_dtype_are_refused(root: Root, rows: np.ndarray) -> None:
    spec = ArraySpec(PATH, 10, 3, "float32", 4)
    arrays.create(root, spec)
    with pytest.raises(InvalidInput, match="block 0: expected"):
        arrays.write_block(root, spec, 0, rows)
    with pytest.raises(InvalidInput, match="no block 3"):
        arrays.write_block(root, spec, 3, rows)


@pytest.mark.parametrize(
    "change", [{"n": 0}, {"dim": 0}, {"block_rows": 0}, {"dtype": "complex64"}, {"dtype": "object"}]
)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(root: Root, change: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match=PATH):
        arrays.create(root, replace(ArraySpec(PATH, 10, 3, "float32", 4), **change))
    assert list(root.list("")) == []


def test_attributes_travel_with_the_array(root: Root) -> None:
    arrays.create(root, ArraySpec(PATH, 10, 3, "float32", 4), attributes={"backbone": "r50"})
    assert dict(zarr.open_array(f"{root.url}/{PATH}", mode="r").attrs) == {"backbone": "r50"}


def test_rows_in_any_memory_order_are_stored_the_same(root: Root) -> None:
    spec, values, blocks = made(root, 4, 3, 4)
    assert arrays.write_block(root, spec, 0, np.asfortranarray(values)) == blocks[0]
    assert arrays.write_block(root, spec, 0, values.astype(">f4").astype("<f4")) == blocks[0]


def test_a_block_is_about_sixteen_mebibytes() -> None:
    assert arrays.default_block_rows(2048, 4) == 2048
    assert arrays.default_block_rows(512, 2) == 16384
    assert arrays.default_block_rows(10**9, 4) == 1
    assert arrays.default_block_rows(512, 4, n=10) == 10
    assert arrays.default_block_rows(512, 4, n=10**7) == 8192


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.arange(7, dtype=np.int64),
        np.arange(6, dtype=np.int32),
        np.zeros((0, 3)),
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    ],
)
def test_whole_arrays_come_back(root: Root, array: np.ndarray) -> None:
    checksum = arrays.save_array(root, "clusterings/clu-1/centroids", array)
    assert arrays.save_array(root, "clusterings/clu-1/centroids", array) == checksum
    loaded = arrays.load_array(root, "clusterings/clu-1/centroids", checksum)
    assert loaded.dtype == array.dtype
    np.testing.assert_array_equal(loaded, array)
    np.testing.assert_array_equal(zarr.open_array(f"{root.url}/clusterings/clu-1/centroids", mode="r")[:], array)


def test_a_large_whole_array_is_cut_into_chunks(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qrp_store.arrays.blocked.WHOLE_CHUNK_BYTES", 100)
    array = np.arange(110, dtype=np.float32).reshape(11, 10)
    checksum = arrays.save_array(root, "w", array)
    assert list(root.list("w/c")) == sorted(f"w/c/{i}/0" for i in range(6))
    np.testing.assert_array_equal(arrays.load_array(root, "w", checksum), array)
    np.testing.assert_array_equal(zarr.open_array(f"{root.url}/w", mode="r")[:], array)


def test_a_whole_array_is_verified(root: Root) -> None:
    checksum = arrays.save_array(root, "w", np.arange(6.0))
    other = arrays.save_array(root, "v", np.arange(6.0).reshape(2, 3))
    assert checksum != other, "shape counts"
    with pytest.raises(Corrupt, match="not the one recorded"):
        arrays.load_array(root, "w", other)
    with pytest.raises(Corrupt):
        arrays.save_array(root, "w", np.arange(6.0) + 1)
    file = Path(root.url) / "w" / "c" / "0"
    good = file.read_bytes()
    file.write_bytes(b"\x01" + good[1:])
    with pytest.raises(Corrupt, match="w: w/c/0 is damaged"):
        arrays.load_array(root, "w", checksum)
    file.unlink()
    with pytest.raises(Corrupt, match="w"):
        arrays.load_array(root, "w", checksum)


def test_a_whole_array_nobody_recorded_can_be_replaced_by_one_of_another_shape(root: Root) -> None:
    arrays.save_array(root, "w", np.arange(6.0))
    other = np.arange(3, dtype=np.int32)
    with pytest.raises(Corrupt, match="shape"):
        arrays.save_array(root, "w", other)
    checksum = arrays.save_array(root, "w", other, replace=True)
    np.testing.assert_array_equal(arrays.load_array(root, "w", checksum), other)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"node_type": "group"}', '{"node_type": "array", "shape": "x"}'])
def test_damaged_metadata_is_corrupt(root: Root, text: str) -> None:
    checksum = arrays.save_array(root, "w", np.arange(6.0))
    (Path(root.url) / "w" / "zarr.json").write_text(text)
    with pytest.raises(Corrupt, match=r"w: its zarr.json"):
        arrays.load_array(root, "w", checksum)


def test_a_single_number_is_no_array(root: Root) -> None:
    with pytest.raises(InvalidInput):
        arrays.save_array(root, "w", np.array(3.0))


def test_metadata_is_ordinary_zarr_without_shards(root: Root) -> None:
    made(root, 10, 3, 4)
    document = json.loads(root.get(f"{PATH}/zarr.json"))
    assert document["chunk_grid"]["configuration"]["chunk_shape"] == [4, 3]
    assert [codec["name"] for codec in document["codecs"]] == ["bytes", "crc32c"]
    assert document["fill_value"] == "NaN"


def test_reading_blocks_does_not_load_zarr(root: Root) -> None:
    made(root, 10, 3, 4)
    code = (
        "import sys; from qrp_store.arrays import blocked as arrays, location\n"
        "from qrp_store.records import ArraySpec, Block\n"
        f"spec = ArraySpec({PATH!r}, 10, 3, 'float32', 4)\n"
        "root = location.open_root(sys.argv[1])\n"
        "assert arrays.verify_block(root, spec, Block(0, 0, 4, 52, ''), True)\n"
        "assert 'zarr' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, root.url], check=True, timeout=60)
