"""Extrapolate a learning curve to ever more training samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_USUAL = np.linspace(0.5, 1.0, 26)
"""Exponents of generated log-linear data: nearly all lie between 0.5 and 1."""
_SLOW = np.linspace(0.3, 0.5, 11)
"""Exponents of a curve that has hardly begun to bend."""
_SURE = 1.96


@dataclass(frozen=True)
class Limit:
    """NMI(n) = nmi − a·n^−exponent: `nmi` is the limit for ever more training samples, lo to hi its 95 % interval."""

    nmi: float
    lo: float
    hi: float
    exponent: float
    a: float

    def at(self, n: float) -> float:
        """Return the NMI that n training samples would give."""
        return float(self.nmi - self.a * n**-self.exponent)


def limit(n: Sequence[int], nmi: Sequence[float], error: float) -> Limit | None:
    """Fit NMI(n) = NMI_∞ − a·n^−b, a ≥ 0, to a curve of training samples n (ascending) and scores.

    `error` is the standard error of the last score. b is the least-squares exponent between 0.5 and 1. Three noisy
    points hardly determine it. The interval therefore reaches from the limit at b = 1 to that at b = 0.5 (down to 0.3
    where such a curve fits better), plus 1.96 standard errors, which grow with the score. Return None for fewer than
    three points. A curve that does not rise has its last score as the limit.
    """
    if len(set(n)) < 3:
        return None
    x, y = np.asarray(n, np.float64), np.asarray(nmi, np.float64)
    best = min((_fitted(x, y, b) for b in _USUAL), key=lambda fit: fit[2])
    slow = min((_fitted(x, y, b) for b in _SLOW), key=lambda fit: fit[2])
    fast = _fitted(x, y, 1.0)
    margin = [_SURE * error * max(1.0, fit[0] / y[-1] if y[-1] > 0 else 1.0) for fit in (fast, slow)]
    return Limit(best[0], min(fast[0], best[0]) - margin[0], max(slow[0], best[0]) + margin[1], best[3], best[1])


def _fitted(x: np.ndarray, y: np.ndarray, b: float) -> tuple[float, float, float, float]:
    """Return limit, a, sum of squared residuals and b. The curve passes through the last, surest score."""
    lag = x**-b - x[-1] ** -b
    a = max(0.0, float(lag @ (y[-1] - y)) / float(lag @ lag))
    residual = y - (y[-1] - a * lag)
    return float(y[-1] + a * x[-1] ** -b), a, float(residual @ residual), float(b)


def error_of(lo: float | None, hi: float | None) -> float:
    """Return the standard error of a 95 % interval; 0 without one."""
    return 0.0 if lo is None or hi is None else max(0.0, hi - lo) / (2 * _SURE)


def still_climbs(fitted: Limit, nmi: float, lo: float | None, hi: float | None) -> bool:
    """Return whether more samples would raise the score by more than half the width of its interval."""
    return fitted.nmi - nmi > max(_SURE * error_of(lo, hi), 1e-3) and not math.isnan(fitted.nmi)
