"""A store of red apples and green pears whose combinations are the clusters."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from qrp_store.cluster.imported import import_clustering
from qrp_store.ingest import ingest
from qrp_store.label import label
from qrp_store.store import Store, create_store, open_store

COLOURS, FRUITS, EACH = ("red", "green", "yellow"), ("apple", "pear", "plum"), 60


def table(path: Path, rows: Sequence[Sequence[object]]) -> str:
    """A CSV file with these rows, header first."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """At these sizes a second thread mostly waits for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def apples(tmp_path: Path, one_thread: None) -> Store:
    """540 samples, clustered (`combined`) by colour and fruit together; concepts `named` in groups, `loose` in none.

    The backbone `seen` separates the combinations, `blurred` less so.
    """
    rng = np.random.default_rng(0)
    pairs = np.repeat(np.arange(9), EACH)[rng.permutation(9 * EACH)]
    create_store(str(tmp_path / "store"))
    store = open_store(str(tmp_path / "store"))
    centres = rng.normal(size=(9, 6)) * 3
    for name, noise in (("seen", 0.3), ("blurred", 3.0)):
        np.save(tmp_path / f"{name}.npy", (centres[pairs] + rng.normal(size=(len(pairs), 6)) * noise).astype("f4"))
        ingest(store, str(tmp_path / f"{name}.npy"), dataset="fruit", backbone=name)
    np.save(tmp_path / "combined.npy", pairs)
    import_clustering(store, str(tmp_path / "combined.npy"), dataset="fruit", name="combined")
    named = [("key", "concept", "group")]
    named += [(str(i), COLOURS[pair // 3], "colour") for i, pair in enumerate(pairs)]
    named += [(str(i), FRUITS[pair % 3], "fruit") for i, pair in enumerate(pairs)]
    loose = [("key", "concept"), *((str(i), f"number {i % 5}") for i in range(len(pairs)))]
    label(store, table(tmp_path / "named.csv", named), dataset="fruit", concepts="named")
    label(store, table(tmp_path / "loose.csv", loose), dataset="fruit", concepts="loose")
    return store
