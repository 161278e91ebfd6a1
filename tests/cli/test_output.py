"""Listings in every format: for people rounded and safe to look at, for machines complete."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from qrp_store.cli import output
from qrp_store.records import Table
from qrp_store.samples import width

NASTY = 'a|b,"c" <script> é 🦊 \x1b[31m & 50 % _x_'
TABLE = Table(
    ("name", "nmi", "n", "note"),
    [(NASTY, 0.123456789012, 3, None), ("b", None, 12_000, "x" * 300), ("c", 12345.678, -1, "line\nbreak")],
)


def test_json_keeps_everything() -> None:
    shown = json.loads(output.listing(TABLE, "json", "qrp-store/ls/1"))
    assert shown["schema"] == "qrp-store/ls/1"
    assert [tuple(row.values()) for row in shown["rows"]] == TABLE.rows
    assert list(shown["rows"][0]) == list(TABLE.columns)


def test_jsonl_is_one_document_a_row() -> None:
    lines = output.listing(TABLE, "jsonl", "s").splitlines()
    assert [tuple(json.loads(line).values()) for line in lines] == TABLE.rows


def test_csv_reads_back() -> None:
    header, *rows = csv.reader(io.StringIO(output.listing(TABLE, "csv", "s"), newline=""))
    assert header == list(TABLE.columns)
    assert rows[0] == [NASTY, "0.123456789012", "3", ""]
    assert rows[1][3] == "x" * 300
    assert rows[2][3] == "line\nbreak"


def test_a_piped_table_is_plain_aligned_and_whole() -> None:
    lines = output.listing(TABLE, "table", "s").splitlines()
    assert len(lines) == 4
    assert "x" * 300 in lines[2]
    assert "0.1235" in lines[1]
    ends = {width(line[: line.index(n)]) + len(n) for line, n in zip(lines[1:], (" 3", "12000", "-1"), strict=True)}
    assert len(ends) == 1


def test_wide_characters_keep_the_columns_of_a_piped_table() -> None:
    rows = Table(("name", "nmi"), [("ネットワーク", 0.5), ("a\u0301é", 0.25), ("🦊 fox", 1.0)])
    lines = output.listing(rows, "table", "s").splitlines()
    assert {width(line) for line in lines} == {12 + 2 + 4}


def test_a_terminal_never_sees_control_characters_or_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Table(("key",), [("[bold]\x1b[2J\rx[/bold]",)])
    assert "\x1b[2J" not in output.listing(rows, "table", "s")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    shown = output.listing(rows, "table", "s")
    assert "\\x1b[2J\\rx" in shown
    assert "[bold]" in shown


def test_what_is_the_same_in_every_row_stands_above_a_table_too_wide_for_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    rows = Table(
        ("dataset", "backbone", "nmi"),
        [("imagenet-validation", "resnet-50", 0.5), ("imagenet-validation", "vit-base", 0.4)],
    )
    shown = output.listing(rows, "table", "s")
    assert shown.count("imagenet-validation") == 1
    assert all(text in shown for text in ("dataset imagenet-validation", "resnet-50", "vit-base", "0.5", "0.4"))
    monkeypatch.setenv("COLUMNS", "100")
    assert output.listing(rows, "table", "s").count("imagenet-validation") == 2


def test_a_narrow_terminal_folds_names_and_never_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    names = ("backbone", "mi_nats_mean", "top1_mean", "linear_mean")
    long = ("a_long_name_of_a_backbone_" * 3, "ネットワーク" * 5)
    rows = Table(names, [(long[0], 0.00123456, 0.87654, 0.5), (long[1], -1.5, 0.25, 1.0)])
    shown = re.sub(r"\x1b\[\d+m", "", output.listing(rows, "table", "s"))
    assert all(number in shown for number in ("0.001235", "0.8765", "-1.5", "linear_"))
    assert max(map(width, shown.splitlines())) <= 60
    ids = output.table([{"id": f"emb-36687eac66e{i}", "array_url": "/a/long/path/" * 9, "n": i} for i in range(2)])
    assert "emb-36687eac66e1 " in output.listing(ids, "table", "s")
    monkeypatch.setenv("COLUMNS", "30")
    shown = output.listing(rows, "table", "s")
    assert "mi_nats_mean  0.001235" in shown
    assert shown.count("linear_mean") == 2


def test_markdown_escapes_its_own_signs() -> None:
    lines = output.listing(TABLE, "md", "s").splitlines()
    assert lines[1] == "|---|---:|---:|---|"
    assert "a\\|b" in lines[2]
    assert "<script>" not in lines[2]
    assert len(lines) == 5


def test_latex_escapes_its_own_signs() -> None:
    shown = output.listing(TABLE, "latex", "s")
    assert r"\& 50 \% \_x\_" in shown
    assert shown.startswith(r"\begin{tabular}{lrrl}")
    assert shown.count(r"\\") == 4
    assert r"\textbar{}" in shown
    assert r"\textless{}script\textgreater{}" in shown
    assert "\n{[}" in output.listing(Table(("name",), [("[50] layers",)]), "latex", "s")


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv", "md", "latex"])
def test_a_listing_without_rows_still_shows_its_columns_or_nothing(form: output.Format) -> None:
    shown = output.listing(Table(("id", "name"), []), form, "s")
    assert shown == "" if form == "jsonl" else ("id" in shown or json.loads(shown)["rows"] == [])


@dataclass(frozen=True)
class Report:
    id: str
    nmi: float
    sizes: dict[str, int]
    results: tuple[tuple[int, ...], ...]


def test_a_report_becomes_plain_json() -> None:
    report = Report("res-1", float("nan"), {"min": np.int64(3)}, ((1, 2), ()))  # type: ignore[dict-item]
    shown = json.loads(output.to_json(report))
    assert shown == {"id": "res-1", "nmi": None, "sizes": {"min": 3}, "results": [[1, 2], []]}
    assert type(output.document(np.float32(0.5))) is float
