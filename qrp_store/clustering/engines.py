"""Which engine searches, and where: what was asked for, or the best that is there. Nothing falls back in silence."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from qrp_store.clustering.nearest import FaissNearest, Nearest
from qrp_store.errors import InvalidInput, Unavailable

ENGINES = ("auto", "faiss", "torch")
DEVICES = ("auto", "cpu", "cuda")
_INSTALL = "pip install 'qrp-store[cpu]', or 'qrp-store[gpu]' for a GPU"


@dataclass(frozen=True)
class Chosen:
    """An engine ("faiss" or "torch") and the device ("cpu" or "cuda") that it computes on."""

    engine: str
    device: str

    def nearest(self) -> Nearest:
        """The engine itself. Raises Unavailable when it cannot be loaded."""
        if self.engine == "faiss":
            return FaissNearest()
        from qrp_store.clustering.torch_nearest import TorchNearest

        return TorchNearest(self.device)


def choose(engine: str = "auto", device: str = "auto") -> Chosen:
    """What runs when this is asked for.

    faiss searches on the CPU, torch on the CPU and on CUDA. "auto" takes torch where a CUDA device is asked for or
    there, faiss otherwise, and torch on the CPU when faiss is not installed. Raises Unavailable for what is not there.
    """
    for name, value, known in (("engine", engine, ENGINES), ("device", device, DEVICES)):
        if value not in known:
            raise InvalidInput(f"--{name} {value!r}: known are {', '.join(known)}")
    if engine == "faiss":
        if device == "cuda":
            raise Unavailable("--engine faiss searches on the CPU only", hint="--engine torch searches on CUDA devices")
        _require("faiss")
        return Chosen("faiss", "cpu")
    if device == "cuda":
        _require("torch")
        if not _cuda():
            raise Unavailable("--device cuda: torch sees no CUDA device on this machine", hint="--device cpu")
        return Chosen("torch", "cuda")
    if device == "auto" and _installed("torch") and _may_have_cuda() and _cuda():
        return Chosen("torch", "cuda")
    if engine == "auto" and _installed("faiss"):
        return Chosen("faiss", "cpu")
    if engine == "auto" and not _installed("torch"):
        raise Unavailable("K-means needs faiss or torch, and neither is installed", hint=_INSTALL)
    _require("torch")
    return Chosen("torch", "cpu")


def _installed(module: str) -> bool:
    return find_spec(module) is not None


def _require(module: str) -> None:
    if not _installed(module):
        raise Unavailable(f"--engine {module} needs {module}, which is not installed", hint=_INSTALL)


def _may_have_cuda() -> bool:
    """Whether asking torch, which takes seconds and much memory to load, is worth it: is there a driver's device?"""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return Path("/dev/dxg").exists() or any(Path("/dev").glob("nvidia[0-9]*"))


def _cuda() -> bool:
    from qrp_store.clustering.torch_nearest import sees_cuda

    return sees_cuda()
