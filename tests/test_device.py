"""The device: float32 arithmetic that no program setting changes, and out-of-memory errors that say what to do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from qrp_store.device import float32_arithmetic, memory_errors
from qrp_store.errors import InvalidInput, Unavailable

GPU_PARTS: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]  # type: ignore[attr-defined]
CPU_PARTS: list[Any] = [torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv]  # type: ignore[attr-defined]


def precisions() -> list[str]:
    return [part.fp32_precision for part in GPU_PARTS + CPU_PARTS]


def set_whole(precision: str) -> None:
    torch.set_float32_matmul_precision(precision)


def set_each(precision: str) -> None:
    for part in GPU_PARTS:
        part.fp32_precision = precision
    for part in CPU_PARTS:
        part.fp32_precision = "bf16"


@pytest.fixture(
    params=[lambda: None, lambda: set_whole("medium"), lambda: set_each("tf32")], ids=["new", "old", "each"]
)
def program(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """What a program may have set before it calls this package."""
    before = precisions()
    yield request.param
    set_whole("highest")
    for part, precision in zip(GPU_PARTS + CPU_PARTS, before, strict=True):
        part.fp32_precision = precision


def test_float32_is_float32_and_tf32_is_tf32_whatever_the_program_has_set(program: Callable[[], None]) -> None:
    program()
    before = precisions()
    with float32_arithmetic():
        assert set(precisions()) <= {"ieee", "none"}
        assert not torch.backends.cudnn.allow_tf32
    assert precisions() == before
    with float32_arithmetic("tf32"):
        assert precisions()[:3] == ["tf32"] * 3
        assert set(precisions()[3:]) <= {"ieee", "none"}
    assert precisions() == before


def test_two_kinds_of_arithmetic_take_turns() -> None:
    entered, leave, seen = threading.Event(), threading.Event(), []

    def other() -> None:
        with float32_arithmetic("tf32"):
            seen.append(torch.backends.cudnn.conv.fp32_precision)  # type: ignore[attr-defined]

    def same() -> None:
        with float32_arithmetic():
            entered.set()
            leave.wait(10)

    waiting = threading.Thread(target=other)
    with float32_arithmetic():
        held = threading.Thread(target=same)
        held.start()
        assert entered.wait(10)
        waiting.start()
        waiting.join(0.05)
    assert seen == []
    leave.set()
    for thread in (held, waiting):
        thread.join(10)
    assert seen == ["tf32"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Error in virtual void* faiss::gpu::StandardGpuResourcesImpl::allocMemory: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
    ids=lambda error: str(error)[:24],
)
def test_too_little_memory_names_the_device_the_task_and_what_to_do(error: Exception) -> None:
    with pytest.raises(Unavailable) as caught, memory_errors("cuda:1", "1,000 centroids", "choose a smaller K"):
        raise error
    assert caught.value.message == "the memory of cuda:1 is too small for 1,000 centroids"
    assert caught.value.hint == "end other programs that use it, or choose a smaller K, or use --device cpu"
    assert caught.value.__cause__ is error


def test_on_a_cpu_the_machine_is_named() -> None:
    with pytest.raises(Unavailable, match="this machine is too small") as caught, memory_errors("cpu", "a pass"):
        raise MemoryError
    assert caught.value.hint == "end other programs that use it"


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), InvalidInput("a row"), ValueError("out of memory")])
def test_other_errors_stay_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, memory_errors("cuda", "a pass"):
        raise error
    assert caught.value is error
