"""What all commands share: the five options before or after the name, the store, and the output."""

from __future__ import annotations

import inspect
import logging
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from qrp_store.options import Format, Options, SharedOptions
from qrp_store.records import Table

from . import options, output
from .bars import Bars
from .boundary import exit_code, interruption

if TYPE_CHECKING:
    from qrp_store.store import Store

SHARED = {each.name: each for each in options.parameters_of(SharedOptions)}


@dataclass(frozen=True)
class Session:
    """One run of one command."""

    store: str | None = None
    arrays: str | None = None
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    progress: Bars = field(default_factory=Bars)

    def open(self) -> Store:
        """Open the store that the options name; a context manager."""
        from qrp_store.store import open_store

        return open_store(self.store, self.arrays)

    def show(self, report: object, text: str, error: Mapping[str, Any] | None = None) -> None:
        """Print a report: as JSON, or as text for people.

        With `error` (kind, message, hint) the command has failed, and the report shows how far it came: the JSON
        contains the error, too, and the exit code is that of its kind.
        """
        if self.as_json:
            failed = {} if error is None else {"error": error}
            output.write(output.to_json({**output.document(report), **failed}))
        else:
            output.write(text)
        if error is not None:
            raise typer.Exit(exit_code(str(error["kind"])))

    def list(self, table: Table, form: Format | None, schema: str, more: Mapping[str, Any] | None = None) -> None:
        """Print a listing in a format; --json means the format json, which also contains `more`."""
        chosen: Format = form or ("json" if self.as_json else "table")
        output.write(output.listing(table, chosen, schema, more))


def command(
    app: typer.Typer, name: str, *, example: str, cls: type[TyperCommand] = TyperCommand
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register `function(session, …)` as a command that also takes the shared options.

    A parameter whose type is a record of options stands for all options of that record.

    Its docstring is the help text; `example` (lines starting with `qrp-store`) is shown below the options.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        taken = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        records = {
            p.name: p.annotation for p in taken if isinstance(p.annotation, type) and issubclass(p.annotation, Options)
        }

        def run(ctx: typer.Context, **values: Any) -> None:
            session = _merge(ctx.obj or {}, {key: values.pop(key) for key in SHARED})
            _set_up_logging(session)
            try:
                made = {name: options.made(record, values) for name, record in records.items()}
                function(session, **values, **made)
            except KeyboardInterrupt as stop:
                raise interruption(stop) from None
            finally:
                session.progress.close()

        parameters = [
            inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
            *(
                each
                for p in taken
                for each in (
                    options.parameters_of(records[p.name])
                    if p.name in records
                    else [p.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
                )
            ),
            *SHARED.values(),
        ]
        declare(run, parameters)
        shown = "\b\nExample:\n" + "\n".join(f"  {line}" for line in example.splitlines())
        help_text = inspect.getdoc(function) or ""
        # the list of commands has one line for each
        short = re.split(r"[:;.](?=\s|$)", " ".join(help_text.split()))[0]
        app.command(name, cls=cls, help=help_text, short_help=short, epilog=shown)(run)
        return function

    return register


def declare(function: Callable[..., None], parameters: list[inspect.Parameter]) -> None:
    """Make typer see these parameters of a function that takes any."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {each.name: each.annotation for each in parameters}


def _merge(before: Mapping[str, Any], after: Mapping[str, Any]) -> Session:
    values = {key: after[key] or before.get(key, SHARED[key].default) for key in SHARED}
    return Session(**values, progress=Bars(quiet=bool(values["quiet"])))


def _set_up_logging(session: Session) -> None:
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    # it logs a traceback for a connection that could not be returned, which the signal or error explains
    logging.getLogger("sqlalchemy.pool").setLevel(logging.NOTSET if session.verbose else logging.CRITICAL)
    if not session.verbose and not sys.warnoptions:
        # these are for developers of libraries; users get `progress.warn`
        warnings.simplefilter("ignore")
