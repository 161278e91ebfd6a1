"""The contract of Points, run by both kinds, against plain numpy; and that layout, workers and memory change no bit."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qrp_store.errors import InvalidInput, Unavailable
from qrp_store.kmeans import FaissNearest, MemoryPoints, Points, StreamedPoints
from qrp_store.kmeans.nearest import require_one_build
from qrp_store.kmeans.passes import group_rows

N, DIM, K = 20_000, 24, 64


class ArrayBlocks:
    """Blocks cut from an array at the given sizes; remembers what was read."""

    def __init__(self, array: np.ndarray, sizes: Sequence[int]) -> None:
        assert sum(sizes) == len(array)
        self._parts = np.split(array, np.cumsum(sizes)[:-1])
        self._starts = np.cumsum([0, *sizes])
        self.count, self.dim, self.n_blocks = len(array), array.shape[1], len(sizes)
        self.reads: list[int] = []

    def rows_of(self, index: int) -> tuple[int, int]:
        return int(self._starts[index]), len(self._parts[index])

    def read(self, index: int) -> np.ndarray:
        self.reads.append(index)
        return self._parts[index]


def data(n: int = N, dim: int = DIM, dtype: str = "float32") -> np.ndarray:
    rng = np.random.default_rng(n)
    middles = rng.standard_normal((40, dim)) * 2
    return (rng.standard_normal((n, dim)) + middles[rng.integers(0, 40, n)]).astype(dtype)


def in_memory(array: np.ndarray, **options: object) -> Points:
    return MemoryPoints(array, **options)  # type: ignore[arg-type]


def streamed(array: np.ndarray, **options: object) -> Points:
    sizes = [1500] * (len(array) // 1500)
    return StreamedPoints(ArrayBlocks(array, [*sizes, len(array) - sum(sizes)]), **options)  # type: ignore[arg-type]


def streamed_only(array: np.ndarray, **options: object) -> Points:
    return streamed(array, memory=0, **options)


@pytest.mark.parametrize("make", [in_memory, streamed, streamed_only])
class TestPoints:
    def test_size(self, make: Callable[..., Points]) -> None:
        points = make(data())
        assert (points.count, points.dim) == (N, DIM)

    def test_samples_come_in_the_order_asked_for(self, make: Callable[..., Points]) -> None:
        array, rows = data(), np.array([N - 1, 0, 7, 7, 1499, 1500, 3])
        sample = make(array).sample(rows)
        assert sample.dtype == np.float32
        np.testing.assert_array_equal(sample, array[rows])

    def test_a_subset_is_renumbered(self, make: Callable[..., Points]) -> None:
        array, rows = data(), np.arange(5, N, 7)
        subset = make(array).subset(rows)
        assert (subset.count, subset.dim) == (len(rows), DIM)
        np.testing.assert_array_equal(subset.sample(np.array([3, 0])), array[rows[[3, 0]]])
        labels, _ = subset.assign(array[:K])
        np.testing.assert_array_equal(labels, MemoryPoints(array[rows]).assign(array[:K])[0])
        assert make(array).subset(None).count == N

    def test_a_step_is_counts_sums_and_inertia(self, make: Callable[..., Points]) -> None:
        array = data()
        step = make(array).step(array[:K])
        apart = ((array[:, None, :].astype(np.float64) - array[None, :K]) ** 2).sum(axis=2)
        labels = apart.argmin(axis=1)
        sums = np.stack([array[labels == c].sum(axis=0, dtype=np.float64) for c in range(K)])
        assert (step.counts.dtype, step.sums.dtype) == (np.int64, np.float64)
        np.testing.assert_array_equal(step.counts, np.bincount(labels, minlength=K))
        np.testing.assert_allclose(step.sums, sums, rtol=1e-12, atol=1e-9)
        assert step.inertia == pytest.approx(apart.min(axis=1).sum(), rel=1e-6)

    def test_an_assignment_is_the_nearest_with_its_squared_distance(self, make: Callable[..., Points]) -> None:
        array = data() + np.float32(300)  # far from the origin, where the expanded square cancels
        labels, distances = make(array).assign(array[:K])
        apart = ((array[:, None, :].astype(np.float64) - array[None, :K]) ** 2).sum(axis=2)
        assert (labels.dtype, distances.dtype) == (np.int32, np.float32)
        assert (labels == apart.argmin(axis=1)).mean() > 0.99
        np.testing.assert_allclose(distances, apart[np.arange(N), labels], rtol=1e-5, atol=1e-6)

    def test_half_precision_is_searched_as_single(self, make: Callable[..., Points]) -> None:
        array = data(dtype="float16")
        half, single = make(array).step(data()[:K]), make(array.astype(np.float32)).step(data()[:K])
        np.testing.assert_array_equal(half.sums, single.sums)

    def test_normalised_rows_have_length_one(self, make: Callable[..., Points]) -> None:
        array = data() * np.float32(1e-20)  # its squares do not fit single precision
        sample = make(array, normalize=True).sample(np.arange(100))
        np.testing.assert_allclose(np.linalg.norm(sample, axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(sample, data()[:100] / np.linalg.norm(data()[:100], axis=1)[:, None], rtol=1e-5)

    def test_a_row_of_zeros_cannot_be_normalised_and_is_named(self, make: Callable[..., Points]) -> None:
        array = data()
        array[12_345] = 0
        for rows in (None, np.arange(1, N, 2)):
            with pytest.raises(InvalidInput, match="img-12345 is all zeros"):
                make(array, normalize=True, name=lambda row: f"img-{row}").subset(rows).step(data()[:K])

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
    def test_a_row_that_cannot_be_searched_is_named(self, make: Callable[..., Points], value: float) -> None:
        array = data()
        array[12_345] = value
        named = make(array, name=lambda row: f"img-{row}")
        for search in (named.step, named.assign, named.subset(np.arange(1, N, 2)).step):
            with pytest.raises(InvalidInput, match="img-12345 holds values"):
                search(data()[:K])


def bits(points: Points, centroids: np.ndarray) -> list[bytes]:
    step = points.step(centroids)
    labels, distances = points.assign(centroids)
    return [a.tobytes() for a in (step.counts, step.sums, np.float64(step.inertia), labels, distances)]


@pytest.fixture(scope="module")
def reference() -> list[bytes]:
    return bits(MemoryPoints(data(), workers=1), data()[:K])


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("make", [in_memory, streamed])
def test_the_number_of_workers_changes_no_bit(
    make: Callable[..., Points], workers: int, reference: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qrp_store.kmeans.passes._GROUP_BYTES", 1)
    small = bits(make(data(), workers=workers), data()[:K])
    assert small == bits(MemoryPoints(data(), workers=1), data()[:K])
    assert small[0] == reference[0]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9_000), max_size=6), st.sampled_from([0, 10**9]), st.booleans())
def test_the_layout_of_blocks_and_the_memory_change_no_bit(cuts: list[int], memory: int, normalize: bool) -> None:
    array, centroids = data(9_000), data(9_000)[:300]
    assert group_rows(300, DIM) > 8192, "blocks smaller and larger than a group"
    edges = [0, *sorted(cuts), 9_000]
    source = ArrayBlocks(array, list(np.diff(edges)))
    points = StreamedPoints(source, memory=memory, workers=2, normalize=normalize).subset(None)
    assert bits(points, centroids) == bits(MemoryPoints(array, workers=1, normalize=normalize), centroids)


def test_threads_set_for_others_change_no_bit() -> None:
    import faiss

    array = data(4096, 300)  # wide enough for the BLAS to cut the work by its number of threads
    found, before = [], faiss.omp_get_max_threads()
    try:
        for threads in (1, 2, 4):
            faiss.omp_set_num_threads(threads)
            found.append(bits(MemoryPoints(array, workers=1), array[:77]))
            assert faiss.omp_get_max_threads() == threads, "and stay as they were"
    finally:
        faiss.omp_set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_what_fits_is_read_once_and_what_does_not_is_streamed() -> None:
    array = data()
    small, large = (StreamedPoints(ArrayBlocks(array, [N]), memory=memory) for memory in (0, N * DIM * 4))
    assert isinstance(large.subset(None), MemoryPoints)
    assert isinstance(small.subset(None), StreamedPoints)
    assert isinstance(small.subset(np.arange(10)), StreamedPoints)


def test_only_the_blocks_that_hold_sampled_rows_are_read() -> None:
    source = ArrayBlocks(data(), [5000, 0, 5000, 10_000])
    StreamedPoints(source).sample(np.array([19_999, 3]))
    assert sorted(source.reads) == [0, 3]
    source.reads.clear()
    StreamedPoints(source).step(data()[:K])
    assert sorted(source.reads) == [0, 2, 3], "a block without usable rows is left alone"


@pytest.mark.parametrize(("blocks", "ahead"), [(2, False), (5, True)])
@pytest.mark.parametrize("work", ["glimpse", "sample", "subset"])
def test_blocks_are_read_ahead_only_within_the_memory(blocks: int, ahead: bool, work: str) -> None:
    readers = set()

    class Watched(ArrayBlocks):
        def read(self, index: int) -> np.ndarray:
            readers.add(threading.current_thread())
            return super().read(index)

    size, few = 4000, np.array([3, 19_999])
    points = StreamedPoints(Watched(data(), [size] * 5), memory=blocks * size * DIM * 4)
    points.subset(few) if work == "subset" else getattr(points, work)(few)
    assert (threading.current_thread() not in readers) is ahead


def test_the_next_block_is_read_while_one_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qrp_store.kmeans.passes._GROUP_BYTES", 1)

    class Slow(ArrayBlocks):
        def read(self, index: int) -> np.ndarray:
            time.sleep(0.05)
            return super().read(index)

    class SlowSearch(FaissNearest):
        def prepare(self, centroids: np.ndarray):  # type: ignore[no-untyped-def]
            search = super().prepare(centroids)

            def slow(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                time.sleep(0.05)
                return search(rows)

            return slow

    size = group_rows(2, DIM)
    array = data(8 * size)
    points = StreamedPoints(Slow(array, [size] * 8), nearest=SlowSearch(), workers=1)
    began = time.perf_counter()
    points.step(array[:2])
    assert time.perf_counter() - began < 0.7, "8 reads and 8 searches of 0.05 s each"


def test_a_failing_read_ends_the_pass_without_threads_left_behind() -> None:
    class Broken(ArrayBlocks):
        def read(self, index: int) -> np.ndarray:
            if index == 2:
                raise OSError("disk gone")
            return super().read(index)

    before = threading.active_count()
    with pytest.raises(OSError, match="disk gone"):
        StreamedPoints(Broken(data(), [4000] * 5), workers=2).step(data()[:K])
    assert threading.active_count() == before


def test_a_source_that_gives_too_few_rows_is_noticed() -> None:
    class Short(ArrayBlocks):
        def read(self, index: int) -> np.ndarray:
            return super().read(index)[:-1]

    with pytest.raises(InvalidInput, match="block 0 gave"):
        StreamedPoints(Short(data(), [N])).step(data()[:K])


def test_points_are_rows() -> None:
    with pytest.raises(InvalidInput, match="shape"):
        MemoryPoints(np.zeros(3))


def test_two_builds_of_faiss_are_refused() -> None:
    require_one_build([])
    require_one_build(["faiss-cpu 1.15.1"])
    with pytest.raises(Unavailable, match=r"faiss-cpu 1\.15\.1, faiss-gpu 1\.15\.1") as caught:
        require_one_build(["faiss-cpu 1.15.1", "faiss-gpu 1.15.1"])
    assert caught.value.hint


def test_clustering_loads_no_torch_and_faiss_only_when_searching() -> None:
    code = (
        "import sys, numpy as np; from qrp_store import kmeans as c\n"
        "assert 'faiss' not in sys.modules\n"
        "x = np.random.default_rng(0).standard_normal((100, 4)).astype('f4')\n"
        "c.kmeans(c.MemoryPoints(x), c.KMeansOptions(3))\n"
        "assert 'faiss' in sys.modules\n"
        "assert not {'torch', 'dask', 'scipy', 'zarr'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("groups", [1, 2, 3, 7, 8, 13])
def test_partial_sums_are_combined_in_a_balanced_tree(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that parts of the tree could be summed elsewhere; and rounding grows with its depth, not with its leaves."""
    monkeypatch.setattr("qrp_store.kmeans.passes._GROUP_BYTES", 1)
    size = group_rows(2, 3)
    array, centroids = data(size * groups, 3), data(2, 3)

    def combined(parts: list[np.ndarray]) -> np.ndarray:
        if len(parts) == 1:
            return parts[0]
        left = 1 << (len(parts) - 1).bit_length() - 1
        return combined(parts[:left]) + combined(parts[left:])

    leaves = [MemoryPoints(array[i * size : (i + 1) * size]).step(centroids).sums for i in range(groups)]
    assert MemoryPoints(array, workers=2).step(centroids).sums.tobytes() == combined(leaves).tobytes()


@pytest.mark.parametrize(("rooms", "most"), [(0, 1), (2, 1), (9, 6), (100, 11)])
def test_memory_bounds_the_blocks_that_are_held_at_once(rooms: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qrp_store.kmeans.passes._GROUP_BYTES", 1)
    size = group_rows(K, DIM)  # a block is a group is one search
    array, lock = data(24 * size), threading.Lock()
    held = peak = 0

    class Counted(ArrayBlocks):
        def read(self, index: int) -> np.ndarray:
            nonlocal held, peak
            with lock:
                held += 1
                peak = max(peak, held)
            return super().read(index)

    class Slow(FaissNearest):
        def prepare(self, centroids: np.ndarray):  # type: ignore[no-untyped-def]
            search = super().prepare(centroids)

            def slow(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                nonlocal held
                time.sleep(0.01)
                found = search(rows)
                with lock:
                    held -= 1
                return found

            return slow

    memory = rooms * (size * DIM * 4 + K * DIM * 8)
    points = StreamedPoints(Counted(array, [size] * 24), nearest=Slow(), workers=8, memory=memory)
    points.step(array[:K])
    assert (peak, held) <= (most, 0)
