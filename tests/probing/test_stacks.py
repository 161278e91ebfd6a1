"""Probes trained together have the numbers of each alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qrp_store.errors import QrpStoreError
from qrp_store.options import ProbeOptions
from qrp_store.probing import stack, train
from qrp_store.probing.controls import Trial, null_distribution
from qrp_store.probing.resident import ResidentDescent
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.probing.stack import needed_bytes
from qrp_store.probing.train import ProbeFit, Problem, fit
from qrp_store.progress import silent

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
K = 5


def samples(n: int, n_concepts: int, *, valued: bool = False, often: float = 0.3) -> tuple[ConceptMatrix, np.ndarray]:
    """Concepts of which the first decide the cluster, half of the time."""
    rng = np.random.default_rng(n)
    holds = rng.random((n, n_concepts)) < often
    rows, concepts = np.nonzero(holds)
    values = rng.random(len(rows), dtype=np.float32) * 0.9 + 0.1 if valued else None
    x = ConceptMatrix(np.r_[0, np.cumsum(holds.sum(1))], concepts, n_concepts, values)
    return x, np.where(rng.random(n) < 0.5, holds[:, :4].sum(1), rng.integers(0, K, n))


def problem(n: int = 300, n_concepts: int = 12, *, seed: int = 0, often: float = 0.3, **options) -> Problem:
    train, val = samples(n, n_concepts, often=often), samples(n // 2, n_concepts, often=often)
    return Problem(*train, *val, K, ProbeOptions(**{"epochs": 4, "batch_size": 32, "lr": 0.5, **options}), seed)


def alone(problems: Problem) -> ProbeFit:
    parts = (problems.x_train, problems.c_train, problems.x_val, problems.c_val)
    return fit(*parts, problems.n_clusters, problems.options, seed=problems.seed, device=problems.device)


def fit_all(problems, progress=silent):
    """The fits alone, of problems that may be drawn one by one."""
    return (fit for _, fit in stack.fit_all(((None, each) for each in problems), progress))


@pytest.fixture
def room(monkeypatch):
    """Probes are trained together on the CPU, too, within so many bytes; how many at a time is noted."""
    together: list[int] = []
    descended = train._sgd

    def noted(stack, progress):
        together.append(len(stack))
        return descended(stack, progress)

    def allow(number: int) -> list[int]:
        monkeypatch.setattr(stack, "room_on", lambda device: number)
        return together

    monkeypatch.setattr(train, "_sgd", noted)
    return allow


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.0, "weight_decay": 0.0}, {"batch_size": 3}, {"batch_size": 1000}],
    ids=str,
)
def test_a_stack_descends_like_each_alone(device, options):
    """Other numbers of samples and concepts, held and soft ones; on the CPU to the bit."""
    parts = [samples(211, 17), samples(200, 40, valued=True), samples(199, 3), samples(260, 8)]
    options = ProbeOptions(**{"batch_size": 20, "weight_decay": 1e-3, **options})
    place, rng = torch.device(device), np.random.default_rng(0)
    with torch.no_grad():
        stacked = ResidentDescent(parts, K, options, place)
        single = [ResidentDescent([part], K, options, place) for part in parts]
        for lr in (0.2, 0.02, 0.2):
            orders = [rng.permutation(len(x)) for x, _ in parts]
            losses = stacked.epoch(orders, lr)
            expected = [descent.epoch([order], lr)[0] for descent, order in zip(single, orders, strict=True)]
            assert losses == (expected if device == "cpu" else pytest.approx(expected, rel=1e-5))
    tables = torch.cat([descent.table for descent in single])
    torch.testing.assert_close(stacked.table, tables, rtol=0, atol=0 if device == "cpu" else 2e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_probes_together_are_those_of_fit(room, device):
    """They differ in samples, concepts, seed and best epoch."""
    problems = [problem(300, 12), problem(310, 40, seed=1), problem(330, 5, seed=2), problem(300, 12, seed=3)]
    problems = [replace(each, device=device) for each in problems]
    together = room(1 << 40)
    results = list(fit_all(problems))
    assert together == [4]
    assert len({fitted.best_epoch for fitted in results} | {0}) > 1
    for fitted, expected in zip(results, [alone(each) for each in problems], strict=True):
        np.testing.assert_allclose(fitted.weight, expected.weight, atol=2e-5)
        np.testing.assert_allclose(fitted.bias, expected.bias, atol=2e-5)
        for mine, theirs in zip(fitted.history, expected.history, strict=True):
            assert mine.val_cross_entropy == pytest.approx(theirs.val_cross_entropy, abs=1e-6)
            assert mine.train_loss == pytest.approx(theirs.train_loss, abs=1e-6)
        for name in ("best_epoch", "epochs_run", "n_train"):
            assert getattr(fitted, name) == getattr(expected, name)
        assert fitted.train_loss == pytest.approx(expected.train_loss, abs=1e-6)
        assert all(seconds > 0 for seconds in fitted.timings.values())


def test_one_that_diverges_fails_alone(room):
    problems = [problem(), problem(n_concepts=400, often=0.9), problem(seed=1)]
    problems = [replace(each, options=replace(each.options, lr=2.0, epochs=20)) for each in problems]
    together = room(1 << 40)
    first, failed, last = fit_all(problems)
    assert together == [3]
    assert isinstance(failed, QrpStoreError)
    with pytest.raises(QrpStoreError, match="diverged in epoch") as caught:
        alone(problems[1])
    assert (failed.message, failed.hint) == (caught.value.message, caught.value.hint)
    for fitted, expected in ((first, alone(problems[0])), (last, alone(problems[2]))):
        np.testing.assert_allclose(fitted.weight, expected.weight, atol=1e-4)


def test_all_diverging_ends_the_stack(room):
    room(1 << 40)
    problems = [problem(n_concepts=400, often=0.9, lr=1e6, epochs=10_000)] * 2
    assert all(isinstance(result, QrpStoreError) for result in fit_all(problems))


def test_memory_bounds_a_stack(room):
    problems = [problem(seed=seed) for seed in range(5)]
    for bound, expected in ((needed_bytes(problems[:2]), [2, 2, 1]), (needed_bytes(problems[:2]) - 1, [1] * 5)):
        together = room(bound)
        together.clear()
        assert [fitted.options for fitted in fit_all(problems)] == [problems[0].options] * 5
        assert together == expected


@pytest.mark.parametrize(
    "other",
    [
        problem(lr=0.1),
        replace(problem(), n_clusters=K + 1),
        problem(n=400),
        problem(n_concepts=(1 << 22) // K),
    ],
    ids=["options", "clusters", "steps", "filled"],
)
def test_what_cannot_share_a_step_or_gains_nothing_is_trained_apart(monkeypatch, other):
    monkeypatch.setattr(stack, "room_on", lambda device: 1 << 40)
    same = [problem(), problem()]
    work = [(number, each) for number, each in enumerate([*same, other, *same])]
    assert [[number for number, _ in some] for some in stack._stacks(work)] == [[0, 1], [2], [3, 4]]


def test_optima_are_sought_one_by_one(room):
    room(1 << 40)
    problems = [problem(solver="lbfgs", weight_decay=1e-2)] * 2
    results = [fitted.train_loss for fitted in fit_all(problems)]
    assert results == [alone(problems[0]).train_loss] * 2


def test_on_a_cpu_nothing_is_drawn_ahead(monkeypatch):
    drawn = []

    def problems():
        for seed in range(3):
            drawn.append(seed)
            yield problem(seed=seed)

    for number, result in enumerate(fit_all(problems()), 1):
        assert isinstance(result, ProbeFit)
        assert len(drawn) == number


def test_a_stack_without_memory_is_trained_one_by_one(room, monkeypatch):
    problems, notes = [problem(seed=seed) for seed in range(3)], []
    progress = SimpleNamespace(task=silent.task, note=notes.append)
    together = room(1 << 40)
    descended = train._sgd

    def crowded(stack, progress):
        if len(stack) > 1:
            raise torch.cuda.OutOfMemoryError("no room")
        return descended(stack, progress)

    monkeypatch.setattr(train, "_sgd", crowded)
    results = list(fit_all(problems, progress))
    assert together == [1, 1, 1]
    assert "3 probes at once" in notes[0]
    assert "the memory of this machine is too small" in notes[0]
    assert [fitted.weight.tobytes() for fitted in results] == [alone(each).weight.tobytes() for each in problems]


def test_controls_are_the_same_together(world, room):
    parts = np.repeat([0, 1, 2], [3840, 960, 1200])
    trial = Trial(world.c, parts, world.n_clusters, ProbeOptions(epochs=3, lr=0.5), 0, "cpu")
    one_by_one = null_distribution(trial, world.x, range(5), silent)
    together = room(1 << 40)
    together.clear()
    assert null_distribution(trial, world.x, range(5), silent).nmi == pytest.approx(one_by_one.nmi, abs=1e-5)
    assert together == [5]


def test_half_of_a_gpus_memory_may_be_taken_and_no_more_than_the_host_bears(monkeypatch):
    gpu = torch.device("cuda")
    for name, number in (("memory_reserved", 300), ("memory_allocated", 100)):
        monkeypatch.setattr(torch.cuda, name, lambda device, number=number: number)
    for free, room in ((1000, 600), (80 << 30, 2 << 30)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 80 << 30))
        assert stack.room_on(gpu) == room
    assert stack.room_on(torch.device("cpu")) == 0
