"""How far two groupings of the same samples agree: mutual information adjusted for chance, homogeneity, purity."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

_TAIL = 7
"""Counts beyond a cell's mean and 8 standard deviations that still matter: the rest has a chance under 1e-10."""


@dataclass(frozen=True)
class Agreement:
    """A grouping against known classes, over n samples.

    `ami`: (MI − E) / ((H(class) + H(cluster)) / 2 − E), E the expected MI of random groupings of the same sizes; 0 for
    chance, 1 for equal groupings. `homogeneity`: MI / H(class). `completeness`: MI / H(cluster). `purity`: the share of
    samples in the most frequent class of their cluster.
    """

    n: int
    ami: float
    homogeneity: float
    completeness: float
    purity: float


def agreement(classes: ArrayLike, clusters: ArrayLike) -> Agreement:
    """Compare clusters (n,) with known classes (n,); both are integers from 0, n ≥ 1."""
    table, rows, columns = _contingency(np.asarray(classes), np.asarray(clusters))
    n, mi = int(rows.sum()), _information(table, rows, columns)
    h_class, h_cluster = _entropy(rows), _entropy(columns)
    # the largest entry of each cluster
    most = np.zeros(len(columns), np.int64)
    np.maximum.at(most, table[1], table[2])
    return Agreement(
        n=n,
        ami=_adjusted(mi, rows, columns),
        homogeneity=mi / h_class if h_class > 0 else 1.0,
        completeness=mi / h_cluster if h_cluster > 0 else 1.0,
        purity=float(most.sum()) / n,
    )


def adjusted_mutual_information(a: ArrayLike, b: ArrayLike) -> float:
    """Return the AMI of two groupings (n,) of the same samples; symmetric in its arguments."""
    table, rows, columns = _contingency(np.asarray(a), np.asarray(b))
    return _adjusted(_information(table, rows, columns), rows, columns)


_Table = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _contingency(a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[_Table, NDArray[np.int64], NDArray[np.int64]]:
    """Return the non-empty cells as (row, column, count), and the sizes of the non-empty rows and columns."""
    (a, rows), (b, columns) = _numbered(a), _numbered(b)
    counts = np.bincount(a * len(columns) + b, minlength=len(rows) * len(columns))
    cell = np.flatnonzero(counts > 0)
    table = cell // len(columns), cell % len(columns), counts[cell]
    return table, rows, columns


def _numbered(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the labels numbered without gaps, and how often each occurs."""
    sizes = np.bincount(labels)
    number = np.cumsum(sizes > 0) - 1
    return number[labels], sizes[sizes > 0]


def _entropy(sizes: NDArray[np.int64]) -> float:
    share = sizes / sizes.sum()
    return float(-(share * np.log(share)).sum()) + 0.0


def _information(table: _Table, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> float:
    row, column, count = table
    n = rows.sum()
    ratio = np.log(count / rows[row]) + np.log(n / columns[column])
    return max(0.0, float((count * ratio).sum() / n))


def _adjusted(mi: float, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> float:
    if len(rows) == len(columns) == 1:
        return 1.0
    expected = expected_information(rows, columns)
    room = (_entropy(rows) + _entropy(columns)) / 2 - expected
    tiny = float(np.finfo(float).eps)
    return (mi - expected) / (min(room, -tiny) if room < 0 else max(room, tiny))


def expected_information(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> float:
    """Return the expected mutual information, in nats, of random groupings with these sizes (hypergeometric counts).

    Σ P(c) c/n ln(n c / (x y)) over the counts c of a cell whose row has x and whose column y samples. Cells of equal
    sizes are taken once, all cells advance one count at a time by P(c + 1) / P(c), and counts of negligible chance
    are left out.
    """
    n = int(rows.sum())
    (a, a_times), (b, b_times) = (np.unique(sizes, return_counts=True) for sizes in (rows, columns))
    x, y = (grid.ravel().astype(np.int64) for grid in np.meshgrid(a, b, indexing="ij"))
    mean = x * (y / n)
    spread = 8 * np.sqrt(mean) + _TAIL
    low = np.maximum(np.maximum(1, x + y - n), np.floor(mean - spread)).astype(np.int64)
    high = np.minimum(np.minimum(x, y), np.ceil(mean + spread)).astype(np.int64)
    order = np.argsort(low - high, kind="stable")  # the cells with most counts first
    x, y, low, high = x[order], y[order], low[order], high[order]
    ln = _log_factorials(n)
    log_p = ln[x] + ln[y] + ln[n - x] + ln[n - y] - ln[n]
    log_p -= ln[low] + ln[x - low] + ln[y - low] + ln[n - x - y + low]
    weight = np.outer(a_times, b_times).ravel()[order] * np.exp(log_p) / n
    level = np.log(n / (x * y.astype(np.float64)))
    terms, count, left, right, rest = (
        high - low + 1,
        *(v.astype(np.float64) for v in (low, x - low, y - low, n - x - y)),
    )
    rest, total = rest + count, 0.0
    for term in range(int(terms[0])):
        active = int(np.searchsorted(-terms, -term, side="left"))  # cells with more counts than this
        count, left, right, rest, level, weight = (v[:active] for v in (count, left, right, rest, level, weight))
        total += float((weight * count * (np.log(count) + level)).sum())
        count, rest = count + 1, rest + 1
        weight = weight * left * right / (count * rest)
        left, right = left - 1, right - 1
    return total


@lru_cache(maxsize=2)
def _log_factorials(n: int) -> NDArray[np.float64]:
    """Return ln 0!, ln 1!, …, ln n!."""
    steps = np.log(np.arange(1, n + 1, dtype=np.longdouble))
    return np.concatenate([[0.0], np.cumsum(steps)]).astype(np.float64)
