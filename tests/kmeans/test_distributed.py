"""K-means on the workers of a real Dask cluster: the bits of one process, whatever happens to the workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import torch
from distributed import LocalCluster

from qrp_store import execution
from qrp_store.catalog.entities import clusterings, embeddings
from qrp_store.cluster import cluster
from qrp_store.cluster.centroids import cluster_by
from qrp_store.cluster.quantize import UsableBlocks
from qrp_store.embedding import Embedding
from qrp_store.errors import Corrupt, InvalidInput, Unavailable
from qrp_store.execution import DaskPool
from qrp_store.ingest import ingest
from qrp_store.kmeans import Chosen, KMeansOptions, MemoryPoints, Points, kmeans
from qrp_store.kmeans.distributed import DistributedPoints, _cuts, choose_on_workers, require_readable
from qrp_store.kmeans.passes import Subtree, group_rows, joined
from qrp_store.kmeans.torch_points import TorchPoints
from qrp_store.store import Store, create_store, open_store

N, DIM, K = 60_000, 16, 50
FAISS = Chosen("faiss", "cpu")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
HUGE, ZERO = 41_234, 52_345


@pytest.fixture(autouse=True)
def _many_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qrp_store.kmeans.passes._GROUP_BYTES", 1)


def local(workers: int) -> LocalCluster:
    return LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with local(2) as running:
        yield running.scheduler_address


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("distributed")
    create_store(str(folder / "store"))
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((N, DIM)) + 3 * rng.standard_normal((40, DIM))[rng.integers(0, 40, N)]
    rows = rows.astype(np.float32)
    with open_store(str(folder / "store")) as opened:
        np.save(folder / "x.npy", rows)
        ingest(opened, str(folder / "x.npy"), dataset="d", backbone="good", block_rows=7001)
        rows[HUGE], rows[ZERO] = 1e30, 0
        np.save(folder / "x.npy", rows)
        ingest(opened, str(folder / "x.npy"), dataset="d", backbone="bad", block_rows=7001)
        yield opened


def blocks_of(store: Store, backbone: str = "good") -> UsableBlocks:
    return UsableBlocks(Embedding(store.arrays, embeddings.get(store.catalog, "d", backbone)))


def rows_of(store: Store, backbone: str = "good") -> np.ndarray:
    return store.embedding("d", backbone)[:]


def bits(points: Points, centroids: np.ndarray) -> list[bytes]:
    step = points.step(centroids)
    labels, distances = points.assign(centroids)
    return [a.tobytes() for a in (step.counts, step.sums, np.float64(step.inertia), labels, distances)]


@pytest.mark.parametrize("memory", [1, 1_500_000, 10**9], ids=["none kept", "some kept", "all kept"])
def test_a_pass_has_the_bits_of_one_process(address: str, store: Store, memory: int) -> None:
    array = rows_of(store)
    with DaskPool(address) as connected:
        points = DistributedPoints(blocks_of(store), connected, FAISS, k=K, memory=memory)
        assert (points.count, points.dim) == (N, DIM)
        for centroids in (array[:K], array[-K:], array[:1500]):  # the last needs larger groups
            assert bits(points, centroids) == bits(MemoryPoints(array), centroids)
            largest = max(part.last - part.first for part in points._parts)
            assert largest <= max(memory // (4 * DIM * 4), group_rows(len(centroids), DIM))
        rows = np.array([N - 1, 0, 7000, 7001, 7001, 3])
        np.testing.assert_array_equal(points.sample(rows), array[rows])


@pytest.mark.parametrize("options", [KMeansOptions(K, niter=5, sample=33_333), KMeansOptions(K, niter=3, nredo=2)])
def test_k_means_has_the_bits_of_one_process(address: str, store: Store, options: KMeansOptions) -> None:
    expected = kmeans(MemoryPoints(rows_of(store), normalize=True), options)
    with DaskPool(address) as connected:
        found = kmeans(DistributedPoints(blocks_of(store), connected, FAISS, k=K, normalize=True), options)
    assert found.centroids.tobytes() == expected.centroids.tobytes()
    assert found.labels.tobytes() == expected.labels.tobytes()
    assert (found.objective, found.objective_per_iteration) == (expected.objective, expected.objective_per_iteration)


def test_kept_rows_are_read_once(address: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    keep = DaskPool.keep

    def count(self: DaskPool, function: Any, *arguments: Any, **options: Any) -> Any:
        kept.append(getattr(function, "__name__", ""))
        return keep(self, function, *arguments, **options)

    monkeypatch.setattr(DaskPool, "keep", count)
    with DaskPool(address) as connected:
        points = DistributedPoints(blocks_of(store), connected, FAISS, k=K)
        centroids = points.sample(np.arange(K))
        reads = []
        for _ in range(3):
            points.step(centroids)
            reads.append(kept.count("_read"))
    assert reads[0] == reads[1] == reads[2] == 4


@pytest.mark.parametrize("rows", [N, N - 1, 30_001], ids=str)
def test_kept_rows_and_their_search_are_spread_evenly(address: str, store: Store, rows: int) -> None:
    with DaskPool(address) as connected:
        points = DistributedPoints(blocks_of(store), connected, FAISS, k=K).subset(np.arange(rows))
        assert isinstance(points, DistributedPoints)
        centroids = rows_of(store)[:K]
        for _ in range(3):
            points.step(centroids)
        where = connected._client.who_has(list(points._kept.values()))
        held = dict.fromkeys(connected._client.nthreads(), 0)
        for index, future in points._kept.items():
            (worker,) = where[future.key]  # one copy, with one worker
            held[worker] += points._parts[index].last - points._parts[index].first
        assert sum(held.values()) == rows
        fewer, more = sorted(held.values())
        assert more - fewer <= 2 * group_rows(K, DIM)


@pytest.mark.parametrize(("groups", "parts", "threads"), [(98, 4, 2), (98, 2, 1), (1000, 48, 8), (7, 7, 2), (5, 4, 2)])
def test_parts_are_cut_evenly_between_threads_and_roundly_within(groups: int, parts: int, threads: int) -> None:
    cuts = _cuts(groups, parts, threads)
    assert (cuts[0], cuts[-1], len(cuts)) == (0, groups, parts + 1)
    assert min(np.diff(cuts)) >= 1
    assert max(np.diff(cuts)) <= groups / parts * 5 / 3 + 1
    shares = np.bincount(np.arange(parts) * threads // parts, np.diff(cuts))
    assert shares.max() - shares.min() <= -(-groups // parts)  # a part at the most, where they do not divide evenly

    def subtrees(edges: list[int]) -> int:
        return sum(len(joined(Subtree(0, i, 0) for i in range(*part))) for part in pairwise(edges))

    assert subtrees(cuts) <= subtrees([groups * i // parts for i in range(parts + 1)])
    if groups == 98:  # the benchmark's
        assert subtrees(cuts) == {4: 10, 2: 3}[parts]


def test_sums_are_joined_by_the_workers(address: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []
    fetch = DaskPool._result
    monkeypatch.setattr(DaskPool, "_result", lambda self, *given: fetched.append(given) or fetch(self, *given))
    array = rows_of(store)
    with DaskPool(address) as connected:
        points = DistributedPoints(blocks_of(store), connected, FAISS, k=K, memory=1)
        step, expected = points.step(array[:K]), MemoryPoints(array).step(array[:K])
    assert len(points._parts) == 30
    assert len(fetched) == 4
    assert step.sums.tobytes() == expected.sums.tobytes()


def test_a_cluster_of_its_own_ends_with_the_command(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ)
    made = cluster(store, dataset="d", backbone="good", k=9, niter=2, sample="all", scheduler="local:2")
    here = cluster(store, dataset="d", backbone="good", k=9, niter=2, sample="all", force=True)
    assert (made.objective, made.objective_per_iteration) == (here.objective, here.objective_per_iteration)
    provenance = clusterings.by_id(store.catalog, made.id).artifact.provenance
    assert (provenance["scheduler"], provenance["workers"]) == ("local:2", 2)
    assert dict(os.environ) == before  # OMP_NUM_THREADS of the workers would hold for a torch that is loaded later
    forks = dask.config.set({"distributed.worker.multiprocessing-method": "fork"})  # which CUDA does not survive
    with forks, DaskPool("local:1", gpus=["5"]) as connected:
        assert dict(os.environ) == before
        assert list(connected.everywhere(os.getenv, "CUDA_VISIBLE_DEVICES").values()) == ["5"]
        # Ctrl-C is not for them
        assert list(connected.everywhere(signal.getsignal, signal.SIGINT).values()) == [signal.SIG_IGN]
        (pid,) = connected.everywhere(os.getpid).values()
        assert isinstance(pid, int)
        os.kill(pid, 0)
        assert "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
        os.environ["OMP_NUM_THREADS"] = "1"  # as when a worker is started again
    assert dict(os.environ) == before
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_cluster_that_cannot_be_started_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a script that each process would run anew."""

    def failing(**options: Any) -> None:
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr("distributed.LocalCluster", failing)
    with pytest.raises(Unavailable, match=r"2 processes cannot be started here: Nanny") as told:
        DaskPool("local:2")
    assert "__main__" in str(told.value.hint)


