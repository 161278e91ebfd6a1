"""TLS with certificates that are checked: a Dask cluster whose every side has one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import LocalCluster
from distributed.security import Security

from qrp_store.cli.main import call
from qrp_store.cluster import cluster
from qrp_store.ingest import ingest
from qrp_store.store import create_store, open_store


@pytest.fixture
def scheduler(certificates: Any) -> Iterator[str]:
    """The address of a scheduler that demands certificates, with one worker."""
    files: dict[str, Any] = {"tls_ca_file": str(certificates.authority)}
    for side in ("scheduler", "worker", "client"):
        files |= {f"tls_{side}_cert": str(certificates.certificate), f"tls_{side}_key": str(certificates.key)}
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        protocol="tls",
        host="127.0.0.1",
        dashboard_address=None,
        security=Security(require_encryption=True, **files),
    ) as running:
        yield running.scheduler_address


def test_a_cluster_that_demands_certificates(
    scheduler: str,
    certificates: Any,
    new_certificates: Callable[[], Any],
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert scheduler.startswith("tls://")
    url = str(tmp_path / "store")
    create_store(url)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32))
    with open_store(url) as store:
        ingest(store, str(tmp_path / "x.npy"), dataset="d", backbone="b")
        here = cluster(store, dataset="d", backbone="b", k=4, seed=1)
    line = [
        "cluster",
        "--dataset",
        "d",
        "--backbone",
        "b",
        "-k",
        "4",
        "--seed",
        "1",
        "--force",
        "--store",
        url,
        "--json",
    ]

    def run(address: str, variables: dict[str, str]) -> tuple[int, dict[str, Any]]:
        settings = {name.removeprefix("DASK_").replace("__", ".").lower(): path for name, path in variables.items()}
        with dask.config.set(settings):  # as a process reads them at its start
            code = call([*line, "--scheduler", address])
        return code, json.loads(capsys.readouterr().out)

    code, refused = run(scheduler, {})
    assert (code, refused["error"]["kind"]) == (4, "invalid_input")
    assert "DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in refused["error"]["hint"]
    code, remote = run(scheduler, certificates.environment)
    assert code == 0, remote
    assert (code, remote["objective"]) == (0, here.objective)

    code, refused = run(scheduler, new_certificates().environment)  # of another authority
    assert (code, refused["error"]["kind"]) == (8, "unavailable")
    assert "certificate" in refused["error"]["message"].lower()
    code, refused = run(scheduler.replace("tls://", "tcp://"), {})
    assert (code, refused["error"]["kind"]) == (8, "unavailable")
