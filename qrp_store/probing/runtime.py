"""The one place where this package meets torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qrp_store.errors import Unavailable

try:
    import torch as torch
except ImportError as error:
    raise Unavailable("probing needs torch", hint="pip install 'qrp-store[cpu]'") from error


@contextmanager
def current(device: torch.device) -> Iterator[None]:
    """Make it the one that a GPU's streams and graphs are made on meanwhile; nothing to do for the CPU."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            yield
    else:
        yield


def threads() -> int:
    """How many threads torch computes with: what the last bits on a CPU depend on."""
    return int(torch.get_num_threads())


def instructions() -> str:
    """The instruction set that torch computes with on this CPU, like AVX2: it decides the last bits, too."""
    return str(torch.backends.cpu.get_cpu_capability())


@contextmanager
def using_threads(number: int | None) -> Iterator[None]:
    """Compute with so many threads meanwhile; None leaves them as they are."""
    before = threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
