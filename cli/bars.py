"""Progress on stderr: bars on a terminal only, notes unless quiet, warnings always."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from qrp_store.progress import Task

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Bars:
    """Implement `qrp_store.progress.Progress` for several threads. Close it when done."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._live: RichProgress | None = None
        self._lock = threading.Lock()

    @contextmanager
    def task(self, title: str, total: int | None, unit: str = "") -> Iterator[Task]:
        if self._quiet or not self._stream.isatty():
            yield _Unseen()
            return
        live = self._start()
        bar = live.add_task(title, total=total, unit=unit)
        try:
            yield _Bar(live, bar)
        finally:
            live.remove_task(bar)

    def note(self, message: str) -> None:
        if not self._quiet:
            self._say(message)

    def warn(self, message: str) -> None:
        self._say(f"warning: {message}")

    def close(self) -> None:
        """Remove the bars from the screen."""
        with self._lock:
            if self._live is not None:
                self._live.stop()
                self._live = None

    def _say(self, message: str) -> None:
        if self._live is not None:
            self._live.console.print(message, markup=False, highlight=False, soft_wrap=True)
        else:
            print(message, file=self._stream, flush=True)

    def _start(self) -> RichProgress:
        with self._lock:
            if self._live is None:
                self._live = _rich_progress(self._stream)
                self._live.start()
            return self._live


class _Unseen:
    def advance(self, amount: int = 1) -> None:
        pass


class _Bar:
    def __init__(self, live: RichProgress, bar: TaskID) -> None:
        self._live, self._bar = live, bar

    def advance(self, amount: int = 1) -> None:
        self._live.advance(self._bar, amount)


def _rich_progress(stream: TextIO) -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Task as RichTask
    from rich.text import Text

    class Amount(ProgressColumn):
        """Done, total and rate."""

        def render(self, task: RichTask) -> Text:
            unit = task.fields.get("unit") or ""
            total = "" if task.total is None else f"/{task.total:,.0f}"
            rate = "" if not task.speed else f"  {task.speed:,.{0 if task.speed >= 10 else 1}f} {unit}/s"
            return Text(f"{task.completed:,.0f}{total} {unit}{rate}")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        Amount(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=Console(file=stream),
        transient=True,
    )
