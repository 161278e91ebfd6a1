"""Choose the engine and the device of K-means: the requested ones, or the best available. No silent fallback."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from qrp_store.device import check_device, gpu_count, gpu_number, visible_gpus
from qrp_store.errors import InvalidInput, Unavailable
from qrp_store.execution import available_cores
from qrp_store.kmeans.nearest import FaissNearest, Nearest, faiss_gpus
from qrp_store.options import Engine

ENGINES = get_args(Engine)
_SPREAD_OPERATIONS = 2e14  # an H100 multiplies float32 at 2e13 a second or more; a process starts in about 10 s
_INSTALL = "pip install 'qrp-store[cpu]', or 'qrp-store[gpu]' for a GPU"


@dataclass(frozen=True)
class Chosen:
    """An engine ("faiss" or "torch") and the device (cpu, cuda or cuda:N) that it computes on.

    `sharers`: how many processes of this job share a GPU.
    """

    engine: str
    device: str
    sharers: int = 1

    @property
    def on_gpu(self) -> bool:
        """Whether rows are kept, searched and summed on a GPU (`torch_points`)."""
        return self.device != "cpu"

    def nearest(self) -> Nearest:
        """Return the engine that searches rows of the host. Raise Unavailable if it cannot be loaded."""
        if self.engine == "faiss":
            return FaissNearest()
        from qrp_store.kmeans.torch_nearest import TorchNearest

        return TorchNearest(self.device)


def choose(engine: str = "auto", device: str = "auto") -> Chosen:
    """Return the engine and the device that the options mean here.

    Both engines search on the CPU and, if their builds support it, on a GPU. On a GPU engine "auto" is torch; on a CPU
    it is faiss, or torch if faiss is not installed. Device "auto" is a GPU if one is available. Raise Unavailable for
    an engine or device that is missing.
    """
    if engine not in ENGINES:
        raise InvalidInput(f"--engine {engine!r}: known are {', '.join(ENGINES)}")
    gpu = gpu_number(check_device(device))
    candidates = ("torch", "faiss") if engine == "auto" else (engine,)
    installed = [name for name in candidates if _installed(name)]
    if not installed:
        one = f"--engine {engine} needs {engine}, which is not installed"
        neither = "K-means needs faiss or torch, and neither is installed"
        raise Unavailable(neither if engine == "auto" else one, hint=_INSTALL)
    if gpu is not None or (device == "auto" and _may_have_cuda()):
        for name in installed:
            if _n_gpus(name) > (gpu or 0):
                return Chosen(name, "cuda" if gpu is None else device)
    if gpu is not None:
        which = "" if device == "cuda" else f" {gpu}"
        raise Unavailable(
            f"--device {device}: {' and '.join(installed)} here can compute on no CUDA device{which} of this machine",
            hint="--device cpu, or pip install 'qrp-store[gpu]' where there is a GPU",
        )
    return Chosen(installed[-1], "cpu")


def local_gpus(device: str) -> list[str]:
    """Return the GPUs of this machine over which `device` lets worker processes spread; none for cpu and cuda:N."""
    any_gpu = device == "cuda" or (device == "auto" and _may_have_cuda())
    return visible_gpus() if any_gpu and _installed("torch") else []


def gpus_worth_starting(chosen: Chosen, operations: float) -> list[str]:
    """Return the GPUs that a job of so many float operations is spread over, a process each; none for one GPU.

    A process takes seconds to start, so a job that one GPU finishes in that time stays on one. Each process needs a
    core.
    """
    if chosen.device != "cuda" or operations < _SPREAD_OPERATIONS:
        return []
    gpus = visible_gpus()[: available_cores()]
    return gpus if len(gpus) > 1 else []


def _installed(module: str) -> bool:
    return find_spec(module) is not None


def _may_have_cuda() -> bool:
    """Whether a driver's device exists. Only then torch, which takes seconds and much memory to load, is asked."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return Path("/dev/dxg").exists() or any(Path("/dev").glob("nvidia[0-9]*"))


def _n_gpus(engine: str) -> int:
    """Return on how many GPUs an engine can compute here. Rows are kept there by torch, whichever searches."""
    if not _installed("torch"):
        return 0
    return min(gpu_count(), faiss_gpus()) if engine == "faiss" else gpu_count()
