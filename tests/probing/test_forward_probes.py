"""The usual probes: they agree with scikit-learn, and look only at what they should."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors
from torchmetrics.functional.classification import multiclass_accuracy, multilabel_average_precision

from qrp_store.probing.forward import ForwardData, ForwardScore, average_precisions, forward
from qrp_store.probing.linear import Labelled, fit_linear
from qrp_store.probing.neighbours import vote
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.progress import silent
from qrp_store.records import TEST, TRAIN, VAL

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
CPU = torch.device("cpu")
WHOLE: Any = {"queries": 0, "seed": 0, "device": "cpu", "progress": silent}


class Rows:
    """Vectors in memory, handed out in uneven pieces."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows.astype(np.float32)

    @property
    def dim(self) -> int:
        return self.rows.shape[1]

    def chunks(self, positions: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(positions), 37):
            yield self.rows[positions[start : start + 37]]


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """600 vectors of very unlike scales, with one constant dimension."""
    rng = np.random.default_rng(0)
    return np.hstack([rng.normal(size=(600, 5)) * (1, 10, 0.1, 3, 1) + (0, 100, 0, 0, -3), np.ones((600, 1))])


@pytest.fixture(scope="module")
def parts() -> np.ndarray:
    return np.random.default_rng(1).permutation(np.repeat([TRAIN, VAL, TEST], [384, 96, 120]))


def classes(rows: np.ndarray) -> np.ndarray:
    """Three classes, told apart by two dimensions and noise."""
    noise = np.random.default_rng(2).normal(size=len(rows)) * 0.5
    return np.digitize(rows[:, 0] + rows[:, 2] * 10 + noise, (-1, 1))


def several(rows: np.ndarray) -> np.ndarray:
    """Truth values of four concepts, of which the last never holds."""
    noise = np.random.default_rng(3).normal(size=(len(rows), 3))
    held = (rows[:, [0, 3, 4]] - (0, 2, -3) + noise * (0.3, 2, 1)) > 0
    return np.hstack([held, np.zeros((len(rows), 1), bool)])


def matrix(held: np.ndarray) -> ConceptMatrix:
    at, concept = np.nonzero(held)
    return ConceptMatrix.from_pairs(at, concept, *held.shape)


def named(scores: list[ForwardScore]) -> dict[tuple[str, str, str], ForwardScore]:
    return {(s.concept_group, s.probe, s.metric): s for s in scores}


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("device", DEVICES)
def test_the_linear_probe_is_the_logistic_regression_of_its_weight_decay(
    rows: np.ndarray, parts: np.ndarray, exclusive: bool, device: str
) -> None:
    held = np.eye(3, dtype=bool)[classes(rows)] if exclusive else several(rows)[:, :3]
    part = [Labelled(np.flatnonzero(parts == p), matrix(held[parts == p])) for p in (TRAIN, VAL)]
    probe = fit_linear(Rows(rows), *part, exclusive=exclusive, device=torch.device(device), progress=silent)
    train = rows[parts == TRAIN]
    scale = np.where(train.std(axis=0) > 0, train.std(axis=0), 1)
    standard, c = (train - train.mean(axis=0)) / scale, 1 / (probe.weight_decay * len(train))
    ours = probe.table.cpu().numpy()
    if exclusive:
        theirs = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(standard, classes(rows)[parts == TRAIN])
        weight, bias = theirs.coef_.T, theirs.intercept_
        ours = ours - ours.mean(axis=1, keepdims=True)
    else:
        each = [LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(standard, y) for y in held[parts == TRAIN].T]
        weight, bias = np.hstack([one.coef_.T for one in each]), np.hstack([one.intercept_ for one in each])
    np.testing.assert_allclose(ours[:-1], weight, atol=0.02 * np.abs(weight).max())
    np.testing.assert_allclose(ours[-1], bias, atol=0.02 * np.abs(weight).max())


@pytest.mark.parametrize("device", DEVICES)
def test_neighbours_are_the_nearest_by_cosine(rows: np.ndarray, parts: np.ndarray, device: str) -> None:
    train, test = np.flatnonzero(parts == TRAIN), np.flatnonzero(parts == TEST)
    result = vote(Rows(rows), Labelled(train, matrix(several(rows)[train])), test, torch.device(device))
    theirs = NearestNeighbors(n_neighbors=20, metric="cosine", algorithm="brute").fit(rows[train])
    distance, neighbours = theirs.kneighbors(rows[test])
    weights = np.exp((1 - distance) / 0.07)
    weights /= weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(result.weights, weights, rtol=1e-3)
    votes = (weights[:, :, None] * several(rows)[train][neighbours]).sum(axis=1)
    np.testing.assert_allclose(result.of(slice(None)), votes, atol=2e-3)
    np.testing.assert_array_equal(result.of(slice(1, 3)), result.of(slice(None))[:, 1:3])


def test_queries_whose_neighbours_all_agree_are_a_tie() -> None:
    rng = np.random.default_rng(0)
    held = np.arange(300) % 2 == 0
    vectors = rng.normal(size=(300, 6)) * 0.2 + np.where(held, 2, -2)[:, None]
    train = np.arange(200)
    result = vote(Rows(vectors), Labelled(train, matrix(held[train, None])), np.arange(200, 300), CPU)
    np.testing.assert_array_equal(result.of(slice(None))[:, 0], held[200:])


