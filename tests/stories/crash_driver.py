"""Runs the command line and kills it with SIGKILL at a named function: `crash_driver.py module:name:when:n -- args`.

`when` is before or after the n-th call; `stop` stops it with SIGSTOP after that call instead. Without a name (`-`)
nothing is killed. No hook in the product is needed.

`crash_driver.py --serve MODULE…` imports once and then runs many, each in a fork: a line of JSON asks (point, wait,
argv), a line answers (code, out). With `wait` the run is killed after so many seconds.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any


def arm(point: str) -> None:
    """Wrap the named function so that it kills the process."""
    module, name, when, n = point.split(":")
    owner: Any = importlib.import_module(module)
    *holders, last = name.split(".")
    for holder in holders:
        owner = getattr(owner, holder)
    original: Callable[..., Any] = getattr(owner, last)
    calls = 0

    @functools.wraps(original)
    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(n) and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = original(*args, **kwargs)
        if calls == int(n) and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        if calls == int(n) and when == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        return answer

    setattr(owner, last, dying)


def run(point: str, argv: list[str]) -> int:
    """The exit code of a command line, if it lives to have one."""
    if point != "-":
        arm(point)
    from qrp_store.cli.main import call

    return call(argv)


def forked(point: str, wait: float | None, argv: list[str]) -> dict[str, object]:
    """`run` in a process of its own: its exit code (negative: the signal), and what it said."""
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                for stream in (1, 2):
                    os.dup2(said.fileno(), stream)
                code = run(point, argv)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        over = time.monotonic() + (600 if wait is None else wait)
        while not (done := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > over:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.005)
        said.seek(0)
        return {"code": os.waitstatus_to_exitcode(done[1]), "out": said.read().decode(errors="replace")}


def serve(modules: list[str]) -> None:
    """Answer until the other side hangs up."""
    for module in modules:
        importlib.import_module(module)
    for line in sys.stdin:
        print(json.dumps(forked(*json.loads(line))), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2:])
    else:
        sys.exit(run(sys.argv[1], sys.argv[3:]))
