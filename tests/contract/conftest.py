"""The product from outside: command lines in processes of their own, JSON, SQL through plain sqlite3, arrays."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

# Imports cost seconds: a process that has done them forks one child a command. The child runs the console script's own
# entry with its own arguments, environment, folder and streams. Only what computes with torch or draws forks a process
# with what that takes.
LIGHT = "alembic.command, alembic.config, faiss, pyarrow.parquet, sqlalchemy, zarr"
HEAVY = f"{LIGHT}, PIL.Image, torch, torchvision"
DRAWS = "alembic.config, jinja2, matplotlib.figure, matplotlib.backends.backend_svg, PIL.Image, sqlalchemy, zarr"
SERVER = """
import functools, gc, json, os, sys, tempfile, typer.main
import qrp_store.cluster, qrp_store.evaluate, qrp_store.ingest, qrp_store.label, qrp_store.look
from qrp_store.cli.main import main

typer.main.get_command = functools.cache(typer.main.get_command)


def warm(*words):  # what a command loads late; nothing that starts a thread
    sys.argv = ["qrp-store", *words]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, words


out = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
with tempfile.TemporaryDirectory() as folder:
    warm("init", "--store", folder + "/store")
    warm("ls", "results", "--store", folder + "/store")
sys.stdout.flush()
os.dup2(out, 1)
gc.freeze()
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"])
        for number, name in ((0, os.devnull), (1, asked["out"]), (2, asked["err"])):
            os.dup2(os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["qrp-store", *asked["argv"]]
        try:
            main()
        except SystemExit as stop:
            sys.stdout.flush()
            os._exit(stop.code)  # taking torch apart costs more than the command
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)
"""
KINDS = {1: "failed", 2: "usage", 3: "not_found", 4: "invalid_input", 5: "busy", 6: "corrupt"}
KINDS |= {7: "schema_mismatch", 8: "unavailable"}


@dataclass(frozen=True)
class Ran:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Qrp:
    """Runs `qrp-store`. `store` goes to the option --store; nothing else is added to what a user would type."""

    script = Path(sys.executable).with_name("qrp-store")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: dict[str, subprocess.Popen[str]] = {}

    def _server(self, words: Sequence[str]) -> tuple[IO[str], IO[str]]:
        """stdin and stdout of the process that runs this command line."""
        heavy = bool({"evaluate", "--arch", "--expert"} & set(words)) or any(word.endswith(".pt") for word in words)
        modules = HEAVY if heavy else DRAWS if words[:1] == ["report"] else LIGHT
        if modules not in self._servers:
            program = [sys.executable, "-c", f"import {modules}\n{SERVER}"]
            self._servers[modules] = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        running = self._servers[modules]
        assert running.stdin is not None
        assert running.stdout is not None
        return running.stdin, running.stdout

    def run(
        self, *argv: object, store: Path | None = None, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Ran:
        """Run a command line, whatever comes of it."""
        words = [str(word) for word in argv]
        if store is not None:
            words += ["--store", str(store)]
        out, err = self._folder / "out", self._folder / "err"
        asked = {"argv": words, "cwd": str(cwd or self._folder), "env": environment(env)}
        to, back = self._server(words)
        to.write(json.dumps({**asked, "out": str(out), "err": str(err)}) + "\n")
        to.flush()
        answer = back.readline()
        assert answer, "the server has ended"
        return Ran(int(answer), out.read_text("utf-8"), err.read_text("utf-8"))

    def ok(self, *argv: object, **where: Any) -> Any:
        """The JSON document of a command that succeeds."""
        ran = self.run(*argv, "--json", **where)
        assert ran.code == 0, (argv, ran.out, ran.err)
        return ran.json

    def rows(self, *argv: object, **where: Any) -> list[dict[str, Any]]:
        """The rows of a listing."""
        return self.ok(*argv, **where)["rows"]

    def fails(self, code: int, *argv: object, **where: Any) -> str:
        """Message and hint of a command that fails with this exit code, said as JSON on stdout."""
        ran = self.run(*argv, "--json", **where)
        assert ran.code == code, (argv, ran.out, ran.err)
        error = ran.json["error"]
        assert set(error) == {"kind", "message", "hint"}
        assert error["kind"] == KINDS[code]
        assert "Traceback" not in ran.err
        return f"{error['message']}\n{error['hint'] or ''}"

    def start(self, *argv: object, store: Path) -> subprocess.Popen[str]:
        """The installed script as a process of its own, still running."""
        words = [str(self.script), *map(str, argv), "--store", str(store)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())

    def close(self) -> None:
        for running in self._servers.values():
            for stream in (running.stdin, running.stdout):
                assert stream is not None
                stream.close()
            running.wait(20)


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process' environment without a store of its own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("QRP_")}
    return {**own, "HF_HUB_OFFLINE": "1", **(more or {})}


class Files:
    """Small inputs, written below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def array(self, rows: object, name: str = "rows.npy") -> Path:
        path = self.folder / name
        np.save(path, np.asarray(rows))
        return path

    def keys(self, keys: Sequence[str], name: str = "keys.txt") -> Path:
        path = self.folder / name
        path.write_bytes("".join(f"{key}\n" for key in keys).encode("utf-8", "surrogatepass"))
        return path

    def labels(
        self, rows: Sequence[Sequence[object]], header: Sequence[str] = ("key", "concept"), name: str = "labels.csv"
    ) -> Path:
        path = self.folder / name
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
        return path

    def images(self, keys: Sequence[str], name: str = "images", side: int = 24) -> Path:
        """A folder of small images, each of other pixels."""
        from PIL import Image

        folder = self.folder / name
        for number, key in enumerate(keys):
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), np.uint8)
            Image.fromarray(pixels).save(path)
        return folder


