"""Search for the nearest centroid on the CPU: the engines of K-means. Only this module loads faiss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from qrp_store.errors import Unavailable, first_line

Float32 = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Search = Callable[[Float32], tuple[Labels, Float32]]
_BUILDS = """
    faiss faiss-cpu faiss-cpu-noavx2 faiss-gpu faiss-gpu-cu11 faiss-gpu-cu12 faiss-gpu-cuvs faiss-gpu-cu12-cuvs
    faiss-gpu-cu13-cuvs faiss-cuda
""".split()  # noqa: SIM905
GPU_HINT = "pip install 'qrp-store[gpu]' for the CUDA version of this machine, or use --engine torch"


class Nearest(Protocol):
    """An engine. The same rows in the same batch must always give the same bits, in any thread."""

    name: str

    def prepare(self, centroids: Float32) -> Search:
        """Return a search among `centroids` (k, d) that several threads may call at once.

        It takes rows (m, d) and returns the number of each row's nearest centroid, int32 (m,), and the squared
        distance to it, float32 (m,). A row without a nearest centroid (not finite) gets -1.
        """
        ...


class FaissNearest:
    """Exact search by faiss on the CPU, each call on one thread.

    With more threads faiss and its BLAS cut the work differently, which changes distances in their last bits and now
    and then an assignment; K-means runs several calls in parallel instead.
    """

    name = "faiss"

    def prepare(self, centroids: Float32) -> Search:
        faiss = load_faiss()
        index = faiss.IndexFlatL2(centroids.shape[1])
        index.add(np.ascontiguousarray(centroids, np.float32))

        def search(rows: Float32) -> tuple[Labels, Float32]:
            with _one_thread(faiss):
                distances, labels = index.search(rows, 1)
            return labels[:, 0].astype(np.int32), distances[:, 0]

        return search


def faiss_gpus() -> int:
    """Return on how many CUDA devices the installed faiss can compute here."""
    faiss = load_faiss()
    if not hasattr(faiss, "StandardGpuResources"):
        return 0
    try:
        return int(faiss.get_num_gpus())
    except RuntimeError:  # a driver that is missing, or too old for the build's CUDA
        return 0


def faiss_builds() -> list[str]:
    """Return the installed distributions that provide the module `faiss`: more than one corrupt each other."""
    builds = []
    for name in _BUILDS:
        with suppress(metadata.PackageNotFoundError):
            builds.append(f"{name} {metadata.version(name)}")
    return builds


def require_one_build(builds: list[str]) -> None:
    """Raise Unavailable if more than one build of faiss is installed: they overwrite each other's files."""
    if len(builds) > 1:
        raise Unavailable(
            f"several builds of faiss are installed and corrupt each other: {', '.join(builds)}",
            hint="pip uninstall all of them, then install one: pip install 'qrp-store[cpu]' or 'qrp-store[gpu]'",
        )


@cache
def load_faiss() -> Any:
    """Return the module faiss. Raise Unavailable if it, or a library that it needs, is missing."""
    builds = faiss_builds()
    require_one_build(builds)
    try:
        import faiss
    except ModuleNotFoundError as error:
        if error.name == "faiss":
            raise Unavailable("K-means needs faiss", hint="pip install 'qrp-store[cpu]'") from error
        raise _broken(builds, error) from error
    except (ImportError, OSError, RuntimeError) as error:  # a shared library, like a CUDA runtime, is missing
        raise _broken(builds, error) from error
    return faiss


def _broken(builds: list[str], error: Exception) -> Unavailable:
    named = " ".join(builds) or "faiss"
    return Unavailable(f"{named} is installed but cannot be loaded: {first_line(error)}", hint=GPU_HINT)


@contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    """Use one OpenMP thread. OpenMP keeps the number for each calling thread, so other threads keep theirs."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
