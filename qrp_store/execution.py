"""Run a function over many tasks: on threads of this process, or on a Dask cluster. Only this module imports dask.

Results come back in the order of the tasks, so that numbers computed from them do not depend on the number of workers.
The number of tasks in flight is bounded: tasks are drawn from their iterable as earlier ones finish.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

from qrp_store import __version__
from qrp_store.errors import InvalidInput, QrpStoreError, Unavailable
from qrp_store.settings import redact

T = TypeVar("T")
R = TypeVar("R")
_CONNECT_SECONDS = 10
_LOOK_SECONDS = 2.0  # how often a wait checks that workers are left
_FETCH_SECONDS = 3.0  # first timeout for one result; doubled after each timeout
_ANSWER_SECONDS = 1.0
_PROBED = 4  # workers that are tried for a direct connection: usually all answer or none
_LOCAL = re.compile(r"local(?::([1-9][0-9]{0,3}))?")
UNWATCHED = {"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "500ms"}
"""Dask's configuration without its dashboard's measurements: see docs/operations.md."""
_QUIET = """import logging, signal
logging.getLogger("distributed").setLevel(logging.CRITICAL)
signal.signal(signal.SIGINT, signal.SIG_IGN)
"""
"""Run by the workers of local:N: they share the terminal, so Ctrl-C must reach only the parent, which ends them."""
_ONE_GPU = """
import os
def dask_setup(worker):
    gpus = {gpus!r}
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(worker.name) % len(gpus)]
"""
"""Run by a worker before its first task, so before CUDA starts in it."""
_SPAWN = {"distributed.worker.multiprocessing-method": "spawn"}  # CUDA does not work in a forked process
_SCHEMES = ("tcp", "tls", "ws", "wss", "ucx", "inproc")
_TLS = "set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, …__TLS__CLIENT__CERT and …__TLS__CLIENT__KEY: docs/operations.md"
_WORKERLESS_SECONDS = 60  # a nanny needs seconds to start its worker again
_DASK_KEEPS = "65536"  # bytes; MALLOC_TRIM_THRESHOLD_ as Dask's nannies set it
_SCRATCH = 32 << 20  # bytes of one allocation, the most that glibc takes for it
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    function: Callable[[T], R],
    tasks: Iterable[T],
    *,
    workers: int,
    scheduler: str | None = None,
    window: int | None = None,
) -> Generator[R, None, None]:
    """Yield function(task) for each task, in order, with at most `window` (default 2 per worker) in flight.

    One worker without a `window` is a plain loop in this thread. With a `scheduler` (tcp://host:port) the tasks run on
    its Dask workers; function, tasks and results must then pickle. The exception of the first failing task is raised in
    its turn; that, and closing the iterator early, cancels tasks that have not begun and waits for the others. Raise
    Unavailable if the scheduler cannot be reached or its workers keep dying.
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
    with DaskPool(scheduler) as pool:
        yield from pool.run(function, ((task,) for task in tasks), room)


def _in_order(submit: Callable[[T], Callable[[], R]], tasks: Iterable[T], room: int) -> Generator[R, None, None]:
    waiting: deque[Callable[[], R]] = deque()
    for task in tasks:
        waiting.append(submit(task))
        if len(waiting) >= room:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


class LostData(Unavailable):
    """Workers died with data that was shared with them or kept by them: share it again and repeat."""


class _Done:
    """Whether a future is done, and its result if it is fetched `early`: one element, or none if fetching failed."""

    def __init__(self, future: Any, early: bool) -> None:
        self.event, self.fetched, self._early = threading.Event(), list[Any](), early
        future.add_done_callback(self._noted)

    def _noted(self, future: Any) -> None:
        if self._early and future.status == "finished":
            with suppress(Exception):  # the waiting thread fetches again and gets the error
                self.fetched.append(future.result(timeout=_FETCH_SECONDS))
        self.event.set()


class DaskPool:
    """A connection to the workers of a Dask cluster; a context manager that leaves the cluster running.

    `scheduler`: its address, or local:N to start N worker processes of one thread here (local: one per core), which end
    with the connection. Each of those sees one of the `gpus` (names as in CUDA_VISIBLE_DEVICES), if any are
    given. Raise Unavailable if the scheduler cannot be reached or started, has no workers, or has workers
    with another version of qrp_store; InvalidInput for a malformed address. Functions must pickle. A QrpStoreError of a
    worker is raised here with the worker's address before its message; other exceptions are raised unchanged.
    """

    def __init__(self, scheduler: str, gpus: Sequence[str] = ()) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            raise Unavailable("a scheduler needs dask[distributed]", hint="pip install 'qrp-store[cpu]'") from error
        with ExitStack() as opened:
            address, self.address = opened.enter_context(_scheduler_address(scheduler, gpus))
            _require_certificates(address, self.address)
            try:
                self._client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
            except (OSError, ValueError) as error:
                raise Unavailable(f"the Dask scheduler {self.address} cannot be reached: {error}") from error
            opened.callback(self._client.close)
            self._look()
            self._opened = opened.pop_all()

    def __enter__(self) -> DaskPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()

    def _look(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
        except TimeoutError as error:
            raise Unavailable(
                f"the Dask scheduler {self.address} has no workers", hint="start some, or wait"
            ) from error
        versions: Any = self._client.get_versions(packages=["qrp_store"])
        for worker, answer in versions["workers"].items():
            _require_version(worker, answer["packages"].get("qrp_store"), __version__)
        known = self._client.scheduler_info(n_workers=-1)["workers"]
        # Results that come straight from the workers are several times faster than through the scheduler.
        if self._client.direct_to_workers is None:
            self._client.direct_to_workers = all(_answers(address) for address in list(known)[:_PROBED])
        workers = known.values()
        self.workers = len(workers)
        self._threads = [address for address, worker in known.items() for _ in range(worker["nthreads"])]
        self.threads = len(self._threads)
        self.window = 2 * self.threads + 2  # so many tasks keep all threads at work
        self.memory = min((worker["memory_limit"] for worker in workers if worker["memory_limit"]), default=None)

    def share(self, value: object) -> Any:
        """Send a value (not a list, tuple, set or dict) to every worker once; return a reference for tasks."""
        with self._connection():
            return self._client.scatter(value, direct=False, broadcast=True, hash=False, timeout=_WORKERLESS_SECONDS)

    def keep(self, function: Callable[..., Any], *arguments: Any, thread: int | None = None) -> Any:
        """Start function(*arguments) and keep the result on its worker; return a reference to it.

        `thread`, from 0, chooses the worker: the one that had that thread at the start, while it lives. It drops the
        result with the last reference. If a worker dies, others repeat its part.
        """
        where = {} if thread is None else {"workers": [self._threads[thread]], "allow_other_workers": True}
        with self._connection():
            # pure=False: an equal task is computed again, never answered from another client's memory.
            return self._client.submit(_at_worker, __version__, function, *arguments, pure=False, **where)

    def everywhere(self, function: Callable[..., R], *arguments: Any) -> dict[str, R | QrpStoreError]:
        """Return what the function returns or raises on each worker, by address; Unavailable for no answer."""
        started = {
            worker: self._client.submit(
                _at_worker, __version__, function, *arguments, pure=False, workers=[worker], allow_other_workers=False
            )
            for worker in self._client.nthreads()
        }
        answers: dict[str, R | QrpStoreError] = {}
        until = time.monotonic() + _WORKERLESS_SECONDS
        for worker, future in started.items():
            try:
                answers[worker] = future.result(timeout=max(_ANSWER_SECONDS, until - time.monotonic()))
            except QrpStoreError as error:
                answers[worker] = error
            except Exception as error:
                failed = Unavailable(f"Dask worker {worker} failed: {error!r}", hint="look at that worker's log")
                failed.__cause__ = error
                answers[worker] = failed
        return answers

    def run(
        self, function: Callable[..., R], tasks: Iterable[tuple[Any, ...]], window: int | None = None
    ) -> Generator[R, None, None]:
        """Yield function(*task) for each task, in order, with at most `window` (default: enough) in flight.

        Tasks may hold references from `share` and `keep`. Raise LostData if the workers died with the data.
        """
        return self.results((self.keep(function, *task) for task in tasks), window)

    def results(
        self, kept: Iterable[Any], window: int | None = None, *, early: bool = False
    ) -> Generator[Any, None, None]:
        """Yield the value of each reference, in order, drawing at most `window` ahead; raise as `run` does.

        `early`: fetch each value as soon as it is done, so that up to a whole window is in memory here.
        """

        def fetch(future: Any) -> Callable[[], Any]:
            done = _Done(future, early)
            return lambda: self._result(future, done)

        yield from _in_order(fetch, kept, window or self.window)

    @contextmanager
    def _connection(self) -> Iterator[None]:
        """Translate Dask's errors of talking to the scheduler or the workers."""
        from distributed.client import ClosedClientError

        try:
            yield
        except (ClosedClientError, OSError, RuntimeError, KeyError, ValueError) as error:
            if self._client.status != "running":
                raise Unavailable(f"the Dask scheduler {self.address} has gone away: {error}") from error
            raise LostData(f"the Dask cluster at {self.address} lost workers: {error}") from error

    def _result(self, future: Any, done: _Done) -> Any:
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        alone_since, patience = None, _FETCH_SECONDS
        while True:
            try:
                if done.event.wait(_LOOK_SECONDS):
                    return done.fetched.pop() if done.fetched else future.result(timeout=patience)
            except KilledWorker as error:
                raise Unavailable(f"the Dask cluster at {self.address} lost its workers: {error}") from error
            except FutureCancelledError as error:
                raise LostData(f"the Dask cluster at {self.address} lost what its workers held: {error}") from error
            except TimeoutError:
                if future.status == "error":  # the task's own
                    raise
                # The worker died with the result, and another one recomputes it; or the network is slow.
                patience *= 2
            with self._connection():
                staffed = bool(self._client.nthreads())
            if staffed:
                alone_since = None
            elif alone_since is None:
                alone_since = time.monotonic()
            elif time.monotonic() - alone_since > _WORKERLESS_SECONDS:
                raise Unavailable(f"the Dask cluster at {self.address} has no workers any more", hint="run it again")


@contextmanager
def _scheduler_address(scheduler: str, gpus: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield a scheduler's address and its name in messages; a cluster started for local:N ends afterwards."""
    local = _LOCAL.fullmatch(scheduler)
    if local is None:
        address = _address(scheduler)
        yield address, redact(address)
        return
    import dask
    from distributed import LocalCluster

    workers = int(local[1] or len(gpus) or available_cores())
    talk = logging.getLogger("distributed")
    with _same_environment() as restore, dask.config.set({**UNWATCHED, **_SPAWN}), ExitStack() as opened:
        opened.callback(talk.setLevel, talk.level)
        talk.setLevel(logging.CRITICAL)  # it logs every worker that starts or ends
        try:
            cluster = opened.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    dashboard_address=":0",
                    preload=[_QUIET + (_ONE_GPU.format(gpus=list(gpus)) if gpus else "")],
                )
            )
        except (OSError, RuntimeError) as error:
            raise Unavailable(
                f"a Dask cluster of {workers} processes cannot be started here: {error}",
                hint='a script must call this below `if __name__ == "__main__":`, since each process imports it',
            ) from error
        restore()
        yield cluster.scheduler_address, f"local:{workers}"


@contextmanager
def _same_environment() -> Iterator[Callable[[], None]]:
    """Restore the environment variables that Dask sets here for its workers, since torch would obey them, too."""
    before = dict(os.environ)

    def restore() -> None:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)

    try:
        yield restore
    finally:
        restore()


