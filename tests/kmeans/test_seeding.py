"""Where K-means begins: the textbook's draws, better starts for more care, and the same rows on any machine."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from qrp_store.kmeans import KMeansOptions, MemoryPoints, kmeans
from qrp_store.kmeans.seeding import INITS, Init, initial

K = 40


def groups(n: int = 4000, dim: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (8 * rng.normal(size=(K, dim))[rng.integers(0, K, n)] + rng.normal(size=(n, dim))).astype(np.float32)


def seeds(array: np.ndarray, init: Init, k: int = K, seed: int = 1) -> np.ndarray:
    return initial(MemoryPoints(array), k, init, np.random.RandomState(seed))


def test_more_care_starts_better() -> None:
    array = groups()
    medians = [
        np.median([kmeans(MemoryPoints(array), KMeansOptions(K, seed=s, init=i, niter=1)).objective for s in range(7)])
        for i in INITS
    ]
    assert medians[2] < medians[1] < medians[0]


@pytest.mark.parametrize("init", INITS)
def test_seeds_are_different_rows(init: Init) -> None:
    array = groups(K + 3)
    found = seeds(array, init)
    assert len({row.tobytes() for row in found}) == K
    assert {row.tobytes() for row in found} <= {row.tobytes() for row in array}


@pytest.mark.parametrize("trials", [1, 2 + int(np.log(10))])
def test_each_seed_is_drawn_by_its_squared_distance(trials: int) -> None:
    """The same in double precision, with all distances at hand; small whole numbers leave nothing to rounding."""
    array = np.random.default_rng(2).integers(-9, 10, (150, 5)).astype(np.float32)
    random = np.random.RandomState(7)
    rows = array[np.sort(random.permutation(150))]
    apart = ((rows[:, None].astype(np.float64) - rows) ** 2).sum(-1)
    chosen = [int(random.randint(150))]
    while len(chosen) < 10:
        nearest = apart[:, chosen].min(1)
        drawn = np.searchsorted(np.cumsum(nearest), random.random_sample(trials) * nearest.sum(), side="right")
        chosen.append(int(min(drawn, key=lambda row: np.minimum(nearest, apart[:, row]).sum())))
    assert (seeds(array, "kmeans++" if trials == 1 else "greedy-kmeans++", 10, 7) == rows[chosen]).all()


@pytest.mark.parametrize("init", ["kmeans++", "greedy-kmeans++"])
def test_few_distinct_rows_are_all_taken_before_any_twice(init: Init) -> None:
    array = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    assert len({row.tobytes() for row in seeds(array, init, 7)[:3]}) == 3


def test_seeds_do_not_depend_on_the_number_of_threads() -> None:
    script = (
        "import numpy as np; from test_seeding import *; "
        "array = np.random.default_rng(0).normal(size=(1600, 2048)).astype('f4'); "
        "print(seeds(array, 'greedy-kmeans++', 100).sum(dtype='f8').hex())"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads, "PYTHONPATH": os.path.dirname(__file__)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "7")
    ]
    assert found[0] == found[1] == found[2] != ""
