"""Every command explains itself."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from typer.main import get_command

from qrp_store.cli.main import build, call

ROOT: Any = get_command(build())
NAMES = sorted(ROOT.commands)


def test_the_commands_of_the_main_job_are_there() -> None:
    wanted = "init ingest label cluster evaluate ls show leaderboard sql export verify gc migrate demo rm serve"
    assert set(NAMES) == {
        *wanted.split(),
        "compare",
        "compare-concepts",
        "copy",
        "doctor",
        "repair",
        "report",
        "rerun",
        "selfcheck",
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_help(name: str) -> None:
    silent = [p.name for p in ROOT.commands[name].params if p.name != "help" and not getattr(p, "help", None)]
    assert not silent


@pytest.mark.parametrize("name", NAMES)
def test_every_command_takes_the_shared_options(name: str) -> None:
    taken = {option for p in ROOT.commands[name].params for option in p.opts}
    assert {"--store", "--arrays", "--json", "--quiet", "--verbose"} <= taken


@pytest.mark.parametrize("name", NAMES)
def test_every_command_shows_an_example_that_parses(name: str) -> None:
    lines = re.findall(r"^ *(qrp-store .*)$", ROOT.commands[name].epilog, flags=re.M)
    assert lines
    for line in lines:
        program, command, *arguments = shlex.split(line)
        assert (program, command) == ("qrp-store", name)
        ROOT.commands[name].make_context(name, arguments)


def test_listed_options_take_several_values_at_once() -> None:
    words = ["--dataset", "d", "--seed", "0", "1", "2", "-k", "8", "16", "--backbone", "a", "--backbone", "b", "c"]
    with ROOT.commands["evaluate"].make_context("evaluate", words) as context:
        assert context.params["seeds"] == [0, 1, 2]
        assert context.params["k"] == [8, 16]
        assert context.params["backbones"] == ["a", "b", "c"]
    with ROOT.commands["evaluate"].make_context("evaluate", ["--dataset=d", "--seed=0", "1", "--quiet"]) as context:
        assert context.params["seeds"] == [0, 1]


def test_the_list_of_commands_breaks_off_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--help"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^  report +Write one self-contained HTML page$", shown, flags=re.M)
    assert "..." not in shown.partition("Commands:")[2]
