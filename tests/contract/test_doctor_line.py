"""doctor, as a command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def test_doctor_prints_findings_as_rows_and_its_exit_code_says_whether_there_is_a_problem(
    qrp: Any, store: Path, tmp_path: Path
) -> None:
    report = qrp.ok("doctor", store=store)
    assert report["ok"]
    assert {"check", "status", "found", "advice"} == set(report["rows"][0])
    checks = {row["check"]: row for row in report["rows"]}
    assert "1 of 32 won" in checks["arrays: conditional writes"]["found"]
    assert {row["status"] for row in report["rows"]} <= {"ok", "warning"}
    assert "conditional writes" in qrp.run("doctor", "--format", "csv", store=store).out
    ran = qrp.run("doctor", "--json", store=tmp_path / "nowhere")
    assert ran.code == 3
    assert ran.json["error"]["kind"] == "not_found"
    assert "qrp-store init" in ran.json["error"]["hint"]
    assert not (tmp_path / "nowhere").exists()
