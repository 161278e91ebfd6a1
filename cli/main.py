"""`qrp-store`: parse, call one story, print."""

from __future__ import annotations

import inspect
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.main import get_command

import qrp_store

from . import (
    check,
    cluster,
    demo,
    doctor,
    evaluate,
    export,
    ingest,
    label,
    leaderboard,
    look,
    report,
    serve,
    session,
    store,
)
from .boundary import EXIT_CODES, run

GROUPS = (store, ingest, label, cluster, evaluate, check, look, leaderboard, export, report, serve, doctor, demo)

KEYWORD = inspect.Parameter.KEYWORD_ONLY


def build() -> typer.Typer:
    """Return the app with every command."""
    app = typer.Typer(
        rich_markup_mode=None,  # names and brackets in help texts stay as they are, and help needs no rich
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def before(ctx: typer.Context, version: bool = False, **shared: Any) -> None:
        ctx.obj = shared

    eager = typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    version = inspect.Parameter("version", KEYWORD, annotation=Annotated[bool, eager], default=False)
    context = inspect.Parameter("ctx", KEYWORD, annotation=typer.Context)
    session.declare(before, [context, *session.SHARED.values(), version])
    app.callback(help="Rank frozen backbones by how much human-nameable information they encode.")(before)
    for group in GROUPS:
        group.register(app)
    return app


def call(arguments: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return its exit code."""
    command = get_command(build())
    return run(command, arguments) if arguments else run(command, ["--help"]) or EXIT_CODES["usage"]


def main() -> None:
    """The console script."""
    # Waiting threads of torch and faiss sleep early: by default they spin for milliseconds, and on shared cores a step
    # of the probe then takes ten times as long. Read when torch or faiss is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # JSON is UTF-8 in every locale; a lone surrogate in a key prints as its escape
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    code = call(sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM):  # the work is done: unloading torch takes a second
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def _open_closed_streams() -> None:
    """Reopen stdout and stderr if the parent closed them (`>&-`): writing to stdout then fails, as on a full disk."""
    while (number := os.open(os.devnull, os.O_RDONLY)) <= 2:
        pass  # no later file may get the number of a stream
    os.close(number)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"qrp-store {qrp_store.__version__}")
        raise typer.Exit
