"""Launches, copies and waits of the CUDA code, counted on the pretend GPU. Run by tests/test_on_a_pretend_gpu.py."""

from __future__ import annotations

import gc
from collections import Counter

import numpy as np
import pretend_gpu
import pytest

from qrp_store.kmeans import MemoryPoints
from qrp_store.kmeans.torch_points import TorchPoints
from qrp_store.options import ProbeOptions
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.probing.stack import fit_all, needed_bytes
from qrp_store.probing.train import Problem, fit

SAMPLES, CONCEPTS, CLUSTERS, BATCH = 1100, 40, 10, 128


def concepts(n: int) -> ConceptMatrix:
    held = np.random.default_rng(0).random((n, CONCEPTS)) < 0.1
    columns = np.nonzero(held)[1]
    indptr = np.concatenate([[0], np.cumsum(held.sum(axis=1))]).astype(np.int64)
    return ConceptMatrix(indptr, columns.astype(np.int32), CONCEPTS)


def counted(epochs: int) -> Counter[str]:
    """The counts of a training run."""
    x, clusters = concepts(SAMPLES), np.arange(SAMPLES) % CLUSTERS
    pretend_gpu.reset()
    fit(x, clusters, x, clusters, CLUSTERS, ProbeOptions(epochs=epochs, batch_size=BATCH), seed=0, device="cuda")
    return Counter(pretend_gpu.counts)


def test_an_epoch_of_the_probe_replays_recorded_steps_and_copies_nothing_for_each() -> None:
    few, many = counted(5), counted(15)
    epoch = {name: (many[name] - few[name]) / 10 for name in many}
    steps = SAMPLES // BATCH
    assert epoch["replays"] == steps
    assert epoch["kernels replayed"] / steps <= 14
    assert epoch["copies to device"] <= 1  # the order of the samples
    assert epoch["copies to host"] <= 2  # training losses, validation losses
    assert epoch["waits"] <= 3


def test_a_leaderboard_of_small_probes_launches_a_fraction_of_the_kernels() -> None:
    """Ten backbones × three seeds: other clusters for each, the same concepts."""
    x, options = concepts(SAMPLES), ProbeOptions(epochs=2, batch_size=BATCH)
    rng, work = np.random.default_rng(0), []
    for backbone in range(10):
        for seed in range(3):
            clusters = rng.integers(0, CLUSTERS, SAMPLES)
            work.append(((backbone, seed), Problem(x, clusters, x, clusters, CLUSTERS, options, seed, "cuda")))

    def launched(some: list[tuple[tuple[int, int], Problem]]) -> int:
        pretend_gpu.reset()
        assert [key for key, _ in fit_all(some)] == [key for key, _ in some]
        return pretend_gpu.counts["kernels"] + pretend_gpu.counts["kernels replayed"]

    gc.collect()
    before, pretend_gpu.memory.peak = pretend_gpu.memory.held, pretend_gpu.memory.held
    assert 4 * launched(work) <= len(work) * launched(work[:1])
    assert pretend_gpu.memory.peak - before <= needed_bytes([problem for _, problem in work])


def test_a_pass_of_kmeans_over_resident_rows_copies_only_centroids_and_means() -> None:
    n, dim, k = 5000, 32, 20
    rows = np.random.default_rng(0).standard_normal((n, dim)).astype(np.float32)
    points = TorchPoints(MemoryPoints(rows), device="cuda")
    points.means(rows[:k].copy())
    pretend_gpu.reset()
    points.means(rows[k : 2 * k].copy())
    assert pretend_gpu.counts["bytes to device"] == 4 * k * dim
    assert pretend_gpu.counts["bytes to host"] == 4 * k * dim + 8 * (k + 2)  # float32 means, counts, two numbers
    assert pretend_gpu.counts["copies to host"] == 2
    assert pretend_gpu.counts["waits"] == 3, pretend_gpu.waits


def test_a_group_of_kmeans_takes_as_many_kernels_as_the_documents_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qrp_store.kmeans.passes._GROUP_BYTES", 1)
    launched = []
    for groups in (4, 8):
        rows = np.random.default_rng(0).standard_normal((2048 * groups, 16)).astype(np.float32)
        points = TorchPoints(MemoryPoints(rows), device="cuda")
        points.means(rows[:20])
        pretend_gpu.reset()
        points.means(rows[:20])
        launched.append(pretend_gpu.counts["kernels"])
    assert (launched[1] - launched[0]) / 4 <= 31  # docs/scale.md
