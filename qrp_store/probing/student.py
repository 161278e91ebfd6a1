"""Student's t distribution, for intervals and p-values over a few seeds or images."""

from __future__ import annotations

import math
from functools import cache

_EXPANDS = 30
"""From here on Hill's expansion of the quantile is exact to 1e-7."""
_Z = 1.959963984540054


def two_sided(t: float, df: int) -> float:
    """P(|T| ≥ |t|) for df ≥ 1 degrees of freedom; the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    if not math.isfinite(t):
        return 0.0
    sine, cosine = abs(t) / math.hypot(t, math.sqrt(df)), math.sqrt(df) / math.hypot(t, math.sqrt(df))
    odd = df % 2
    term, total = cosine if odd else 1.0, 0.0
    for power in range(odd, df - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    inside = 2 / math.pi * (math.atan2(sine, cosine) + sine * total) if odd else sine * total
    return max(0.0, 1.0 - inside)


@cache
def quantile(df: int) -> float:
    """The t of which P(|T| ≥ t) = 5 %: half the width of a 95 % interval, in standard errors."""
    if df >= _EXPANDS:
        z = _Z
        terms = (
            (z**3 + z) / 4,
            (5 * z**5 + 16 * z**3 + 3 * z) / 96,
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
            (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
        )
        return float(z + sum(term / df ** (power + 1) for power, term in enumerate(terms)))
    low, high = 1.9, 13.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, df) > 0.05 else (low, middle)
    return (low + high) / 2