def query(store: Path, statement: str, *values: object) -> list[dict[str, Any]]:
    """Rows of the catalog as the plain sqlite3 module gives them."""
    with closing(sqlite3.connect(f"file:{store / 'catalog.db'}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(statement, values)]


@pytest.fixture(scope="session")
def qrp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Qrp]:
    running = Qrp(tmp_path_factory.mktemp("run"))
    yield running
    running.close()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    folder = tmp_path / "files"
    folder.mkdir()
    return Files(folder)


@pytest.fixture(scope="session")
def sql() -> Any:
    return query


@pytest.fixture(scope="session")
def empty(qrp: Qrp, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty") / "store"
    qrp.ok("init", store=folder)
    return folder


@pytest.fixture
def store(empty: Path, tmp_path: Path) -> Path:
    """An empty store: a copy of one that `init` made."""
    return Path(shutil.copytree(empty, tmp_path / "store"))


N, GROUPS, DIM = 400, 6, 8


@dataclass(frozen=True)
class World:
    """What was put into the store that most tests look at: six groups of samples that concepts name."""

    store: Path
    keys: list[str]
    group: np.ndarray
    rows: dict[str, np.ndarray]
    evaluated: dict[str, Any]
    permuted: dict[str, Any]
    ingested: dict[str, Any]
    labelled: dict[str, Any]


@pytest.fixture(scope="session")
def world(qrp: Qrp, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A ranked store, only to be looked at: 3 backbones × 2 concept sets × K 6 × 3 seeds, and one control."""
    folder = tmp_path_factory.mktemp("world")
    store, files = folder / "store", Files(folder)
    rng = np.random.default_rng(7)
    keys = [f"photos/{i:03}.jpg" for i in range(N)]
    group = rng.integers(0, GROUPS, N)
    centers = rng.normal(size=(GROUPS, DIM)) * 4
    rows = {
        "sharp": centers[group] + rng.normal(size=(N, DIM)) * 0.5,
        "dull": centers[group] + rng.normal(size=(N, DIM)) * 5,
        "noise": rng.normal(size=(N, DIM)),
    }
    rows = {name: values.astype(np.float32) for name, values in rows.items()}
    qrp.ok("init", store=store)
    listed = files.keys(keys)
    ingested = {
        name: qrp.ok(
            *("ingest", files.array(values, f"{name}.npy"), "--keys", listed, "--dataset", "photos"),
            *("--backbone", name, "--block-rows", 100),
            store=store,
        )
        for name, values in rows.items()
    }
    objects = [(keys[i], f"object-{group[i]}", 0.9, "thing") for i in range(N)]
    objects += [(keys[i], f"trait-{j}", 0.8, "trait") for i in range(N) for j in range(3) if rng.random() < 0.3]
    several = files.labels(objects, ("key", "concept", "score", "group"), "objects.csv")
    single = files.labels([(keys[i], f"class {group[i] // 2}") for i in range(N)], name="classes.csv")
    labelled = {
        "objects": qrp.ok("label", several, "--dataset", "photos", "--concepts", "objects", store=store),
        "classes": qrp.ok("label", single, "--dataset", "photos", "--concepts", "classes", "--exclusive", store=store),
    }
    few = ("--dataset", "photos", "-k", GROUPS, "--epochs", 4, "--bootstrap", 50)
    evaluated = qrp.ok("evaluate", *few, "--seed", 0, 1, 2, store=store)
    permuted = qrp.ok("evaluate", *few, "--backbone", "sharp", "--concepts", "objects", "--permute", store=store)
    return World(store, keys, group, rows, evaluated, permuted, ingested, labelled)


@pytest.fixture
def own(world: World, tmp_path: Path) -> Path:
    """A copy of the ranked store, to change."""
    return Path(shutil.copytree(world.store, tmp_path / "own"))
