"""Cases whose answer is known from elsewhere; the numbers are those of `docs/method.md`, *Known answers*."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score

from qrp_store.kmeans.split import split
from qrp_store.options import ProbeOptions
from qrp_store.probing.metrics import score
from qrp_store.probing.optimum import PATH
from qrp_store.probing.sparse import ConceptMatrix, permute_rows
from qrp_store.probing.train import fit

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(scope="module")
def overclustered(make_world):
    """8 planted groups cut into 40 clusters: cutting adds nothing to the information."""
    return make_world(60_000, 20, 8, split=5)


@pytest.mark.parametrize("options", [{"protocol": "tight"}, {"solver": "lbfgs"}, {"epochs": 20}])
def test_known_information_is_found_within_3_percent(overclustered, options):
    """Known answer 1."""
    estimate = score(overclustered.fit(**options), *overclustered.part(2), seed=0).mi_nats
    assert estimate == pytest.approx(overclustered.mi, rel=0.03)


def test_one_concept_a_sample_meets_the_contingency_table():
    """Known answer 2."""
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.full(15, 0.3), 12)
    concept = rng.integers(0, 12, 3000)
    c = (table[concept].cumsum(axis=1) < rng.random((3000, 1))).sum(axis=1).clip(max=14)
    x = ConceptMatrix.from_pairs(np.arange(3000), concept, 3000, 12)
    share = np.bincount(c, minlength=15) / 3000
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    bounds = []
    for decay in (1e-3, 1e-4, 1e-5, 1e-6):
        probe = fit(x, c, x, c, 15, ProbeOptions(solver="lbfgs", weight_decay=decay), seed=0)
        penalty = decay / 2 * float((probe.weight**2).sum() + (probe.bias**2).sum())
        bounds.append(entropy - (probe.train_loss - penalty))
    truth = mutual_info_score(concept, c)
    assert bounds == sorted(bounds)
    assert bounds[-1] == pytest.approx(truth, abs=1e-3)
    assert bounds[0] < truth - 0.01


@pytest.mark.parametrize("device", DEVICES)
def test_lbfgs_is_scikit_learns_optimum(world, dense, device):
    """Known answer 3, and the definition of `train_loss`, with the bias penalised as ours is."""
    decay = 1e-4
    x, c = world.part(0)
    probe = world.fit(solver="lbfgs", weight_decay=decay, device=device)
    with_one = np.hstack([dense(x), np.ones((len(x), 1))])  # so that its bias is penalised as ours is
    peer = LogisticRegression(C=1 / (decay * len(c)), fit_intercept=False, tol=1e-8, max_iter=5000).fit(with_one, c)
    ours = np.hstack([probe.weight, probe.bias[:, None]])
    assert probe.converged
    assert np.abs(_probabilities(with_one, ours) - peer.predict_proba(with_one)).max() < 5e-3
    assert probe.train_loss == pytest.approx(_objective(with_one, c, peer.coef_, decay), abs=1e-4)


def test_a_free_bias_changes_nothing_that_matters(world, dense):
    """Known answer 3, lbfgs, as scikit-learn has it by default: held-out cross-entropy to 1e-3."""
    (x, c), (x_test, c_test) = world.part(0), world.part(2)
    peer = LogisticRegression(C=1 / (1e-4 * len(c)), tol=1e-8, max_iter=5000).fit(dense(x), c)
    theirs = -np.log(peer.predict_proba(dense(x_test))[np.arange(len(c_test)), c_test]).mean()
    ours = score(world.fit(solver="lbfgs", weight_decay=1e-4), x_test, c_test, seed=0).cross_entropy_nats
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_sgd_reaches_scikit_learns_optimum_given_enough_data(make_world, dense):
    """Known answer 3, sgd: 60,000 samples, 60 concepts, 30 clusters."""
    world = make_world(93_750, 60, 30, strength=1.0)
    (x, c), (x_test, c_test) = world.part(0), world.part(2)
    assert len(c) == 60_000
    ours = score(world.fit(epochs=40), x_test, c_test, seed=0, bootstrap=0).cross_entropy_nats
    peer = LogisticRegression(C=1 / (3e-6 * len(c)), tol=1e-4, max_iter=1000).fit(dense(x), c)
    theirs = -np.log(peer.predict_proba(dense(x_test))[np.arange(len(c_test)), c_test]).mean()
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_a_red_apple_is_explained_by_red_and_apple_together():
    """Known answer 6."""
    rng = np.random.default_rng(0)
    n = 3000
    colour, fruit = rng.integers(0, 4, n), rng.integers(0, 4, n)
    combinations = rng.normal(0, 1, (16, 32))[colour * 4 + fruit]
    colours_only = rng.normal(0, 1, (4, 32))[colour]
    for embedding, k, gains in ((combinations, 16, True), (colours_only, 4, False)):
        c = KMeans(k, n_init=5, random_state=0).fit_predict(embedding + rng.normal(0, 0.05, (n, 32)))
        alone = [_nmi(ConceptMatrix.from_pairs(np.arange(n), values, n, 4), c, k) for values in (colour, fruit)]
        together = _nmi(ConceptMatrix.from_pairs(np.tile(np.arange(n), 2), np.r_[colour, fruit + 4], n, 8), c, k)
        assert together > 0.95
        if gains:
            assert max(alone) < 0.55
        else:
            assert together == pytest.approx(max(alone), abs=0.01)
            assert min(alone) < 0.01


@pytest.mark.parametrize("options", [{"epochs": 20}, {"protocol": "tight"}, {"solver": "lbfgs", "weight_decay": 1e-4}])
def test_permuted_concepts_do_not_score_above_0(world, options):
    """Known answer 7: a control is never above 0 beyond noise."""
    n = len(world.c)
    parts = np.repeat([0, 1, 2], [n * 64 // 100, n * 16 // 100, n - n * 80 // 100])
    control = type(world)(permute_rows(world.x, parts, seed=3), world.c, world.n_clusters, 0.0)
    result = score(control.fit(**options), *control.part(2), seed=0)
    assert result.mi_nats < 0.005
    assert result.nmi_ci_lo < 0


def test_clusters_of_random_embeddings_do_not_score_above_0(world):
    """Known answer 7: K-means on vectors that have nothing to do with the concepts."""
    vectors = np.random.default_rng(5).normal(size=(len(world.c), 8))
    c = KMeans(12, n_init=1, random_state=0).fit_predict(vectors).astype(np.int64)
    noise = type(world)(world.x, c, 12, 0.0)
    assert score(noise.fit(epochs=20), *noise.part(2), seed=0).mi_nats < 0.005


def test_an_overfit_probe_scores_below_0(make_world):
    world = make_world(1500, 200, 20, strength=0.0)
    result = score(world.fit(solver="lbfgs"), *world.part(2), seed=0)
    assert result.mi_nats < -0.5
    assert result.nmi < 0


def test_tight_is_tighter_where_data_are_few(make_world):
    world = make_world(4000, 150, 25, strength=1.0, per_sample=10)
    published, optimum, tight = (
        score(world.fit(**options), *world.part(2), seed=0).mi_nats
        for options in ({}, {"solver": "lbfgs"}, {"protocol": "tight"})
    )
    assert optimum < published < tight < world.mi


@pytest.mark.parametrize("device", DEVICES)
def test_tight_records_its_path_and_its_choice(world, device):
    probe = world.fit(protocol="tight", device=device)
    path = probe.history[1:]
    assert [e.weight_decay for e in path] == list(PATH[: len(path)])
    best = min(path, key=lambda e: e.val_cross_entropy)
    assert (probe.weight_decay, probe.best_epoch) == (best.weight_decay, best.epoch)
    assert probe.converged
    assert probe.epochs_run == path[-1].epoch


def test_tight_takes_what_trying_every_weight_decay_would_take(make_world, dense):
    """Each minimum of F = mean CE + λ/2 (‖W‖² + ‖b − ln f‖²) by SciPy in float64, the best by validation."""
    world = make_world(4000, 40, 12)
    (x, c), (x_val, c_val) = world.part(0), world.part(1)
    probe = world.fit(protocol="tight")
    counts = np.bincount(c, minlength=12) + 0.5
    log_f = np.log(counts / counts.sum())
    minima, table = {}, np.vstack([np.zeros((40, 12)), log_f])
    for decay in PATH[:11]:
        loss, table = _minimum(dense(x), c, log_f, decay, table)
        log_q = np.log(_probabilities(np.hstack([dense(x_val), np.ones((len(c_val), 1))]), table.T))
        minima[decay] = -log_q[np.arange(len(c_val)), c_val].mean(), loss, table
    best = min(minima, key=lambda decay: minima[decay][0])
    assert probe.weight_decay == best
    assert probe.train_loss == pytest.approx(minima[best][1], abs=2e-4)
    for epoch in probe.history[1:-1]:  # the last one is left once validation rises
        assert epoch.val_cross_entropy == pytest.approx(minima[epoch.weight_decay][0], abs=1e-3)
        assert epoch.train_loss == pytest.approx(minima[epoch.weight_decay][1], abs=2e-4)
    assert np.abs(probe.bias - minima[best][2][-1]).max() < 0.05


@pytest.mark.parametrize("sizes", ["balanced", "zipf"])
@pytest.mark.parametrize("n, n_clusters", [(3000, 50), (20_000, 200), (60_000, 500)])
def test_tight_scores_0_where_concepts_say_nothing(sizes, n, n_clusters):
    """Within 0.002 nats, for clusters of one size and of Zipf's, split as `cluster` does it."""
    rng = np.random.default_rng(0)
    p = 1 / np.arange(1, n_clusters + 1) if sizes == "zipf" else np.ones(n_clusters)
    c = rng.choice(n_clusters, n, p=p / p.sum())
    x = ConceptMatrix.from_pairs(*np.nonzero(rng.random((n, 50)) < 0.05), n, 50)
    parts, n_small = split(c.astype(np.int32), [str(key) for key in range(n)], "d", 0)
    train, val, test = (np.flatnonzero(parts == part) for part in range(3))
    tight = ProbeOptions(protocol="tight")
    probe = fit(x.take(train), c[train], x.take(val), c[val], n_clusters, tight, seed=0)
    result = score(probe, x.take(test), c[test], seed=0, bootstrap=200)
    assert n_small <= 1
    assert abs(result.mi_nats) < 0.002
    assert probe.converged
    if n == 3000:
        assert result.nmi_ci_hi > 0


