"""The rules of CUDA that the pretend GPU enforces, each with a planted fault. Run by tests/test_on_a_pretend_gpu.py."""

from __future__ import annotations

import gc

import numpy as np
import pretend_gpu
import pytest
import torch


def on_gpu(*values: float) -> torch.Tensor:
    return torch.tensor(values, device="cuda")


def test_devices_cannot_be_mixed() -> None:
    with pytest.raises(RuntimeError, match="same device"):
        on_gpu(1, 2) + torch.ones(2)


def test_a_device_tensor_is_no_array() -> None:
    with pytest.raises(TypeError, match=r"Tensor\.cpu"):
        on_gpu(1).numpy()
    with pytest.raises(TypeError, match=r"Tensor\.cpu"):
        np.asarray(on_gpu(1))


def test_fresh_memory_holds_garbage() -> None:
    assert torch.empty(3, device="cuda").isnan().all()
    assert torch.empty(3, dtype=torch.int64, device="cuda").cpu().tolist() == [-(1 << 30)] * 3


def test_a_copy_from_pinned_memory_is_late_until_its_stream_is_waited_for() -> None:
    buffer = torch.empty(2, pin_memory=True)
    buffer[:] = 1
    target, stream = torch.zeros(2, device="cuda"), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        target.copy_(buffer, non_blocking=True)
    buffer[:] = 2  # the fault: the buffer is used again before the copy has happened
    torch.cuda.current_stream().wait_stream(stream)
    assert target.cpu().tolist() == [2, 2]


def test_a_graph_replays_on_the_same_memory_and_refuses_to_wait() -> None:
    total, step = on_gpu(0.0), on_gpu(1.0)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        total += step
    for _ in range(3):
        recorded.replay()
    assert total.item() >= 3
    with pytest.raises(RuntimeError, match="capturing"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        total.item()


def test_waits_are_counted_where_they_happen() -> None:
    pretend_gpu.reset()
    on_gpu(1.0).item()
    assert pretend_gpu.counts["waits"] >= 1
    assert pretend_gpu.waits


def test_memory_is_bounded_and_given_back() -> None:
    gc.collect()
    free, _ = torch.cuda.mem_get_info()
    kept = torch.zeros(1 << 20, device="cuda")
    assert torch.cuda.mem_get_info()[0] == free - 4 * (1 << 20)
    del kept
    gc.collect()
    assert torch.cuda.mem_get_info()[0] == free
    before, pretend_gpu.memory.limit = pretend_gpu.memory.limit, pretend_gpu.memory.held + 1000
    try:
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(1 << 20, device="cuda")
    finally:
        pretend_gpu.memory.limit = before
