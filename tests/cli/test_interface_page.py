"""docs/interface.md says all of the surface, and every test that it names is there."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from qrp_store.cli.boundary import EXIT_CODES
from qrp_store.cli.main import build
from qrp_store.cluster.story import ClusterReport
from qrp_store.evaluate.compare import CompareReport
from qrp_store.evaluate.compare_backbones import BackbonesReport
from qrp_store.evaluate.forecast import Estimate
from qrp_store.evaluate.rerun import RerunReport
from qrp_store.evaluate.result import Result
from qrp_store.evaluate.selfcheck import SelfcheckReport
from qrp_store.evaluate.story import EvaluateReport
from qrp_store.export.story import ExportReport
from qrp_store.ingest.story import IngestReport
from qrp_store.label.agreement import AgreementReport, ConceptAgreement
from qrp_store.label.story import LabelReport
from qrp_store.maintenance.copy import CopyReport
from qrp_store.maintenance.gc import GcReport
from qrp_store.maintenance.removal import MigrateReport, RetireReport, VerifyReport
from qrp_store.maintenance.repair import RepairReport
from qrp_store.report.story import ReportReport
from qrp_store.store import InitReport

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "interface.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", PAGE.split("## JSON")[1].split("### ")[0], flags=re.M))
REPORTS: dict[str, Any] = {
    "`init`": InitReport,
    "`ingest`": IngestReport,
    "`label`": LabelReport,
    "`cluster`": ClusterReport,
    "`evaluate`": EvaluateReport,
    "each of `evaluate`'s `results`": Result,
    "`evaluate`'s `estimate`": Estimate,
    "`compare`": (CompareReport, BackbonesReport),
    "`compare-concepts`": AgreementReport,
    "each of `compare-concepts`' `rows`": ConceptAgreement,
    "`rerun`": RerunReport,
    "`selfcheck`": SelfcheckReport,
    "`report`": ReportReport,
    "`export`": ExportReport,
    "`verify`": VerifyReport,
    "`repair`": RepairReport,
    "`rm`": RetireReport,
    "`gc`": GcReport,
    "`copy`": CopyReport,
    "`migrate`": MigrateReport,
}
INNER = {"`evaluate`": {"exit_kind", "error"}}  # they become the exit code and every command's `error`


def test_every_test_that_is_named_is_there() -> None:
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", PAGE)
    assert len(named) > 60
    for file, test in named:
        (path,) = (ROOT / "tests").rglob(file)
        assert re.search(rf"^def {test}\(", path.read_text(encoding="utf-8"), flags=re.M), f"{file}::{test}"


def test_every_row_of_promises_names_a_test() -> None:
    promised, held = re.split(r"^## JSON$|^### What the numbers are$", PAGE, flags=re.M)[::2]
    rows = re.findall(r"^\| (?!promise|command|code|number|input|---).*$", promised + held, flags=re.M)
    assert rows
    assert not [row for row in rows if not re.search(r"`test_\w+\.py::\w+` \|$", row)]


def test_every_command_has_a_promise_and_a_document() -> None:
    commands = set(get_command(build()).commands)  # type: ignore[attr-defined]
    section = PAGE.split("## Commands")[1].split("## Exit codes")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", section, flags=re.M)) == commands
    assert {name for row in ROWS for name in re.findall(r"`([\w-]+)`", row)} - {
        "results",
        "estimate",
        "rows",
    } == commands


def test_every_exit_code_has_its_kind() -> None:
    section = PAGE.split("## Exit codes")[1].split("## JSON")[0]
    assert {kind: int(code) for code, kind in re.findall(r"^\| (\d+) \| `(\w+)` \|", section, flags=re.M)} == EXIT_CODES


@pytest.mark.parametrize("document", REPORTS)
def test_every_key_of_a_document_stands_on_the_page(document: str) -> None:
    reports = REPORTS[document] if isinstance(REPORTS[document], tuple) else (REPORTS[document],)
    keys = {field.name for report in reports for field in dataclasses.fields(report)} - INNER.get(document, set())
    assert {key for quoted in re.findall(r"`([^`]+)`", ROWS[document]) for key in quoted.split()} == keys
