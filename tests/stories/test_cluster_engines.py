"""cluster with the engine and device that are asked for: what ran is recorded, what is not there is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from qrp_store.catalog.entities import clusterings
from qrp_store.cli.main import call
from qrp_store.cluster import cluster
from qrp_store.errors import InvalidInput, Unavailable
from qrp_store.ingest import ingest
from qrp_store.kmeans.nearest import load_faiss
from qrp_store.kmeans.torch_nearest import TorchNearest
from qrp_store.label import label
from qrp_store.store import Store, create_store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    create_store(str(tmp_path / "store"))
    middles = np.random.default_rng(1).normal(size=(12, 24)) * 4
    rows = np.random.default_rng(0).normal(size=(3000, 24)) + middles[np.arange(3000) % 12]
    np.save(tmp_path / "x.npy", rows.astype(np.float32))
    opened = open_store(str(tmp_path / "store"))
    ingest(opened, str(tmp_path / "x.npy"), dataset="d", backbone="b", block_rows=500)
    return opened


def test_torch_and_faiss_make_the_same_clusters(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []
    prepare = TorchNearest.prepare
    monkeypatch.setattr(TorchNearest, "prepare", lambda self, c: searches.append(len(c)) or prepare(self, c))
    by_faiss = cluster(store, dataset="d", backbone="b", k=12, engine="faiss")
    assert not searches
    by_torch = cluster(store, dataset="d", backbone="b", k=12, engine="torch", device="cpu", force=True)
    assert set(searches) == {12}
    assert (by_faiss.engine, by_faiss.device) == ("faiss", "cpu")
    assert (by_torch.engine, by_torch.device) == ("torch", "cpu")
    assert by_torch.fingerprint == by_faiss.fingerprint
    assert by_torch.objective == pytest.approx(by_faiss.objective, rel=1e-6)
    _, ours, parts = clusterings.assignments(store.catalog, by_torch.id)
    _, theirs, their_parts = clusterings.assignments(store.catalog, by_faiss.id)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(parts, their_parts)
    store.close()


def test_auto_says_what_ran(store: Store) -> None:
    report = cluster(store, dataset="d", backbone="b", k=5)
    there = torch.cuda.is_available()
    assert (report.engine, report.device) == (("torch", "cuda") if there else ("faiss", "cpu"))
    store.close()


def test_what_is_not_there_is_refused_before_anything_is_claimed(store: Store) -> None:
    with pytest.raises(Unavailable, match="no CUDA device"):
        cluster(store, dataset="d", backbone="b", k=5, engine="faiss", device="cuda")
    with pytest.raises(InvalidInput, match="--engine 'scann'"):
        cluster(store, dataset="d", backbone="b", k=5, engine="scann")
    found = store.sql("SELECT count(*) AS n FROM artifact WHERE kind = 'clustering'")
    assert next(iter(found))["n"] == 0
    store.close()


@pytest.mark.parametrize("command", [["cluster", "--backbone", "b"], ["evaluate", "--concepts", "c"]])
def test_a_scheduler_that_is_not_there_ends_with_exit_8_within_seconds(
    store: Store,
    tmp_path: Path,
    command: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qrp_store.execution._CONNECT_SECONDS", 1)
    (tmp_path / "labels.csv").write_text("key,concept\n" + "".join(f"{i},{i % 3}\n" for i in range(3000)))
    label(store, str(tmp_path / "labels.csv"), dataset="d", concepts="c")
    store.close()
    words = [
        "--dataset",
        "d",
        "-k",
        "5",
        "--scheduler",
        "tcp://127.0.0.1:1",
        "--store",
        str(tmp_path / "store"),
        "--json",
    ]
    assert call([*command, *words]) == 8
    document = json.loads(capsys.readouterr().out)
    error = document["errors"][0] if document.get("errors") else document["error"]
    assert error["kind"] == "unavailable"
    assert "tcp://127.0.0.1:1 cannot be reached" in error["message"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("raise RuntimeError('cannot load libcudart.so.13')", "cannot be loaded: cannot load libcudart.so.13"),
        ("raise ImportError('libcublas.so.12: cannot open shared object file')", "cannot be loaded: libcublas.so.12"),
        ("import faiss_swig", "cannot be loaded: No module named 'faiss_swig'"),
    ],
)
def test_a_faiss_without_its_libraries_ends_with_exit_8(
    store: Store,
    tmp_path: Path,
    line: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.close()
    (tmp_path / "site" / "faiss").mkdir(parents=True)
    (tmp_path / "site" / "faiss" / "__init__.py").write_text(line + "\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    load_faiss.cache_clear()
    try:
        words = ["--dataset", "d", "--backbone", "b", "-k", "5", "--engine", "faiss", "--device", "cpu", "--json"]
        assert call(["cluster", *words, "--store", str(tmp_path / "store")]) == 8
    finally:
        load_faiss.cache_clear()
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == "unavailable"
    assert message in error["message"]
    assert "--engine torch" in error["hint"]
