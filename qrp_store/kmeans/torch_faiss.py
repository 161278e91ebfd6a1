"""Nearest centroids by faiss on a GPU, over rows that torch keeps there.

faiss reads torch's device memory and works in torch's current stream, so no row crosses to the host and back.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from qrp_store.errors import Unavailable, first_line
from qrp_store.kmeans.nearest import GPU_HINT, load_faiss

_SCRATCH = 1 << 28  # bytes of a GPU that faiss reserves for itself; its default is 1.5 GB


def nearest_by_faiss(
    rows: torch.Tensor, squares: torch.Tensor, centroids: torch.Tensor, norms: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `torch_nearest.nearest` returns, by faiss in float32; a row without a nearest has label -1."""
    distances, labels = _library().knn_gpu(_scratch(), rows, centroids, 1, device=rows.device.index or 0)
    distances, labels = distances[:, 0], labels[:, 0]
    searched = (labels >= 0) & squares.isfinite()
    return labels, torch.where(searched, distances, torch.inf).clamp_(min=0)


@cache
def _library() -> Any:
    """Return faiss, whose functions take tensors once its module for torch is loaded."""
    faiss = load_faiss()
    try:
        import faiss.contrib.torch_utils
    except (ImportError, OSError, RuntimeError) as error:
        raise Unavailable(f"faiss cannot read torch's tensors here: {first_line(error)}", hint=GPU_HINT) from error
    return faiss


@cache
def _scratch() -> Any:
    resources = _library().StandardGpuResources()
    resources.setTempMemory(_SCRATCH)
    return resources
