"""K-means that was killed goes on from its last iteration and ends with the same bits."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from qrp_store.arrays.directory import Directory
from qrp_store.catalog.entities import clusterings
from qrp_store.cluster import ClusterReport, checkpoint, cluster
from qrp_store.ingest import ingest
from qrp_store.kmeans.lloyd import KMeansState
from qrp_store.store import Store, create_store, open_store


def _store(folder: Path) -> Store:
    create_store(str(folder / "store"))
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", rng.normal(size=(3000, 24)).astype(np.float32))
    store = open_store(str(folder / "store"))
    ingest(store, str(folder / "x.npy"), dataset="d", backbone="b", block_rows=500)
    return store


def _cluster(store: Store) -> ClusterReport:
    return cluster(store, dataset="d", backbone="b", k=30, niter=12, nredo=2)


def test_an_interrupted_run_goes_on_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = _store(tmp_path / "whole")
    expected = _cluster(whole)
    cut = _store(tmp_path / "cut")
    saved = checkpoint.Checkpoint.save

    def interrupt(self: checkpoint.Checkpoint, state: KMeansState) -> None:
        saved(self, state)
        if (state.redo, state.iteration) == (1, 5):
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Checkpoint, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _cluster(cut)
    monkeypatch.setattr(checkpoint.Checkpoint, "save", saved)
    steps = _count_steps(monkeypatch)
    report = _cluster(cut)
    assert steps == list(range(6, 13))  # only what was left of the second try
    assert report.objective_per_iteration == expected.objective_per_iteration
    assert report.splits_per_iteration == expected.splits_per_iteration == (0,) * 12
    assert report.objective == expected.objective
    for ours, theirs in zip(
        clusterings.assignments(cut.catalog, report.id),
        clusterings.assignments(whole.catalog, expected.id),
        strict=True,
    ):
        assert (ours == theirs).all()
    assert not [p for p in cut.arrays.list("") if p.endswith(checkpoint.NAME)]
    whole.close()
    cut.close()


def test_seeding_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
    store = _store(tmp_path)
    module = sys.modules[KMeansState.__module__]  # the package has a function of its name
    saved, seeded = checkpoint.Checkpoint.save, module.initial

    def interrupt(self: checkpoint.Checkpoint, state: KMeansState) -> None:
        saved(self, state)
        raise KeyboardInterrupt

    asked = {"dataset": "d", "backbone": "b", "k": 30, "niter": 4, "init": "greedy-kmeans++"}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoint, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cluster(store, **asked)
        seeds = []
        patch.setattr(checkpoint.Checkpoint, "save", saved)
        patch.setattr(module, "initial", lambda *given: seeds.append(given) or seeded(*given))
        report = cluster(store, **asked)
        assert seeds == []
        again = cluster(store, **asked, force=True)
        assert len(seeds) == 1
    assert (report.objective, report.splits_per_iteration) == (again.objective, again.splits_per_iteration)
    assert report.splits_per_iteration == (0,) * 4
    store.close()


def _count_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The iterations that are really done from now on."""
    steps: list[int] = []
    saved = checkpoint.Checkpoint.save

    def count(self: checkpoint.Checkpoint, state: KMeansState) -> None:
        steps.append(state.iteration)
        saved(self, state)

    monkeypatch.setattr(checkpoint.Checkpoint, "save", count)
    return steps


def test_a_damaged_checkpoint_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
    store = _store(tmp_path)
    kept = checkpoint.Checkpoint(store.arrays, "clustering/clu-0/e0")
    assert kept.load(3, 2) is None
    kept.save(KMeansState(0, 4, np.ones((3, 2), np.float32), (3.0, 2.0, 1.5, 1.2)))
    loaded = kept.load(3, 2)
    assert loaded is not None
    assert (loaded.iteration, loaded.objective) == (4, (3.0, 2.0, 1.5, 1.2))
    assert kept.load(4, 2) is None
    path = Path(store.arrays.url) / "clustering/clu-0/e0" / checkpoint.NAME
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(bytes(data))
    assert kept.load(3, 2) is None
    store.close()


def test_a_checkpoint_with_any_bit_flipped_is_itself_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
    kept = checkpoint.Checkpoint(Directory(tmp_path), "clustering/clu-1/e0")
    state = KMeansState(
        1, 3, np.ones((4, 3), np.float32), (3.0, 2.0, 1.0), np.zeros((4, 3), np.float32), (2.0,), (0, 1, 0)
    )
    kept.save(state)
    (path,) = tmp_path.rglob(checkpoint.NAME)
    data = path.read_bytes()
    at = [*range(60), *range(60, len(data) - 400, 9), *range(len(data) - 400, len(data), 2)]
    for place in at:
        for bit in (0, 3):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            found = kept.load(4, 3)
            assert found is None or (found.iteration, found.objective) == (state.iteration, state.objective)
            assert found is None or found.splits == state.splits
            assert found is None or np.array_equal(found.centroids, state.centroids)
