"""Results whose probes are trained together, as on a GPU: the same numbers, each with a life of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import pytest

from qrp_store.catalog.lifecycle import lease
from qrp_store.cluster import cluster
from qrp_store.errors import Interrupted, Unavailable
from qrp_store.evaluate import EvaluateReport, evaluate, probe
from qrp_store.probing import stack, train
from qrp_store.store import Store

ASKED: dict[str, Any] = {"imported": ["combined"], "concepts": ["named", "loose"], "seeds": (0, 1)}
NUMBERS = ("nmi", "cross_entropy_nats", "top1", "top5", "train_loss", "nmi_ci_lo", "nmi_ci_hi")
STATES = "SELECT state, count(*) AS n FROM artifact WHERE kind = 'result' GROUP BY state ORDER BY state"


def scored(store: Store, **options: Any) -> EvaluateReport:
    training = {"epochs": 5, "batch_size": 64, "lr": 0.5, "bootstrap": 20}
    return evaluate(store, dataset="fruit", **{**ASKED, **training, **options})


def states(store: Store) -> dict[str, int]:
    return {row["state"]: row["n"] for row in store.sql(STATES)}


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Probes are trained together on the CPU, too; how many at a time."""
    sizes: list[int] = []
    descended = train._sgd

    def noted(stack: Any, progress: Any) -> Any:
        sizes.append(len(stack))
        return descended(stack, progress)

    monkeypatch.setattr(train, "_sgd", noted)
    monkeypatch.setattr(stack, "room_on", lambda device: 1 << 40)
    return sizes


def test_several_seeds_and_vocabularies_score_the_same_together(
    apples: Store, together: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as alone:
        alone.setattr(stack, "room_on", lambda device: 0)
        before = scored(apples, permutations=2, ablate=True, curve=True)
    assert before.errors == ()
    assert set(together) == {1}
    together.clear()
    after = scored(apples, permutations=2, ablate=True, curve=True, force=True)
    assert after.errors == ()
    assert together[0] == 4
    assert max(together[1:]) > 1
    assert len(before.results) == len(after.results) == 4
    for one, other in zip(before.results, after.results, strict=True):
        assert (one.concepts, one.seed, one.fingerprint) == (other.concepts, other.seed, other.fingerprint)
        assert other.version == 2
        for name in NUMBERS:
            assert getattr(other, name) == pytest.approx(getattr(one, name), abs=1e-4), name
        assert other.null_nmi_mean == pytest.approx(one.null_nmi_mean, abs=1e-4)
        assert [row["nmi"] for row in other.curve] == pytest.approx([row["nmi"] for row in one.curve], abs=1e-4)
    assert all(result.cached for result in scored(apples, permutations=2, ablate=True).results)


@pytest.mark.parametrize("room", [0, 1 << 40], ids=["alone", "together"])
def test_a_set_that_fails_leaves_the_next(
    apples: Store, together: list[int], monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(stack, "room_on", lambda device: room)
    report = scored(apples, concepts=["loose", "named"], min_count=150)
    assert [(result.concepts, result.seed) for result in report.results] == [("named", 0), ("named", 1)]
    assert [error["seed"] for error in report.errors] == [0, 1]
    assert all("'loose'" in error["message"] for error in report.errors)
    assert together == ([2] if room else [1, 1])


@pytest.mark.parametrize("lr", [0.5, 1e30], ids=["trained", "diverged"])
def test_no_result_keeps_its_data_for_the_next(apples: Store, monkeypatch: pytest.MonkeyPatch, lr: float) -> None:
    prepare, data, problems, most = probe.prepare, WeakSet[Any](), WeakSet[Any](), []

    def prepared(*given: Any) -> Any:
        ready = prepare(*given)
        data.add(ready.data)
        problems.add(ready.problem)
        most.append((len(data), len(problems)))
        return ready

    monkeypatch.setattr(probe, "prepare", prepared)
    report = scored(apples, concepts=["named"], seeds=range(4), lr=lr)
    assert len(report.errors) == (0 if lr < 1 else 4)
    assert most == [(1, 1)] * 4


def test_one_failure_leaves_the_others(apples: Store, together: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = probe.save_weights, []

    def full(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise Unavailable("no space left")
        return save(*given)

    monkeypatch.setattr(probe, "save_weights", full)
    report = scored(apples)
    assert together == [4]
    assert [(result.concepts, result.seed) for result in report.results] == [("named", 0), ("named", 1), ("loose", 1)]
    assert [(error["seed"], error["message"]) for error in report.errors] == [(0, "no space left")]
    assert states(apples) == {"failed": 1, "ready": 3}
    assert [result.cached for result in scored(apples).results] == [True, False, True, True]


def test_an_interruption_lets_go_of_all(apples: Store, together: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(stack: Any, progress: Any) -> Any:
        raise Interrupted("stopped", signal=15)

    with monkeypatch.context() as once:
        once.setattr(train, "_sgd", stopped)
        with pytest.raises(Interrupted):
            scored(apples)
    assert states(apples) == {"writing": 4}
    assert len(apples.sql("SELECT id FROM artifact WHERE lease_token IS NOT NULL AND state = 'writing'")) == 0
    report = scored(apples, wait=False)
    assert [result.cached for result in report.results] == [False] * 4


class Watching:
    """Told that one waits, does what it was made for."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.then = then

    @contextmanager
    def task(self, title: str, total: int | None, unit: str = "") -> Any:
        yield self

    def advance(self, amount: int = 1) -> None: ...

    def warn(self, message: str) -> None: ...

    def note(self, message: str) -> None:
        if "waiting for its result" in message:
            self.then()


def test_nobody_waits_while_he_holds(apples: Store, together: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else makes the third: what was claimed before is made first, then waited for it, then made the rest."""
    claim, others, seen = lease.claim, [], []

    def claimed(catalog: Any, spec: Any, **how: Any) -> Any:
        if spec.kind == "result" and len(seen) == 2 and not others:
            others.append(claim(catalog, spec))
        answer = claim(catalog, spec, **how)
        if spec.kind == "result":
            seen.append(spec.name)
        return answer

    def let_go() -> None:
        assert states(apples) == {"ready": 2, "writing": 1}
        lease._let_go(apples.catalog, others[0], None)

    monkeypatch.setattr(lease, "claim", claimed)
    report = scored(apples, progress=Watching(let_go))
    assert report.errors == ()
    assert together == [2, 2]
    assert [result.cached for result in report.results] == [False] * 4
    assert states(apples) == {"ready": 4}


def test_what_is_asked_for_twice_is_not_waited_for(apples: Store, together: list[int]) -> None:
    made = cluster(apples, dataset="fruit", backbone="seen", k=5)
    twice = {"backbones": ["seen"], "k": [5], "imported": [made.id], "concepts": ["named"], "seeds": None}
    report = scored(apples, **twice, wait=False)
    assert report.errors == ()
    assert [result.cached for result in report.results] == [False, True]
