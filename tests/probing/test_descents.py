"""The ways to descend, each on every device that is here: the steps of torch's SGD, whatever makes them fast."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qrp_store.options import ProbeOptions
from qrp_store.probing.descent import (
    PIECE,
    Bags,
    CpuDescent,
    batches,
    coupling,
    in_pieces,
    residuals,
    with_bias,
)
from qrp_store.probing.resident import ResidentDescent
from qrp_store.probing.sparse import ConceptMatrix

DESCENTS = ["cpu", "resident-cpu", *(["resident-cuda"] if torch.cuda.is_available() else [])]
K = 5


def descend(kind: str, x: ConceptMatrix, c: np.ndarray, options: ProbeOptions):
    if kind == "cpu":
        return CpuDescent(x, c, K, options)
    return ResidentDescent([(x, c)], K, options, torch.device(kind.removeprefix("resident-")))


def samples(n: int, n_concepts: int, *, valued: bool) -> tuple[ConceptMatrix, np.ndarray]:
    """From no concept to many a sample."""
    rng = np.random.default_rng(3)
    holds = rng.random((n, n_concepts)) < rng.random((n, 1)) * 0.6
    holds[:3] = False
    rows, concepts = np.nonzero(holds)
    values = rng.random(len(rows), dtype=np.float32) * 0.9 + 0.1 if valued else None
    matrix = ConceptMatrix(np.r_[0, np.cumsum(holds.sum(1))], concepts, n_concepts, values)
    return matrix, rng.integers(0, K, n)


def torch_sgd(x: ConceptMatrix, c: np.ndarray, options: ProbeOptions, orders, rates):
    """Summed losses and the table, in float64, by autograd and torch's own SGD."""
    dense = np.zeros((len(x), x.n_concepts + 1))
    dense[x.rows(), x.indices] = x.weights()
    dense[:, -1] = 1
    y, target = torch.from_numpy(dense), torch.from_numpy(c)
    table = torch.zeros((x.n_concepts + 1, K), dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([table], lr=1.0, momentum=options.momentum, weight_decay=options.weight_decay)
    losses = []
    with torch.enable_grad():
        for order, rate in zip(orders, rates, strict=True):
            sgd.param_groups[0]["lr"] = rate
            losses.append(0.0)
            for at in torch.from_numpy(order).split(options.batch_size):
                sgd.zero_grad()
                loss = torch.nn.functional.cross_entropy(y[at] @ table, target[at])
                (loss * (len(at) / options.batch_size)).backward()
                sgd.step()
                losses[-1] += loss.item() * len(at)
    return losses, table.detach().numpy()


@pytest.fixture(autouse=True)
def no_graph():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("kind", DESCENTS)
@pytest.mark.parametrize("valued", [False, True], ids=["held", "soft"])
@pytest.mark.parametrize(
    "options",
    [
        {"weight_decay": 3e-6},
        {"weight_decay": 0.0},
        {"weight_decay": 1e-3, "momentum": 0.0},
        {"weight_decay": 0.05},  # so much that the fast form of the steps does not exist at the higher rates
        {"weight_decay": 1e-3, "batch_size": 3},  # more batches than are put together at once
        {"weight_decay": 1e-3, "batch_size": 1000},  # one, and that short
        {"weight_decay": 1e-3, "batch_size": 100},  # concepts of more than PIECE samples in a batch
    ],
    ids=str,
)
def test_the_steps_are_those_of_torch(kind, valued, options):
    x, c = samples(211, 17, valued=valued)
    options = ProbeOptions(**{"batch_size": 20, **options})
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(x)) for _ in range(4)]
    rates = [0.2, 0.2, 0.02, 0.002]
    losses, table = torch_sgd(x, c, options, orders, rates)
    descent = descend(kind, x, c, options)
    assert [
        descent.epoch([order], rate)[0] / len(x) for order, rate in zip(orders, rates, strict=True)
    ] == pytest.approx([loss / len(x) for loss in losses], abs=1e-5)
    np.testing.assert_allclose(descent.table.cpu().numpy(), table, atol=2e-5)


@pytest.mark.parametrize("device", sorted({"cpu", DESCENTS[-1].removeprefix("resident-")}))
def test_no_thread_of_a_gpu_sums_a_long_bag(device, monkeypatch):
    """The bias and a concept that everybody has would be bags of the whole batch, 150 samples."""
    x, c = samples(450, 17, valued=True)
    options, longest, bag = ProbeOptions(batch_size=150), [], torch.nn.functional.embedding_bag

    def noted(members, table, ends, **how):
        longest.append(ends.diff().max())
        return bag(members, table, ends, **how)

    monkeypatch.setattr(torch.nn.functional, "embedding_bag", noted)
    ResidentDescent([(x, c)], K, options, torch.device(device)).epoch([np.arange(450)], 0.1)
    assert 0 < max(map(int, longest)) <= PIECE


@pytest.mark.parametrize("kind", DESCENTS[1:])
def test_a_longer_batch_than_any_before_gets_more_room(kind):
    """In the first epoch all batches are alike; in the second one has all the long samples."""
    x, c = samples(200, 40, valued=False)
    by_length = np.argsort(np.diff(x.indptr), kind="stable")
    mixed = by_length.reshape(10, 20).T.ravel()
    options = ProbeOptions(batch_size=20)
    losses, _ = torch_sgd(x, c, options, [mixed, by_length], [0.1, 0.1])
    descent = descend(kind, x, c, options)
    (first,) = descent.epoch([mixed], 0.1)
    room = descent._step.room
    assert [first, *descent.epoch([by_length], 0.1)] == pytest.approx(losses, abs=1e-3)
    assert descent._step.room > room


def test_the_fast_form_exists_at_the_published_options():
    assert coupling(3.5, 0.9, 3e-6) == pytest.approx(3e-5, rel=0.01)
    assert coupling(0.5, 0.9, 0.05) == 0
    assert coupling(1.0, 0.9, 0.0) == 0


@pytest.mark.parametrize("size", [4, 512])
def test_a_batchs_concepts_and_its_samples_are_one_matrix(size):
    """The gradient that is summed over the transpose is that of the dense product."""
    x, c = samples(211, 17, valued=True)
    table = torch.randn((18, K), generator=torch.Generator().manual_seed(0))
    for number, batch in enumerate(batches(with_bias(x), c, size, torch.device("cpu"), transposed=True)):
        at = np.arange(number * size, min((number + 1) * size, len(x)))
        _, residual = residuals(batch, table)
        dense = np.zeros((len(at), 18))
        part = with_bias(x).take(at)
        dense[part.rows(), part.indices] = part.weights()
        total = torch.ones_like(table)
        batch.samples.sum_into(total, residual, keep=0.5, scale=2.0)
        np.testing.assert_allclose(total, 0.5 + 2 * dense.T @ residual.numpy(), atol=1e-4)
        np.testing.assert_allclose(batch.samples.sum(residual), dense.T @ residual.numpy(), atol=1e-4)


def test_bags_in_pieces_have_the_same_sums():
    lengths = [0, 1, PIECE, PIECE + 1, 5 * PIECE, 0, 300]
    rng = np.random.default_rng(0)
    members = torch.from_numpy(rng.integers(0, 50, sum(lengths)).astype(np.int32))
    ends = torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32))
    bags = Bags(members, ends, torch.from_numpy(rng.random(len(members), dtype=np.float32)))
    table = torch.from_numpy(rng.random((50, K), dtype=np.float32))
    pieces = in_pieces(bags)
    assert int(pieces.ends.diff().max()) <= PIECE
    torch.testing.assert_close(pieces.sum(table), bags.sum(table))
