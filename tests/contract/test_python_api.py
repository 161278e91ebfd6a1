"""The Python interface, in an interpreter of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qrp_store
from qrp_store.errors import InvalidInput, NotFound, QrpStoreError


def test_the_snippet(world: Any) -> None:
    with qrp_store.open(str(world.store)) as store:
        x = store.embedding("photos", "sharp")
        rows = world.rows["sharp"]
        assert x.shape == rows.shape
        assert np.array_equal(x[:150], rows[:150])
        assert np.array_equal(x[-7:], rows[-7:])
        blocks = list(x.blocks())
        assert np.array_equal(np.concatenate([b for _, b in blocks]), rows)
        assert [start for start, _ in blocks] == [0, 100, 200, 300]
        found = store.sql("SELECT * FROM leaderboard")
        assert len(list(found)) == 6
        assert found.arrow().num_rows == 6
        assert list(found.pandas()["rank"]).count(1) == 2


def test_dask_and_torch(world: Any) -> None:
    with qrp_store.open(world.store) as store:
        x = store.embedding("photos", "dull")
        lazy = x.dask()
        assert lazy.shape == (400, 8)
        assert np.array_equal(lazy.compute(scheduler="synchronous"), world.rows["dull"])
        data = x.torch()
        assert len(data) == 400
        first = data[3]
        first = first[0] if isinstance(first, tuple) else first
        assert np.array_equal(np.asarray(first), world.rows["dull"][3])


def test_open_never_creates(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no store"):
        qrp_store.open(str(tmp_path / "none"))
    assert list(tmp_path.iterdir()) == []


def test_open_takes_the_arrays_too(world: Any) -> None:
    with qrp_store.open(str(world.store), str(world.store / "arrays")) as store:
        assert store.embedding("photos", "noise").shape == (400, 8)


def test_errors_have_kinds_and_standard_bases(world: Any) -> None:
    with qrp_store.open(str(world.store)) as store:
        with pytest.raises(LookupError) as missing:
            store.embedding("photos", "nope")
        with pytest.raises(ValueError) as refused:
            store.sql("DELETE FROM dataset")
    assert isinstance(missing.value, QrpStoreError)
    assert missing.value.kind == "not_found"
    assert isinstance(refused.value, InvalidInput)


def test_the_stories_are_functions_with_keyword_arguments(world: Any) -> None:
    from qrp_store.evaluate import evaluate

    with qrp_store.open(str(world.store)) as store:
        report = evaluate(
            store, dataset="photos", backbones=["sharp"], concepts=["objects"], k=[6], seeds=[0], epochs=4, bootstrap=50
        )
    (result,) = report.results
    assert result.cached
    assert result.id in {r["id"] for r in world.evaluated["results"]}


def test_importing_is_light_and_typed() -> None:
    program = "import sys, json, qrp_store; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
    assert not {"torch", "faiss", "dask", "zarr"} & set(loaded)
    assert (resources("qrp_store") / "py.typed").is_file()
