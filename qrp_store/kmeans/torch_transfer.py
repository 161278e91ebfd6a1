"""Copy rows to a GPU while it computes: through two pinned buffers in turn, on a separate stream.

A copy from ordinary memory would wait until the device has finished all earlier work.
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


def copied_to(groups: Iterable[Group], device: torch.device) -> Generator[tuple[int, torch.Tensor], None, None]:
    """Yield the first row's number and the rows, on the device, of each group.

    The next group is copied while the device still does what the caller has put into its current stream.
    """
    copies = _PinnedCopies(device)
    at_work: deque[torch.cuda.Event] = deque()
    for group in groups:
        if len(at_work) == _AHEAD:
            at_work.popleft().synchronize()
        yield group.start, copies.to_device(group.rows)
        done = _cuda.Event()
        done.record(torch.cuda.current_stream(device))
        at_work.append(done)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Return one stream for all passes: torch reuses freed memory only on the stream that allocated it."""
    created: torch.cuda.Stream = _cuda.Stream(device)
    return created


class _PinnedCopies:
    """Two pinned buffers, each with the event that marks the end of its last copy."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, _stream(device)
        self._buffers = [(torch.empty(_PIECE, dtype=torch.float32, pin_memory=True), _cuda.Event()) for _ in range(2)]

    def to_device(self, rows: Float32) -> torch.Tensor:
        """Return the rows on the device, ready for work that enters the current stream from now on."""
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
