"""The limit of a learning curve, against planted log-linear worlds whose true information is known."""

from __future__ import annotations

import numpy as np
import pytest

from qrp_store.options import ProbeOptions
from qrp_store.probing.limit import error_of, limit, still_climbs
from qrp_store.probing.metrics import score
from qrp_store.probing.train import fit


@pytest.mark.parametrize("exponent", [0.5, 0.7, 1.0])
def test_an_exact_curve_has_its_limit(exponent):
    n = [400, 800, 1600, 3200]
    fitted = limit(n, [0.6 - 5 * k**-exponent for k in n], 0.01)
    assert (fitted.nmi, fitted.exponent, fitted.a) == (
        pytest.approx(0.6, abs=1e-3),
        pytest.approx(exponent, abs=0.02),
        pytest.approx(5, rel=0.1),
    )
    assert fitted.lo < 0.6 < fitted.hi
    assert fitted.at(1600) == pytest.approx(0.6 - 5 * 1600**-exponent, abs=1e-3)


def test_the_interval_holds_the_truth_of_planted_worlds(make_world):
    """One-percent worlds would be too easy: the whole training part explains 66 to 97 % of the truth."""
    shapes = [(4000, 40, 12, 2.0, 5), (4000, 40, 12, 1.0, 5), (4000, 20, 8, 0.7, 4), (6000, 60, 6, 0.5, 5)]
    shapes += [(4000, 150, 25, 1.0, 10)]
    held, climbs, nearer = [], [], []
    for n, n_concepts, groups, strength, each in shapes:
        for seed in (1, 2, 3):
            world = make_world(n, n_concepts, groups, strength=strength, per_sample=each, seed=seed)
            (x, c), val, test = (world.part(part) for part in range(3))
            order, sizes, curve = np.random.default_rng(0).permutation(len(c)), [], []
            for fraction in (0.25, 0.5, 1):
                at = np.sort(order[: int(fraction * len(c))])
                probe = fit(x.take(at), c[at], *val, groups, ProbeOptions(protocol="tight"), seed=0)
                result = score(probe, *test, seed=0, bootstrap=200)
                sizes.append(len(at))
                curve.append(result.nmi)
            interval = result.nmi_ci_lo, result.nmi_ci_hi
            extrapolated, truth = limit(sizes, curve, error_of(*interval)), world.mi / result.entropy_nats
            held.append(extrapolated.lo <= truth <= extrapolated.hi)
            nearer.append(abs(extrapolated.nmi - truth) < truth - result.nmi)
            climbs.append(still_climbs(extrapolated, result.nmi, *interval))
    assert sum(held) >= len(held) - 1
    assert sum(nearer) >= 0.8 * len(nearer)
    assert all(climbs[-3:])


def test_a_curve_that_does_not_rise_ends_where_it_is():
    fitted = limit([100, 200, 400], [0.3, 0.31, 0.3], 0.01)
    assert fitted.nmi == pytest.approx(0.3, abs=0.01)
    assert fitted.lo < 0.3 < fitted.hi
    assert not still_climbs(fitted, 0.3, 0.28, 0.32)
    falling = limit([100, 200, 400], [0.3, 0.2, 0.1], 0.0)
    assert (falling.nmi, falling.lo, falling.hi, falling.a) == (0.1, 0.1, 0.1, 0.0)


def test_two_points_say_nothing_of_a_limit():
    assert limit([100, 100, 200], [0.1, 0.1, 0.2], 0.01) is None
