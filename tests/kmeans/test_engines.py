"""The contract of Nearest, run by every engine on every device that is here, against plain numpy; and who is chosen."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from qrp_store.errors import InvalidInput, Unavailable
from qrp_store.kmeans import KMeansOptions, MemoryPoints, Nearest, StreamedPoints, kmeans
from qrp_store.kmeans import engines as engines_module
from qrp_store.kmeans.distributed import on_device
from qrp_store.kmeans.engines import Chosen, choose
from qrp_store.kmeans.lloyd import quantized
from qrp_store.kmeans.passes import group_rows, total
from qrp_store.kmeans.torch_nearest import TorchNearest
from qrp_store.kmeans.torch_points import TorchPoints

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
ENGINES = [Chosen("faiss", "cpu"), *(Chosen("torch", device) for device in DEVICES)]
N, DIM, K = 9_000, 33, 70


def data(n: int = N, dim: int = DIM, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((30, dim)) * 2
    return (rng.standard_normal((n, dim)) + middles[rng.integers(0, 30, n)]).astype(np.float32)


def squares(rows: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return ((rows[:, None, :].astype(np.float64) - centroids[None]) ** 2).sum(axis=2)


@pytest.mark.parametrize("chosen", ENGINES, ids=lambda c: f"{c.engine}-{c.device}")
class TestNearest:
    @pytest.fixture
    def engine(self, chosen: Chosen) -> Nearest:
        return chosen.nearest()

    def test_it_has_its_name(self, engine: Nearest, chosen: Chosen) -> None:
        assert engine.name == chosen.engine

    @pytest.mark.parametrize(("n", "dim", "k"), [(1, 1, 2), (2048, 3, 2), (777, 130, 5), (2048, 64, 1000)])
    def test_the_nearest_and_its_squared_distance(self, engine: Nearest, n: int, dim: int, k: int) -> None:
        rows, centroids = data(n, dim), data(k, dim, seed=1)
        labels, distances = engine.prepare(centroids)(rows)
        apart = squares(rows, centroids)
        assert (labels.dtype, distances.dtype, labels.shape, distances.shape) == (np.int32, np.float32, (n,), (n,))
        scale = np.square(rows.astype(np.float64)).sum(axis=1) + np.square(centroids).sum(axis=1).max()
        # Rounding may prefer another that is as near; nothing else.
        assert (apart[np.arange(n), labels] - apart.min(axis=1) <= 2e-6 * scale).all()
        assert (labels == apart.argmin(axis=1)).mean() > 0.999
        assert (np.abs(distances - apart.min(axis=1)) <= 2e-6 * scale).all()

    def test_the_lowest_number_wins_among_equals(self, engine: Nearest) -> None:
        rows = np.random.default_rng(2).integers(-3, 4, (2048, 8)).astype(np.float32)  # exact in any order of sums
        centroids = np.concatenate([rows[:40], rows[:40], rows[20:60]])
        labels, distances = engine.prepare(centroids)(rows)
        apart = squares(rows, centroids)
        np.testing.assert_array_equal(labels, apart.argmin(axis=1))
        np.testing.assert_array_equal(distances, apart.min(axis=1))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
    def test_a_row_that_is_not_finite_has_no_nearest(self, engine: Nearest, value: float) -> None:
        rows = data(100)
        rows[7, 3] = value
        labels, _ = engine.prepare(data(K))(rows)
        assert np.flatnonzero(labels < 0).tolist() == [7]

    def test_distances_are_never_negative(self, engine: Nearest) -> None:
        rows = data(500) + np.float32(1000)
        assert (engine.prepare(rows[:50])(rows)[1] >= 0).all()

    def test_rows_are_left_as_they_were(self, engine: Nearest) -> None:
        rows, centroids = data(300), data(20)
        kept = rows.copy(), centroids.copy()
        engine.prepare(centroids)(rows)
        np.testing.assert_array_equal(rows, kept[0])
        np.testing.assert_array_equal(centroids, kept[1])
        rows.flags.writeable = False
        engine.prepare(centroids)(rows)

    def test_threads_and_alignment_change_no_bit(self, engine: Nearest) -> None:
        room = np.empty(2048 * 300 + 16, np.float32)
        rows = data(2048, 300)
        search = engine.prepare(data(99, 300, seed=1))
        expected = search(rows)
        shifted = []
        for offset in range(4):
            copy = room[offset : offset + rows.size].reshape(rows.shape)
            copy[:] = rows
            shifted.append(copy.copy() if offset == 0 else copy)
            for actual, wanted in zip(search(shifted[-1]), expected, strict=True):
                np.testing.assert_array_equal(actual, wanted)
        with ThreadPoolExecutor(4) as pool:
            for result in pool.map(search, [rows] * 12):
                for actual, wanted in zip(result, expected, strict=True):
                    np.testing.assert_array_equal(actual, wanted)

    def test_k_means_agrees_with_plain_lloyd(self, engine: Nearest) -> None:
        array, centroids = data(3000), data(3000)[:20].astype(np.float64)
        for _ in range(5):
            labels = squares(array, centroids).argmin(axis=1)
            centroids = np.stack([array[labels == c].mean(axis=0, dtype=np.float64) for c in range(20)])
        points = MemoryPoints(array, nearest=engine)
        result = kmeans(points, KMeansOptions(20, niter=5, sample="all"), start=array[:20])
        assert np.abs(result.centroids - centroids).mean() < 5e-3
        assert result.objective == pytest.approx(squares(array, centroids).min(axis=1).sum(), rel=1e-4)


FAR = [0.0, 10.0, 300.0, 3000.0, 1e5]


def scattered(constant: float, n: int = 3000, dim: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Four groups, each dimension with a constant of its own around this one; and which group a row is of."""
    rng = np.random.default_rng(0)
    group = np.arange(n) % 4
    rows = np.eye(4, dim)[group] + 0.05 * rng.standard_normal((n, dim))
    return (rows + constant * rng.uniform(0.5, 1, dim) * rng.choice([-1, 1], dim)).astype(np.float32), group


