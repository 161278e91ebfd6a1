from __future__ import annotations

from itertools import pairwise

import faiss
import numpy as np
import pytest

from qrp_store.errors import InvalidInput
from qrp_store.kmeans import KMeansOptions, KMeansResult, KMeansState, MemoryPoints, StreamedPoints, kmeans

N, DIM, K = 12_000, 16, 40


def data(n: int = N, dim: int = DIM, groups: int = 40, spread: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(1)
    middles = rng.standard_normal((groups, dim)) * spread
    return (rng.standard_normal((n, dim)) + middles[rng.integers(0, groups, n)]).astype(np.float32)


class Halves:
    """An array as two blocks."""

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.count, self.dim, self.n_blocks = array, len(array), array.shape[1], 2

    def rows_of(self, index: int) -> tuple[int, int]:
        half = self.count // 2
        return (0, half) if index == 0 else (half, self.count - half)

    def read(self, index: int) -> np.ndarray:
        start, rows = self.rows_of(index)
        return self._array[start : start + rows]


def bits(result: KMeansResult) -> tuple[bytes, bytes, float, tuple[float, ...]]:
    return (result.centroids.tobytes(), result.labels.tobytes(), result.objective, result.objective_per_iteration)


def lloyd(array: np.ndarray, centroids: np.ndarray, niter: int) -> tuple[np.ndarray, list[float]]:
    """The plain algorithm in double precision, for data without empty clusters."""
    array, centroids, objective = array.astype(np.float64), centroids.astype(np.float64), []
    for _ in range(niter):
        apart = ((array[:, None] - centroids) ** 2).sum(axis=2)
        labels = apart.argmin(axis=1)
        objective.append(apart.min(axis=1).sum())
        centroids = np.stack([array[labels == c].mean(axis=0) for c in range(len(centroids))])
    return centroids, objective


def test_it_is_lloyds_algorithm() -> None:
    array = data(3000)
    centroids, objective = lloyd(array, array[:20], 8)
    result = kmeans(MemoryPoints(array), KMeansOptions(20, niter=8, sample="all"), start=array[:20])
    np.testing.assert_allclose(result.objective_per_iteration, objective, rtol=1e-4)
    assert np.abs(result.centroids - centroids).mean() < 5e-3


def faiss_kmeans(array: np.ndarray, start: np.ndarray, niter: int) -> tuple[np.ndarray, float]:
    reference = faiss.Kmeans(array.shape[1], len(start), niter=niter, max_points_per_centroid=10**9)
    reference.train(array, init_centroids=start)
    return reference.obj, float(reference.assign(array)[0].sum(dtype=np.float64))


@pytest.mark.parametrize("niter", [1, 10])
def test_faiss_reaches_the_same_objective_from_the_same_start(niter: int) -> None:
    """Known answer 5 of `docs/method.md`."""
    array = data()
    objective, final = faiss_kmeans(array, array[:K].copy(), niter)
    for points in (MemoryPoints(array), StreamedPoints(Halves(array), memory=0)):
        result = kmeans(points, KMeansOptions(K, niter=niter, sample="all"), start=array[:K])
        np.testing.assert_allclose(result.objective_per_iteration, objective, rtol=1e-4)
        assert result.objective == pytest.approx(final, rel=1e-4)


def test_empty_clusters_split_others_as_faiss_does() -> None:
    array = data()
    start = array[:K].copy()
    start[:9] = 1e4 + np.arange(9, dtype=np.float32)[:, None]
    result = kmeans(MemoryPoints(array), KMeansOptions(K, niter=6, sample="all"), start=start)
    # faiss pushes halves apart in proportion to their coordinates: ours count from the middle of the rows
    objective, final = faiss_kmeans(array - result.origin, start - result.origin, 6)
    # Rows between the two halves of a split cluster are as near to one as to the other: looser than above.
    np.testing.assert_allclose(result.objective_per_iteration, objective, rtol=1e-3)
    assert result.objective == pytest.approx(final, rel=1e-3)
    assert result.sizes.min() > 0
    nearest = ((array[:, None] - start) ** 2).sum(-1).argmin(1)
    assert result.splits_per_iteration[0] == K - len(set(nearest)) >= 8
    assert len(result.splits_per_iteration) == 6
    assert (
        kmeans(MemoryPoints(array), KMeansOptions(K, niter=6, nredo=2), start=array[:K]).splits_per_iteration
        == (0,) * 6
    )


class Told:
    """Progress that keeps its warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def task(self, title: str, total: int | None, unit: str = "") -> Told:
        return self

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def advance(self, amount: int = 1) -> None: ...

    def note(self, message: str) -> None: ...

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.mark.parametrize("memory", [0, 10**9])
@pytest.mark.parametrize("constant", [0.0, 300.0, 1e5])
def test_more_clusters_than_distinct_rows(constant: float, memory: int) -> None:
    """The last iteration splits no cluster, so the final objective is that of the last one; a warning has the number.

    Seen: 0.0017 in the last iteration, 1525 at the end."""
    array = np.repeat(data(50, spread=0.1), 8, axis=0) + np.float32(constant)
    told = Told()
    points = StreamedPoints(Halves(array), memory=memory)
    result = kmeans(points, KMeansOptions(80, niter=12), progress=told)
    assert min(result.splits_per_iteration) >= 30
    assert result.objective <= result.objective_per_iteration[-1] * (1 + 1e-6) + 1e-9
    assert [message for message in told.warnings if "only 50 of the 400 training rows are distinct" in message]
    assert (result.sizes > 0).sum() <= 50
    few = kmeans(points, KMeansOptions(50, niter=12, init="kmeans++"), progress=(told := Told()))
    assert few.objective == pytest.approx(0, abs=1e-3)
    assert told.warnings == []


def test_a_cluster_that_is_empty_in_the_last_iteration_moves_no_other() -> None:
    array = data()
    start = array[:K].copy()
    start[:9] = 1e4 + np.arange(9, dtype=np.float32)[:, None]
    for niter in (1, 2, 3):
        result = kmeans(MemoryPoints(array), KMeansOptions(K, niter=niter, sample="all"), start=start)
        assert result.objective <= result.objective_per_iteration[-1]


@pytest.mark.parametrize("init", ["random", "kmeans++", "greedy-kmeans++"])
def test_fewer_distinct_points_than_clusters_still_end(init: str) -> None:
    array = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    result = kmeans(MemoryPoints(array), KMeansOptions(6, init=init))  # type: ignore[arg-type]
    assert np.isfinite(result.centroids).all()
    assert result.objective == pytest.approx(0, abs=1e-4)
    assert result.sizes.sum() == 12


def test_as_many_clusters_as_points() -> None:
    array = data(7)
    result = kmeans(MemoryPoints(array), KMeansOptions(7))
    assert sorted(result.labels) == list(range(7))
    assert result.objective == 0


@pytest.mark.parametrize(
    "options", [KMeansOptions(K, seed=3), KMeansOptions(K, seed=3, init="kmeans++", nredo=2, niter=4)]
)
def test_streaming_memory_and_workers_change_no_bit(options: KMeansOptions) -> None:
    array = data()
    expected = bits(kmeans(MemoryPoints(array, workers=1), options))
    for memory in (0, 10**9):
        for workers in (1, 2, 3):
            assert bits(kmeans(StreamedPoints(Halves(array), memory=memory, workers=workers), options)) == expected


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    ("memory", "options"),
    [
        (10**9, KMeansOptions(K, seed=5, niter=4, nredo=3, sample=3000)),
        (0, KMeansOptions(K, seed=5, niter=4, nredo=3, sample="all", init="greedy-kmeans++")),
    ],
)
def test_stopped_anywhere_and_resumed_it_ends_with_the_same_bits(memory: int, options: KMeansOptions) -> None:
    array = data(4000)
    expected = bits(kmeans(MemoryPoints(array), options))
    saved: list[KMeansState | None] = [None]
    for stop_at in range(15):

        def stop(state: KMeansState, stop_at: int = stop_at) -> None:
            saved.append(state)
            if state.redo * 5 + state.iteration == stop_at:
                raise Stop

        points = StreamedPoints(Halves(array), memory=memory)
        with pytest.raises(Stop):
            kmeans(points, options, resume=saved[-1], on_iteration=stop)
    assert len(saved) == 16
    for state in saved:
        assert bits(kmeans(StreamedPoints(Halves(array), memory=memory), options, resume=state)) == expected


def test_the_best_try_is_kept() -> None:
    array = data(3000, groups=20, spread=6)
    states: list[KMeansState] = []
    many = kmeans(MemoryPoints(array), KMeansOptions(20, niter=5, nredo=6), on_iteration=states.append)
    ends = [s.objective[-1] for s in states if s.iteration == 5]
    assert len(ends) == 6
    assert len(set(ends)) > 1
    assert many.objective_per_iteration[-1] == min(ends)
    assert many.objective <= kmeans(MemoryPoints(array), KMeansOptions(20, niter=5)).objective


def test_seeds_matter_and_repeat() -> None:
    points = MemoryPoints(data())
    first, again, other = (kmeans(points, KMeansOptions(K, seed=s, niter=3)) for s in (1, 1, 2))
    assert bits(first) == bits(again)
    assert bits(first) != bits(other)


@pytest.mark.parametrize(("sample", "expected"), [(None, 2560), (5000, 5000), ("all", N), (10**9, N)])
def test_training_rows(sample: int | str | None, expected: int) -> None:
    options = KMeansOptions(10, niter=2, sample=sample)  # type: ignore[arg-type]
    result = kmeans(MemoryPoints(data()), options)
    assert result.n_sampled == expected
    assert len(result.labels) == N
    assert result.sizes.sum() == N


def test_the_result_describes_all_points() -> None:
    array = data()
    result = kmeans(MemoryPoints(array), KMeansOptions(K))
    assert (result.centroids.shape, result.centroids.dtype, result.labels.dtype) == ((K, DIM), np.float32, np.int32)
    apart = (array - result.centroids[result.labels]).astype(np.float64)
    assert result.objective == pytest.approx(np.square(apart).sum(), rel=1e-6)
    np.testing.assert_array_equal(result.sizes, np.bincount(result.labels, minlength=K))
    assert len(result.objective_per_iteration) == 25
    assert list(result.timings) == ["read_s", "train_s", "assign_s", "total_s"]
    parts = [result.timings[key] for key in ("read_s", "train_s", "assign_s")]
    assert result.timings["total_s"] == pytest.approx(sum(parts))


def test_the_objective_never_rises() -> None:
    objective = kmeans(MemoryPoints(data()), KMeansOptions(K, sample="all")).objective_per_iteration
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in pairwise(objective))


def test_once_nothing_moves_the_rest_is_not_computed_but_reported() -> None:
    array = data(500, groups=3, spread=20)
    states: list[KMeansState] = []
    result = kmeans(MemoryPoints(array), KMeansOptions(3, niter=50), on_iteration=states.append)
    assert len(states) < 30
    assert states[-1].iteration == len(result.objective_per_iteration) == 50
    settled = len(states)
    slow = kmeans(MemoryPoints(array), KMeansOptions(3, niter=settled))
    np.testing.assert_array_equal(slow.centroids, result.centroids)
    assert slow.objective_per_iteration == result.objective_per_iteration[:settled]


def test_spherical_centroids_have_length_one_and_go_by_angle() -> None:
    array = data() * np.linspace(0.5, 3, N, dtype=np.float32)[:, None]
    result = kmeans(MemoryPoints(array), KMeansOptions(K, spherical=True))
    np.testing.assert_allclose(np.linalg.norm(result.centroids, axis=1), 1, rtol=1e-6)
    assert (result.labels == (array @ result.centroids.T).argmax(axis=1)).mean() > 0.999


def test_progress_counts_every_pass() -> None:
    class Watch:
        def __init__(self) -> None:
            self.total, self.done = 0, 0

        def task(self, title: str, total: int | None, unit: str = "") -> Watch:
            self.total = total or 0
            return self

        def __enter__(self) -> Watch:
            return self

        def __exit__(self, *exc: object) -> None: ...

        def advance(self, amount: int = 1) -> None:
            self.done += amount

        def note(self, message: str) -> None: ...

        def warn(self, message: str) -> None: ...

    states: list[KMeansState] = []
    for resume in (None, 3):
        watch = Watch()
        options = KMeansOptions(K, niter=3, nredo=2)
        start = None if resume is None else states[resume]
        kmeans(MemoryPoints(data()), options, resume=start, on_iteration=states.append, progress=watch)
        assert watch.done == watch.total == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (KMeansOptions(1), "K is 1"),
        (KMeansOptions(101), "only 100 usable rows"),
        (KMeansOptions(30, sample=20), "sample has only 20"),
        (KMeansOptions(3, niter=0), "niter 0"),
        (KMeansOptions(3, nredo=0), "nredo 0"),
        (KMeansOptions(3, seed=-1), "seed -1"),
        (KMeansOptions(3, init="grid"), "grid"),  # type: ignore[arg-type]
    ],
)
def test_what_makes_no_sense_is_refused(options: KMeansOptions, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        kmeans(MemoryPoints(data(100)), options)


def test_initial_centroids_of_another_shape_are_refused() -> None:
    with pytest.raises(InvalidInput, match="initial centroids"):
        kmeans(MemoryPoints(data(100)), KMeansOptions(3), start=np.zeros((3, 2), np.float32))
