"""Runs the command line and kills it with SIGKILL at a named function: `crash_driver.py module:name:when:n -- args`.

`when` is before or after the n-th call; `stop` stops it with SIGSTOP after that call instead. Without a name (`-`)
nothing is killed. No hook in the product is needed.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
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


if __name__ == "__main__":
    if sys.argv[1] != "-":
        arm(sys.argv[1])
    from qrp_store.cli.main import call

    sys.exit(call(sys.argv[3:]))