def test_a_table_that_only_seems_better_is_not_chosen():
    """Among minima that know nothing, one often validates best by chance; it does worse on held-out samples."""
    chosen, rng = [], np.random.default_rng(0)
    for _ in range(20):
        c = np.tile(np.arange(10), 60)
        x = ConceptMatrix.from_pairs(*np.nonzero(rng.random((600, 20)) < 0.1), 600, 20)
        at = np.split(rng.permutation(600), [400])
        probe = fit(*((x.take(at[0]), c[at[0]])), x.take(at[1]), c[at[1]], 10, ProbeOptions(protocol="tight"), seed=0)
        chosen.append(probe.weight_decay)
    assert chosen.count(1.0) >= 18


def test_tight_ends_at_a_minimum_that_is_certain_where_concepts_explain_all():
    """Validation then gets better down to weight decays whose minimum float32 cannot show any more."""
    rng = np.random.default_rng(0)
    c = rng.integers(0, 8, 400)
    concept = np.where(np.arange(400) < 40, 7 - c, c)
    x = ConceptMatrix.from_pairs(np.arange(400), concept, 400, 8)
    (x_train, c_train), (x_val, c_val) = ((x.take(at), c[at]) for at in np.split(np.arange(400), [260]))
    probe = fit(x_train, c_train, x_val, c_val, 8, ProbeOptions(protocol="tight"), seed=0)
    assert probe.weight_decay < 1e-5
    assert probe.converged


