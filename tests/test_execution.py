from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from operator import add
from pathlib import Path

import pytest

from qrp_store import __version__, execution
from qrp_store.errors import InvalidInput, Unavailable
from qrp_store.execution import DaskPool, run


def counted(limit: int, drawn: list[int]) -> Iterator[int]:
    for task in range(limit):
        drawn.append(task)
        yield task


@pytest.mark.parametrize(("workers", "window"), [(1, None), (1, 3), (2, None), (3, 1), (8, 40)])
def test_results_come_in_the_order_of_the_tasks(workers: int, window: int | None) -> None:
    def slow_at_first(task: int) -> int:
        time.sleep(0.005 * (task < 3))
        return task * task

    assert list(run(slow_at_first, range(20), workers=workers, window=window)) == [t * t for t in range(20)]
    assert list(run(slow_at_first, [], workers=workers, window=window)) == []


def test_workers_run_side_by_side() -> None:
    together = threading.Barrier(3)
    assert len(list(run(lambda _: together.wait(timeout=10), range(3), workers=3))) == 3


@pytest.mark.parametrize(("workers", "window", "ahead"), [(2, 3, 3), (2, None, 4), (1, None, 1)])
def test_no_more_tasks_are_drawn_than_the_window_holds(workers: int, window: int | None, ahead: int) -> None:
    drawn: list[int] = []
    results = run(lambda task: task, counted(100, drawn), workers=workers, window=window)
    assert drawn == []
    for given in range(5):
        assert next(results) == given
        assert len(drawn) == given + ahead
    results.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failing_task_raises_in_its_turn_and_ends_the_run(workers: int) -> None:
    drawn: list[int] = []

    def fail(task: int) -> int:
        if task == 2:
            raise KeyError("two")
        return task

    results = run(fail, counted(100, drawn), workers=workers)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError, match="two"):
        next(results)
    assert len(drawn) <= 6
    assert list(results) == []


def test_closing_early_cancels_what_has_not_begun_and_leaves_no_thread() -> None:
    before = threading.active_count()
    ran: list[int] = []

    def note(task: int) -> None:
        time.sleep(0.02)
        ran.append(task)

    results = run(note, range(100), workers=2, window=50)
    next(results)
    results.close()
    assert len(ran) < 10
    assert threading.active_count() == before


def test_errors_of_the_task_source_pass_through() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(run(lambda t: t, source(), workers=2))


@pytest.mark.parametrize(("workers", "window"), [(0, None), (1, 0)])
def test_nobody_working_is_refused(workers: int, window: int | None) -> None:
    with pytest.raises(InvalidInput, match="at least 1"):
        run(abs, [1], workers=workers, window=window)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "127.0.0.1:1"])
