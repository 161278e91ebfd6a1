"""Probes on a GPU with too little memory. Run by tests/test_on_a_pretend_gpu.py."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pretend_gpu
import pytest
import torch

from qrp_store.cli.main import call
from qrp_store.errors import Unavailable
from qrp_store.options import ProbeOptions
from qrp_store.probing import linear
from qrp_store.probing.metrics import log_likelihood
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.probing.train import fit

N, K = 400, 8


@contextmanager
def memory(free: int) -> Iterator[None]:
    """Bound the pretend GPU to so many bytes more than it holds."""
    gc.collect()
    before, pretend_gpu.memory.limit = pretend_gpu.memory.limit, pretend_gpu.memory.held + free
    try:
        yield
    finally:
        pretend_gpu.memory.limit = before


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with 400 vectors of two groups and three concepts."""
    folder = tmp_path_factory.mktemp("probes")
    rng = np.random.default_rng(0)
    held = rng.random((N, 3)) < 0.4
    np.save(folder / "x.npy", (held @ rng.normal(size=(3, 4)) + rng.normal(size=(N, 4)) * 0.1).astype(np.float32))
    lines = [f"{row},{'abc'[concept]}" for row, concept in zip(*np.nonzero(held), strict=True)]
    (folder / "labels.csv").write_text("key,concept\n" + "\n".join(lines))
    where = ["--store", str(folder / "store")]
    assert call(["init", *where]) == 0
    assert call(["ingest", str(folder / "x.npy"), "--dataset", "d", "--backbone", "b", *where]) == 0
    assert call(["label", str(folder / "labels.csv"), "--dataset", "d", "--concepts", "c", *where]) == 0
    assert call(["cluster", "--dataset", "d", "--backbone", "b", "-k", str(K), "--device", "cpu", *where]) == 0
    return str(folder / "store")


def evaluated(store: str, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    """The exit code of evaluate on a GPU, and its JSON."""
    capsys.readouterr()
    command = ["evaluate", "--dataset", "d", "-k", str(K), "--epochs", "3", "--batch-size", "64", *more]
    code = call([*command, "--engine", "faiss", "--device", "cuda", "--store", store, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_too_little_memory_for_a_probe_is_exit_8_and_says_what_to_do(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with memory(1000):
        code, document = evaluated(store, capsys)
    (error,) = document["errors"]
    assert (code, error["kind"]) == (8, "unavailable")
    assert error["message"] == f"the memory of cuda is too small for training a probe of 3 concepts × {K} clusters"
    assert "smaller K" in error["hint"]
    assert "--device cpu" in error["hint"]
    code, document = evaluated(store, capsys)  # nothing half-written is in the way
    assert (code, document["errors"], document["results"][0]["cached"]) == (0, [], False)


def test_too_little_memory_for_the_forward_probes_is_exit_8_too(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluated(store, capsys)[0] == 0
    with memory(100):
        code, document = evaluated(store, capsys, "--forward")
    (error,) = document["errors"]
    assert (code, error["kind"]) == (8, "unavailable")
    assert error["message"].startswith("the memory of cuda is too small for the linear and the nearest-neighbour probe")
    code, document = evaluated(store, capsys, "--forward")
    assert (code, document["errors"]) == (0, [])


def test_too_little_memory_for_scoring_is_unavailable() -> None:
    x = ConceptMatrix.from_pairs(np.arange(N), np.arange(N) % 3, N, 3)
    with memory(100), pytest.raises(Unavailable, match="too small for scoring a probe of 3 concepts × 8 clusters"):
        log_likelihood(np.zeros((K, 4), np.float32), x, np.arange(N) % K, device="cuda")


def test_an_error_at_the_end_of_a_recording_does_not_hide_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = pretend_gpu.graph.__exit__

    def hiding(self: Any, *error: Any) -> None:
        ended(self, *error)
        if error[0] is not None:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    class Full(pretend_gpu.graph):
        def __enter__(self) -> None:
            super().__enter__()
            pretend_gpu.memory.limit = 0

    before = pretend_gpu.memory.limit
    monkeypatch.setattr(torch.cuda, "graph", Full)
    monkeypatch.setattr(pretend_gpu.graph, "__exit__", hiding)
    x, c = ConceptMatrix.from_pairs(np.arange(N), np.arange(N) % 3, N, 3), np.arange(N) % K
    try:
        with pytest.raises(Unavailable, match="the memory of cuda is too small"):
            fit(x, c, x, c, K, ProbeOptions(epochs=1, batch_size=64), seed=0, device="cuda")
    finally:
        pretend_gpu.memory.limit = before


def test_the_vectors_that_stay_on_a_gpu_follow_its_free_memory() -> None:
    gpu = torch.device("cuda")
    for free in (1 << 20, 8 << 30):
        with memory(free):
            assert linear._room(gpu) == free // 2
    assert linear._room(torch.device("cpu")) == 1 << 30
