"""Starts many command lines at the same moment, each in a process of its own: `crowd.py MODULE… < lines.json`.

Imports cost seconds: they are done once, then the process forks. Nothing of a store is open before that.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import Any


def child(argv: list[str], started: int, answer: int) -> None:
    from qrp_store.cli.main import call

    os.read(started, 1)  # returns for everybody at once, when the parent closes its end
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = call(argv)
        except BaseException as error:  # what nothing translated is what we look for
            code = 99
            err.write(repr(error))
    with os.fdopen(answer, "w") as file:
        json.dump({"code": code, "out": out.getvalue(), "err": err.getvalue()}, file)
    os._exit(0)


def main() -> None:
    for module in sys.argv[1:]:
        importlib.import_module(module)
    lines: list[list[str]] = json.load(sys.stdin)
    started, start = os.pipe()
    answers = []
    for argv in lines:
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(start)
            os.close(reader)
            child(argv, started, writer)
        os.close(writer)
        answers.append(reader)
    os.close(start)
    said: list[dict[str, Any]] = []
    for reader in answers:
        with os.fdopen(reader) as file:
            text = file.read()
        said.append(json.loads(text) if text else {"code": -1, "out": "", "err": "died"})
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()
