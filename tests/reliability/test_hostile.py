"""Damaged and hostile inputs of every format: taken or refused; no traceback, nothing read outside, nothing run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize("rounds", [40, pytest.param(2_000, marks=pytest.mark.soak)])
def test_inputs_of_all_formats_read_and_run_nothing_else(
    tmp_path: Path, rounds: int, figure: Callable[[str], None]
) -> None:
    driver = Path(__file__).with_name("hostile_driver.py")
    ran = subprocess.run([sys.executable, driver, tmp_path, str(rounds), "1"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    outcome = json.loads(ran.stdout.splitlines()[-1])
    assert outcome["violations"] == []
    assert sum(outcome["codes"].values()) == rounds
    assert outcome["codes"]["4"] > rounds // 4
    figure(
        f"{rounds} damaged or hostile inputs: {outcome['codes'].get('0', 0)} taken, the others refused; no traceback, "
        "nothing read outside, nothing run"
    )