def test_average_precision_is_scikit_learns_with_ties_too(rows: np.ndarray) -> None:
    held = several(rows)
    scores = np.round(rows[:, [0, 3, 4, 1]], 1)
    precisions = average_precisions(lambda columns: scores[:, columns], matrix(held))
    theirs = [average_precision_score(held[:, j], scores[:, j]) for j in range(3)]
    np.testing.assert_allclose(precisions[:3], theirs, rtol=1e-12)
    assert np.isnan(precisions[3])


def test_top1_is_torchmetrics_accuracy(rows: np.ndarray, parts: np.ndarray) -> None:
    target = classes(rows)
    x = matrix(np.eye(3, dtype=bool)[target])
    scores = named(forward(ForwardData(Rows(rows), np.arange(600), parts, x, ["g"] * 3), **WHOLE))
    train, val, test = (Labelled(at := np.flatnonzero(parts == p), x.take(at)) for p in (TRAIN, VAL, TEST))
    probe = fit_linear(Rows(rows), train, val, exclusive=True, device=CPU, progress=silent)
    votes = torch.from_numpy(vote(Rows(rows), train, test.positions, CPU).of(slice(None)))
    logits = torch.cat(list(probe.logits(Rows(rows), test.positions)))
    for kind, predicted in (("linear", logits), ("knn", votes)):
        theirs = multiclass_accuracy(
            predicted, torch.from_numpy(target[test.positions]), num_classes=3, average="micro"
        )
        assert scores["(all)", kind, "top1"].value == pytest.approx(float(theirs), abs=1e-6)


def test_map_is_torchmetrics_macro_average_precision(rows: np.ndarray, parts: np.ndarray) -> None:
    held = several(rows)
    x = matrix(held)
    scores = named(forward(ForwardData(Rows(rows), np.arange(600), parts, x, ["g"] * 4), **WHOLE))
    train, val, test = (Labelled(at := np.flatnonzero(parts == p), x.take(at)) for p in (TRAIN, VAL, TEST))
    probe = fit_linear(Rows(rows), train, val, exclusive=False, device=CPU, progress=silent)
    logits = torch.cat(list(probe.logits(Rows(rows), test.positions)))
    votes = torch.from_numpy(vote(Rows(rows), train, test.positions, CPU).of(slice(None)))
    truth = torch.from_numpy(held[test.positions][:, :3]).long()  # the fourth never holds: left out
    for kind, predicted in (("linear", torch.sigmoid(logits.double())), ("knn", votes)):
        theirs = multilabel_average_precision(predicted[:, :3], truth, num_labels=3, average="macro")
        assert scores["(all)", kind, "map"].value == pytest.approx(float(theirs), abs=1e-6)


def test_a_single_label_vocabulary_gets_top1(rows: np.ndarray, parts: np.ndarray) -> None:
    data = ForwardData(Rows(rows), np.arange(600), parts, matrix(np.eye(3, dtype=bool)[classes(rows)]), ["g"] * 3)
    scores = named(forward(data, queries=50, seed=0, device="cpu", progress=silent))
    assert set(scores) == {("(all)", "linear", "top1"), ("(all)", "knn", "top1")}
    linear, knn = scores["(all)", "linear", "top1"], scores["(all)", "knn", "top1"]
    assert linear.value is not None
    assert linear.value > 0.7
    assert (linear.n_test, linear.n_concepts, linear.n_left_out) == (120, 3, 0)
    assert (knn.n_test, knn.details["n_queries"]) == (50, 50)


@pytest.mark.parametrize("device", DEVICES)
def test_a_group_of_exclusive_concepts_gets_top1_and_the_whole_map(
    rows: np.ndarray, parts: np.ndarray, device: str
) -> None:
    some = classes(rows)
    single = np.eye(3, dtype=bool)[some]
    single[::3] = False  # these have no class
    data = ForwardData(
        Rows(rows), np.arange(600), parts, matrix(np.hstack([single, several(rows)])), ["class"] * 3 + ["trait"] * 4
    )
    scores = named(forward(data, queries=0, seed=0, device=device, progress=silent))
    assert set(scores) == {
        *((group, probe, "map") for group in ("(all)", "trait") for probe in ("linear", "knn")),
        *(("class", probe, "top1") for probe in ("linear", "knn")),
    }
    assert scores["class", "linear", "top1"].n_test == int(single[parts == TEST].any(axis=1).sum())
    trait = scores["trait", "linear", "map"]
    assert (trait.n_concepts, trait.n_left_out, trait.n_test) == (4, 1, 120)
    assert trait.value is not None
    assert trait.value > several(rows)[parts == TEST][:, :3].mean() + 0.1  # above chance


def test_a_group_that_nobody_has_has_no_score(rows: np.ndarray, parts: np.ndarray) -> None:
    held = np.hstack([several(rows), np.zeros((600, 2), bool)])
    data = ForwardData(Rows(rows), np.arange(600), parts, matrix(held), ["trait"] * 4 + ["none"] * 2)
    scores = named(forward(data, queries=0, seed=0, device="cpu", progress=silent))
    for probe in ("linear", "knn"):
        assert scores["none", probe, "top1"].value is None
        assert scores["none", probe, "top1"].n_test == 0