def points_of(array: np.ndarray, how: str, device: str) -> MemoryPoints | StreamedPoints | TorchPoints:
    if how == "faiss":
        return StreamedPoints(Halves(array), memory=0)
    if how == "torch":
        return MemoryPoints(array, nearest=TorchNearest(device))
    return TorchPoints(StreamedPoints(Halves(array), memory=0), device=device, budget=10**9)


@pytest.mark.parametrize("constant", FAR)
@pytest.mark.parametrize("how", ["faiss", "torch", "resident"])
@pytest.mark.parametrize("device", DEVICES)
class TestFarFromTheOrigin:
    """float32 |c|² − 2xc loses all digits there: NMI 0.026 at a constant of 300."""

    def test_planted_groups_are_found_and_the_objective_is_exact(self, how: str, device: str, constant: float) -> None:
        array, group = scattered(constant)
        points = points_of(array, how, device)
        result = kmeans(points, KMeansOptions(4, init="greedy-kmeans++", sample="all"))
        assert len(set(zip(result.labels.tolist(), group.tolist(), strict=True))) == 4
        exact = array.astype(np.float64)
        middles = np.stack([exact[result.labels == k].mean(axis=0) for k in range(4)])
        np.testing.assert_allclose(result.centroids, middles, rtol=1e-7, atol=1e-6)
        assert result.objective == pytest.approx(squares(array, result.centroids).min(axis=1).sum(), rel=1e-6)
        objective = np.square(exact - middles[result.labels]).sum()
        assert result.objective_per_iteration[-1] == pytest.approx(objective, rel=1e-5)
        again = quantized(points, result.centroids)
        assert (again.objective, again.labels.tolist()) == (result.objective, result.labels.tolist())

    def test_distances_are_those_of_float64_to_a_millionth_of_the_spread(
        self, how: str, device: str, constant: float
    ) -> None:
        array, _ = scattered(constant)
        points = points_of(array, how, device).about(np.median(array, axis=0))
        rows = points.sample(np.arange(len(array)))
        labels, distances = points.assign(rows[:K])
        step = points.step(rows[:K])
        apart = squares(array, array[:K])
        spread = np.square(array - array.mean(axis=0, dtype=np.float64)).sum(axis=1).mean()
        assert (apart[np.arange(len(array)), labels] - apart.min(axis=1) <= 4e-6 * spread).all()
        assert np.abs(distances - apart[np.arange(len(array)), labels]).max() <= 1e-6 * spread
        assert step.inertia == pytest.approx(apart.min(axis=1).sum(), abs=1e-6 * spread * len(array))

    def test_imported_centroids(self, how: str, device: str, constant: float) -> None:
        array, group = scattered(constant)
        centroids = np.stack([array[group == k].mean(axis=0, dtype=np.float64) for k in range(4)]).astype(np.float32)
        result = quantized(points_of(array, how, device), centroids)
        np.testing.assert_array_equal(result.labels, group)
        assert result.objective == pytest.approx(squares(array, centroids).min(axis=1).sum(), rel=1e-6)


class Halves:
    """An array as two blocks; counts how often one is read."""

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.count, self.dim, self.n_blocks, self.reads = array, len(array), array.shape[1], 2, 0

    def rows_of(self, index: int) -> tuple[int, int]:
        half = self.count // 2
        return (0, half) if index == 0 else (half, self.count - half)

    def read(self, index: int) -> np.ndarray:
        self.reads += 1
        start, rows = self.rows_of(index)
        return self._array[start : start + rows]


