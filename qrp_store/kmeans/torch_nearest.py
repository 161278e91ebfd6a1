"""Search for the nearest centroid with torch, on the CPU or a GPU.

Decisions are made in float32, never in TF32 or bfloat16. On the CPU the same batch gives the same bits, whatever the
number of threads. On CUDA distances differ from those on the CPU by rounding, about 1e-6 of the squared norms.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from qrp_store.device import float32_arithmetic, memory_errors
from qrp_store.errors import Unavailable
from qrp_store.kmeans.nearest import Float32, Labels, Search

try:
    import torch
except ImportError as error:
    raise Unavailable("this engine needs torch", hint="pip install 'qrp-store[cpu]'") from error

_ALIGNED = 64  # bytes; MKL's sums depend on whether its operands are


class TorchNearest:
    """Exact search by blocked matrix products. `device` is cpu, cuda or cuda:N."""

    name = "torch"

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)

    def prepare(self, centroids: Float32) -> Search:
        centers, norms = prepared(centroids, self.device)
        threads = torch.get_num_threads()

        def search(rows: Float32) -> tuple[Labels, Float32]:
            memory = memory_errors(self.device, f"a batch of {len(rows):,} rows, {rows.shape[1]:,}-d")
            with _one_thread(threads), float32_arithmetic(), memory:
                tensor = on_device(rows, self.device)
                labels, distances = nearest(tensor, squared(tensor), centers, norms)
            host_labels = labels.to("cpu", torch.int32).numpy()
            host_distances: Float32 = distances.cpu().numpy()
            host_labels[~np.isfinite(host_distances)] = -1
            return host_labels, host_distances

        return search


def prepared(centroids: Float32, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the centroids (k, d) and their squared norms (k,) on the device."""
    centers = torch.tensor(centroids, dtype=torch.float32, device=device)
    return centers, squared(centers)


def on_device(rows: Float32, device: torch.device) -> torch.Tensor:
    """Return the rows as an aligned tensor on the device; it may share memory with `rows` and must not be written."""
    if device.type != "cpu":
        return torch.tensor(rows, device=device)
    if rows.ctypes.data % _ALIGNED or not rows.flags.writeable or not rows.flags.c_contiguous:
        return torch.tensor(rows)
    return torch.from_numpy(rows)


def squared(rows: torch.Tensor) -> torch.Tensor:
    """Return the squared norms of rows (m, d): (m,)."""
    return rows.square().sum(dim=1)


def nearest(
    rows: torch.Tensor, squares: torch.Tensor, centroids: torch.Tensor, norms: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the number (int64) of each row's nearest centroid, the lowest among equals, and its squared distance.

    `squares` and `norms` are the squared norms of rows and centroids. A row that is not finite, or whose square is not,
    has a distance that is not.
    """
    partial = torch.addmm(norms, rows, centroids.T, alpha=-2)
    labels = partial.argmin(dim=1)
    distances = partial.gather(1, labels[:, None])[:, 0] + squares
    return labels, distances.clamp_(min=0)


@contextmanager
def _one_thread(before: int) -> Iterator[None]:
    """Use one thread for this call. torch keeps the number per thread, but new threads start with the last one set."""
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
