"""Which rows of an array can be stored: the numbers at the edge of every type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qrp_store.ingest.arrays import ArrayRows
from qrp_store.records import ArraySpec


@pytest.mark.parametrize("stored", ["float16", "float32"])
@pytest.mark.parametrize("given", ["float16", "float32", "float64"])
def test_rows_at_the_edge_of_a_type(given: str, stored: str, tmp_path: Path) -> None:
    edge = np.finfo(given)
    odd = [edge.max, -edge.max, edge.tiny, edge.smallest_subnormal, -0.0, np.inf, -np.inf, np.nan, -np.nan, 65504.0]
    rows = np.random.default_rng(0).standard_normal((3 * len(odd), 7)).astype(given)
    for row, number in enumerate(odd):
        rows[3 * row, row % 7] = number  # alone
        rows[3 * row + 1] = number  # seven times: a sum of the largest overflows, though none of them does
    np.save(tmp_path / "rows.npy", rows)
    source = ArrayRows(tmp_path / "rows.npy", None, None, None, np.dtype(stored))
    layout = ArraySpec("a", len(rows), 7, stored, len(rows))
    (block,) = source.blocks(layout, [0])
    with np.errstate(over="ignore"):
        expected = np.isfinite(rows.astype(stored)).all(axis=1)
    assert set(block.bad) == set(np.flatnonzero(~expected).tolist())
    for row, why in block.bad.items():
        assert (why == "NaN or Inf") == (not np.isfinite(rows[row]).all())
