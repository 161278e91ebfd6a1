"""ls, show, sql: look at the store."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import typer

from qrp_store.options import FormatOptions, SqlOptions
from qrp_store.records import Table

from . import output
from .completion import anything
from .session import Session, command

What = Literal[
    "datasets", "backbones", "embeddings", "concepts", "clusterings", "results", "jobs", "recipes", "vocabularies"
]
OVERVIEW: tuple[What, ...] = ("datasets", "backbones", "embeddings", "concepts", "clusterings", "results")


def register(app: typer.Typer) -> None:
    command(app, "ls", example="qrp-store ls\nqrp-store ls results --format csv")(ls)
    command(app, "show", example="qrp-store show res-7f3a9c21")(show)
    command(app, "sql", example='qrp-store sql "SELECT backbone, nmi_mean FROM leaderboard" --format csv')(sql)


def ls(
    session: Session,
    what: Annotated[What | None, typer.Argument(help="What to list.  [default: everything, in short]")] = None,
    *,
    output_format: FormatOptions,
) -> None:
    """List the content of the store, or the running writers (jobs)."""
    from qrp_store.look import listing, recipes, vocabularies

    if what in ("recipes", "vocabularies"):  # need no store
        session.list(recipes() if what == "recipes" else vocabularies(), output_format.form, "qrp-store/ls/1")
        return
    with session.open() as store:
        if what is not None:
            table = listing(store, what)
        else:
            table = _overview({kind: listing(store, kind) for kind in OVERVIEW})
    session.list(table, output_format.form, "qrp-store/ls/1")


def show(
    session: Session,
    reference: Annotated[
        str,
        typer.Argument(metavar="ID|NAME", autocompletion=anything, help="An id, a unique prefix of an id, or a name."),
    ],
    output_format: FormatOptions,
) -> None:
    """Show all details of an artifact, dataset or backbone."""
    from qrp_store.look import show

    with session.open() as store:
        values = show(store, reference)
    form = output_format.form
    if form not in (None, "table", "json"):
        session.list(Table(("name", "value"), list(values.items())), form, "qrp-store/show/1")
        return
    replace(session, as_json=session.as_json or form == "json").show(values, output.details(values))


def sql(
    session: Session,
    query: Annotated[
        str, typer.Argument(metavar="SELECT", help="One query that returns rows; the database refuses everything else.")
    ],
    options: SqlOptions,
    output_format: FormatOptions,
) -> None:
    """Query the catalog in SQL, read-only. docs/sql.md describes the views."""
    with session.open() as store:
        rows = store.sql(query, limit=options.limit, timeout=options.timeout)
    if rows.truncated:
        session.progress.warn(f"only the first {options.limit:,} rows are printed; the query has more (--limit N)")
    session.list(rows.table, output_format.form, "qrp-store/sql/1", {"truncated": True} if rows.truncated else None)


def _overview(tables: dict[What, Table]) -> Table:
    """Return kind, id and name of everything as one table."""
    rows = []
    for kind, table in tables.items():
        at = [table.columns.index(column) for column in ("id", "name")]
        rows += [(kind, *(row[i] for i in at)) for row in table.rows]
    return Table(("kind", "id", "name"), rows)
