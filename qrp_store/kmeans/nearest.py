"""Which centroid is nearest: the engine below K-means. Only this module imports faiss."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from qrp_store.device import memory_errors
from qrp_store.errors import Unavailable

Float32 = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Search = Callable[[Float32], tuple[Labels, Float32]]
_turn = threading.Lock()
_BUILDS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12", "faiss-gpu-cuvs", "faiss")


class Nearest(Protocol):
    """An engine. The same rows in the same batch must always give the same bits, in any thread."""

    name: str

    def prepare(self, centroids: Float32) -> Search:
        """A search among `centroids` (k, d) that several threads may call at once.

        It takes rows (m, d) and returns the number of each row's nearest centroid, int32 (m,), and the squared
        distance to it, float32 (m,). A row without a nearest centroid (not finite) gets -1.
        """
        ...


class FaissNearest:
    """Exact search by faiss on the CPU, each call on one thread.

    With more threads faiss and its BLAS cut the work differently, which changes distances in their last bits and now
    and then an assignment; K-means runs several calls side by side instead.
    """

    name = "faiss"

    def prepare(self, centroids: Float32) -> Search:
        faiss = _faiss()
        index = faiss.IndexFlatL2(centroids.shape[1])
        index.add(np.ascontiguousarray(centroids, np.float32))

        def search(rows: Float32) -> tuple[Labels, Float32]:
            with _one_thread(faiss):
                distances, labels = index.search(rows, 1)
            return labels[:, 0].astype(np.int32), distances[:, 0]

        return search


class FaissGpuNearest:
    """Exact float32 search by faiss on the CUDA device of that number. Rows cross over in each call.

    faiss allows one call at a time on a device, so threads take turns; they sum side by side.
    """

    name = "faiss"

    def __init__(self, gpu: int = 0) -> None:
        self._gpu = gpu

    def prepare(self, centroids: Float32) -> Search:
        device, task = f"cuda:{self._gpu}", f"{len(centroids):,} centroids, {centroids.shape[1]:,}-d"
        with _turn, memory_errors(device, task, "choose a smaller K"):
            faiss = _faiss()
            place = faiss.GpuIndexFlatConfig()
            place.device = self._gpu
            index = faiss.GpuIndexFlatL2(_working_memory(), centroids.shape[1], place)
            index.add(np.ascontiguousarray(centroids, np.float32))

        def search(rows: Float32) -> tuple[Labels, Float32]:
            with _turn, memory_errors(device, task, "choose a smaller K"):
                distances, labels = index.search(np.ascontiguousarray(rows, np.float32), 1)
            found, apart = labels[:, 0].astype(np.int32), np.maximum(distances[:, 0], 0)
            found[~np.isfinite(apart)] = -1
            return found, apart

        return search


@cache
def _working_memory() -> Any:
    """Return the devices' working memory: allocated once per process."""
    return _faiss().StandardGpuResources()


def faiss_gpus() -> int:
    """Return on how many CUDA devices the installed faiss can compute here."""
    faiss = _faiss()
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def faiss_builds() -> list[str]:
    """The installed distributions that provide the module `faiss`; more than one of them corrupt each other."""
    found = []
    for name in _BUILDS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            pass
    return found


def require_one_build(builds: list[str]) -> None:
    """Unavailable when more than one faiss build is installed: they overwrite each other's files silently."""
    if len(builds) > 1:
        raise Unavailable(
            f"several builds of faiss are installed and corrupt each other: {', '.join(builds)}",
            hint="pip uninstall all of them, then install one: pip install 'qrp-store[cpu]' or 'qrp-store[gpu]'",
        )


@cache
def _faiss() -> Any:
    require_one_build(faiss_builds())
    try:
        import faiss
    except ImportError as error:
        raise Unavailable("K-means needs faiss", hint="pip install 'qrp-store[cpu]'") from error
    return faiss


@contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    """OpenMP keeps the number of threads per calling thread, so this disturbs nobody else."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