@pytest.mark.parametrize("device", DEVICES)
class TestTorchPoints:
    @pytest.fixture(autouse=True)
    def _several_groups(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("qrp_store.kmeans.passes._GROUP_BYTES", 1)
        monkeypatch.setattr("qrp_store.kmeans.torch_transfer._PIECE", 1000)  # each pinned buffer is used many times

    @pytest.mark.parametrize("budget", [0, 10**9])
    def test_a_pass_agrees_with_the_cpu_engine(self, device: str, budget: int) -> None:
        source = Halves(data())
        points = TorchPoints(StreamedPoints(source, memory=0), device=device, budget=budget)
        reference = MemoryPoints(data())
        for centroids in (data()[:K], data(seed=1)[:K]):
            ours, theirs = points.step(centroids), reference.step(centroids)
            np.testing.assert_array_equal(ours.counts, theirs.counts)
            np.testing.assert_allclose(ours.sums, theirs.sums, rtol=1e-12, atol=1e-9)
            assert ours.inertia == pytest.approx(theirs.inertia, rel=1e-6)
            assert (ours.counts.dtype, ours.sums.dtype) == (np.int64, np.float64)
            means, wanted = points.means(centroids), ours.means()
            assert means.means.tobytes() == wanted.means.tobytes()
            assert (means.counts.tolist(), means.inertia) == (wanted.counts.tolist(), wanted.inertia)
            again = points.step(centroids)
            assert again.sums.tobytes() == ours.sums.tobytes()
            for actual, wanted in zip(points.assign(centroids), reference.assign(centroids), strict=True):
                assert actual.dtype == wanted.dtype
                np.testing.assert_allclose(actual, wanted, rtol=1e-5)
        assert source.reads == (2 if budget else 16)

    def test_k_means_of_a_sample_agrees(self, device: str) -> None:
        options = KMeansOptions(K, niter=6, sample=5000)
        ours = kmeans(TorchPoints(StreamedPoints(Halves(data())), device=device, budget=10**9), options)
        theirs = kmeans(MemoryPoints(data()), options)
        np.testing.assert_allclose(ours.objective_per_iteration, theirs.objective_per_iteration, rtol=1e-4)
        assert ours.objective == pytest.approx(theirs.objective, rel=1e-3)
        assert (ours.labels == theirs.labels).mean() > 0.95

    def test_a_row_that_cannot_be_searched_is_named(self, device: str) -> None:
        array = data()
        array[[5000, 8000]] = np.nan
        points = TorchPoints(MemoryPoints(array), device=device, name=lambda row: f"img-{row}")
        for search in (points.step, points.assign, points.subset(np.arange(1000, N)).step):
            with pytest.raises(InvalidInput, match="img-5000 holds values"):
                search(data()[:K])

    @pytest.mark.parametrize("k", [2, K, 1500])
    def test_blocks_of_distances_and_of_columns_change_no_sum(
        self, device: str, k: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        points, centroids = TorchPoints(MemoryPoints(data(dim=130)), device=device), data(dim=130)[:k]
        whole, labels = points.step(centroids), points.assign(centroids)
        monkeypatch.setattr("qrp_store.kmeans.torch_points._SCRATCH", 1 << 18)  # 32 columns, some rows
        monkeypatch.setattr("qrp_store.kmeans.torch_points._LATE", 2)
        parts, actual = points.step(centroids), points.assign(centroids)
        np.testing.assert_array_equal(parts.counts, whole.counts)
        np.testing.assert_array_equal(parts.sums, whole.sums)
        assert parts.inertia == pytest.approx(whole.inertia, rel=1e-6)
        for ours, wanted in zip(actual, labels, strict=True):
            np.testing.assert_array_equal(ours, wanted)

    def test_parts_on_workers_add_up_to_the_same_bits(self, device: str) -> None:
        array, centroids = data(), data(seed=1)[:K]
        array[7001] = np.nan
        size = group_rows(K, DIM)
        whole = TorchPoints(MemoryPoints(array[:7000]), device=device).step(centroids)
        subtrees = []
        for first in range(0, 7000, size):  # kept by a worker, and moved to another one
            part = pickle.loads(
                pickle.dumps(on_device(first, array[first : min(first + size, 7000)], Chosen("torch", device)))
            )
            subtrees += part.subtrees(centroids, first // size)
        parts = total(subtrees)
        assert parts.sums.tobytes() == whole.sums.tobytes()
        assert (parts.counts.tolist(), parts.inertia) == (whole.counts.tolist(), whole.inertia)
        last = on_device(3 * size, array[3 * size :], Chosen("torch", device))
        for search in (lambda: last.subtrees(centroids, 3), lambda: last.assign(centroids)):
            with pytest.raises(InvalidInput, match="row 7001 holds values"):
                search()

    def test_the_default_budget_asks_the_device(self, device: str) -> None:
        points = TorchPoints(MemoryPoints(data()), device=device)
        assert points.step(data()[:K]).counts.sum() == N


def test_torch_keeps_the_threads_that_the_program_has_set() -> None:
    array, actual, before = data(4096, 300), [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            actual.append(MemoryPoints(array, nearest=TorchNearest(), workers=2).step(array[:77]).sums.tobytes())
            assert torch.get_num_threads() == threads
            with ThreadPoolExecutor(1) as pool:  # new threads begin with what was set last
                assert pool.submit(torch.get_num_threads).result() == threads
    finally:
        torch.set_num_threads(before)
    assert actual[0] == actual[1] == actual[2]


def here(monkeypatch: pytest.MonkeyPatch, modules: str, cuda: str) -> None:
    """These modules are installed, and those of them compute on the CUDA device that is there."""
    monkeypatch.setattr(engines_module, "_installed", lambda module: module in modules.split())
    monkeypatch.setattr(engines_module, "_may_have_cuda", lambda: bool(cuda))
    monkeypatch.setattr(engines_module, "_n_gpus", lambda module: 2 * (module in cuda.split()))


BOTH = "faiss torch"


@pytest.mark.parametrize(
    ("modules", "cuda", "asked", "expected"),
    [
        (BOTH, "", ("auto", "auto"), ("faiss", "cpu")),
        ("faiss", "", ("auto", "auto"), ("faiss", "cpu")),
        ("torch", "", ("auto", "auto"), ("torch", "cpu")),
        (BOTH, "torch", ("auto", "auto"), ("torch", "cuda")),
        (BOTH, BOTH, ("auto", "auto"), ("torch", "cuda")),
        (BOTH, "faiss", ("auto", "auto"), ("faiss", "cuda")),
        ("faiss", "torch", ("auto", "auto"), ("faiss", "cpu")),
        (BOTH, BOTH, ("auto", "cpu"), ("faiss", "cpu")),
        (BOTH, BOTH, ("auto", "cuda"), ("torch", "cuda")),
        (BOTH, BOTH, ("auto", "cuda:1"), ("torch", "cuda:1")),
        (BOTH, "faiss", ("auto", "cuda"), ("faiss", "cuda")),
        (BOTH, "torch", ("faiss", "auto"), ("faiss", "cpu")),
        (BOTH, BOTH, ("faiss", "auto"), ("faiss", "cuda")),
        (BOTH, BOTH, ("faiss", "cuda"), ("faiss", "cuda")),
        (BOTH, BOTH, ("faiss", "cpu"), ("faiss", "cpu")),
        (BOTH, "torch", ("torch", "auto"), ("torch", "cuda")),
        (BOTH, "torch", ("torch", "cpu"), ("torch", "cpu")),
        (BOTH, "", ("torch", "auto"), ("torch", "cpu")),
    ],
)
def test_who_is_chosen(
    modules: str, cuda: str, asked: tuple[str, str], expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here(monkeypatch, modules, cuda)
    assert choose(*asked) == Chosen(*expected)


@pytest.mark.parametrize(
    ("modules", "cuda", "asked", "message"),
    [
        ("", "", ("auto", "auto"), "neither is installed"),
        ("torch", "", ("faiss", "auto"), "needs faiss"),
        ("faiss", "", ("torch", "auto"), "needs torch"),
        ("faiss", "", ("auto", "cuda"), "faiss here can compute on no CUDA device"),
        (BOTH, "", ("auto", "cuda"), "torch and faiss here can compute on no CUDA device"),
        (BOTH, BOTH, ("auto", "cuda:2"), "torch and faiss here can compute on no CUDA device 2"),
        (BOTH, "torch", ("faiss", "cuda"), "faiss here can compute on no CUDA device"),
    ],
)
def test_what_is_not_there_is_refused_with_what_to_do(
    modules: str, cuda: str, asked: tuple[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here(monkeypatch, modules, cuda)
    with pytest.raises(Unavailable, match=message) as caught:
        choose(*asked)
    assert caught.value.hint


@pytest.mark.parametrize("asked", [("scann", "auto"), ("auto", "tpu"), ("auto", "cuda:-1"), ("auto", "cuda:x")])
def test_what_nobody_knows_is_refused(asked: tuple[str, str]) -> None:
    with pytest.raises(InvalidInput, match="known are"):
        choose(*asked)


def test_choosing_loads_neither_torch_nor_faiss() -> None:
    code = (
        "import os, sys; os.environ['CUDA_VISIBLE_DEVICES'] = ''\n"
        "from qrp_store.kmeans.engines import choose\n"
        "assert choose().engine == 'faiss'\n"
        "assert not {'torch', 'faiss'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
