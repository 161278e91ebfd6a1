"""leaderboard: backbones ranked, each setting in a table of its own."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import typer

from qrp_store.errors import InvalidInput, near_names
from qrp_store.options import ColumnOptions, Format, FormatOptions, LeaderboardOptions
from qrp_store.records import Table

from . import output
from .session import Session, command

SETTING = ("dataset", "concepts", "clusters", "protocol", "setting")
_LEGEND = (
    "NMI: mean ± standard deviation over seeds. In brackets: the ranks that are possible at a family-wise error of 5 % "
    "(paired t tests over seeds, Holm). =: not significantly below the first."
)


def register(app: typer.Typer) -> None:
    command(
        app,
        "leaderboard",
        example=(
            "qrp-store leaderboard --dataset photos\n"
            "qrp-store leaderboard --concepts objects -k 1000 --protocol tight --format latex"
        ),
    )(leaderboard)


def leaderboard(
    session: Session, selection: LeaderboardOptions, layout: ColumnOptions, output_format: FormatOptions
) -> None:
    """Rank backbones by mean NMI over seeds, separately for each setting.

    With at least three common seeds, each rank has an interval. After `evaluate --forward`, the scores of the forward
    probes and the correlation of the two rankings are shown as well.
    """
    from qrp_store.look import leaderboard, permuted_controls, rank_correlations

    with session.open() as store:
        board = leaderboard(store, **selection.values())
        controls = permuted_controls(store, board)
    columns, form = layout.columns, output_format.form
    correlations = rank_correlations(board)
    for_reading = form in ("table", "md", "latex") or (form is None and not session.as_json)
    chosen = _chosen(board, columns, for_reading)
    notes = _notes(board, controls)
    if form in ("md", "latex") or (for_reading and sys.stdout.isatty()):
        for about, rows in by_setting(chosen, board):
            _write(about, rows, form, notes[about])
    else:
        kept = chosen if columns or not for_reading else output.table(_joined(chosen, board))
        session.list(
            kept, form, "qrp-store/leaderboard/1", {"rank_correlations": correlations} if correlations else None
        )
    if for_reading and form in (None, "table"):
        for row in correlations:
            output.write(_correlation(row))
        if board.rows and not columns:
            session.progress.note(_LEGEND)
            for note in dict.fromkeys(filter(None, (_chance(row) for row in controls.values()))):
                session.progress.note(note)
    _warn(session, board)


def _warn(session: Session, board: Table) -> None:
    """Say once what the ranking cannot tell, and which results are no measurement."""
    rows = board.named()
    unknown = [row for row in rows if row["rank_lo"] is None]
    if unknown:
        session.progress.note(
            f"{len(unknown)} of {len(rows)} ranks have no interval: it needs at least three common seeds "
            f"(qrp-store evaluate --dataset {unknown[0]['dataset']} --seed 0 1 2)"
        )
    failed = sum(row["n_failed"] for row in rows)
    if failed:
        session.progress.warn(
            f"training failed in {failed} of {sum(row['n_seeds'] for row in rows)} results (n_failed): "
            "try --protocol tight, or a lower --lr"
        )


def _chosen(board: Table, columns: Sequence[str], for_reading: bool) -> Table:
    """The columns that are asked for: those named, for reading a few, otherwise those of the view."""
    rows = [{**row, "nmi": _nmi(row), "ranks": _ranks(row)} for row in board.named()]
    if columns:
        names = [name for name in columns if name]
        known = [*board.columns, "nmi", "ranks"]
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            name = unknown[0] if unknown else ""
            raise InvalidInput(f"--columns: the leaderboard has no column {name!r}", hint=near_names(name, known))
        return output.table(rows, names)
    if not for_reading:
        return board
    optional = [n for n in ("forward_metric", "linear_mean", "knn_mean") if any(r[n] is not None for r in rows)]
    optional += [name for name in ("series", "position") if name in board.columns]
    optional += ["n_failed"] if any(row["n_failed"] for row in rows) else []
    scores = ["ranks", "backbone", "nmi", "mi_nats_mean", "top1_mean", "effective_clusters_mean", "n_seeds"]
    table = output.table(rows, [*scores, *optional])
    headings = {"ranks": "rank", "effective_clusters_mean": "effective_clusters"}
    return Table(tuple(headings.get(name, name) for name in table.columns), table.rows)


def _nmi(row: dict[str, Any]) -> str:
    return " ± ".join(f"{row[name]:.3f}" for name in ("nmi_mean", "nmi_std") if row[name] is not None)


def _ranks(row: dict[str, Any]) -> str:
    """The rank, its interval, and = where the backbone cannot be told from the first."""
    if row["rank_lo"] is None:
        return str(row["rank"])
    interval = f"{row['rank']} ({row['rank_lo']}–{row['rank_hi']})"
    return f"{interval} =" if row["rank_lo"] == 1 < row["rank"] else interval


def by_setting(chosen: Table, board: Table) -> list[tuple[str, Table]]:
    """What each setting is, and its rows of `chosen`; one empty table without results."""
    of: dict[str, list[tuple[Any, ...]]] = {}
    for row, shown in zip(board.named(), chosen.rows, strict=True):
        of.setdefault(_about(row), []).append(shown)
    return [(about, Table(chosen.columns, rows)) for about, rows in of.items()] or [("no results yet", chosen)]


def _about(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {output.cell(row[name])}" for name in SETTING)


def _notes(board: Table, controls: dict[tuple[Any, ...], dict[str, Any]]) -> defaultdict[str, str]:
    """The legend of each setting's table, with the p-values where there are permuted controls."""
    notes = defaultdict(lambda: _LEGEND)
    for row in board.named():
        control = controls.get(tuple(row[name] for name in SETTING))
        notes[_about(row)] = f"{_LEGEND} {_chance(control)}" if control else _LEGEND
    return notes


def _chance(control: dict[str, Any]) -> str:
    return (
        f"Against permuted concepts p ≤ {control['p_value_max']:.2g} in each result; "
        f"{control['n_permutations']} controls give no p-value below {control['p_value_min']:.2g}."
    )


def _joined(chosen: Table, board: Table) -> list[dict[str, Any]]:
    """The chosen columns with those of the setting, for one table of everything."""
    return [
        {**shown, **{name: row[name] for name in SETTING}}
        for shown, row in zip(chosen.named(), board.named(), strict=True)
    ]


def _write(about: str, rows: Table, form: Format | None, note: str) -> None:
    """Write one setting's table with its heading. LaTeX needs the package booktabs."""
    text = output.listing(rows, form or "table", "")
    if form == "latex":
        caption = output.latex(f"{about[:1].upper()}{about[1:]}. {note}")
        output.write(
            f"% needs \\usepackage{{booktabs}}\n\\begin{{table}}\n\\caption{{{caption}}}\n{text}\n\\end{{table}}\n"
        )
    elif form == "md":
        output.write(f"**{output.markdown(about)}**\n\n{text}\n\n{note}\n")
    else:
        output.write(f"{about}\n{text}\n")


def _correlation(row: dict[str, Any]) -> str:
    rho = "none" if row["spearman"] is None else f"{row['spearman']:.2f}"
    if row["spearman_lo"] is not None:
        rho += f" [{row['spearman_lo']:.2f}, {row['spearman_hi']:.2f}]"
    where = ", ".join(output.cell(row[name]) for name in ("dataset", "concepts", "protocol", "setting"))
    both = f"NMI and {row['probe']} {row['metric']} over {row['n_backbones']} backbones"
    return f"Spearman's correlation of {both}: {rho} ({where}, K {row['clusters']})"
