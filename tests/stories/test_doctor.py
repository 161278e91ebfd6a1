"""Doctor finds what is planted, on every kind of store, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qrp_store.arrays import health as arrays_checkup
from qrp_store.arrays.directory import Directory
from qrp_store.arrays.root import Bytes
from qrp_store.catalog.database import health
from qrp_store.errors import Unavailable
from qrp_store.maintenance.doctor import DoctorReport, doctor
from qrp_store.records import Finding
from qrp_store.store import create_store, open_store


def by_check(report: DoctorReport) -> dict[str, Finding]:
    return {finding.check: finding for finding in report.findings}


def test_a_healthy_store_in_a_directory(tmp_path: Path) -> None:
    create_store(str(tmp_path / "s"))
    report = doctor(str(tmp_path / "s"))
    assert report.ok
    assert report.exit_kind is None
    found = by_check(report)
    assert found["arrays: conditional writes"].found == "1 of 32 won"
    assert "journal mode wal" in found["catalog: database"].found
    assert found["catalog: pages"].status == "ok"
    assert "MB/s" in found["arrays: throughput"].found
    assert sorted(p.name for p in (tmp_path / "s" / "arrays").iterdir() if p.is_file()) == ["qrp-store.json"]
    assert not list((tmp_path / "s" / "arrays").rglob("doctor/*"))


def test_postgres_and_s3(tmp_path: Path, new_database: Callable[[], str], new_bucket: Callable[[], str]) -> None:
    url, bucket = new_database(), new_bucket()
    create_store(url, f"{bucket}/team")
    report = doctor(url)
    found = by_check(report)
    assert report.ok, report.findings
    assert found["catalog: database"].found.startswith("Postgres 1")
    assert found["catalog: role"].found.endswith("is a superuser")
    assert found["catalog: role"].status == "warning"
    assert "roles.sql" in str(found["catalog: role"].advice)
    assert found["catalog: pooler"].status == "ok"
    assert found["catalog: fsync"].status == "warning"  # the tests' server is told not to
    assert "fsync = on" in str(found["catalog: fsync"].advice)
    assert found["arrays: write, read, list, delete"].found.endswith(f"{bucket}/team")
    assert "of 32 won" in found["arrays: conditional writes"].found
    with open_store(url) as store:
        assert list(store.arrays.list("doctor")) == []


class Careless(Directory):
    """A root that lets everybody win."""

    def put(self, path: str, *parts: Bytes, replace: bool = False, durable: bool = True) -> None:
        super().put(path, *parts, replace=True, durable=durable)


class Stale(Directory):
    """A root whose reads come from before."""

    def get(self, path: str) -> bytes:
        return super().get(path) and b"one"


@pytest.mark.parametrize(("kind", "check"), [(Careless, "conditional writes"), (Stale, "write, read, list, delete")])
def test_a_store_of_objects_that_breaks_a_promise_is_told(tmp_path: Path, kind: type[Directory], check: str) -> None:
    found = {finding.check: finding for finding in arrays_checkup.examine(kind(tmp_path))}
    assert found[f"arrays: {check}"].status in ("warning", "problem")
    assert found[f"arrays: {check}"].advice


@pytest.mark.parametrize(("writer", "status"), [(True, "problem"), (False, "warning")])
def test_arrays_that_one_may_only_read_are_no_problem_for_who_only_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: bool, status: str
) -> None:
    create_store(str(tmp_path / "s"))

    def refuse(*args: object, **more: object) -> None:
        raise Unavailable("cannot write: Access Denied", hint="check the keys")

    monkeypatch.setattr(Directory, "put", refuse)
    monkeypatch.setattr(health, "may_write", lambda catalog: writer)
    report = doctor(str(tmp_path / "s"))
    assert (report.ok, report.exit_kind) == ((False, "failed") if writer else (True, None))
    found = by_check(report)["arrays: write"]
    assert (found.status, "Access Denied" in found.found, "check the keys" in str(found.advice)) == (status, True, True)


@pytest.mark.parametrize("build", ["faiss-gpu", "faiss-gpu-cu13-cuvs"])
def test_two_builds_of_faiss_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: str) -> None:
    other = tmp_path / "site" / f"{build.replace('-', '_')}-1.15.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {build}\nVersion: 1.15.1\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    create_store(str(tmp_path / "s"))
    report = doctor(str(tmp_path / "s"))
    assert (report.ok, report.exit_kind) == (False, "failed")
    assert "pip uninstall" in str(by_check(report)["faiss"].advice)


@pytest.mark.parametrize(("mode", "status"), [("WAL", "problem"), ("DELETE", "warning")])
def test_sqlite_on_a_network_file_system_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, status: str
) -> None:
    create_store(str(tmp_path / "s"))
    monkeypatch.setattr(health, "filesystem", lambda path: "nfs4")
    with open_store(str(tmp_path / "s")) as store:
        with store.catalog.engine.raw_connection() as raw:
            raw.cursor().execute(f"PRAGMA journal_mode = {mode}")
        found = {finding.check: finding for finding in health.examine(store.catalog)}
    assert found["catalog: file system"].status == status
    assert "postgres" in str(found["catalog: file system"].advice).lower()


def test_a_store_that_cannot_be_opened_is_a_finding_beside_the_machines(tmp_path: Path) -> None:
    report = doctor(str(tmp_path / "no"))
    assert report.exit_kind == "not_found"
    assert {"machine", "versions", "faiss", "cuda", "store"} == set(by_check(report))
    create_store(str(tmp_path / "s"))
    (tmp_path / "s" / "arrays" / "qrp-store.json").unlink()
    report = doctor(str(tmp_path / "s"))
    assert by_check(report)["catalog: database"].status == "ok"
    assert "mount them" in str(by_check(report)["store"].advice)
