"""How long --help, ls and sql take, beside importing typer and sqlalchemy, which they need.

    python benchmarks/startup.py [--repeats 9]

Prints medians of processor and wall time of fresh processes, taken in turns, and their ratios.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = ("-c", "from qrp_store.cli.main import main; main()")
COMMANDS = {
    "import typer, sqlalchemy": ("-c", "import typer, sqlalchemy"),
    "qrp-store --help": (*PROGRAM, "--help"),
    "qrp-store ls": (*PROGRAM, "ls"),
    "qrp-store sql": (*PROGRAM, "sql", "SELECT * FROM leaderboard"),
}


def spent(command: tuple[str, ...], folder: Path) -> tuple[float, float]:
    """Processor and wall seconds of one fresh Python."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=folder, check=True, capture_output=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {repeats} runs each")
    with tempfile.TemporaryDirectory() as folder:
        spent((*PROGRAM, "init"), Path(folder))
        rounds = [{name: spent(c, Path(folder)) for name, c in COMMANDS.items()} for _ in range(repeats)]
    base = None
    for name in COMMANDS:
        cpu, wall = (statistics.median(r[name][i] for r in rounds) for i in (0, 1))
        base = base or (cpu, wall)
        print(
            f"{name:26s} {cpu:.3f} s cpu  {wall:.3f} s wall   ratio {cpu / base[0]:.2f} cpu  {wall / base[1]:.2f} wall"
        )


if __name__ == "__main__":
    main()
