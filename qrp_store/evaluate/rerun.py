"""The story of rerun: a result computed again from what its row says, and compared with what it holds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrp_store.arrays.blocked import load_array
from qrp_store.catalog.entities import clusterings, results
from qrp_store.catalog.entities.clusterings import StoredClustering
from qrp_store.catalog.entities.results import StoredResult
from qrp_store.catalog.overview import references
from qrp_store.errors import InvalidInput
from qrp_store.evaluate import probe
from qrp_store.evaluate.data import JoinedConcepts, ProbeRequest
from qrp_store.evaluate.probe import Outcome
from qrp_store.progress import Progress, silent
from qrp_store.store import Store

SCHEMA = "qrp-store/rerun/1"
TOLERANCE = 1e-3
"""How far scores (nats, or fractions) may be off where equal bits are not promised: another device, version or CPU."""
_SCORES = [
    "entropy_nats",
    "cross_entropy_nats",
    "mi_nats",
    "mi_bits",
    "nmi",
    "nmi_ci_lo",
    "nmi_ci_hi",
    "top1",
    "top5",
    "train_loss",
    "train_cross_entropy_nats",
    "entropy_miller_madow_nats",
    "null_nmi_mean",
    "null_nmi_std",
    "nmi_adjusted",
]
_OTHERS = [
    "n_train",
    "n_val",
    "n_test",
    "n_concepts",
    "grad_norm",
    "converged",
    "epochs_run",
    "best_epoch",
    "weight_decay",
    "n_permutations",
    "p_value",
]
_EPOCH = ["epoch", "train_loss", "val_cross_entropy", "weight_decay"]


@dataclass(frozen=True)
class Asked:
    """What a stored result is the answer to."""

    result: StoredResult
    clustering: StoredClustering
    joined: JoinedConcepts
    request: ProbeRequest


@dataclass(frozen=True)
class Difference:
    """A number that did not come out the same. For tables of numbers, the largest difference stands alone."""

    name: str
    stored: float | None
    recomputed: float | None
    difference: float


@dataclass(frozen=True)
class RerunReport:
    """A result computed again. `equal`: to the bit; `agrees`: as close as promised (`tolerance` 0: equal)."""

    schema: str
    id: str
    dataset: str
    backbone: str
    concepts: str
    nmi: float | None
    equal: bool
    agrees: bool
    tolerance: float
    differences: tuple[Difference, ...]
    n_compared: int
    device: str
    threads: int
    timings: dict[str, float]


def asked(store: Store, reference: str, device: str | None = None) -> Asked:
    """The question behind the result that an id or name means; `device` None is the one it was computed on.

    Raises NotFound when it, its clustering or one of its concept sets is not there any more.
    """
    found = references.resolve(store.catalog, reference)
    if found.kind != "result":
        raise InvalidInput(f"{reference!r} is a {found.kind}, not a result", hint="qrp-store ls results")
    stored = results.by_id(store.catalog, found.id)
    document = stored.artifact.spec
    return Asked(
        stored,
        clusterings.by_id(store.catalog, stored.clustering_id),
        JoinedConcepts(document["concept_names"], results.concepts_of(store.catalog, found.id)),
        ProbeRequest.of(document["options"], device or stored.row["device"]),
    )


def rerun(store: Store, reference: str, *, device: str | None = None, progress: Progress = silent) -> RerunReport:
    """Train and score a result's probe again, from its stored clustering, split, concepts, options and seed.

    Nothing is written. On the CPU it uses as many threads as the first time, and has to be equal to the bit when
    library versions and instruction set are the same; else scores have to agree within TOLERANCE.
    """
    from qrp_store.probing.device import using_threads

    question = asked(store, reference, device)
    _require_same_algorithm(question)
    recorded = question.result.artifact.provenance
    started = time.perf_counter()
    with using_threads(recorded.get("threads")):
        outcome = probe.run(store, question.clustering, question.joined, question.request, progress)
        now = outcome.provenance
    same = all(recorded.get(k) == now[k] for k in ("device", "threads", "instructions", "versions"))
    same = same and now["device"] == "cpu"
    before = _stored(store, question.result)
    differences = tuple(_differences(before, _recomputed(outcome)))
    matter = [d for d in differences if same or d.name in (*_SCORES, "group_scores")]
    tolerance = 0.0 if same else TOLERANCE
    row = question.result.row
    return RerunReport(
        schema=SCHEMA,
        id=question.result.artifact.id,
        dataset=row["dataset"],
        backbone=row["backbone"],
        concepts=row["concepts"],
        nmi=outcome.row(0.0)["nmi"],
        equal=not differences,
        agrees=all(d.difference <= tolerance for d in matter),
        tolerance=tolerance,
        differences=differences,
        n_compared=len(before),
        device=outcome.fit.device,
        threads=now["threads"],
        timings={"total_s": time.perf_counter() - started},
    )


def _require_same_algorithm(question: Asked) -> None:
    """Raise InvalidInput for a result of an older version of the method, whose numbers this one does not compute."""
    artifact = question.result.artifact
    made, now = artifact.spec.get("algorithm", 1), question.request.algorithm
    if made != now:
        told = f"{artifact.id} was computed by version {made} of the method; this qrp-store computes version {now}"
        raise InvalidInput(
            told, hint="evaluate again for a new result, or rerun it with the qrp-store named by `show --json`"
        )


def _differences(stored: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> Iterator[Difference]:
    for name, before in stored.items():
        now = found[name]
        if before.shape != now.shape:
            yield Difference(name, None, None, float("inf"))
        elif not np.array_equal(before, now, equal_nan=True):
            # a number where there was none is as far off as can be
            gap = np.where(np.isnan(before) & np.isnan(now), 0, np.abs(before - now))
            single = before.ndim == 0
            yield Difference(
                name,
                float(before) if single else None,
                float(now) if single else None,
                float(np.nan_to_num(gap, nan=np.inf).max()),
            )


def _stored(store: Store, result: StoredResult) -> dict[str, np.ndarray]:
    """Every number of a result by name, as float64; tables of them as arrays."""
    row = result.row
    tables = [
        store.sql(f"SELECT {columns} WHERE result_id = ?", (result.artifact.id,)).table.rows
        for columns in (
            "cluster, n_test, cross_entropy_nats, top1, mi_nats FROM cluster_scores",
            "concept_group, role, nmi, mi_nats FROM group_scores",
            "rank, concept, concept_group, n_train, n_test, nmi, mi_nats FROM concept_scores",
        )
    ]
    weights = load_array(store.arrays, row["weights_path"], row["weights_checksum"])
    return _numbers(row, tables[0], tables[1], tables[2], weights)


def _recomputed(outcome: Outcome) -> dict[str, np.ndarray]:
    return _numbers(
        outcome.row(0.0), outcome.cluster_scores(), outcome.group_scores(), outcome.concept_scores(), outcome.weights
    )


def _numbers(
    row: Mapping[str, Any],
    clusters: Sequence[tuple[Any, ...]],
    groups: Sequence[tuple[Any, ...]],
    alone: Sequence[tuple[Any, ...]],
    weights: np.ndarray,
) -> dict[str, np.ndarray]:
    epochs = [[epoch[name] for name in _EPOCH] for epoch in row["history"]]
    return {
        **{name: np.array(row[name], np.float64) for name in (*_SCORES, *_OTHERS)},
        "history": np.array(epochs, np.float64),
        "cluster_scores": np.array(sorted(clusters), np.float64),
        "group_scores": np.array([score[2:] for score in sorted(groups)], np.float64),
        # results of version 0.1 do not know them
        **({"concept_scores": np.array([score[3:] for score in sorted(alone)], np.float64)} if alone else {}),
        "weights": weights.astype(np.float64),
    }
