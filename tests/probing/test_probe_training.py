"""SGD against the script that a user would write, and what a fit says about itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from qrp_store.errors import InvalidInput, QrpStoreError, Unavailable
from qrp_store.options import ProbeOptions
from qrp_store.probing.metrics import score
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.probing.train import ProbeFit, fit

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def plain_script(y, c, y_val, c_val, n_clusters, options, seed):
    """DataLoader, nn.Linear, SGD, MultiStepLR: running loss and validation cross-entropy of each epoch."""
    model = torch.nn.Linear(y.shape[1], n_clusters)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay
    )
    milestones = [options.epochs * 6 // 10, options.epochs * 8 // 10]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    rng = np.random.default_rng(seed)
    data = TensorDataset(torch.from_numpy(y).float(), torch.from_numpy(c))
    curve = []
    for _ in range(options.epochs):
        total = 0.0
        for rows, targets in DataLoader(data, options.batch_size, sampler=rng.permutation(len(c)).tolist()):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(rows), targets)
            (loss * (len(targets) / options.batch_size)).backward()  # a short batch counts by its share
            optimizer.step()
            total += loss.item() * len(targets)
        schedule.step()
        with torch.no_grad():
            held_out = torch.nn.functional.cross_entropy(
                model(torch.from_numpy(y_val).float()), torch.from_numpy(c_val)
            )
        curve.append((total / len(c), held_out.item()))
    return curve, model


@pytest.mark.parametrize("device", DEVICES)
def test_sgd_is_the_plain_script(world, dense, device):
    """Known answer 4: same order, same loss curve, same weights."""
    (x, c), (x_val, c_val) = world.part(0), world.part(1)
    options = ProbeOptions(epochs=10, batch_size=500, lr=0.5, weight_decay=1e-3)
    ours = world.fit(epochs=10, batch_size=500, lr=0.5, weight_decay=1e-3, seed=7, device=device)
    theirs, model = plain_script(dense(x), c, dense(x_val), c_val, world.n_clusters, options, 7)
    assert len(c) % 500
    assert [(e.train_loss, e.val_cross_entropy) for e in ours.history[1:]] == [
        pytest.approx(pair, abs=2e-5) for pair in theirs
    ]
    assert ours.best_epoch == 10
    assert np.allclose(ours.weight, model.weight.detach().numpy(), atol=1e-4)
    assert np.allclose(ours.bias, model.bias.detach().numpy(), atol=1e-4)


@pytest.mark.parametrize("n_concepts", [3, 70_000])
def test_any_number_of_concepts_and_many_batches(n_concepts, dense):
    """Samples without concepts, concepts beyond 16 bits, more batches than one group holds."""
    rng = np.random.default_rng(0)
    concepts = rng.integers(0, n_concepts, 300)
    x = ConceptMatrix.from_pairs(rng.integers(0, 200, 300), concepts, 200, n_concepts)
    c = rng.integers(0, 2, 200)
    used = np.unique(concepts)
    narrow = ConceptMatrix.from_pairs(x.rows(), np.searchsorted(used, x.indices), 200, len(used))
    options = ProbeOptions(epochs=2, batch_size=2, lr=0.1)
    wide = fit(x, c, x, c, 2, options, seed=1)
    theirs, _ = plain_script(dense(narrow), c, dense(narrow), c, 2, options, 1)
    assert [e.train_loss for e in wide.history[1:]] == pytest.approx([loss for loss, _ in theirs], abs=1e-5)


@pytest.mark.parametrize("how", ["sgd", "lbfgs", "tight"])
@pytest.mark.parametrize("device", DEVICES)
def test_train_loss_and_grad_norm_are_those_of_autograd(world, dense, how, device):
    """The definitions of `train_loss`, `grad_norm`, `converged`: at the returned weights, over the whole part."""
    options = {"protocol": "tight"} if how == "tight" else {"solver": how, "epochs": 5, "lr": 0.5, "weight_decay": 1e-3}
    probe = world.fit(**options, device=device)
    decay = probe.weight_decay
    x, c = world.part(0)
    counts = np.bincount(c, minlength=world.n_clusters) + 0.5
    center = torch.from_numpy(np.log(counts / counts.sum())) if how == "tight" else 0
    weight = torch.from_numpy(probe.weight.astype(np.float64)).requires_grad_()
    bias = torch.from_numpy(probe.bias.astype(np.float64)).requires_grad_()
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(dense(x)) @ weight.T + bias, torch.from_numpy(c))
    loss = loss + decay / 2 * (weight.square().sum() + (bias - center).square().sum())
    loss.backward()
    norm = torch.cat([weight.grad.ravel(), bias.grad]).norm().item()
    assert probe.train_loss == pytest.approx(loss.item(), abs=1e-6)
    assert probe.grad_norm == pytest.approx(norm, rel=1e-3, abs=1e-6)
    assert probe.gap_bound == pytest.approx(norm**2 / (2 * decay), rel=1e-2, abs=1e-8)
    assert probe.converged == (probe.gap_bound <= 1e-3)
    assert probe.converged == (how != "sgd")


def test_the_best_epoch_is_handed_back(make_world):
    world = make_world(1000, 300, 12, strength=0.5)
    overfit = world.fit(epochs=30, lr=1.0)
    curve = [e.val_cross_entropy for e in overfit.history]
    assert len(curve) == 31
    assert overfit.epochs_run == 30
    assert 0 < overfit.best_epoch == int(np.argmin(curve)) < 30
    x_val, c_val = world.part(1)
    logits = np.array([overfit.weight[:, x_val.indices[a:b]].sum(1) for a, b in _ends(x_val)]) + overfit.bias
    log_q = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert -log_q[np.arange(len(c_val)), c_val].mean() == pytest.approx(min(curve), abs=1e-5)


def test_epoch_0_knows_the_frequencies_and_no_concept():
    rng = np.random.default_rng(0)
    c = rng.choice(4, 2000, p=[0.7, 0.2, 0.1, 0.0])
    x = ConceptMatrix.from_pairs(np.repeat(np.arange(2000), 20), rng.integers(0, 2000, 40_000), 2000, 2000)
    probe = fit(x.take(np.arange(1000)), c[:1000], x.take(np.arange(1000, 2000)), c[1000:], 4, ProbeOptions(), seed=0)
    assert probe.best_epoch == 0
    assert not probe.weight.any()
    q = np.exp(probe.bias - probe.bias.max())
    counts = np.bincount(c[:1000], minlength=4)
    assert q / q.sum() == pytest.approx((counts + 0.5) / 1002, rel=1e-5)
    assert probe.history[0].train_loss is None


def test_the_same_seed_gives_the_same_bits(world):
    first, again, other = (world.fit(epochs=3, seed=s) for s in (1, 1, 2))
    assert first.weight.tobytes() == again.weight.tobytes()
    assert first.history == again.history
    assert first.weight.tobytes() != other.weight.tobytes()


def test_the_learning_rate_falls_at_60_and_80_percent():
    options = ProbeOptions(epochs=10, lr=3.5)
    assert [options.lr_at(e) for e in range(1, 11)] == pytest.approx([3.5] * 6 + [0.35] * 2 + [0.035] * 2)
    assert ProbeOptions(epochs=1, lr=3.5).lr_at(1) == 3.5
    assert [ProbeOptions(epochs=3, lr=1.0).lr_at(e) for e in (1, 2, 3)] == pytest.approx([1, 0.1, 0.01])


@pytest.mark.parametrize("options", [{"lr": 1e12}, {"lr": 100.0, "weight_decay": 1.0}])
def test_divergence_names_the_epoch_and_what_to_do(world, options):
    with pytest.raises(QrpStoreError, match="diverged in epoch") as caught:
        world.fit(epochs=50, **options)
    assert caught.value.kind == "failed"
    assert "learning rate" in caught.value.hint


def test_clusters_may_be_absent_from_a_part(world):
    (x, c), (x_val, c_val) = world.part(0), world.part(1)
    probe = fit(x, c, x_val, c_val, world.n_clusters + 3, ProbeOptions(epochs=2, lr=0.5), seed=0)
    assert np.isfinite(probe.train_loss)
    assert probe.weight.shape == (world.n_clusters + 3, 40)
    assert probe.cluster_counts.tolist() == np.bincount(np.r_[c, c_val], minlength=world.n_clusters + 3).tolist()


@pytest.mark.parametrize(
    "bad",
    [
        {"protocol": "laina"},
        {"solver": "adam"},
        {"protocol": "tight", "solver": "sgd"},
        {"epochs": -1},
        {"batch_size": 0},
        {"lr": 0},
        {"lr": float("nan")},
        {"momentum": 1.0},
        {"weight_decay": -1e-3},
        {"solver": "lbfgs", "weight_decay": 0.0},
    ],
)
def test_options_that_make_no_sense_are_refused(bad):
    with pytest.raises(InvalidInput):
        ProbeOptions(**bad)


def test_each_protocol_has_its_solver():
    assert ProbeOptions().solver == "sgd"
    assert ProbeOptions(protocol="tight").solver == "lbfgs"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_clusters": 1}, "at least 2"),
        ({"n_clusters": 3}, "training part: a cluster"),
        ({"c_train": np.zeros(3, int)}, "training part"),
        ({"c_val": np.zeros(3, int)}, "validation part"),
        ({"x_val": ConceptMatrix.from_pairs([], [], 960, 7)}, "40 concepts"),
        ({"x_val": ConceptMatrix.from_pairs([], [], 0, 40), "c_val": np.zeros(0, int)}, "validation part is empty"),
        ({"device": "quantum"}, "device 'quantum'"),
    ],
)
def test_parts_that_do_not_fit_are_refused(world, change, message):
    (x, c), (x_val, c_val) = world.part(0), world.part(1)
    arguments = {"x_train": x, "c_train": c, "x_val": x_val, "c_val": c_val, "n_clusters": 12, **change}
    with pytest.raises(InvalidInput, match=message):
        fit(options=ProbeOptions(epochs=1), seed=0, **arguments)


def test_a_gpu_that_is_not_there_is_unavailable(world):
    missing = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(Unavailable, match=missing):
        fit(*world.part(0), *world.part(1), 12, ProbeOptions(epochs=1), seed=0, device=missing)


def test_timings_are_seconds(world):
    probe: ProbeFit = world.fit(epochs=2)
    assert set(probe.timings) == {"train_s", "val_s"}
    assert all(value > 0 for value in probe.timings.values())


def _ends(x: ConceptMatrix):
    return zip(x.indptr, x.indptr[1:], strict=False)


@pytest.mark.parametrize(
    "size, n_train", [(16, range(256, 289)), (32, range(256, 321)), (64, range(256, 385)), (512, range(500, 521))]
)
def test_the_score_is_continuous_in_the_number_of_samples(size, n_train):
    """Over two periods of three batch sizes, and where the part becomes longer than one batch."""
    rng = np.random.default_rng(0)
    n, n_clusters, held_out = 800 + n_train[-1], 8, 400
    c = np.arange(n) % n_clusters
    named = np.where(rng.random(n) < 0.7, c, rng.integers(0, n_clusters, n))
    words = n_clusters + rng.integers(0, 40, 3 * n)
    x = ConceptMatrix.from_pairs(np.r_[np.arange(n), np.repeat(np.arange(n), 3)], np.r_[named, words], n, 48)
    val, test = np.split(np.arange(2 * held_out), 2)
    options = ProbeOptions(batch_size=size, lr=0.5 if size < 512 else 3.5, epochs=40)
    scores = []
    for count in n_train:
        train = 2 * held_out + np.arange(count)
        probe = fit(x.take(train), c[train], x.take(val), c[val], n_clusters, options, seed=0)
        scores.append(score(probe, x.take(test), c[test], seed=0, bootstrap=200))
    jumps = np.abs(np.diff([result.nmi for result in scores]))
    errors = [(result.nmi_ci_hi - result.nmi_ci_lo) / 3.92 for result in scores[1:]]
    assert np.all(jumps < errors)
    assert min(result.nmi for result in scores) > 0.35
