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


def test_its_rules_its_counts_and_its_memory() -> None:
    """The rules of a real GPU are kept, a recorded step copies nothing, and too little memory is exit 8."""
    run = pytest(*sorted(map(str, (HERE / "gpu").glob("*_a_gpu.py"))))
    assert run.returncode == 0, run.stdout[-4000:]
