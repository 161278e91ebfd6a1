"""Every CUDA path on a pretend GPU (tests/pretend_gpu.py), in a process of its own: results, rules and counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE)}


def pytest(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pretend_gpu", *arguments]
    return subprocess.run(command, cwd=HERE.parent, env=ENVIRONMENT, capture_output=True, text=True, timeout=400)


def test_the_cuda_paths_give_the_numbers_of_the_cpu() -> None:
    # workers are processes of their own, which load no plugin
    run = pytest("-k", "cuda and not workers", "tests/probing", "tests/kmeans", "tests/models", "tests/stories")
    assert run.returncode == 0, run.stdout[-4000:]
    assert " passed" in run.stdout


def test_the_pretend_gpu_keeps_the_rules_of_a_real_one() -> None:
    run = pytest("tests/gpu/rules_of_a_gpu.py")
    assert run.returncode == 0, run.stdout[-4000:]


def test_a_recorded_step_copies_nothing_and_waits_for_nothing() -> None:
    run = pytest("tests/gpu/counts_on_a_gpu.py")
    assert run.returncode == 0, run.stdout[-4000:]
