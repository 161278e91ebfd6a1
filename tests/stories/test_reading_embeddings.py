"""What `store.embedding()` hands out: rows by position and key, few or all, in torch and dask, always verified."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
import torch
from torch.utils.data import DataLoader

from qrp_store.arrays import blocked as arrays
from qrp_store.catalog.model import tables
from qrp_store.embedding import Embedding
from qrp_store.errors import Corrupt, NotFound, Unavailable
from qrp_store.ingest import ingest
from qrp_store.store import Store, create_store, open_store

N, DIM, BLOCK = 5000, 96, 1201  # a piece is 42 rows
X = np.random.default_rng(0).normal(size=(N, DIM)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    create_store(str(tmp_path / "store"))
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "keys.txt").write_text("".join(f"k{i}\n" for i in range(N)))
    with open_store(str(tmp_path / "store")) as opened:
        keys = str(tmp_path / "keys.txt")
        ingest(opened, str(tmp_path / "x.npy"), keys=keys, dataset="d", backbone="b", block_rows=BLOCK)
        yield opened


@pytest.fixture
def x(store: Store) -> Embedding:
    return store.embedding("d", "b")


def read_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Whose sum tells how many bytes were read in pieces, or minus one for a whole block."""
    seen: list[int] = []
    from qrp_store.arrays.directory import Directory

    ranges, whole = Directory.read_ranges, Directory.read_into
    monkeypatch.setattr(Directory, "read_ranges", lambda s, p, r: seen.extend(b - a for a, b in r) or ranges(s, p, r))
    monkeypatch.setattr(Directory, "read_into", lambda s, p, o: seen.append(-1) or whole(s, p, o))
    return seen


@pytest.mark.parametrize(
    "rows",
    [
        [0],
        [N - 1],
        [1200, 1201],  # the last row of a block, the first of the next
        [41, 42, 43],
        [7, 7, 3, 4999, 7],
        [-1, -N],
        [],
        list(range(0, N, 997)),
        list(range(1300, 2200)),
    ],
)
def test_rows_by_position_are_the_arrays(x: Embedding, rows: list[int]) -> None:
    np.testing.assert_array_equal(x[rows], X[rows] if rows else np.empty((0, DIM)))
    np.testing.assert_array_equal(x[np.array(rows, np.int32)], X[rows] if rows else np.empty((0, DIM)))


def test_slices_masks_and_single_rows(x: Embedding) -> None:
    np.testing.assert_array_equal(x[10:4000:7], X[10:4000:7])
    np.testing.assert_array_equal(x[::-1], X[::-1])
    mask = np.random.default_rng(1).random(N) < 0.01
    np.testing.assert_array_equal(x[mask], X[mask])
    np.testing.assert_array_equal(x[-3], X[-3])
    for wrong in (N, -N - 1, [0, N], mask[:-1], [0.5]):
        with pytest.raises(IndexError):
            x[wrong]  # type: ignore[index]


