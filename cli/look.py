"""ls, show, leaderboard, sql: looking at what is there."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated, Any, Literal

import typer

from qrp_store.records import Table

from . import output
from .completion import anything
from .options import DatasetFilter, FormatOption
from .session import Session, command

What = Literal["datasets", "backbones", "embeddings", "concepts", "clusterings", "results", "jobs", "recipes"]
OVERVIEW: tuple[What, ...] = ("datasets", "backbones", "embeddings", "concepts", "clusterings", "results")

_SETTING = ("dataset", "concepts", "clusters", "protocol", "setting")


def register(app: typer.Typer) -> None:
    command(app, "ls", example="qrp-store ls\nqrp-store ls results --format csv")(ls)
    command(app, "show", example="qrp-store show res-7f3a9c21")(show)
    command(app, "leaderboard", example="qrp-store leaderboard --dataset photos --format latex")(leaderboard)
    command(app, "sql", example='qrp-store sql "SELECT backbone, nmi_mean FROM leaderboard" --format csv')(sql)


def ls(
    session: Session,
    what: Annotated[What | None, typer.Argument(help="What to list.  [default: everything, in short]")] = None,
    form: FormatOption = None,
) -> None:
    """List what the store holds, or who is writing (jobs)."""
    from qrp_store.look import listing

    with session.open() as store:
        if what is not None:
            table = listing(store, what)
        else:
            table = _overview({kind: listing(store, kind) for kind in OVERVIEW})
    session.list(table, form, "qrp-store/ls/1")


def show(
    session: Session,
    reference: Annotated[
        str, typer.Argument(metavar="ID|NAME", autocompletion=anything, help="An id, a unique start of one, or a name.")
    ],
    form: FormatOption = None,
) -> None:
    """Show everything known about one thing."""
    from qrp_store.look import show

    with session.open() as store:
        found = show(store, reference)
    if form not in (None, "table", "json"):
        session.list(Table(("name", "value"), list(found.items())), form, "qrp-store/show/1")
        return
    replace(session, as_json=session.as_json or form == "json").show(found, output.details(found))


def leaderboard(session: Session, dataset: DatasetFilter = None, form: FormatOption = None) -> None:
    """Backbones ranked by normalised score, mean ± std over seeds; only equal settings are compared.

    Where `evaluate --forward` was asked for, the usual probes stand beside it, with the correlation of the rankings.
    """
    from qrp_store.look import leaderboard, rank_correlations

    with session.open() as store:
        table = leaderboard(store, dataset)
    for_reading = form == "table" or (form is None and not session.as_json)
    found = rank_correlations(table)
    more = {"rank_correlations": found} if found else {}
    if for_reading and sys.stdout.isatty():
        for setting, rows in _by_setting(_readable(table)):
            output.write(setting)
            session.list(rows, form, "")
            output.write("")
    else:
        session.list(_readable(table) if for_reading else table, form, "qrp-store/leaderboard/1", more)
    if for_reading:
        for row in found:
            output.write(_correlation(row))


def sql(
    session: Session,
    query: Annotated[
        str, typer.Argument(metavar="SELECT", help="One query that returns rows; the database refuses everything else.")
    ],
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Print at most N rows.")] = 100_000,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="S", help="Stop after S seconds (exit 8).  [default: never]")
    ] = None,
    form: FormatOption = None,
) -> None:
    """Query the catalog in SQL, read-only. docs/sql.md describes the views."""
    with session.open() as store:
        rows = store.sql(query, limit=limit, timeout=timeout)
    if rows.truncated:
        session.progress.warn(f"only the first {limit:,} rows are printed; the query has more (--limit N)")
    session.list(rows.table, form, "qrp-store/sql/1", {"truncated": True} if rows.truncated else None)


def _readable(table: Table) -> Table:
    """The leaderboard in fewer columns, with mean ± std in one."""
    named = table.named()
    spread = [
        {**r, "nmi": " ± ".join(f"{r[x]:.3f}" for x in ("nmi_mean", "nmi_std") if r[x] is not None)} for r in named
    ]
    scores = "rank backbone nmi mi_nats_mean top1_mean n_seeds"
    beside = [name for name in ("forward_metric", "linear_mean", "knn_mean") if any(r[name] is not None for r in named)]
    return output.table(spread, [*scores.split(), *beside, *_SETTING])


def _by_setting(board: Table) -> list[tuple[str, Table]]:
    """The readable leaderboard taken apart: what a setting is, and its backbones; itself when it is empty."""
    of: dict[str, list[dict[str, Any]]] = {}
    for row in board.named():
        of.setdefault(", ".join(f"{name} {output.cell(row[name])}" for name in _SETTING), []).append(row)
    columns = [name for name in board.columns if name not in _SETTING]
    return [(setting, output.table(rows, columns)) for setting, rows in of.items()] or [("no results yet", board)]


def _correlation(row: dict[str, Any]) -> str:
    rho = "none" if row["spearman"] is None else f"{row['spearman']:.2f}"
    where = ", ".join(output.cell(row[name]) for name in ("dataset", "concepts", "protocol", "setting"))
    both = f"NMI and {row['probe']} {row['metric']} over {row['n_backbones']} backbones"
    return f"Spearman's correlation of {both}: {rho} ({where}, K {row['clusters']})"


def _overview(tables: dict[What, Table]) -> Table:
    """Kind, id and name of everything, in one table."""
    rows = []
    for kind, table in tables.items():
        at = [table.columns.index(column) for column in ("id", "name")]
        rows += [(kind, *(row[i] for i in at)) for row in table.rows]
    return Table(("kind", "id", "name"), rows)
