"""Starts many command lines at the same moment, each in a process of its own: `crowd.py MODULE…`.

Imports cost seconds: they are done once, then the process forks, crowd after crowd. Nothing of a store is ever open in
it. A line of JSON asks (environment, command lines), a line answers (what each of them left).
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


def crowd(env: dict[str, str], lines: list[list[str]]) -> list[dict[str, Any]]:
    """Code, out and err of command lines that begin at the same moment."""
    started, start = os.pipe()
    answers = []
    for argv in lines:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(start)
            os.close(reader)
            os.environ.clear()
            os.environ.update(env)
            child(argv, started, writer)
        os.close(writer)
        answers.append((pid, reader))
    os.close(start)
    os.close(started)
    said: list[dict[str, Any]] = []
    for pid, reader in answers:
        with os.fdopen(reader) as file:
            text = file.read()
        os.waitpid(pid, 0)
        said.append(json.loads(text) if text else {"code": -1, "out": "", "err": "died"})
    return said


def main() -> None:
    for module in sys.argv[1:]:
        importlib.import_module(module)
    for asked in sys.stdin:
        print(json.dumps(crowd(*json.loads(asked))), flush=True)
    os._exit(0)  # taking torch apart costs seconds


if __name__ == "__main__":
    main()