def test_an_unreachable_scheduler_is_unavailable(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qrp_store.execution._CONNECT_SECONDS", 0.5)
    with pytest.raises(Unavailable, match="cannot be reached"):
        list(run(abs, [1], workers=1, scheduler=address))


@pytest.mark.parametrize("address", ["carrier-pigeon://here:1", "somewhere", "tcp://here", "tcp://here:port", "tcp://"])
def test_what_is_no_address_is_refused_at_once(address: str) -> None:
    began = time.monotonic()
    with pytest.raises(InvalidInput, match="no address of a Dask scheduler"):
        DaskPool(address)
    assert time.monotonic() - began < 5


def test_a_dask_cluster_gives_the_same_results_within_the_window() -> None:
    from distributed import LocalCluster

    drawn: list[int] = []
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster:
        address = cluster.scheduler_address
        results = run(abs, counted(30, drawn), workers=1, window=3, scheduler=address)
        assert next(results) == 0
        assert len(drawn) == 3
        results.close()
        assert list(run(abs, range(-9, 9), workers=2, scheduler=address)) == [abs(t) for t in range(-9, 9)]
        with pytest.raises(ZeroDivisionError):
            list(run(lambda t: 1 // t, [1, 0, 1], workers=2, scheduler=address))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as running:
        yield running.scheduler_address


def test_workers_with_another_version_are_refused_with_both_versions(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qrp_store.execution.__version__", "99.0")
    with pytest.raises(
        Unavailable, match=rf"worker .* runs qrp_store {re.escape(__version__)}, this is 99\.0"
    ) as caught:
        DaskPool(address)
    assert "same version" in (caught.value.hint or "")


def test_what_fails_on_a_worker_is_told_with_the_worker(address: str) -> None:
    with DaskPool(address) as connected:
        assert set(connected.everywhere(int, "7").values()) == {7}
        for worker, answer in connected.everywhere(int, "seven").items():
            assert isinstance(answer, Unavailable)
            assert f"worker {worker} failed: ValueError" in answer.message
            assert "log" in (answer.hint or "")


def test_a_worker_that_joins_later_with_another_version_is_refused(address: str) -> None:
    with DaskPool(address) as cluster:
        task = cluster._client.submit(execution._at_worker, "99.0", abs, -1)
        with pytest.raises(Unavailable, match=rf"runs qrp_store {re.escape(__version__)}, this is 99\.0"):
            task.result()


def test_a_scheduler_without_workers_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr("qrp_store.execution._CONNECT_SECONDS", 0.5)
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as running,
        pytest.raises(Unavailable, match="has no workers"),
    ):
        DaskPool(running.scheduler_address)


def test_shared_values_kept_results_and_errors_of_workers(address: str) -> None:
    with DaskPool(address) as cluster:
        assert (cluster.workers, cluster.threads) == (2, 2)
        seven, minus = cluster.share(7), cluster.keep(divmod, 23, 4)
        assert list(cluster.run(add, [(seven, 1), (seven, seven)])) == [8, 14]
        assert list(cluster.run(max, [(minus,)])) == [5]
        assert set(cluster.everywhere(abs, -3).values()) == {3}
        with pytest.raises(InvalidInput, match=r"^worker .*: workers and window must") as caught:
            list(cluster.run(refuse, [()]))
        assert caught.value.message == str(caught.value)
        assert all(isinstance(e, InvalidInput) for e in cluster.everywhere(refuse).values())


def test_results_wanted_early_are_fetched_before_their_turn(address: str) -> None:
    import distributed

    def wait(_: int) -> int:
        return int(distributed.Event("turn").wait(timeout=30))

    with DaskPool(address) as cluster:
        kept = [cluster.keep(wait, 0, thread=0), cluster.keep(abs, -5, thread=1)]
        fetched: list[object] = []
        noted = execution._Done._noted

        def note(done: execution._Done, future: object) -> None:
            noted(done, future)
            fetched.append(list(done.fetched))
            distributed.Event("turn", client=cluster._client).set()  # the first result waits for the second's

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(execution._Done, "_noted", note)
            assert list(cluster.results(kept, early=True)) == [1, 5]
        assert fetched == [[5], [1]]
        with pytest.raises(InvalidInput, match="workers and window must"):
            list(cluster.results([cluster.keep(abs, -1), cluster.keep(refuse)], early=True))


def test_workers_use_their_scratch_memory_again() -> None:
    from distributed import LocalCluster

    def faults(times: int) -> int:
        """How many pages the kernel had to give for an array of 8 MB, made and left `times` times."""
        import resource

        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        for _ in range(times):
            bytes(bytearray(8 << 20))
        return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as running,
        DaskPool(running.scheduler_address) as cluster,
    ):
        assert list(cluster.run(os.environ.get, [("MALLOC_TRIM_THRESHOLD_",)])) == ["65536"]
        _, often = cluster.run(faults, [(3,), (20,)], 1)
    assert often < 20  # that is less than one each time, however large the pages are


def refuse() -> None:
    run(abs, [], workers=0)


def test_a_tls_scheduler_without_certificates_is_refused_with_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import dask

    for configured in ({}, {"distributed.comm.tls.ca-file": str(tmp_path / "none.pem")}):
        with dask.config.set(configured), pytest.raises(InvalidInput, match="certificates") as refused:
            list(run(len, [[1]], workers=1, scheduler="tls://127.0.0.1:1"))
        assert "TLS__CA_FILE" in str(refused.value.hint)
