"""The one place where this package meets torch: is it here, and which device is meant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qrp_store.errors import InvalidInput, Unavailable

try:
    import torch as torch
except ImportError as error:
    raise Unavailable("probing needs torch", hint="pip install 'qrp-store[cpu]'") from error


def resolve_device(name: str) -> torch.device:
    """The device that "auto", "cpu", "cuda" or "cuda:N" names. Raises InvalidInput, or Unavailable without a GPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidInput(f"device {name!r} is not one of auto, cpu, cuda, cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InvalidInput(f"device {name!r} is not one of auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise Unavailable(f"device {name!r}: torch sees no such GPU", hint="use device cpu")
    return device


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
