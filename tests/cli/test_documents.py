"""What README and docs show exists: every command line parses, every view has its documented columns."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from qrp_store.cli.main import build, call

DOCS = Path(__file__).resolve().parents[2]
ROOT: Any = get_command(build())


def joined(path: Path) -> str:
    """The text with lines that end in a backslash joined to the next."""
    return path.read_text(encoding="utf-8").replace("\\\n", " ")


LINES = [
    line
    for path in (DOCS / "README.md", *sorted((DOCS / "docs").glob("*.md")))
    for line in re.findall(r"^ *\$? ?(qrp-store [a-z].*)$", joined(path), flags=re.M)
]


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_in_the_documents_parses(line: str) -> None:
    _, command, *arguments = shlex.split(line, comments=True)
    ROOT.commands[command].make_context(command, arguments)


def test_every_command_is_documented_in_the_changelog_and_every_link_leads_somewhere() -> None:
    changes = (DOCS / "CHANGELOG.md").read_text(encoding="utf-8")
    assert not [name for name in ROOT.commands if not re.search(rf"\b{name}\b", changes)]
    for path in (DOCS / "README.md", *(DOCS / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_file_that_the_architecture_names_exists() -> None:
    page = (DOCS / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = ("qrp_store", "cli", "migrations", "tests", "docs", "benchmarks")
    files = [f"/{path.relative_to(DOCS)}" for folder in folders for path in (DOCS / folder).rglob("*.*")]
    named = set(re.findall(r"`([\w/]+\.(?:py|md|sql))`", page))
    assert len(named) > 50
    assert not [name for name in named if not any(path.endswith(f"/{name}") for path in files)]


def test_every_view_has_the_columns_that_its_reference_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["init", "--store", str(tmp_path / "s")]) == 0
    text = (DOCS / "docs" / "sql.md").read_text(encoding="utf-8").split("## The values of a result")[0]
    documented = {}
    for view, columns in re.findall(r"^\| `(\w+)` \|[^|]*\| (.*) \|$", text, flags=re.M):
        base = documented["results"] if "those of `results`" in columns else []
        documented[view] = base + re.findall(r"`(\w+)`", columns.replace("those of `results`", ""))
    capsys.readouterr()
    assert (
        call(["sql", "SELECT name FROM sqlite_master WHERE type = 'view'", "--store", str(tmp_path / "s"), "--json"])
        == 0
    )
    assert set(documented) == {row["name"] for row in json.loads(capsys.readouterr().out)["rows"]}
    for view, columns in documented.items():
        assert call(["sql", f"SELECT * FROM {view}", "--store", str(tmp_path / "s"), "--format", "csv"]) == 0
        assert capsys.readouterr().out.strip().split(",") == columns
