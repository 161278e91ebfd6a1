"""How long work tells whoever watches how far it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, amount: int = 1) -> None: ...


class Progress(Protocol):
    """Shows work and says things to a person. Never used for data."""

    def task(self, title: str, total: int | None, unit: str = "") -> AbstractContextManager[Task]:
        """Open a task of `total` units; used as a context manager."""
        ...

    def note(self, message: str) -> None:
        """Say something worth knowing, once."""
        ...

    def warn(self, message: str) -> None:
        """Say something that may spoil the result."""
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
