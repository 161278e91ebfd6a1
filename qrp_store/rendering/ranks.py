"""Agreement of two rankings."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation; tied values share their mean rank.

    Return None for fewer than two values, or when all values of one ranking are equal.
    """
    try:
        return statistics.correlation(_ranks(first), _ranks(second))
    except statistics.StatisticsError:
        return None


def spearman_interval(rho: float | None, n: int) -> tuple[float, float] | None:
    """Return the approximate 95 % interval of Spearman's correlation of n pairs: Fisher's z with the standard error
    √((1 + ρ²/2) / (n − 3)) of Bonett and Wright (2000).

    Return None for fewer than four pairs, or without a correlation. At ρ = ±1 both ends are ρ.
    """
    if rho is None or n < 4:
        return None
    if abs(rho) >= 1:
        return rho, rho
    center, half = math.atanh(rho), 1.959964 * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return math.tanh(center - half), math.tanh(center + half)


def _ranks(values: Sequence[float]) -> list[float]:
    return [sum(other < value for other in values) + (values.count(value) - 1) / 2 for value in values]
