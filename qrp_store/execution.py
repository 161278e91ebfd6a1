"""Run a function over many tasks: on threads of this process, or on a Dask cluster. Only this module imports dask.

Results come back in the order of the tasks, whatever finishes first, so that what is made of them does not depend on
the number of workers. A bounded number of tasks is under way: tasks are drawn from their iterable only as room comes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from qrp_store.errors import InvalidInput, Unavailable
from qrp_store.settings import redact

T = TypeVar("T")
R = TypeVar("R")
_CONNECT_SECONDS = 10


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    function: Callable[[T], R],
    tasks: Iterable[T],
    *,
    workers: int,
    scheduler: str | None = None,
    window: int | None = None,
) -> Generator[R, None, None]:
    """Yield function(task) for each task, in order, with at most `window` (default 2 a worker) under way.

    One worker without a window of its own is a plain loop in this thread. `scheduler` (tcp://host:port) sends the
    tasks to a Dask cluster instead; function, tasks and results must then pickle. The first failing task's exception
    is raised in its turn; that, and closing the iterator early, cancels what has not begun and waits for the rest.
    Unavailable when the scheduler cannot be reached or its workers keep dying.
    """
    if workers < 1 or (window is not None and window < 1):
        raise InvalidInput(f"workers and window must be at least 1, not {workers} and {window}")
    room = 2 * workers if window is None else window
    if scheduler is not None:
        return _on_cluster(function, tasks, scheduler, room)
    if workers == 1 and window is None:
        return (function(task) for task in tasks)
    return _on_threads(function, tasks, workers, room)


def _on_threads(function: Callable[[T], R], tasks: Iterable[T], workers: int, room: int) -> Generator[R, None, None]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="qrp-store")
    try:
        yield from _in_order(lambda task: pool.submit(function, task).result, tasks, room)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _on_cluster(function: Callable[[T], R], tasks: Iterable[T], scheduler: str, room: int) -> Generator[R, None, None]:
    try:
        from distributed import Client, KilledWorker
        from distributed.client import FutureCancelledError
    except ImportError as error:
        raise Unavailable("a scheduler needs dask[distributed]", hint="pip install 'qrp-store[cpu]'") from error
    where = redact(scheduler)
    try:
        client = Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:  # ValueError: an address of no known kind
        raise Unavailable(f"the Dask scheduler {where} cannot be reached: {error}") from error

    def submit(task: T) -> Callable[[], R]:
        # pure=False: the same task twice is computed twice, never answered from another client's memory.
        result: Callable[[], R] = client.submit(function, task, pure=False).result
        return result

    try:
        yield from _in_order(submit, tasks, room)
    except (KilledWorker, FutureCancelledError) as error:
        raise Unavailable(f"the Dask cluster at {where} lost its workers: {error}") from error
    finally:
        client.close()


def _in_order(submit: Callable[[T], Callable[[], R]], tasks: Iterable[T], room: int) -> Generator[R, None, None]:
    waiting: deque[Callable[[], R]] = deque()
    for task in tasks:
        waiting.append(submit(task))
        if len(waiting) >= room:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()