def _address(scheduler: str) -> str:
    """Return the scheduler's address with its scheme. Dask itself takes 20 s to refuse a malformed one."""
    whole = scheduler if "://" in scheduler else f"tcp://{scheduler}"
    try:
        parts = urlsplit(whole)
        fits = parts.scheme in _SCHEMES and (parts.scheme == "inproc" or bool(parts.hostname and parts.port))
    except ValueError:  # a port that is no number
        fits = False
    if not fits:
        raise InvalidInput(
            f"{redact(scheduler)!r} is no address of a Dask scheduler", hint="like tcp://HOST:8786, or local:2"
        )
    return whole


def _require_certificates(address: str, name: str) -> None:
    """Raise InvalidInput for a tls:// scheduler if Dask has no certificates."""
    from distributed.security import Security

    if not address.startswith("tls://"):
        return
    try:
        context = Security().get_connection_args("client").get("ssl_context")
    except (OSError, ValueError) as error:  # a file that is missing or is no certificate
        raise InvalidInput(
            f"the certificates for the Dask scheduler {name} cannot be read: {error}", hint=_TLS
        ) from error
    if context is None:
        raise InvalidInput(f"the Dask scheduler {name} needs certificates, and none are configured", hint=_TLS)


def _answers(address: str) -> bool:
    """Whether this process can connect to a worker: a firewall may open the scheduler's port alone."""
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=_ANSWER_SECONDS).close()
    except (OSError, ValueError, TypeError):  # an address without host and port
        return False
    return True


def _at_worker(version: str, function: Callable[..., R], *arguments: Any) -> R:
    """Return function(*arguments), on a worker; errors of this package get the worker's address."""
    from distributed import get_worker

    _require_version(get_worker().address, __version__, version)
    _keep_scratch()
    try:
        return function(*arguments)
    except QrpStoreError as error:
        error.message = f"worker {get_worker().address}: {error.message}"
        error.args = (error.message,)
        raise


@cache
def _keep_scratch() -> None:
    """Let this worker reuse its scratch memory.

    Dask's nannies make malloc return all but 64 KB at once. A search and its sums would then get their scratch memory
    from the kernel again in every call, page by page: a fifth of the CPU time. A user's own setting is kept.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None and os.environ.get("MALLOC_TRIM_THRESHOLD_") == _DASK_KEEPS:
        mallopt(_M_MMAP_THRESHOLD, _SCRATCH)
        mallopt(_M_TRIM_THRESHOLD, 2 * _SCRATCH)


def _require_version(worker: str, installed: str | None, version: str) -> None:
    if installed != version:
        has = "has no qrp_store" if installed is None else f"runs qrp_store {installed}"
        raise Unavailable(
            f"Dask worker {worker} {has}, this is {version}", hint="install the same version on every worker"
        )
