"""Centroid initialisation: rows drawn at random, or far from each other (k-means++)."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from qrp_store.kmeans.nearest import Float32
from qrp_store.kmeans.points import Points
from qrp_store.options import Init as Init

INITS: tuple[Init, ...] = get_args(Init)
_PER_CENTROID = 16  # rows that k-means++ chooses among
_CACHED_ROWS = 256
_ONE_THREAD = 1 << 18
"""Multiplications of a matrix product up to which OpenBLAS takes one thread: the same bits on any number of cores."""


def initial(training: Points, k: int, init: Init, random: np.random.RandomState) -> Float32:
    """Return K different training rows, float32 (k, d).

    k-means++ (Arthur and Vassilvitskii 2007) draws each next one, among at most 16 K rows, with probability
    proportional to the squared distance to the nearest one so far. Greedy, as they advise and scikit-learn does it, it
    draws 2 + ⌊ln K⌋ each time and takes the one that leaves the least sum of these.
    """
    if init == "random":
        return training.sample(random.permutation(training.count)[:k].astype(np.int64))
    among = min(training.count, _PER_CENTROID * k)
    rows = training.sample(np.sort(random.permutation(training.count)[:among]).astype(np.int64))
    return rows[_plus_plus(rows, k, random) if init == "kmeans++" else _greedy(rows, k, random)]


def _plus_plus(rows: Float32, k: int, random: np.random.RandomState) -> list[int]:
    chosen = [int(random.randint(len(rows)))]
    nearest = np.full(len(rows), np.inf)
    while len(chosen) < k:
        nearest = np.minimum(nearest, _squares(rows, rows[chosen[-1]]))
        nearest[chosen[-1]] = 0.0  # never twice, whatever rounding says
        chosen.append(_drawn(nearest, 1, chosen, random)[0])
    return chosen


def _greedy(rows: Float32, k: int, random: np.random.RandomState) -> list[int]:
    chosen = [int(random.randint(len(rows)))]
    nearest = _squares(rows, rows[chosen[0]])
    lengths = _squares(rows, np.zeros_like(rows[0]))
    while len(chosen) < k:
        nearest[chosen[-1]] = 0.0
        drawn = _drawn(nearest, 2 + int(math.log(k)), chosen, random)
        distances = lengths[:, None] + lengths[drawn] - 2 * _products(rows, rows[drawn])
        nearer = np.minimum(nearest[:, None], np.maximum(distances, 0))
        best = int(nearer.sum(axis=0, dtype=np.float64).argmin())
        chosen.append(drawn[best])
        nearest = nearer[:, best].copy()
    return chosen


def _drawn(nearest: npt.NDArray[Any], count: int, chosen: list[int], random: np.random.RandomState) -> list[int]:
    """Return rows drawn in proportion to `nearest`; if that is 0 everywhere, one that is not chosen yet."""
    heaped = np.cumsum(nearest, dtype=np.float64)
    if heaped[-1] > 0:
        places = np.searchsorted(heaped, random.random_sample(count) * heaped[-1], side="right")
        return [min(int(place), len(nearest) - 1) for place in places]
    return [int(np.setdiff1d(np.arange(len(nearest)), chosen)[0])]


def _squares(rows: Float32, point: Float32) -> Float32:
    """Return each row's squared distance to a point, computed for a few rows at a time, which fit the cache."""
    out = np.empty(len(rows), np.float32)
    for first in range(0, len(rows), _CACHED_ROWS):
        part = slice(first, first + _CACHED_ROWS)
        differences = rows[part] - point
        np.einsum("ij,ij->i", differences, differences, out=out[part])
    return out


def _products(rows: Float32, points: Float32) -> Float32:
    """Return inner products, (rows, points), computed for a few rows at a time, on one thread."""
    at_once = max(1, _ONE_THREAD // points.size)
    whole = len(rows) - len(rows) % at_once
    out = np.empty((len(rows), len(points)), np.float32)
    np.matmul(
        rows[:whole].reshape(-1, at_once, rows.shape[1]), points.T, out=out[:whole].reshape(-1, at_once, len(points))
    )
    np.matmul(rows[whole:], points.T, out=out[whole:])
    return out
