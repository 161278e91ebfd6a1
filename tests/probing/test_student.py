"""Student's t against scipy, which comes with scikit-learn."""

from __future__ import annotations

import pytest
from scipy import stats

from qrp_store.probing.student import quantile, two_sided


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 9, 10, 29, 30, 31, 100, 5000])
def test_p_values_and_quantiles(df: int) -> None:
    for t in (0.0, 0.3, 1.0, 2.5, 7.0):
        assert two_sided(-t, df) == pytest.approx(2 * stats.t.sf(t, df), abs=1e-12)
    assert quantile(df) == pytest.approx(stats.t.ppf(0.975, df), abs=2e-7)
    assert two_sided(float("inf"), df) == 0