def test_lbfgs_is_not_bound_by_epochs(world):
    """The definition of `converged` under lbfgs: the optimum, whatever `epochs` says."""
    assert world.fit(solver="lbfgs", epochs=0).converged


def _nmi(x: ConceptMatrix, c: np.ndarray, k: int) -> float:
    parts = np.split(np.arange(len(c)), [len(c) * 64 // 100, len(c) * 80 // 100])
    train, val, test = ((x.take(at), c[at]) for at in parts)
    return score(fit(*train, *val, k, ProbeOptions(solver="lbfgs", weight_decay=1e-4), seed=0), *test, seed=0).nmi


def _probabilities(y: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    logits = y @ coefficients.T
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def _minimum(
    y: np.ndarray, c: np.ndarray, log_f: np.ndarray, decay: float, start: np.ndarray
) -> tuple[float, np.ndarray]:
    """The objective of tight and its minimum, (M + 1, K), in float64."""
    with_one = np.hstack([y, np.ones((len(y), 1))])
    center = np.vstack([np.zeros((y.shape[1], len(log_f))), log_f])

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        table = flat.reshape(center.shape)
        p = _probabilities(with_one, table.T)
        loss = -np.log(p[np.arange(len(c)), c]).mean() + decay / 2 * ((table - center) ** 2).sum()
        p[np.arange(len(c)), c] -= 1
        return loss, (with_one.T @ p / len(c) + decay * (table - center)).ravel()

    minimum = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-12})
    return float(minimum.fun), minimum.x.reshape(center.shape)


def _objective(y: np.ndarray, c: np.ndarray, coefficients: np.ndarray, decay: float) -> float:
    p = _probabilities(y, coefficients)[np.arange(len(c)), c]
    return -np.log(p).mean() + decay / 2 * (coefficients**2).sum()