def test_numpy_and_loops_read_block_by_block(x: Embedding, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = read_bytes(monkeypatch)
    np.testing.assert_array_equal(np.asarray(x), X)
    assert np.asarray(x, np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.stack(list(x)), X)
    assert seen == [-1] * 3 * 5
    with pytest.raises(ValueError, match="new memory"):
        np.asarray(x, copy=False)


def test_few_rows_are_read_in_pieces_and_many_as_blocks(x: Embedding, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = read_bytes(monkeypatch)
    x[[3, 2500]]
    assert seen == [42 * DIM * 4] * 2
    seen.clear()
    x[list(range(0, 1000, 5))]
    assert seen == [-1]
    seen.clear()
    np.testing.assert_array_equal(x[1195:1210], X[1195:1210])  # the end of a block and the beginning of the next
    assert seen == [25 * DIM * 4, 42 * DIM * 4]


def damage(store: Store, x: Embedding, block: int, row: int) -> None:
    path = Path(store.arrays.url) / x.stored.array.path / "c" / str(block) / "0"
    data = bytearray(path.read_bytes())
    data[row * DIM * 4] ^= 1
    path.write_bytes(data)


def test_a_damaged_row_is_noticed_when_few_rows_are_read(store: Store, x: Embedding) -> None:
    damage(store, x, 1, 500)
    np.testing.assert_array_equal(x[[1201 + 300]], X[[1201 + 300]])  # another piece is whole
    with pytest.raises(Corrupt, match=r"block 1 .*crc32c"):
        x[[1201 + 500]]


def test_another_blocks_bytes_and_a_missing_or_short_block_are_noticed(store: Store, x: Embedding) -> None:
    folder = Path(store.arrays.url) / x.stored.array.path / "c"
    (folder / "2" / "0").write_bytes((folder / "3" / "0").read_bytes())
    (folder / "1" / "0").write_bytes((folder / "1" / "0").read_bytes()[:100])
    (folder / "0" / "0").unlink()
    for block, said in ((2, "crc32c"), (1, "crc32c"), (0, "missing")):
        with pytest.raises(Corrupt, match=f"block {block} .*{said}"):
            x[[block * BLOCK + 700]]


def test_blocks_of_older_stores_are_read_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.catalog.write() as connection:
        connection.execute(sa.update(tables.block).values(rolling=None))
    seen = read_bytes(monkeypatch)
    x = store.embedding("d", "b")
    np.testing.assert_array_equal(x[[3, 2500]], X[[3, 2500]])
    assert seen == [-1, -1]


def test_wide_rows_are_pieces_of_their_own(tmp_path: Path) -> None:
    from qrp_store.arrays.directory import Directory
    from qrp_store.records import ArraySpec

    rows = np.random.default_rng(0).normal(size=(9, 5000)).astype(np.float32)
    spec = ArraySpec("a/x", 9, 5000, "float32", 9)
    root = Directory(tmp_path)
    block = arrays.write_block(root, spec, 0, rows)
    np.testing.assert_array_equal(arrays.read_rows(root, spec, block, np.array([2, 8])), rows[[2, 8]])


def test_rows_by_key(store: Store, x: Embedding) -> None:
    np.testing.assert_array_equal(x.by_key("k77"), X[77])
    np.testing.assert_array_equal(x.by_key(["k4999", "k0", "k0"]), X[[4999, 0, 0]])
    assert x.by_key([]).shape == (0, DIM)
    assert x.keys[:2] == ["k0", "k1"]
    with pytest.raises(NotFound, match="no key 'absent'"):
        x.by_key(["k1", "absent"])


def test_an_embedding_goes_to_other_processes(store: Store) -> None:
    x = store.embedding("d", "b")
    with pytest.raises(Unavailable, match="catalog"):
        pickle.loads(pickle.dumps(x)).by_key("k1")
    assert x.keys
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(x)).by_key("k1"), X[1])


def test_torch_by_position(x: Embedding) -> None:
    loader = DataLoader(pickle.loads(pickle.dumps(x.torch())), batch_size=64, shuffle=True)
    rows = torch.cat(list(loader)).numpy()
    np.testing.assert_array_equal(np.sort(rows[:, 0]), np.sort(X[:, 0]))
    assert next(iter(loader)).dtype == torch.float32


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_streamed_gives_every_row_once(x: Embedding, workers: int) -> None:
    data = x.torch(streaming=True)
    assert len(data) == N  # type: ignore[arg-type]
    rows = torch.cat(list(DataLoader(data, batch_size=100, num_workers=workers))).numpy()
    if workers == 0:
        np.testing.assert_array_equal(rows, X)
    np.testing.assert_array_equal(np.sort(rows[:, 0]), np.sort(X[:, 0]))


def test_torch_streamed_shuffles_by_a_seed(x: Embedding) -> None:
    first, again, other = (np.stack(list(x.torch(streaming=True, seed=s))) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, X)
    np.testing.assert_array_equal(np.sort(first[:, 0]), np.sort(X[:, 0]))


def test_dask_has_a_chunk_a_block(x: Embedding) -> None:
    lazy = x.dask()
    assert lazy.chunks == ((BLOCK, BLOCK, BLOCK, BLOCK, N - 4 * BLOCK), (DIM,))
    np.testing.assert_allclose(lazy.mean(axis=0).compute(scheduler="synchronous"), X.mean(axis=0), rtol=1e-4, atol=1e-5)
