"""Arrays in files: what is read is what was saved, and what is no matrix of numbers is refused by name."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from qrp_store.errors import InvalidInput, NotFound
from qrp_store.readers.arrays.formats import open_array, read_keys

X = np.random.default_rng(0).normal(size=(37, 5))


def save_safetensors(path: Path, tensors: dict[str, np.ndarray], code: str = "F32") -> None:
    header, data = {}, b""
    for name, array in tensors.items():
        header[name] = {
            "dtype": code,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8", "<i4", "|u1", ">i8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("ending", [".npy", ".npz", ".NPY"])
def test_rows_come_back_as_they_were_saved(tmp_path: Path, dtype: str, order: str, ending: str) -> None:
    saved = np.asarray(np.abs(X) * 10, dtype=dtype, order=order)
    path = tmp_path / f"x{ending}"
    with path.open("wb") as file:
        np.savez_compressed(file, x=saved) if ending == ".npz" else np.save(file, saved)
    source = open_array(path)
    assert (source.n, source.dim, source.dtype) == (37, 5, np.dtype(dtype).newbyteorder("="))
    for start, stop in [(0, 10), (10, 37), (3, 4), (36, 37), (5, 5), (0, 37)]:  # back and forth
        rows = source.read(start, stop)
        assert rows.flags.c_contiguous
        assert rows.dtype.isnative
        np.testing.assert_array_equal(rows, saved[start:stop])


def test_digest_is_of_the_numbers_not_of_the_file(tmp_path: Path) -> None:
    x = X.astype("f4")
    np.save(tmp_path / "c.npy", x)
    np.save(tmp_path / "f.npy", np.asfortranarray(x))
    np.save(tmp_path / "big.npy", x.astype(">f4"))
    np.savez(tmp_path / "z.npz", x)
    save_safetensors(tmp_path / "s.safetensors", {"x": x})
    digests = {open_array(tmp_path / name).digest() for name in ("c.npy", "f.npy", "big.npy", "z.npz", "s.safetensors")}
    assert digests == {hashlib.sha256(b'["<f4", 37, 5]' + x.tobytes()).hexdigest()}
    x[36, 4] += 1
    np.save(tmp_path / "other.npy", x)
    np.save(tmp_path / "shape.npy", x.reshape(5, 37))
    assert open_array(tmp_path / "other.npy").digest() not in digests
    assert open_array(tmp_path / "shape.npy").digest() != open_array(tmp_path / "other.npy").digest()


def test_digest_of_many_pieces_is_that_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", X)
    whole = open_array(tmp_path / "x.npy").digest()
    monkeypatch.setattr("qrp_store.readers.arrays.matrix._DIGEST_BYTES", 100)
    assert open_array(tmp_path / "x.npy").digest() == whole


def test_bfloat16_is_read_as_float32(tmp_path: Path) -> None:
    halves = (X.astype("<f4").view("<u4") >> 16).astype("<u2")
    save_safetensors(tmp_path / "x.safetensors", {"x": halves}, code="BF16")
    source = open_array(tmp_path / "x.safetensors")
    assert source.dtype == np.float32
    np.testing.assert_allclose(source.read(0, 37), X, rtol=2**-7)


def test_several_arrays_need_a_field(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=X, b=2 * X)
    save_safetensors(tmp_path / "x.safetensors", {"a": X.astype("f4"), "b": 2 * X.astype("f4")})
    for name in ("x.npz", "x.safetensors"):
        with pytest.raises(InvalidInput, match="holds 2 arrays") as caught:
            open_array(tmp_path / name)
        assert "a, b" in str(caught.value.hint)
        with pytest.raises(InvalidInput, match="no array 'c'"):
            open_array(tmp_path / name, "c")
        np.testing.assert_allclose(open_array(tmp_path / name, "b").read(0, 37), 2 * X, rtol=1e-6)
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(InvalidInput, match="without a name"):
        open_array(tmp_path / "x.npy", "a")


@pytest.mark.parametrize(
    "array, said",
    [
        (np.zeros(5), "shape"),
        (np.zeros((2, 3, 4)), "shape"),
        (np.float64(3), "shape"),
        (np.zeros((0, 4)), "empty"),
        (np.zeros((4, 0)), "empty"),
        (np.zeros((3, 4), bool), "bool"),
        (np.zeros((3, 4), complex), "complex128"),
        (np.zeros((3, 4), "U3"), "<U3"),
        (np.zeros((3, 4), np.longdouble), "float128"),
        (np.zeros((3, 4), "datetime64[s]"), "datetime64"),
        (np.zeros((3, 4), [("a", "f4")]), "type"),
    ],
)
@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_what_is_no_matrix_of_numbers_is_refused(tmp_path: Path, array: np.ndarray, said: str, ending: str) -> None:
    path = tmp_path / f"x{ending}"
    np.savez(path, array) if ending == ".npz" else np.save(path, array)
    with pytest.raises(InvalidInput, match=said) as caught:
        open_array(path)
    assert path.name in caught.value.message


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    objects = np.empty((2, 2), object)
    objects[:] = Hostile(marker)
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "o.npz", objects)
    (tmp_path / "p.npy").write_bytes(pickle.dumps(Hostile(marker)))
    assert not marker.exists()
    for name, said in [("o.npy", "pickled"), ("o.npz", "pickled"), ("p.npy", "not a .npy")]:
        with pytest.raises(InvalidInput, match=said):
            open_array(tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize("keep", [0, 3, 8, 40, 127, 128, 200, -1])
def test_a_truncated_npy_is_refused(tmp_path: Path, keep: int) -> None:
    np.save(tmp_path / "x.npy", X)
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole[:keep])
    with pytest.raises(InvalidInput, match=r"x\.npy"):
        open_array(tmp_path / "x.npy")


def npy_with_header(header: str, version: bytes = b"\x01\x00") -> bytes:
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + bytes(64)


@pytest.mark.parametrize(
    "content",
    [
        npy_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 8)}"),
        npy_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4, )"),
        npy_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (10**9, 4)}"),
        npy_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999, 999999999)}"),
        npy_with_header("{'descr': 'nonsense', 'fortran_order': False, 'shape': (4, 4)}"),
        npy_with_header("{'descr': '<f4', 'shape': (4, 4)}"),
        npy_with_header("__import__('os').mkdir('ran')"),
        npy_with_header("(" * 5000),
        npy_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4)}", b"\x09\x00"),
        npy_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4)}"),  # 32 bytes too many
        b"key,concept\n",
        b"\x93NUMPY",
    ],
)
def test_a_damaged_npy_header_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"x\.npy"):
        open_array(tmp_path / "x.npy")


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", np.zeros((4000, 50)) + np.arange(50))
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(whole[:-30])
    with pytest.raises(InvalidInput, match=r"not a \.npz archive"):
        open_array(tmp_path / "x.npz")
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 40] = bytes(40)
    (tmp_path / "x.npz").write_bytes(damaged)
    with pytest.raises(InvalidInput, match="rows 0:4000"):
        open_array(tmp_path / "x.npz").read(0, 4000)
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("readme.txt", "no array")
    with pytest.raises(InvalidInput, match="readme"):
        open_array(tmp_path / "t.npz")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x05",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"{]",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 9) + b'{"x": {}}',
        struct.pack("<Q", 68) + b'{"x": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}   ' + bytes(63),
        struct.pack("<Q", 68) + b'{"x": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}   ' + bytes(10),
        struct.pack("<Q", 68) + b'{"x": {"dtype": "F32", "shape": [4, 4], "data_offsets": [-8, 56]}}  ' + bytes(64),
        struct.pack("<Q", 68) + b'{"x": {"dtype": "F8_", "shape": [4, 4], "data_offsets": [0, 16]}}   ' + bytes(64),
    ],
)
def test_damaged_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"x\.safetensors"):
        open_array(tmp_path / "x.safetensors")


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    source = open_array(tmp_path / "x.npy")
    os.truncate(tmp_path / "x.npy", 200)
    with pytest.raises(InvalidInput, match="cannot be read"):
        source.read(0, 37)


def test_unknown_endings_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "x.doc").write_bytes(b"")
    (tmp_path / "d.npy").mkdir()
    with pytest.raises(InvalidInput) as caught:
        open_array(tmp_path / "x.doc")
    assert ".npy" in str(caught.value.hint)
    with pytest.raises(InvalidInput):
        open_array(tmp_path / "d.npy")
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(InvalidInput):
        open_array(tmp_path / "pipe.npy")
    with pytest.raises(NotFound):
        open_array(tmp_path / "absent.npy")


def test_keys_keep_everything_but_the_line_end(tmp_path: Path) -> None:
    keys = [" a ", "b\tc", "../up", "<script>", "naïve 😀", "x\u2028y", "q\"'", "\x0b", "é" * 10_000]
    for end in ("\n", "\r\n"):
        for last in ("", end):
            (tmp_path / "k.txt").write_bytes((end.join(keys) + last).encode())
            assert read_keys(tmp_path / "k.txt") == keys
    (tmp_path / "k.txt").write_bytes(b"\xef\xbb\xbfa\nb")
    assert read_keys(tmp_path / "k.txt") == ["a", "b"]


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "no keys"),
        (b"a\nb\na\n", r"duplicate key 'a' \(lines 1 and 3\)"),
        (b"a\n\nb\n", "line 2: the key is empty"),
        (b"a\nb\n\n", "line 3: the key is empty"),
        (b"a\nb\0c\n", "line 2: the key holds a NUL"),
        (b"a\nb\n\xff\n", "line 3 is not UTF-8"),
    ],
)
def test_bad_keys_are_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "k.txt").write_bytes(content)
    with pytest.raises(InvalidInput, match=said) as caught:
        read_keys(tmp_path / "k.txt")
    assert "k.txt" in caught.value.message


def test_a_missing_key_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_keys(tmp_path / "absent.txt")


def test_reading_a_large_npy_takes_little_memory(tmp_path: Path) -> None:
    """The rows asked for are copied; nothing else stays mapped."""
    np.save(tmp_path / "x.npy", np.zeros((100_000, 64), np.float32))
    source = open_array(tmp_path / "x.npy")
    rows = source.read(0, 10)
    assert not isinstance(rows.base, np.memmap)
    with (tmp_path / "x.npy").open("r+b") as file:  # the copy does not follow the file
        file.seek(-100_000 * 64 * 4, io.SEEK_END)
        file.write(b"\xff" * 4)
    assert rows[0, 0] == 0
