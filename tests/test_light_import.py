"""Importing, asking for help and looking stay light: what is heavy loads when a command needs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "torchvision", "timm", "faiss", "dask", "distributed", "zarr", "pyarrow", "PIL", "pandas", "sklearn")


def loaded_by(code: str, cwd: Path) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after running the code."""
    program = (
        f"import sys\n{code}\nimport json\nprint('\\n' + json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def command_line(*arguments: str) -> str:
    return f"from qrp_store.cli.main import call\nassert call({list(arguments)!r}) == 0"


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    loaded = loaded_by("import qrp_store", tmp_path)
    assert not loaded & {*HEAVY, "numpy", "sqlalchemy", "alembic", "typer", "rich"}


def test_importing_the_command_line_loads_no_store(tmp_path: Path) -> None:
    loaded = loaded_by("import qrp_store.cli.main", tmp_path)
    assert not loaded & {*HEAVY, "numpy", "sqlalchemy", "alembic"}


@pytest.mark.parametrize("command", [["--help"], ["ingest", "--help"], ["demo", "--help"]])
def test_help_loads_no_store(tmp_path: Path, command: list[str]) -> None:
    assert not loaded_by(command_line(*command), tmp_path) & {*HEAVY, "numpy", "sqlalchemy", "alembic"}


@pytest.fixture(scope="module")
def store_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty store where commands look by default."""
    folder = tmp_path_factory.mktemp("here")
    subprocess.run([sys.executable, "-c", command_line("init")], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("command", [["ls"], ["ls", "results", "--json"], ["sql", "SELECT 1 AS one"], ["leaderboard"]])
def test_looking_loads_nothing_heavy(store_here: Path, command: list[str]) -> None:
    assert not loaded_by(command_line(*command), store_here) & {*HEAVY, "numpy", "alembic"}
