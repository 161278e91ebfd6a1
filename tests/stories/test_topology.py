"""docker-compose.yml says what docs and code say; the same services, started as processes, work together."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml
from typer.main import get_command

from qrp_store.cli.main import build

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
BIN = Path(sys.executable).parent


def host_and_port(url: str) -> tuple[str | None, int | None]:
    parts = urlsplit(re.sub(r"\$\{[^}]*\}", "secret", url))
    return parts.hostname, parts.port


def test_every_service_is_there_pinned_watched_and_closed_to_others() -> None:
    assert set(SERVICES) == {"catalog", "arrays", "init", "scheduler", "worker"}
    for name, service in SERVICES.items():
        tag = service["image"].partition(":")[2]
        assert tag == "local" or re.fullmatch(r"\d+(\.\d+)+", tag), f"{name}: {service['image']} is not pinned"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        volumes = [volume.split(":")[0] for volume in service.get("volumes", ())]
        assert set(volumes) <= set(COMPOSE["volumes"]), name
    assert [name for name in ("catalog", "arrays", "scheduler") if "healthcheck" not in SERVICES[name]] == []
    for service in ("init", "worker"):
        assert all(how["condition"].startswith("service_") for how in SERVICES[service]["depends_on"].values())


def test_there_is_no_password_that_anybody_knows() -> None:
    secrets = re.findall(r"(?:PASSWORD|SECRET_ACCESS_KEY): +(.*)", FILE.read_text(encoding="utf-8"))
    assert len(secrets) >= 3
    assert all(re.fullmatch(r"\$\{QRP_\w+:\?.*\}", secret) for secret in secrets)
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    assert ".env" in (ROOT / ".dockerignore").read_text().splitlines()


def test_services_find_each_other_under_the_names_and_ports_that_are_served() -> None:
    environment = COMPOSE["x-store"]["environment"]
    served = {
        (name, int(port.split(":")[-1])) for name, service in SERVICES.items() for port in service.get("ports", ())
    }
    for url in (environment["QRP_STORE"], environment["AWS_ENDPOINT_URL"], SERVICES["worker"]["command"][2]):
        assert host_and_port(url) in served
    (bucket,) = (w.removeprefix("-bucket=") for w in SERVICES["arrays"]["command"] if w.startswith("-bucket="))
    major, minor = SERVICES["arrays"]["image"].rpartition(":")[2].split(".")
    assert (int(major), int(minor)) >= (4, 30)  # the option is of May 2026
    assert SERVICES["init"]["command"][3].startswith(f"s3://{bucket}/")
    assert SERVICES["arrays"]["environment"]["AWS_ACCESS_KEY_ID"] == environment["AWS_ACCESS_KEY_ID"]
    user = SERVICES["catalog"]["environment"]["POSTGRES_USER"]
    database = SERVICES["catalog"]["environment"]["POSTGRES_DB"]
    assert environment["QRP_STORE"].startswith(f"postgresql://{user}:")
    assert environment["QRP_STORE"].endswith(f"/{database}")


def test_commands_are_commands_and_variables_are_read_by_the_code() -> None:
    root: Any = get_command(build())
    _, name, *rest = SERVICES["init"]["command"]
    root.commands[name].make_context(name, rest)
    for service in ("scheduler", "worker"):
        program, command, *arguments = SERVICES[service]["command"]
        words = [sys.executable, "-m", program, command, "--help"]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        options = [word for word in arguments if word.startswith("--")]
        assert options
        assert [option for option in options if option.removeprefix("--no-") not in said and option not in said] == []
    documents = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    for variable in COMPOSE["x-store"]["environment"]:
        assert variable in documents or variable.startswith("AWS_"), variable
    assert "docker compose up" in documents


def start(words: list[str], env: dict[str, str], stack: ExitStack) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process


@pytest.fixture
def scheduler(new_bucket: Callable[[], str], tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A bucket, and the address of a scheduler with two workers that know where the bucket is; all are processes."""
    bucket, where = new_bucket(), tmp_path / "scheduler.json"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    dask = [sys.executable, "-m", "dask"]
    with ExitStack() as stack:
        own = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(where)]
        start([*dask, "scheduler", *own], env, stack)
        for _ in range(2):
            words = [*dask, "worker", "--scheduler-file", str(where), "--nthreads", "1", "--no-dashboard"]
            start([*words, "--local-directory", str(tmp_path / "dask"), "--no-nanny"], env, stack)
        for _ in range(200):
            if where.exists() and where.stat().st_size:
                break
            subprocess.run(["sleep", "0.1"], check=True)
        yield bucket, str(json.loads(where.read_text())["address"])


def test_postgres_s3_and_two_workers_give_what_one_laptop_gives(
    scheduler: tuple[str, str], new_database: Callable[[], str], tmp_path: Path
) -> None:
    bucket, address = scheduler
    rng = np.random.default_rng(1)
    group = rng.integers(4, size=600)
    np.save(tmp_path / "x.npy", (rng.normal(size=(4, 8))[group] * 3 + rng.normal(size=(600, 8))).astype(np.float32))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("key", "concept"), *((i, f"g{g}") for i, g in enumerate(group))])

    def run(store: str, line: str) -> dict[str, Any]:
        words = [BIN / "qrp-store", *shlex.split(line), "--store", store, "--json"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return dict(json.loads(done.stdout))

    told = []
    for store, init, place in (
        (new_database(), f"init --arrays {bucket}/store", f"--scheduler {address}"),
        (str(tmp_path / "laptop"), "init", ""),
    ):
        run(store, init)
        run(store, f"ingest {tmp_path / 'x.npy'} --dataset d --backbone b --block-rows 100")
        run(store, f"label {tmp_path / 'labels.csv'} --dataset d --concepts c")
        run(store, f"cluster --dataset d --backbone b -k 6 {place}")
        told.append(run(store, f"evaluate --dataset d -k 6 --epochs 3 --bootstrap 20 {place}")["results"][0])
    same = ("fingerprint", "nmi", "nmi_ci_lo", "train_loss")
    assert {name: told[0][name] for name in same} == {name: told[1][name] for name in same}
