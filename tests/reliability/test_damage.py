"""Whatever happens to a block, verify names it and no read gives it away as data."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qrp_store.errors import Corrupt
from qrp_store.ingest import ingest
from qrp_store.maintenance.removal import verify
from qrp_store.store import Store, create_store, open_store

BLOCKS = 4


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    arrays = None
    if request.param == "s3":
        new_bucket: Callable[[], str] = request.getfixturevalue("new_bucket")
        arrays = new_bucket()
    create_store(str(tmp_path / "store"), arrays)
    store = open_store(str(tmp_path / "store"))
    rows = np.random.default_rng(0).normal(size=(BLOCKS * 50, 4)).astype(np.float32)
    for backbone in ("a", "b"):
        np.save(tmp_path / "x.npy", rows + (backbone == "b"))
        ingest(store, str(tmp_path / "x.npy"), dataset="d", backbone=backbone, block_rows=50)
    return store


@pytest.mark.parametrize("times", [60, pytest.param(1000, marks=pytest.mark.soak)])
def test_flipped_bits_cut_swapped_and_missing_blocks_are_all_found(
    store: Store, times: int, figure: Callable[[str], None]
) -> None:
    embedding = store.embedding("d", "a")
    other = store.embedding("d", "b").stored.array.path
    path = embedding.stored.array.path
    whole = {f"{p}/c/{i}/0": store.arrays.get(f"{p}/c/{i}/0") for p in (path, other) for i in range(BLOCKS)}
    rng = random.Random(5)
    for number in range(times):
        block = rng.randrange(BLOCKS)
        place = f"{path}/c/{block}/0"
        data = bytearray(whole[place])
        how = ("flip", "cut", "grow", "swap", "steal", "zero", "missing")[number % 7]
        if how == "flip":
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif how == "cut":
            data = data[: rng.randrange(len(data))]
        elif how == "grow":
            data += bytes([rng.randrange(256)])
        elif how == "swap":  # whole in itself, from elsewhere in the same array
            data = bytearray(whole[f"{path}/c/{(block + 1) % BLOCKS}/0"])
        elif how == "steal":  # whole in itself, from another array
            data = bytearray(whole[f"{other}/c/{block}/0"])
        elif how == "zero":
            data = bytearray(len(data))
        if how == "missing":
            store.arrays.delete(place)
        else:
            store.arrays.put(place, bytes(data), replace=True)
        (problem,) = verify(store, deep=True).problems
        assert f"block {block} " in problem["problem"], (how, problem)
        with pytest.raises(Corrupt, match=f"block {block} "):
            embedding[block * 50 : block * 50 + 1]
        store.arrays.put(place, whole[place], replace=True)
    assert verify(store, deep=True).problems == ()
    where = "a bucket" if "://" in store.arrays.url else "a directory"
    figure(f"{times} damaged blocks in {where}: all found, none read as data")
