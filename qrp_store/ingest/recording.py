"""Saying in the catalog which blocks are in place, while the next ones are being written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from qrp_store.errors import QrpStoreError
from qrp_store.records import Block

# a block and what was seen of its images: (position, size, mtime in ns, digest)
Placed = tuple[Block, Sequence[tuple[int, int, int, str | None]]]


class Recorder:
    """Records blocks in a separate thread. Those that come while a transaction is being synced share the next one,
    so that a slow disk costs a few transactions and not one a block.

    A context: on leaving it, everything added has been recorded. What `record` raises comes out of the next call.
    """

    def __init__(self, record: Callable[[Sequence[Placed]], None]) -> None:
        self._record = record
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="record")
        self._waiting: list[Placed] = []
        self._running: Future[None] | None = None

    def add(self, placed: Placed) -> None:
        """A block is in place. Called by one thread at a time."""
        self._waiting.append(placed)
        if self._running is None or self._running.done():
            self._go_on()

    def _go_on(self) -> None:
        if self._running is not None:
            self._running.result()
        if self._waiting:
            batch, self._waiting = self._waiting, []
            self._running = self._thread.submit(self._record, batch)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._thread:
            try:
                self._go_on()
                self._go_on()  # waits for the last
            except QrpStoreError:
                if error is None:
                    raise
