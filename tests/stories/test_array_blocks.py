"""How an array's blocks come into the store: two in memory at a time, each on the disk before it is recorded."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qrp_store.catalog.entities import embeddings
from qrp_store.ingest import ingest
from qrp_store.ingest.recording import Placed
from qrp_store.store import create_store, open_store

ROWS, DIM, BLOCKS = 512, 4096, 6
BLOCK_BYTES = ROWS * DIM * 4


@pytest.mark.parametrize("given", ["float32", "float64"])
def test_an_array_takes_the_memory_of_two_blocks(given: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((BLOCKS * ROWS, DIM), given))
    create_store(str(tmp_path / "store"))
    with open_store(str(tmp_path / "store")) as store:
        tracemalloc.start()
        try:
            report = ingest(store, str(tmp_path / "x.npy"), dataset="d", backbone="b", block_rows=ROWS)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert report.blocks["written"] == BLOCKS
    assert peak < 2.8 * BLOCK_BYTES, "beside the rows: a piece of 4 MiB, the keys, the database's buffers"


def test_blocks_are_on_the_disk_before_they_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[str] = set()
    recorded: list[int] = []
    sync, record = os.fsync, embeddings.record_blocks

    def watched_sync(descriptor: int) -> None:
        sync(descriptor)
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))

    def watched_record(catalog: Any, claimed: Any, dataset: Any, placed: Sequence[Placed]) -> None:
        for block, _ in placed:
            assert any(path.endswith(f"/c/{block.index}/0") for path in synced)
            recorded.append(block.index)
        record(catalog, claimed, dataset, placed)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(embeddings, "record_blocks", watched_record)
    np.save(tmp_path / "x.npy", np.ones((40, 3), np.float32))
    create_store(str(tmp_path / "store"))
    with open_store(str(tmp_path / "store")) as store:
        ingest(store, str(tmp_path / "x.npy"), dataset="d", backbone="b", block_rows=9)
    assert recorded == list(range(5))
