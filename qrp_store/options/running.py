"""Options that several commands take: where they compute, and how they treat what exists."""

from __future__ import annotations

from dataclasses import dataclass

from qrp_store.device import check_device
from qrp_store.options.declaring import Options, option


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """How a command treats what exists, and what others are writing."""

    force: bool = option(False, "Recompute even if it exists; creates a new version.", identity=False)
    wait: bool = option(
        True, "Exit 5 at once if another process is writing this.", flags=("--no-wait",), identity=False
    )


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """Where models, probes and K-means compute."""

    device: str = option(
        "auto",
        "Device that computes: auto, cpu, cuda or cuda:N.",
        metavar="auto|cpu|cuda|cuda:N",
        identity=False,
        check=check_device,
        choice=True,
    )


@dataclass(frozen=True, kw_only=True)
class WorkerOptions(Options):
    """How many threads read and compute."""

    workers: int | None = option(
        None, "Number of threads.", metavar="N", default_text="one per core", minimum=1, identity=False
    )


@dataclass(frozen=True, kw_only=True)
class SchedulerOptions(Options):
    """Which Dask workers compute."""

    scheduler: str | None = option(
        None,
        "Compute on the workers of this Dask scheduler (tcp://…), or local:N to start N local workers.",
        metavar="URL",
        identity=False,
    )
