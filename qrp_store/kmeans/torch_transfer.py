"""Rows to a CUDA device while it works: through two pinned buffers in turn, on a stream of their own.

A copy from ordinary memory would wait until the device has done all that it was given before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from functools import cache
from typing import Any

import numpy as np
import torch

from qrp_store.kmeans.nearest import Float32
from qrp_store.kmeans.passes import Group

_cuda: Any = torch.cuda  # whose classes are made without types
_PIECE = 8 << 20  # numbers in a pinned buffer
_AHEAD = 2  # groups on the device at a time: one that is worked on, one that is on its way


def brought(groups: Iterable[Group], device: torch.device) -> Generator[tuple[int, torch.Tensor], None, None]:
    """First row and rows, on the device, of each group; the next is on its way while the caller's work still runs.

    The caller's work is what it gives its current stream before it asks for the next group.
    """
    ferry = _Ferry(device)
    at_work: deque[torch.cuda.Event] = deque()
    for group in groups:
        if len(at_work) == _AHEAD:
            at_work.popleft().synchronize()
        yield group.start, ferry.bring(group.rows)
        done = _cuda.Event()
        done.record(torch.cuda.current_stream(device))
        at_work.append(done)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all passes: torch keeps freed memory for the stream that it was taken for."""
    made: torch.cuda.Stream = _cuda.Stream(device)
    return made


class _Ferry:
    """Two pinned buffers, each with the event that says when what it held is on the device."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, _stream(device)
        self._buffers = [(torch.empty(_PIECE, dtype=torch.float32, pin_memory=True), _cuda.Event()) for _ in range(2)]

    def bring(self, rows: Float32) -> torch.Tensor:
        """The rows on the device, for what the current stream is given from now on."""
        flat = np.ascontiguousarray(rows).reshape(-1)
        with torch.cuda.stream(self._stream):
            out = torch.empty(rows.shape, dtype=torch.float32, device=self._device)
        for first in range(0, flat.size, _PIECE):
            piece = flat[first : first + _PIECE]
            buffer, sent = self._buffers[0]
            self._buffers.reverse()
            sent.synchronize()
            np.copyto(buffer.numpy()[: len(piece)], piece)
            with torch.cuda.stream(self._stream):
                out.view(-1)[first : first + len(piece)].copy_(buffer[: len(piece)], non_blocking=True)
                sent.record(self._stream)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        out.record_stream(current)
        return out