@pytest.mark.parametrize("address", ["local:0", "local:", "local:-1", "local:99999", "locals"])
def test_what_is_no_cluster_of_its_own_is_refused(address: str) -> None:
    with pytest.raises(InvalidInput, match="no address of a Dask scheduler"):
        DaskPool(address)


class KillAfterFirst:
    """Kills one worker, as kill -9 does, once the first partial result of the pass after `passes` is there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pid: int, passes: int) -> None:
        self.left, self.pid, self.killed = passes, pid, False
        results = DaskPool.results

        def watched(connected: DaskPool, *arguments: Any, **options: Any) -> Iterator[Any]:
            self.left -= 1
            for result in results(connected, *arguments, **options):
                if self.left < 0 and not self.killed:
                    self.killed = True
                    os.kill(self.pid, signal.SIGKILL)
                yield result

        monkeypatch.setattr(DaskPool, "results", watched)


@pytest.mark.parametrize("memory", [1, 10**9], ids=["streamed", "kept"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_killed_in_an_iteration_changes_no_bit(
    store: Store, monkeypatch: pytest.MonkeyPatch, workers: int, memory: int
) -> None:
    options = KMeansOptions(K, niter=6, sample="all")
    expected = kmeans(MemoryPoints(rows_of(store)), options)
    with local(workers) as running, DaskPool(running.scheduler_address) as connected:
        pid = next(iter(connected.everywhere(os.getpid).values()))
        assert isinstance(pid, int)
        killer = KillAfterFirst(monkeypatch, pid, 3)
        began = time.monotonic()
        found = kmeans(DistributedPoints(blocks_of(store), connected, FAISS, k=K, memory=memory), options)
    assert killer.killed
    assert time.monotonic() - began < 40
    assert found.centroids.tobytes() == expected.centroids.tobytes()
    assert found.labels.tobytes() == expected.labels.tobytes()
    assert found.objective_per_iteration == expected.objective_per_iteration


def test_workers_that_never_come_back_are_unavailable(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "_LOOK_SECONDS", 0.2)
    monkeypatch.setattr(execution, "_WORKERLESS_SECONDS", 1)
    with local(1) as running, DaskPool(running.scheduler_address) as connected:
        points = DistributedPoints(blocks_of(store), connected, FAISS, k=K)
        centroids = points.sample(np.arange(K))
        running.scale(0)
        began = time.monotonic()
        with pytest.raises(Unavailable, match="worker"):
            points.step(centroids)
        assert time.monotonic() - began < 15


def test_a_scheduler_that_dies_is_unavailable(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "_LOOK_SECONDS", 0.2)
    monkeypatch.setattr(execution, "_WORKERLESS_SECONDS", 1)
    monkeypatch.setattr(execution, "_CONNECT_SECONDS", 2)
    with local(1) as running:
        connected = DaskPool(running.scheduler_address)
        points = DistributedPoints(blocks_of(store), connected, FAISS, k=K)
        centroids = points.sample(np.arange(K))
    began = time.monotonic()
    with pytest.raises(Unavailable, match="Dask"):
        points.step(centroids)
    connected.__exit__(None, None, None)
    assert time.monotonic() - began < 30


def test_rows_that_cannot_be_searched_are_named(address: str, store: Store) -> None:
    array = rows_of(store, "bad")
    with DaskPool(address) as connected:
        for memory in (1, 10**9):
            points = DistributedPoints(
                blocks_of(store, "bad"), connected, FAISS, k=K, memory=memory, name=lambda row: f"img-{row}"
            )
            for search in (points.step, points.assign, points.subset(np.arange(2, N, 2)).step):
                with pytest.raises(InvalidInput, match=f"img-{HUGE} holds values"):
                    search(array[:K])
        points = DistributedPoints(
            blocks_of(store, "bad"), connected, FAISS, k=K, normalize=True, name=lambda row: f"img-{row}"
        )
        with pytest.raises(InvalidInput, match=f"img-{ZERO} is all zeros") as caught:
            points.sample(np.array([5, ZERO]))
        assert caught.value.hint


def test_a_worker_that_cannot_read_is_named_with_the_place(
    address: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = blocks_of(store)
    with DaskPool(address) as connected:
        require_readable(blocks, connected, blocks.url)
        folder = Path(store.arrays.url)
        hidden = folder.with_name("elsewhere")
        folder.rename(hidden)
        try:
            with pytest.raises(Corrupt):  # nobody can
                require_readable(blocks, connected, blocks.url)
            monkeypatch.setattr(UsableBlocks, "read", lambda self, index: None)  # in this process only
            with pytest.raises(Unavailable, match=f"worker tcp://.* cannot read the arrays at {blocks.url}") as caught:
                require_readable(blocks, connected, blocks.url)
            assert "same path" in (caught.value.hint or "")
        finally:
            hidden.rename(folder)


def test_workers_choose_the_engine(address: str) -> None:
    with DaskPool(address) as connected:
        assert choose_on_workers(connected, "torch", "cpu") == Chosen("torch", "cpu")
        with pytest.raises(Unavailable, match=r"worker tcp://.*no CUDA device"):
            choose_on_workers(connected, "faiss", "cuda")


@pytest.mark.parametrize("device", DEVICES)
def test_torch_on_the_workers_has_the_bits_of_torch_here(address: str, store: Store, device: str) -> None:
    chosen, array = Chosen("torch", device), rows_of(store)
    here = TorchPoints(MemoryPoints(array)) if chosen.on_gpu else MemoryPoints(array, nearest=chosen.nearest())
    with DaskPool(address) as connected:
        for memory in (1, 10**9):
            points = DistributedPoints(blocks_of(store), connected, chosen, k=K, memory=memory)
            np.testing.assert_array_equal(points.sample(np.array([N - 1, 0])), array[[N - 1, 0]])
            for _ in range(2):
                assert bits(points, array[:K]) == bits(here, array[:K])


def test_the_story_records_where_it_ran_and_finds_the_same(address: str, store: Store) -> None:
    here = cluster(store, dataset="d", backbone="good", k=K, niter=4, engine="faiss")
    there = cluster(store, dataset="d", backbone="good", k=K, niter=4, engine="faiss", scheduler=address, force=True)
    assert (there.fingerprint, there.engine, there.device) == (here.fingerprint, "faiss", "cpu")
    assert (there.objective, there.objective_per_iteration) == (here.objective, here.objective_per_iteration)
    for ours, theirs in zip(
        clusterings.assignments(store.catalog, here.id), clusterings.assignments(store.catalog, there.id), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    provenance = clusterings.by_id(store.catalog, there.id).artifact.provenance
    assert (provenance["scheduler"], provenance["workers"]) == (address, 2)


def test_rows_are_assigned_to_other_centroids_on_the_workers_too(address: str, store: Store) -> None:
    source = cluster(store, dataset="d", backbone="good", k=K, niter=4, engine="faiss")
    made = cluster_by(store, source.id, dataset="d", seed=5, engine="faiss", scheduler=address, memory="1MB")
    assert (made.objective, made.sizes, made.n_sampled) == (source.objective, source.sizes, None)
    found, wanted = (clusterings.assignments(store.catalog, each.id)[1] for each in (made, source))
    np.testing.assert_array_equal(found, wanted)
    assert clusterings.by_id(store.catalog, made.id).artifact.provenance["scheduler"] == address
