"""Several processes and several GPUs: who gets which, and how much memory. Run by tests/test_on_a_pretend_gpu.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pretend_gpu
import pytest
import torch

from qrp_store.catalog.entities import clusterings
from qrp_store.cluster import cluster
from qrp_store.device import free_bytes, visible_gpus
from qrp_store.errors import Unavailable
from qrp_store.ingest import ingest
from qrp_store.kmeans import Chosen, MemoryPoints
from qrp_store.kmeans.engines import gpus_worth_starting, local_gpus
from qrp_store.kmeans.torch_points import TorchPoints, needed_bytes, require_room
from qrp_store.store import create_store, open_store

ROWS = np.random.default_rng(0).standard_normal((20_000, 32)).astype(np.float32)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("qrp_store.kmeans.engines.available_cores", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("two_gpus")
def test_a_long_job_is_spread_over_all_visible_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus_worth_starting(Chosen("torch", "cuda"), 1e16) == ["0", "1"]
    assert gpus_worth_starting(Chosen("torch", "cuda"), 1e12) == []  # seconds of one GPU
    assert gpus_worth_starting(Chosen("torch", "cuda:1"), 1e16) == []
    assert gpus_worth_starting(Chosen("faiss", "cpu"), 1e16) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8932f937")
    assert gpus_worth_starting(Chosen("torch", "cuda"), 1e16) == visible_gpus() == ["3", "GPU-8932f937"]
    assert (local_gpus("cuda"), local_gpus("cuda:1"), local_gpus("cpu")) == (visible_gpus(), [], [])
    monkeypatch.setattr("qrp_store.kmeans.engines.available_cores", lambda: 1)
    assert gpus_worth_starting(Chosen("torch", "cuda"), 1e16) == []  # each process needs a core


@pytest.mark.usefixtures("two_gpus")
def test_cluster_on_two_gpus_makes_the_clusters_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_store(str(tmp_path / "store"))
    np.save(tmp_path / "x.npy", ROWS)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import pretend_gpu\npretend_gpu.install()\n")
    here = str(Path(pretend_gpu.__file__).parent)
    options: dict[str, Any] = {"dataset": "d", "backbone": "b", "k": 8, "niter": 2, "sample": "all", "engine": "torch"}
    with open_store(str(tmp_path / "store")) as store:
        ingest(store, str(tmp_path / "x.npy"), dataset="d", backbone="b", block_rows=5000)
        one = cluster(store, device="cuda:0", **options)
        monkeypatch.setattr("qrp_store.kmeans.engines._SPREAD_OPERATIONS", 0)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{here}")
        two = cluster(store, device="cuda", force=True, **options)
        provenance = clusterings.by_id(store.catalog, two.id).artifact.provenance
        assert (provenance["workers"], provenance["device"]) == (2, "cuda")
        assert (two.objective, two.sizes) == (one.objective, one.sizes)


def test_processes_that_share_a_gpu_share_its_memory() -> None:
    device = torch.device("cuda")
    with pretend_gpu.bounded(10_000_000):
        total = pretend_gpu.memory.limit
        assert free_bytes(device, keep=0.4) == int(10_000_000 - 0.4 * total)
        held = pretend_gpu.memory.held
        assert free_bytes(device, keep=0.4, sharers=4) == max(0, int(0.6 * total / 4 - held))


@pytest.mark.parametrize(("sharers", "resident"), [(1, True), (4, False)])
def test_rows_stay_only_as_far_as_a_process_has_a_part_of_the_memory(sharers: int, resident: bool) -> None:
    with pretend_gpu.bounded(6 * ROWS.nbytes):
        points = TorchPoints(MemoryPoints(ROWS), device="cuda", sharers=sharers)
        points.means(ROWS[:4])
        pretend_gpu.reset()
        points.means(ROWS[:4])
    assert (pretend_gpu.counts["bytes to device"] < ROWS.nbytes) is resident


@pytest.mark.parametrize(("k", "dim"), [(4, 32), (700, 32), (50, 300)])
def test_the_estimate_of_a_pass_is_enough_and_less_is_refused_before_work_begins(
    k: int, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qrp_store.kmeans.passes._GROUP_BYTES", 1)
    rows = np.random.default_rng(0).standard_normal((7_000, dim)).astype(np.float32)
    points = TorchPoints(MemoryPoints(rows), device="cuda", budget=0)
    with pretend_gpu.bounded(needed_bytes(k, dim)):
        require_room("cuda", k, dim)
        points.means(rows[:k])
        points.assign(rows[:k])
    with (
        pretend_gpu.bounded(needed_bytes(k, dim) // 2),
        pytest.raises(Unavailable, match=f"{k} centroids, {dim}-d, take"),
    ):
        require_room("cuda", k, dim)
