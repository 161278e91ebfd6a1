"""K-means on a GPU with faiss' search, over torch's device memory. Run by tests/test_on_a_pretend_gpu.py.

faiss' kernels cannot run on the pretend GPU: `faiss.knn_gpu`, the one function that is called, is replaced by the same
search in torch. So these tests show what surrounds it (which memory it gets, what becomes of its answers and errors),
and nothing of faiss' kernels, streams and CUDA runtime.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pretend_gpu
import pytest
import torch

from qrp_store.errors import InvalidInput, Unavailable
from qrp_store.kmeans import Chosen, KMeansOptions, MemoryPoints, choose, kmeans, nearest, torch_faiss
from qrp_store.kmeans.torch_points import TorchPoints

N, DIM, K = 5000, 16, 12
ROWS = (np.random.default_rng(0).standard_normal((N, DIM)) + 3 * np.eye(K, DIM)[np.arange(N) % K]).astype(np.float32)


class Resources:
    """In place of faiss.StandardGpuResources."""

    scratch = 0

    def setTempMemory(self, size: int) -> None:
        self.scratch = size


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """faiss with one GPU: the batches that it was asked to search, as (rows, device)."""
    import faiss

    batches: list[tuple[int, int]] = []

    def knn_gpu(resources: Resources, rows: Any, centroids: Any, k: int, *, device: int) -> Any:
        assert rows.is_cuda
        assert centroids.is_cuda
        assert rows.is_contiguous()
        assert centroids.is_contiguous()
        assert (rows.dtype, centroids.dtype, k) == (torch.float32, torch.float32, 1)
        assert 0 < resources.scratch < 1 << 30
        batches.append((len(rows), device))
        apart = torch.cdist(rows, centroids, compute_mode="donot_use_mm_for_euclid_dist").square()
        distances, labels = apart.min(dim=1, keepdim=True)
        lost = ~distances.isfinite()  # as faiss: a row that is near to nothing has -1 and the largest float
        return torch.where(lost, 3.4e38, distances), torch.where(lost, -1, labels)

    monkeypatch.setattr(faiss, "StandardGpuResources", Resources, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    library = SimpleNamespace(knn_gpu=knn_gpu, StandardGpuResources=Resources)
    torch_faiss._scratch.cache_clear()
    monkeypatch.setattr(torch_faiss, "_library", lambda: library)
    yield batches
    torch_faiss._scratch.cache_clear()


def points(rows: np.ndarray = ROWS, **options: Any) -> TorchPoints:
    return TorchPoints(MemoryPoints(rows), device="cuda", engine="faiss", **options)


def test_the_function_that_is_called_takes_these_arguments() -> None:
    import inspect

    from faiss.contrib.torch_utils import torch_replacement_knn_gpu

    inspect.signature(torch_replacement_knn_gpu).bind(None, None, None, 1, device=0)


@pytest.mark.parametrize("budget", [0, None], ids=["streamed", "resident"])
def test_faiss_finds_the_clusters_of_the_cpu(calls: list[tuple[int, int]], budget: int | None) -> None:
    options = KMeansOptions(K, niter=4, sample="all")
    ours, theirs = kmeans(points(budget=budget), options), kmeans(MemoryPoints(ROWS), options)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert ours.objective == pytest.approx(theirs.objective, rel=1e-6)
    assert {device for _, device in calls} == {0}
    assert max(rows for rows, _ in calls) > 2048


def test_rows_cross_once_and_stay(calls: list[tuple[int, int]]) -> None:
    resident = points()
    resident.means(ROWS[:K])
    pretend_gpu.reset()
    resident.means(ROWS[K : 2 * K])
    assert calls
    assert pretend_gpu.counts["bytes to device"] == 4 * K * DIM


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_row_that_cannot_be_searched_is_named(calls: list[tuple[int, int]], value: float) -> None:
    rows = ROWS.copy()
    rows[4321, 3] = value
    for search in (points(rows).means, points(rows).step, points(rows).assign):
        with pytest.raises(InvalidInput, match="row 4321 holds values"):
            search(ROWS[:K])


def test_the_engine_is_chosen_where_faiss_and_torch_have_the_gpu(
    calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose("faiss", "cuda") == Chosen("faiss", "cuda")
    assert choose("auto", "cuda") == Chosen("torch", "cuda")
    monkeypatch.setattr(nearest.load_faiss(), "get_num_gpus", lambda: 0)
    with pytest.raises(Unavailable, match="faiss here can compute on no CUDA device"):
        choose("faiss", "cuda")


def test_faiss_out_of_memory_says_what_to_do(calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("Error in allocMemory: StandardGpuResources: alloc fail ... cudaMalloc error out of memory")

    monkeypatch.setattr(torch_faiss, "_library", lambda: SimpleNamespace(knn_gpu=full, StandardGpuResources=Resources))
    with pytest.raises(Unavailable, match="the memory of cuda is too small for 12 centroids"):
        points().means(ROWS[:K])
