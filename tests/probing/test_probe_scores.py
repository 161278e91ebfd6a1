from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_accuracy

from qrp_store.errors import InvalidInput
from qrp_store.options import ProbeOptions
from qrp_store.probing.metrics import score
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.probing.train import ProbeFit, fit

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def probe(weight: np.ndarray, bias: np.ndarray, counts: np.ndarray | None = None) -> ProbeFit:
    """A probe with these weights, (K, M) and (K,)."""
    return ProbeFit(
        weight=np.asarray(weight, np.float32),
        bias=np.asarray(bias, np.float32),
        train_loss=0.0,
        grad_norm=0.0,
        weight_decay=3e-6,
        epochs_run=0,
        best_epoch=0,
        history=(),
        timings={},
        options=ProbeOptions(),
        device="cpu",
        n_train=0,
        n_val=0,
        cluster_counts=np.zeros(len(bias), np.int64) if counts is None else counts,
    )


@pytest.fixture(scope="module")
def result(world):
    return score(world.fit(epochs=5), *world.part(2), seed=0)


def test_scores_are_those_of_a_direct_computation(world, dense):
    trained = world.fit(epochs=5)
    x, c = world.part(2)
    result = score(trained, x, c, seed=0)
    logits = torch.from_numpy(dense(x)).float() @ torch.from_numpy(trained.weight).T + torch.from_numpy(trained.bias)
    target = torch.from_numpy(c)
    assert result.cross_entropy_nats == pytest.approx(
        torch.nn.functional.cross_entropy(logits, target).item(), abs=1e-5
    )
    assert result.top1 == pytest.approx((logits.argmax(1) == target).double().mean().item())
    in_five = (logits.topk(5).indices == target[:, None]).any(1)
    assert result.top5 == pytest.approx(in_five.double().mean().item())
    p = np.bincount(c, minlength=12) / len(c)
    assert result.entropy_nats == pytest.approx(-(p * np.log(p)).sum())
    assert result.n_test == len(c)


@pytest.mark.parametrize("device", DEVICES)
def test_scores_are_those_of_scikit_learn_and_torchmetrics(world, dense, device):
    """cross_entropy_nats, top1 and top5."""
    trained = world.fit(epochs=5)
    x, c = world.part(2)
    result = score(trained, x, c, seed=0, device=device)
    logits = torch.from_numpy(dense(x)) @ torch.from_numpy(trained.weight).double().T + torch.from_numpy(trained.bias)
    q, target = torch.softmax(logits, 1), torch.from_numpy(c)
    assert result.cross_entropy_nats == pytest.approx(log_loss(c, q.numpy(), labels=range(12)), abs=1e-5)
    for k, ours in ((1, result.top1), (5, result.top5)):
        theirs = multiclass_accuracy(q, target, num_classes=12, average="micro", top_k=k)
        assert ours == pytest.approx(float(theirs), abs=1e-6)
        assert ours == pytest.approx(top_k_accuracy_score(c, q.numpy(), k=k, labels=range(12)))


def test_the_parts_of_a_score_belong_together(result):
    assert result.mi_nats == result.entropy_nats - result.cross_entropy_nats
    assert result.mi_bits == pytest.approx(result.mi_nats / math.log(2))
    assert result.nmi == pytest.approx(result.mi_nats / result.entropy_nats)
    assert result.top1 < result.top5 < 1


def test_cluster_shares_sum_to_the_score(world):
    x, c = world.part(2)
    keep = c != 3
    result = score(world.fit(epochs=5), x.take(np.flatnonzero(keep)), c[keep], seed=0)
    each = result.per_cluster
    assert each.mi_nats.sum() == pytest.approx(result.mi_nats)
    assert each.n_test.tolist() == np.bincount(c[keep], minlength=12).tolist()
    present = each.n_test > 0
    assert np.isnan(each.cross_entropy_nats[3])
    assert np.isnan(each.top1[3])
    assert each.mi_nats[3] == 0
    weights = each.n_test[present] / each.n_test.sum()
    assert weights @ each.cross_entropy_nats[present] == pytest.approx(result.cross_entropy_nats)
    assert weights @ each.top1[present] == pytest.approx(result.top1)
    p = each.n_test[0] / each.n_test.sum()
    assert each.mi_nats[0] == pytest.approx(p * (-math.log(p) - each.cross_entropy_nats[0]))


