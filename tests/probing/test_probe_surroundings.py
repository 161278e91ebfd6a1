"""What probing loads, and what it says while it works."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from qrp_store.options import ProbeOptions
from qrp_store.probing import optimum
from qrp_store.probing.runtime import using_threads
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.probing.train import fit


class Recorder:
    def __init__(self) -> None:
        self.tasks, self.notes, self.warnings, self.done = [], [], [], 0

    @contextmanager
    def task(self, title, total, unit=""):
        self.tasks.append((title, total, unit))
        yield self

    def advance(self, amount=1):
        self.done += amount

    def note(self, message):
        self.notes.append(message)

    def warn(self, message):
        self.warnings.append(message)


def recorded(world, **options) -> Recorder:
    recorder = Recorder()
    fit(*world.part(0), *world.part(1), world.n_clusters, ProbeOptions(**options), seed=0, progress=recorder)
    return recorder


def test_sgd_counts_its_epochs(world):
    recorder = recorded(world, epochs=3, lr=0.5)
    assert recorder.tasks == [("probe", 3, "epoch")]
    assert recorder.done == 3
    assert recorder.notes == recorder.warnings == []


class Threads(Recorder):
    """Notes how many threads torch has while it works."""

    def advance(self, amount=1):
        self.done = torch.get_num_threads()


@pytest.mark.parametrize("concepts, clusters, threads", [(20, 12, 1), (2000, 60, 2)])
def test_a_small_step_is_taken_by_one_thread(concepts, clusters, threads):
    rng = np.random.default_rng(0)
    x = ConceptMatrix.from_pairs(np.arange(600), rng.integers(0, concepts, 600), 600, concepts)
    c = rng.integers(0, clusters, 600)
    threads_used = Threads()
    with using_threads(2):
        fit(x, c, x, c, clusters, ProbeOptions(epochs=1), seed=0, progress=threads_used)
        assert torch.get_num_threads() == 2
    assert threads_used.done == threads


def test_an_optimum_that_was_not_reached_is_warned_about(world, monkeypatch):
    monkeypatch.setattr(optimum, "_LIMIT", 5)
    recorder = recorded(world, solver="lbfgs")
    assert len(recorder.warnings) == 1
    assert "3e-06" in recorder.warnings[0]


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_concepts_and_options_need_no_torch():
    imports = ", ".join(f"qrp_store.probing.{name}" for name in ("sparse", "stack", "controls", "explain"))
    program = f"import sys, {imports}; print('torch' in sys.modules)"
    assert run(program) == "False"


@pytest.mark.parametrize("module", ["train", "metrics"])
def test_without_torch_the_extra_to_install_is_named(module):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from qrp_store.errors import Unavailable\n"
        f"try:\n    import qrp_store.probing.{module}\n"
        "except Unavailable as error:\n    print(error.message, '|', error.hint)"
    )
    assert run(program) == "probing needs torch | pip install 'qrp-store[cpu]'"
