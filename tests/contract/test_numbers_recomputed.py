"""Every number of a result, computed again in plain numpy from the SQL views and the stored weights alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr


@dataclass(frozen=True)
class Part:
    """One part of the split: log q(c | y) of every sample and cluster, the samples' own clusters, their concepts."""

    log_q: np.ndarray
    own: np.ndarray
    y: np.ndarray

    @property
    def gained(self) -> np.ndarray:
        return self.log_q[np.arange(len(self.own)), self.own]


def read(store: Path, sql: Any, result: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, Part, Part]:
    """W, b, and the training and the test part under them."""
    rows = sql(store, "SELECT key, cluster, part FROM assignments WHERE clustering_id = ?", result["clustering_id"])
    labels = sql(store, "SELECT key, concept FROM labels WHERE concepts = ? AND is_newest", result["concepts"])
    column = {name: i for i, name in enumerate(sorted({row["concept"] for row in labels}))}
    at = {row["key"]: i for i, row in enumerate(rows)}
    y = np.zeros((len(rows), len(column)))
    for row in labels:
        y[at[row["key"]], column[row["concept"]]] = 1
    (path,) = (store / "arrays" / "result" / result["id"]).rglob("weights")
    stored = np.asarray(zarr.open_array(str(path), mode="r")[:], np.float64)
    w, b = stored[:, :-1], stored[:, -1]

    def part(name: str) -> Part:
        inside = np.array([row["part"] == name for row in rows])
        logits = y[inside] @ w.T + b
        logits -= logits.max(axis=1, keepdims=True)
        log_q = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return Part(log_q, np.array([row["cluster"] for row in rows])[inside], y[inside])

    return w, b, part("train"), part("test")


@pytest.mark.parametrize("concepts", ["objects", "classes"])
def test_scores_loss_gradient_and_certificate(world: Any, sql: Any, concepts: str) -> None:
    for r in (r for r in world.evaluated["results"] if r["concepts"] == concepts):
        check(world.store, sql, r)


def test_the_objective_of_tight(qrp: Any, own: Path, sql: Any) -> None:
    """Its bias decays toward the log frequencies of the training part, with half a sample added to each cluster."""
    asked = ("evaluate", "--dataset", "photos", "-k", 6, "--protocol", "tight", "--concepts", "objects")
    results = qrp.ok(*asked, "--bootstrap", 40, store=own)["results"]
    for r in results:
        check(own, sql, r)
        assert r["converged"]


def check(store: Path, sql: Any, r: dict[str, Any]) -> None:
    w, b, train, test = read(store, sql, r)
    decay = r["weight_decay"]
    counts = np.bincount(train.own, minlength=r["clusters"]) + 0.5
    pulled = b - np.log(counts / counts.sum()) if r["protocol"] == "tight" else b
    error = np.exp(train.log_q)
    error[np.arange(len(train.own)), train.own] -= 1
    gradient = np.column_stack([error.T @ train.y / len(train.own) + decay * w, error.mean(0) + decay * pulled])
    grad_norm = float(np.linalg.norm(gradient))
    p = np.bincount(test.own, minlength=r["clusters"]) / len(test.own)
    entropy, cross_entropy = -(p[p > 0] * np.log(p[p > 0])).sum(), -test.gained.mean()
    best = np.argsort(-test.log_q, axis=1)
    expected = {
        "entropy_nats": entropy,
        "cross_entropy_nats": cross_entropy,
        "mi_nats": entropy - cross_entropy,
        "mi_bits": (entropy - cross_entropy) / math.log(2),
        "nmi": 1 - cross_entropy / entropy,
        "top1": (best[:, 0] == test.own).mean(),
        "top5": (best[:, :5] == test.own[:, None]).any(axis=1).mean(),
        "train_loss": -train.gained.mean() + decay / 2 * ((w**2).sum() + (pulled**2).sum()),
        "grad_norm": grad_norm,
    }
    for name, value in expected.items():
        assert r[name] == pytest.approx(value, rel=1e-5, abs=1e-6), (r["id"], name)
    assert r["converged"] == (grad_norm**2 / (2 * decay) <= 1e-3)


def test_the_interval_is_that_of_a_bootstrap_of_pairs_with_p_fixed(qrp: Any, own: Path, sql: Any) -> None:
    asked = ("evaluate", "--dataset", "photos", "-k", 6, "--epochs", 4, "--concepts", "objects", "--backbone", "dull")
    (r,) = qrp.ok(*asked, "--bootstrap", 4000, store=own)["results"]
    test = read(own, sql, r)[3]
    share = np.bincount(test.own, minlength=6) / len(test.own)
    drawn = np.random.default_rng(1).integers(0, len(test.own), (4000, len(test.own)))
    nmi = 1 - test.gained[drawn].mean(axis=1) / np.log(share[test.own])[drawn].mean(axis=1)
    low, high = np.quantile(nmi, [0.025, 0.975])
    assert (r["nmi_ci_lo"], r["nmi_ci_hi"]) == pytest.approx((low, high), abs=0.08 * (high - low))
