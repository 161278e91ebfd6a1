"""The story of rerun: recompute a result from its row and compare every number."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qrp_store.arrays.blocked import load_array
from qrp_store.catalog.entities import clusterings, results
from qrp_store.catalog.entities.clusterings import StoredClustering
from qrp_store.catalog.entities.results import StoredResult
from qrp_store.catalog.model.values import CLOSE, TABLES, ConceptScore, ResultValues, entries
from qrp_store.catalog.overview import references
from qrp_store.errors import InvalidInput
from qrp_store.evaluate import probe
from qrp_store.evaluate.data import JoinedConcepts, ProbeRequest
from qrp_store.evaluate.probe import Outcome
from qrp_store.options import RerunOptions, takes
from qrp_store.progress import Progress, silent
from qrp_store.store import Store

SCHEMA = "qrp-store/rerun/1"
TOLERANCE = CLOSE
_EPOCH = ("epoch", "train_loss", "val_cross_entropy", "weight_decay")


@dataclass(frozen=True)
class ResultInputs:
    """What a stored result was computed from."""

    result: StoredResult
    clustering: StoredClustering
    joined: JoinedConcepts
    request: ProbeRequest


@dataclass(frozen=True)
class Difference:
    """A value that differs. For the column of a table it is the largest difference, for text it is infinite."""

    name: str
    stored: float | None
    recomputed: float | None
    difference: float


@dataclass(frozen=True)
class RerunReport:
    """A recomputed result. `equal`: bit-identical; `agrees`: within the tolerances (`tolerance` 0: bit-identical)."""

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


def inputs_of(store: Store, reference: str, device: str | None = None) -> ResultInputs:
    """Return the inputs of the result with this id or name; `device` None is the device that computed it.

    Raise NotFound if the result, its clustering or one of its concept sets no longer exists.
    """
    target = references.resolve(store.catalog, reference)
    if target.kind != "result":
        raise InvalidInput(f"{reference!r} is a {target.kind}, not a result", hint="qrp-store ls results")
    stored = results.by_id(store.catalog, target.id)
    document = stored.artifact.spec
    return ResultInputs(
        stored,
        clusterings.by_id(store.catalog, stored.clustering_id),
        JoinedConcepts(document["concept_names"], results.concepts_of(store.catalog, target.id)),
        ProbeRequest.of(document["options"], device or stored.row["device"]),
    )


@takes(RerunOptions)
def rerun(store: Store, reference: str, *, device: str | None = None, progress: Progress = silent) -> RerunReport:
    """Train and score a result's probe again, from its stored clustering, split, concepts, options and seed.

    Nothing is written. On the CPU it uses the recorded number of threads. With the same library versions and
    instruction set every value must be bit-identical; otherwise each must agree within its tolerance
    (`catalog.model.values`).
    """
    from qrp_store.probing.runtime import using_threads

    inputs = inputs_of(store, reference, device)
    _require_same_algorithm(inputs)
    recorded = inputs.result.artifact.provenance
    started = time.perf_counter()
    with using_threads(recorded.get("threads")):
        outcome = probe.run(store, inputs.clustering, inputs.joined, inputs.request, progress)
        now = outcome.provenance
    same = all(recorded.get(k) == now[k] for k in ("device", "threads", "instructions", "versions"))
    same = same and now["device"] == "cpu"
    before = _stored(store, inputs.result)
    differences = tuple(_differences(before, _recomputed(outcome)))
    row = inputs.result.row
    return RerunReport(
        schema=SCHEMA,
        id=inputs.result.artifact.id,
        dataset=row["dataset"],
        backbone=row["backbone"],
        concepts=row["concepts"],
        nmi=outcome.row(0.0)["nmi"],
        equal=not differences,
        agrees=not differences if same else all(map(_within, differences)),
        tolerance=0.0 if same else TOLERANCE,
        differences=differences,
        n_compared=len(before),
        device=outcome.fit.device,
        threads=now["threads"],
        timings={"total_s": time.perf_counter() - started},
    )


def _require_same_algorithm(inputs: ResultInputs) -> None:
    """Raise InvalidInput for a result of another version of the method."""
    artifact = inputs.result.artifact
    version, now = artifact.spec.get("algorithm", 1), inputs.request.algorithm(inputs.clustering)
    if version != now:
        message = (
            f"{artifact.id} was computed by version {version} of the method; this qrp-store computes version {now}"
        )
        raise InvalidInput(
            message, hint="evaluate again for a new result, or rerun it with the qrp-store named by `show --json`"
        )


Column = NDArray[np.float64] | list[str | None]
"""A value, a column of a table in the order of its keys, or an array; texts as a list."""


def _within(difference: Difference) -> bool:
    """Whether another device or library version may cause a difference of this size."""
    tolerance = _TOLERANCES.get(difference.name)
    return tolerance is None or difference.difference <= tolerance


_TOLERANCES: Mapping[str, float | None] = {
    **{entry.name: entry.about.tolerance for entry in entries(ResultValues)},
    **{f"{view}.{entry.name}": entry.about.tolerance for view, of in TABLES.items() for entry in entries(of)},
}


def _differences(stored: Mapping[str, Column], recomputed: Mapping[str, Column]) -> Iterator[Difference]:
    for name, before in stored.items():
        now = recomputed[name]
        if isinstance(before, list) or isinstance(now, list):
            if before != now:
                yield Difference(name, None, None, float("inf"))
        elif before.shape != now.shape:
            yield Difference(name, None, None, float("inf"))
        elif not np.array_equal(before, now, equal_nan=True):
            # a number in place of NaN counts as an infinite difference
            gap = np.where(np.isnan(before) & np.isnan(now), 0, np.abs(before - now))
            single = before.ndim == 0
            yield Difference(
                name,
                float(before) if single else None,
                float(now) if single else None,
                float(np.nan_to_num(gap, nan=np.inf).max()),
            )


def _stored(store: Store, result: StoredResult) -> dict[str, Column]:
    """Return every recomputable value of a result by name, without values that older versions did not store."""
    identifier, row = result.artifact.id, result.row
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for view, of in TABLES.items():
        columns = ", ".join(entry.name for entry in entries(of))
        query = f"SELECT {columns} FROM {view} WHERE result_id = ?"
        rows[view] = store.sql(query, (identifier,)).table.rows
    weights = load_array(store.arrays, row["weights_path"], row["weights_checksum"])
    values = _values(results.values(store.catalog, identifier) | {"history": row["history"]}, rows, weights)
    young = {f"{view}.{entry.name}" for view, of in TABLES.items() for entry in entries(of) if entry.about.young}
    young |= {entry.name for entry in entries(ResultValues) if entry.about.young}
    if not rows["concept_scores"]:  # results of version 0.1 have none
        young |= {f"concept_scores.{entry.name}" for entry in entries(ConceptScore)}
    return {name: value for name, value in values.items() if name not in young or not _empty(value)}


def _empty(value: Column) -> bool:
    return not any(text is not None for text in value) if isinstance(value, list) else bool(np.isnan(value).all())


def _recomputed(outcome: Outcome) -> dict[str, Column]:
    rows: dict[str, Sequence[tuple[Any, ...]]] = {
        "cluster_scores": outcome.cluster_scores(),
        "cluster_concepts": outcome.cluster_concepts(),
        "group_scores": outcome.group_scores(),
        "concept_scores": outcome.concept_scores(),
    }
    return _values(outcome.row(0.0), rows, outcome.weights)


def _values(
    row: Mapping[str, Any], tables: Mapping[str, Sequence[tuple[Any, ...]]], weights: np.ndarray
) -> dict[str, Column]:
    epochs = [[epoch[name] for name in _EPOCH] for epoch in row["history"]]
    result: dict[str, Column] = {
        entry.name: np.array(row[entry.name], np.float64) for entry in entries(ResultValues) if entry.about.checked
    }
    for view, of in TABLES.items():
        declared = entries(of)
        keys = [number for number, entry in enumerate(declared) if entry.about.key]
        ordered = sorted(tables[view], key=lambda values: [values[number] for number in keys])
        for number, entry in enumerate(declared):
            column = [values[number] for values in ordered]
            result[f"{view}.{entry.name}"] = column if entry.kind is str else np.array(column, np.float64)
    return {**result, "history": np.array(epochs, np.float64), "weights": weights.astype(np.float64)}
