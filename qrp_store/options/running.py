"""Options of several commands: the store, where to compute, and how to treat what exists."""

from __future__ import annotations

from dataclasses import dataclass

from qrp_store.device import check_device
from qrp_store.options.declaring import Options, plain_option

DEVICES = "auto|cpu|cuda|cuda:N"
DEVICE_HELP = "Device that computes: auto, cpu, cuda or cuda:N."


@dataclass(frozen=True, kw_only=True)
class SharedOptions(Options):
    """What every command takes, before or after its name."""

    store: str | None = plain_option(
        None, "Store: a directory or postgresql://…", metavar="DIR|URL", default_text="$QRP_STORE, else qrp-data"
    )
    arrays: str | None = plain_option(
        None,
        "Location of its arrays: a directory or s3://…",
        metavar="DIR|URL",
        default_text="$QRP_STORE_ARRAYS, else as recorded",
    )
    as_json: bool = plain_option(False, "Print one JSON document on stdout, also for errors.", flags=("--json",))
    quiet: bool = plain_option(False, "Hide progress bars and notes; keep warnings.")
    verbose: bool = plain_option(False, "Log more to stderr, with tracebacks.")


@dataclass(frozen=True, kw_only=True)
class WaitOptions(Options):
    """What happens while another process is writing the same artifact."""

    wait: bool = plain_option(True, "Exit 5 at once if another process is writing this.", flags=("--no-wait",))


@dataclass(frozen=True, kw_only=True)
class ForceOptions(Options):
    """What happens to an artifact that exists."""

    force: bool = plain_option(False, "Recompute even if it exists; creates a new version.")


@dataclass(frozen=True, kw_only=True)
class RunOptions(WaitOptions, ForceOptions):
    """How a command treats what exists, and what others are writing."""


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """Where models, probes and K-means compute."""

    device: str = plain_option("auto", DEVICE_HELP, metavar=DEVICES, check=check_device, choice=True)


@dataclass(frozen=True, kw_only=True)
class WorkerOptions(Options):
    """How many threads read and compute."""

    workers: int | None = plain_option(None, "Number of threads.", metavar="N", default_text="one per core", minimum=1)


@dataclass(frozen=True, kw_only=True)
class SchedulerOptions(Options):
    """Which Dask workers compute."""

    scheduler: str | None = plain_option(
        None,
        "Compute on the workers of this Dask scheduler (tcp://…), or local:N to start N local workers.",
        metavar="URL",
    )
