"""The story of doctor: check this store and this machine, with advice for each problem."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from qrp_store import __version__
from qrp_store.arrays import health as arrays_checkup
from qrp_store.catalog.database import health as catalog_checkup
from qrp_store.catalog.database.engine import filesystem
from qrp_store.errors import QrpStoreError, Unavailable
from qrp_store.execution import available_cores
from qrp_store.progress import Progress, silent
from qrp_store.records import Finding
from qrp_store.store import Store, open_store

SCHEMA = "qrp-store/doctor/1"
_LIBRARIES = (
    *("numpy", "zarr", "sqlalchemy", "alembic", "pyarrow", "psycopg", "obstore"),
    *("torch", "torchvision", "timm", "dask", "distributed"),
)


@dataclass(frozen=True)
class DoctorReport:
    """All findings. `ok`: none is a problem; `error` and `exit_kind` describe a store that cannot be opened."""

    schema: str
    ok: bool
    findings: tuple[Finding, ...]
    error: dict[str, Any] | None
    exit_kind: str | None


def doctor(store: str | None = None, arrays: str | None = None, *, progress: Progress = silent) -> DoctorReport:
    """Probe machine, catalog and arrays. Write only test objects, and remove them."""
    findings = list(_machine())
    error: QrpStoreError | None = None
    with progress.task("doctor", None, "findings") as task:
        task.advance(len(findings))
        try:
            with open_store(store, arrays) as opened:
                findings.append(Finding("store", "ok", f"{opened.name}: {catalog_checkup.contents(opened.catalog)}"))
                findings += catalog_checkup.examine(opened.catalog)
                task.advance(len(findings))
                findings += _arrays(opened)
        except QrpStoreError as failure:
            error = failure
            findings.append(Finding("store", "problem", failure.message, failure.hint))
    ok = all(finding.status != "problem" for finding in findings)
    document = None if error is None else {"kind": error.kind, "message": error.message, "hint": error.hint}
    kind = error.kind if error is not None else None if ok else QrpStoreError.kind
    return DoctorReport(SCHEMA, ok, tuple(findings), document, kind)


def _arrays(store: Store) -> Iterator[Finding]:
    root = store.arrays
    if not root.url.startswith("s3://"):
        yield Finding("arrays: file system", "ok", filesystem(Path(root.url)) or "unknown")
        yield catalog_checkup.free_space(Path(root.url), "arrays")
    try:
        yield from arrays_checkup.examine(root)
    except Unavailable as refused:  # opening the store has shown that it can be read
        status = "problem" if catalog_checkup.may_write(store.catalog) else "warning"
        advice = f"reading needs no more; to write: {refused.hint}"
        yield Finding("arrays: write", status, refused.message, advice)  # type: ignore[arg-type]


def _machine() -> Iterator[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    where = f"{platform.system()} {platform.machine()}, {available_cores()} cores, {memory:.0f} GB of memory"
    yield Finding("machine", "ok", where)
    installed = {name: _version(name) for name in _LIBRARIES}
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in installed.items())
    yield Finding("versions", "ok", f"qrp-store {__version__}, Python {platform.python_version()}, {versions}")
    yield _faiss()
    yield _cuda()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _faiss() -> Finding:
    from qrp_store.kmeans.nearest import faiss_builds

    builds = faiss_builds()
    installed = " and ".join(builds)
    if len(builds) > 1:
        names = " ".join(build.split(" ")[0] for build in builds)
        advice = f"they overwrite each other: pip uninstall {names}, then install one of them"
        return Finding("faiss", "problem", installed, advice)
    if not builds:
        return Finding("faiss", "warning", "not installed", "pip install 'qrp-store[cpu]'; reading needs none")
    return Finding("faiss", "ok", installed)


def _cuda() -> Finding:
    """Check that the installed GPU packages fit together, without importing them (seconds, and much memory)."""
    devices = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    torch = _version("torch")
    runtimes = sorted(
        f"{name} {distribution.version}"
        for distribution in metadata.distributions()
        if (name := distribution.name or "").startswith("nvidia-cuda-runtime")
    )
    devices_text = (
        f"{len(devices)} NVIDIA devices, torch {torch or 'missing'}, CUDA runtimes: {', '.join(runtimes) or 'none'}"
    )
    if len(runtimes) > 1:
        advice = (
            "two CUDA runtimes in one process are untested: prefer faiss-cpu with torch, and --engine torch on GPUs"
        )
        return Finding("cuda", "warning", devices_text, advice)
    if devices and torch is None:
        return Finding("cuda", "warning", devices_text, "pip install 'qrp-store[gpu]' to use the GPU")
    return Finding("cuda", "ok", devices_text)
