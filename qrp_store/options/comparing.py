"""The options of `compare`, `compare-concepts`, `rerun` and `selfcheck`."""

from __future__ import annotations

from dataclasses import dataclass

from qrp_store.device import check_device
from qrp_store.options.declaring import Options, plain_option
from qrp_store.options.running import DEVICE_HELP, DEVICES


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Options):
    """Which results of two backbones, or of two concept sets, are compared over their common seeds."""

    dataset: str | None = plain_option(None, "Only this dataset.", metavar="D", completes="datasets")
    concepts: str | None = plain_option(None, "Concept set of two backbones.", metavar="C", completes="concepts")
    k: int | None = plain_option(None, "K of two backbones.", flags=("-k", "--clusters"), metavar="K")
    protocol: str | None = plain_option(None, "Protocol of two backbones.", metavar="P")
    backbone: str | None = plain_option(
        None, "Backbone under which to compare two concept sets.", metavar="B", completes="backbones"
    )
    width: float | None = plain_option(
        None, "Report how many seeds an interval of this width takes.", metavar="W", above=0
    )


@dataclass(frozen=True, kw_only=True)
class PairOptions(Options):
    """How two single results are compared."""

    anyway: bool = plain_option(False, "Compare even if dataset, concepts or protocol differ; report the difference.")
    bootstrap: int = plain_option(1000, "Bootstrap replicates of the confidence interval.", metavar="N", minimum=0)
    seed: int = plain_option(0, "Random seed of the bootstrap.", metavar="SEED")


@dataclass(frozen=True, kw_only=True)
class AgreementOptions(Options):
    """Which concept sets are compared."""

    dataset: str | None = plain_option(
        None, "Dataset of both sets.", metavar="D", default_text="the only one that has them", completes="datasets"
    )


@dataclass(frozen=True, kw_only=True)
class RerunOptions(Options):
    """Where a result is recomputed. None: on the device that computed it."""

    device: str | None = plain_option(
        None,
        DEVICE_HELP,
        metavar=DEVICES,
        default_text="the device that computed it",
        check=check_device,
        choice=True,
    )


@dataclass(frozen=True, kw_only=True)
class RerunCheckOptions(Options):
    """What a difference means."""

    check: bool = plain_option(False, "Exit 1 unless the numbers agree.")


@dataclass(frozen=True, kw_only=True)
class SelfcheckOptions(Options):
    """Where the cases are computed."""

    device: str = plain_option("cpu", DEVICE_HELP, metavar=DEVICES, check=check_device, choice=True)
