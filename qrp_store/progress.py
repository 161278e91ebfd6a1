"""Progress of long work: tasks, notes and warnings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One running piece of work."""

    def advance(self, amount: int = 1) -> None: ...


class Progress(Protocol):
    """Show progress and messages to a person. Never used for data."""

    def task(self, title: str, total: int | None, unit: str = "") -> AbstractContextManager[Task]:
        """Open a task of `total` units; used as a context manager."""
        ...

    def note(self, message: str) -> None:
        """Print a note."""
        ...

    def warn(self, message: str) -> None:
        """Print a warning: something may make the result invalid."""
        ...


class _Silent:
    @contextmanager
    def task(self, title: str, total: int | None, unit: str = "") -> Iterator[Task]:
        yield self

    def advance(self, amount: int = 1) -> None:
        pass

    def note(self, message: str) -> None:
        pass

    def warn(self, message: str) -> None:
        pass


silent: Progress = _Silent()
