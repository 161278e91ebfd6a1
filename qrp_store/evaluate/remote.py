"""Train whole probes on the workers of a Dask scheduler. The store stays with the command."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from qrp_store.errors import QrpStoreError
from qrp_store.evaluate import probe
from qrp_store.evaluate.probe import Outcome, Prepared
from qrp_store.execution import DaskPool
from qrp_store.progress import silent

Key = TypeVar("Key")


def train_on_workers(
    scheduler: str, work: Iterable[tuple[Key, Prepared]]
) -> Iterator[tuple[Key, Outcome | QrpStoreError]]:
    """Train and score each probe on a worker. Yield its key with what came of it, in the order of the work.

    Rows and assignments are sent by value, so that a worker needs no access to the store, and another one repeats the
    probe if it dies. At most one probe more than the workers have threads is drawn ahead. Nothing is connected for no
    work. Raise Unavailable if the scheduler cannot be reached or its workers keep dying.
    """
    first = next(drawn := iter(work), None)
    if first is None:
        return
    from qrp_store.kmeans.engines import local_gpus

    gpus = local_gpus(first[1].request.device) if scheduler.startswith("local") else []
    with DaskPool(scheduler, gpus) as pool:
        keys: deque[Key] = deque()

        def begun() -> Iterator[Any]:
            nonlocal first
            while first is not None:
                (key, ready), first = first, None
                keys.append(key)
                with warnings.catch_warnings():  # a probe's rows are a large task, and meant to be
                    warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
                    yield pool.keep(_trained, ready)
                first = next(drawn, None)

        for outcome in pool.results(begun(), pool.threads + 1):
            yield keys.popleft(), outcome


def _trained(ready: Prepared) -> Outcome | QrpStoreError:
    """The outcome, or the error that belongs to this probe alone."""
    try:
        return probe.trained(ready, silent)
    except QrpStoreError as error:
        return error
