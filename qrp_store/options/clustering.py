"""The options of `cluster`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from qrp_store.errors import InvalidInput
from qrp_store.options.declaring import Options, option, plain_option, required
from qrp_store.options.running import DeviceOptions, SchedulerOptions, WorkerOptions
from qrp_store.samples import Match

Init = Literal["random", "kmeans++", "greedy-kmeans++"]
Engine = Literal["auto", "faiss", "torch"]
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_memory(size: str | int) -> int:
    """Return bytes: a number, or one with KB, MB, GB, TB (powers of 1000) or KiB, MiB, … (powers of 1024)."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", str(size).upper())
    if match is None or match[2] not in _UNITS or float(match[1]) == 0:
        raise InvalidInput(f"--memory {size!r}: expected something like 2GB or 512MiB")
    return int(float(match[1]) * _UNITS[match[2]])


def _check_memory(size: str | int) -> str | int:
    parse_memory(size)
    return size


@dataclass(frozen=True, kw_only=True)
class PlaceOptions(SchedulerOptions, WorkerOptions, DeviceOptions):
    """Where K-means runs, and with how much memory. Provenance: no number depends on it."""

    engine: Engine = option("auto", "Backend that finds the nearest centroid.", identity=False)
    memory: str | int = option(
        "2GB", "Memory for rows in flight, e.g. 200MB.", metavar="SIZE", identity=False, check=_check_memory
    )


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Options):
    """How K-means finds its centroids, apart from K and the seed."""

    niter: int = option(25, "Number of K-means iterations.", metavar="N", minimum=1, maximum=1_000_000)
    sample: int | Literal["all"] | None = option(
        None, "Number of rows that K-means trains on.", metavar="all|N", default_text="256 per centroid"
    )
    init: Init = option("random", "Centroid initialisation.")
    nredo: int = option(
        1, "Number of restarts; the best objective wins.", metavar="N", minimum=1, maximum=1_000_000_000
    )
    normalize: bool = option(False, "Scale every row to length 1 first.")
    spherical: bool = option(False, "Scale every centroid to length 1 after each iteration.")


@dataclass(frozen=True, kw_only=True)
class KMeansTraining(PlaceOptions, TrainingOptions):
    """How K-means runs, and where."""

    def at(self, k: int | Literal["auto"], seed: int) -> ClusterOptions:
        """Return the options of one clustering."""
        return ClusterOptions(k=k, seed=seed, **vars(self))


_MOST_CLUSTERS, _ROWS_PER_CLUSTER = 1000, 50
K_TEXT = f"auto: rows / {_ROWS_PER_CLUSTER}, from 2 to {_MOST_CLUSTERS}"


def automatic_k(usable: int) -> int:
    """Return how many clusters `-k auto` means for that many usable rows."""
    return min(_MOST_CLUSTERS, max(2, usable // _ROWS_PER_CLUSTER))


def suggested_k(k: int, usable: int) -> str:
    """Return the words that end a hint about an unfit K: what `-k auto` would be. Empty when that is no other K."""
    suggestion = automatic_k(usable)
    return f"; -k auto would be {suggestion}" if k != suggestion <= usable else ""


@dataclass(frozen=True, kw_only=True)
class PartitionOptions(Options):
    """How many clusters, and from which seed."""

    k: int | Literal["auto"] = option(
        "auto",
        "Number of clusters.",
        flags=("-k", "--clusters"),
        metavar="auto|K",
        default_text=K_TEXT,
        recorded="clusters",
    )
    seed: int = option(0, "Random seed of initialisation, sample and split.", metavar="SEED")


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(KMeansTraining, PartitionOptions):
    """One clustering by K-means."""

    @property
    def clusters(self) -> int:
        """Return K as a number: for options whose K is resolved."""
        assert self.k != "auto", "K is resolved for the rows of an embedding first"
        return self.k

    def document(self) -> dict[str, Any]:
        """Return what changes a number, apart from the seed."""
        return {name: value for name, value in self.identity().items() if name != "seed"}


@dataclass(frozen=True, kw_only=True)
class ClusterSource(Options):
    """What to cluster: an embedding by K-means or by another clustering's centroids, or assignments from a file."""

    dataset: str = required("Name of the dataset.", metavar="D", completes="datasets")
    backbone: str | None = option(None, "Backbone: NAME or NAME@VERSION.", metavar="B", completes="backbones")
    source: str | None = option(
        None,
        "Import assignments made elsewhere: .npy in dataset order, or a table key,cluster.",
        flags=("--import",),
        metavar="FILE",
    )
    name: str | None = option(None, "Name of the imported clustering.", metavar="N")
    match: Match = plain_option("key", "Part of a key of --import that must agree with the dataset's.")
    centroids_of: str | None = option(None, "Assign rows to the centroids of this clustering.", metavar="ID")
