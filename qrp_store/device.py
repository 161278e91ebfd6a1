"""Where a model, a probe or K-means computes: `auto`, `cpu`, `cuda` or `cuda:N`, by one rule for all of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qrp_store.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    import torch

KNOWN = "auto, cpu, cuda, cuda:N"
_DEVICE = re.compile(r"auto|cpu|cuda(:(0|[1-9]\d{0,3}))?")


def check_device(name: str) -> str:
    """Return the name of a device as it is. Raise InvalidInput unless it is auto, cpu, cuda or cuda:N."""
    if not isinstance(name, str) or _DEVICE.fullmatch(name) is None:
        raise InvalidInput(f"--device {name!r}: known are {KNOWN}")
    return name


def gpu_number(name: str) -> int | None:
    """Return the number of the GPU that `cuda` (0) or `cuda:N` names; None for other names."""
    return int(name.partition(":")[2] or 0) if name.startswith("cuda") else None


def resolve_device(name: str) -> torch.device:
    """Return the torch device that a name means; auto is the first GPU where torch has one, else the CPU.

    Raise InvalidInput for an unknown name, and Unavailable without torch or without that GPU.
    """
    check_device(name)
    try:
        import torch
    except ImportError as error:
        raise Unavailable(f"this needs torch ({error})", hint="pip install 'qrp-store[cpu]'") from error
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    number = gpu_number(name)
    if number is not None and number >= torch.cuda.device_count():
        raise Unavailable(f"--device {name!r}: torch has no such GPU on this machine", hint="--device cpu")
    return torch.device(name)
