"""The device that computes models, probes and K-means: name, free memory, errors, float32 arithmetic."""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

from qrp_store.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    import torch

KNOWN = "auto, cpu, cuda, cuda:N"
_DEVICE = re.compile(r"auto|cpu|cuda(:(0|[1-9]\d{0,3}))?")
_FULL = re.compile(r"out of memory|ALLOC_FAILED|not enough memory|can't allocate memory|bad_alloc", re.IGNORECASE)

Arithmetic = Literal["ieee", "tf32"]


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
        return torch.device("cuda" if gpu_count() else "cpu")
    number = gpu_number(name)
    if number is not None and number >= gpu_count():
        raise Unavailable(f"--device {name!r}: torch has no such GPU on this machine", hint="--device cpu")
    return torch.device(name)


def gpu_count() -> int:
    """Return how many GPUs torch can compute on here."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about a driver that it cannot use: then there is no GPU
        return torch.cuda.device_count() if torch.cuda.is_available() else 0


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that torch can compute on here, as CUDA_VISIBLE_DEVICES takes them."""
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    numbers = range(gpu_count())
    return [names[i] if names else str(i) for i in numbers]


def gpu_identity(device: str) -> tuple[str, str]:
    """Return the host's name and the name of a GPU on it: processes with the same identity share the GPU."""
    return socket.gethostname(), visible_gpus()[gpu_number(device) or 0]


def free_bytes(device: torch.device, keep: float = 0.0, sharers: int = 1) -> int:
    """Return the bytes that this process may still allocate on a GPU, of which a share `keep` stays free.

    Memory that torch has reserved and does not use counts as free. `sharers` processes get equal parts.
    """
    import torch

    free, total = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    unused = torch.cuda.memory_reserved(device) - allocated
    rest = free + unused - keep * total
    if sharers > 1:
        rest = min(rest, (1 - keep) * total / sharers - allocated)
    return max(0, int(rest))


@contextmanager
def memory_errors(device: object, task: str, advice: str = "") -> Iterator[None]:
    """Translate out-of-memory errors of torch, CUDA and faiss into Unavailable.

    The message names the device and the task; `advice` says how the task can need less memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        named = "this machine" if str(device) == "cpu" else str(device)
        steps = ["end other programs that use it", *([advice] if advice else [])]
        steps += [] if str(device) == "cpu" else ["use --device cpu"]
        raise Unavailable(f"the memory of {named} is too small for {task}", hint=", or ".join(steps)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device, or the host, has too little free memory."""
    if isinstance(error, MemoryError):
        return True
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _FULL.search(str(error)) is not None


class _Precision:
    """The float32 arithmetic of the process: a flag in torch, so different precisions take turns."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users, self._arithmetic = 0, "ieee"
        self._restore = ExitStack()

    @contextmanager
    def use(self, arithmetic: Arithmetic) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._users or self._arithmetic == arithmetic)
            if not self._users:
                self._restore, self._arithmetic = _set_arithmetic(arithmetic), arithmetic
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                if not self._users:
                    self._restore.close()
                    self._changed.notify_all()


_precision = _Precision()


@contextmanager
def float32_arithmetic(arithmetic: Arithmetic = "ieee") -> Iterator[None]:
    """Compute float32 products and convolutions in float32 ("ieee") or TF32, whatever the program has set.

    The program's own settings are restored when the last user leaves. A thread must not enter one inside the other.
    """
    with _precision.use(arithmetic):
        yield


def _set_arithmetic(arithmetic: Arithmetic) -> ExitStack:
    """Set torch's flags; the returned stack restores them."""
    import torch

    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    with ExitStack() as undo:
        # Other libraries read this older flag of convolutions, which fails while `conv` and `rnn` differ from it.
        with suppress(RuntimeError):
            _set(undo, cudnn, "allow_tf32", arithmetic == "tf32")
        if not hasattr(cuda.matmul, "fp32_precision"):  # torch before 2.9
            undo.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("high" if arithmetic == "tf32" else "highest")
            return undo.pop_all()
        for backend in (cuda.matmul, *_parts(cudnn)):
            _set_precision(undo, backend, arithmetic)
        for backend in _parts(mkldnn):
            _set_precision(undo, backend, "ieee")
        return undo.pop_all()


def _parts(library: Any) -> list[Any]:
    return [getattr(library, name) for name in ("matmul", "conv", "rnn") if hasattr(library, name)]


def _set_precision(undo: ExitStack, backend: Any, precision: str) -> None:
    if backend.fp32_precision != precision and (backend.fp32_precision, precision) != ("none", "ieee"):
        _set(undo, backend, "fp32_precision", precision)


def _set(undo: ExitStack, target: Any, name: str, value: object) -> None:
    before = getattr(target, name)
    undo.callback(setattr, target, name, before)
    setattr(target, name, value)