def test_the_interval_holds_its_estimate_and_has_the_right_width(world):
    trained = world.fit(epochs=5)
    x, c = world.part(2)
    result = score(trained, x, c, seed=0)
    assert result.nmi_ci_lo < result.nmi < result.nmi_ci_hi
    logits = np.array([trained.weight[:, x.indices[a:b]].sum(1) for a, b in zip(x.indptr, x.indptr[1:], strict=False)])
    logits = logits + trained.bias
    log_q = (logits - np.log(np.exp(logits).sum(1, keepdims=True)))[np.arange(len(c)), c]
    log_p = np.log(np.bincount(c, minlength=12) / len(c))[c]
    # delta method for the ratio of two means
    ratio = log_q.mean() / log_p.mean()
    sd = (log_q - ratio * log_p).std() / abs(log_p.mean()) / math.sqrt(len(c))
    assert result.nmi_ci_hi - result.nmi_ci_lo == pytest.approx(2 * 1.96 * sd, rel=0.1)


def test_the_interval_follows_its_seed(world):
    trained, part = world.fit(epochs=2), world.part(2)
    first, again, other = (score(trained, *part, seed=s) for s in (1, 1, 2))
    assert (first.nmi_ci_lo, first.nmi_ci_hi) == (again.nmi_ci_lo, again.nmi_ci_hi)
    assert first.nmi_ci_lo != other.nmi_ci_lo
    assert score(trained, *part, seed=1, bootstrap=0).nmi_ci_lo is None


def test_one_test_cluster_has_no_normalised_score():
    x = ConceptMatrix.from_pairs([0, 1], [0, 0], 4, 1)
    result = score(probe(np.zeros((3, 1)), np.zeros(3)), x, [1, 1, 1, 1], seed=0)
    assert result.entropy_nats == 0
    assert (result.nmi, result.nmi_ci_lo, result.nmi_ci_hi) == (None, None, None)
    assert result.mi_nats == pytest.approx(-math.log(3))


def test_below_5_clusters_the_top_5_always_hit():
    x = ConceptMatrix.from_pairs([], [], 3, 1)
    assert score(probe(np.zeros((4, 1)), [3, 2, 1, 0]), x, [3, 2, 1], seed=0).top5 == 1.0
    assert score(probe(np.zeros((6, 1)), [5, 4, 3, 2, 1, 0]), x, [5, 4, 1], seed=0).top5 == pytest.approx(2 / 3)


def test_among_equals_the_lower_number_comes_first():
    x = ConceptMatrix.from_pairs([], [], 7, 1)
    result = score(probe(np.zeros((7, 1)), np.zeros(7)), x, np.arange(7), seed=0)
    assert result.top1 == pytest.approx(1 / 7)
    assert result.top5 == pytest.approx(5 / 7)


def test_a_hopeless_probe_is_finite_and_not_clipped():
    x = ConceptMatrix.from_pairs([0, 1], [0, 0], 2, 1)
    result = score(probe([[1000.0], [0.0]], [0, 0]), x, [0, 1], seed=0)
    assert result.mi_nats == pytest.approx(math.log(2) - 500)
    assert result.nmi < -100


def test_the_corrected_entropy_counts_all_clustered_rows():
    counts = np.array([40, 30, 20, 0])
    x = ConceptMatrix.from_pairs([], [], 10, 1)
    result = score(probe(np.zeros((4, 1)), np.zeros(4), counts), x, [0] * 5 + [1] * 3 + [2] * 2, seed=0)
    assert result.miller_madow == pytest.approx(result.entropy_nats + (3 - 1) / (2 * 100))


@pytest.mark.parametrize(
    "x, c",
    [
        (ConceptMatrix.from_pairs([], [], 2, 5), [0, 1]),
        (ConceptMatrix.from_pairs([], [], 2, 1), [0]),
        (ConceptMatrix.from_pairs([], [], 0, 1), []),
        (ConceptMatrix.from_pairs([], [], 1, 1), [3]),
    ],
)
def test_a_test_part_that_does_not_fit_is_refused(x, c):
    with pytest.raises(InvalidInput):
        score(probe(np.zeros((3, 1)), np.zeros(3)), x, np.array(c, int), seed=0)


def test_a_model_without_concepts_scores_0(world):
    (x, c), (x_val, c_val), (x_test, c_test) = (world.part(i) for i in range(3))
    nothing = [ConceptMatrix.from_pairs([], [], len(p), 1) for p in (x, x_val, x_test)]
    trained = fit(nothing[0], c, nothing[1], c_val, 12, ProbeOptions(epochs=0), seed=0)
    result = score(trained, nothing[2], c_test, seed=0)
    assert -0.02 < result.mi_nats <= 0
