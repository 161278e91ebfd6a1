"""The plan of a call of `evaluate`, made before any computation: `--dry-run` prints it, a run executes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qrp_store.catalog.entities import clusterings
from qrp_store.catalog.entities.clusterings import StoredClustering
from qrp_store.catalog.lifecycle import lease
from qrp_store.cluster.grouped import Groups, grouped_spec
from qrp_store.cluster.imported import find_with_seed, named
from qrp_store.cluster.story import requested
from qrp_store.errors import Interrupted, QrpStoreError
from qrp_store.evaluate.data import JoinedConcepts, ProbeRequest
from qrp_store.evaluate.extras import check, missing
from qrp_store.options import ClusterOptions, ExtraOptions
from qrp_store.records import Artifact, Dataset, Spec, fingerprint
from qrp_store.store import Store

_EXISTS, _IMPORTED, _TO_MAKE = "there", "imported", "to make"


@dataclass(frozen=True, eq=False)
class Job:
    """What all results of one call share."""

    store: Store
    dataset: Dataset
    request: ProbeRequest
    groups: Groups | None
    wanted: ExtraOptions
    force: bool
    scheduler: str | None = None


@dataclass(frozen=True, eq=False)
class Turn:
    """A backbone, K and seed; with `options` None, the name of an existing clustering and a seed."""

    name: str
    seed: int | None
    options: ClusterOptions | None


@dataclass(frozen=True, eq=False)
class Item:
    """One result of a plan.

    `clustering` and `result` are None if they do not exist yet. `missing` are the extra scores to compute. An item
    with an `error` is skipped. `facts` describe the clustering: backbone, clusters, seed, n, dim.
    """

    turn: Turn
    joined: JoinedConcepts
    facts: Mapping[str, Any]
    clustering: StoredClustering | None
    result: Artifact | None
    missing: ExtraOptions
    imported: bool = False
    error: QrpStoreError | None = None

    def document(self, extras: ExtraOptions) -> dict[str, Any]:
        """Return the item as a line of `--dry-run`."""
        clustering = _EXISTS if self.clustering is not None else _TO_MAKE
        return {
            "backbone": self.facts["backbone"],
            "concepts": self.joined.name,
            **self.facts,
            "clustering": _IMPORTED if self.imported else clustering,
            "result": _EXISTS if self.result is not None else _TO_MAKE,
            **{name: _TO_MAKE if getattr(self.missing, name) else _EXISTS for name in extras.named},
        }


@dataclass(frozen=True, eq=False)
class Plan:
    """Every result of a call, in order. `failed` maps each turn that cannot run to its error."""

    job: Job
    turns: tuple[Turn, ...]
    items: tuple[Item, ...]
    failed: Mapping[Turn, QrpStoreError]

    def lines(self) -> list[dict[str, Any]]:
        """Return the items without an error, as `--dry-run` prints them."""
        return [item.document(self.job.wanted) for item in self.items if item.error is None]


def plan(job: Job, turns: Sequence[Turn], sets: Sequence[JoinedConcepts]) -> Plan:
    """Return the plan: which results exist for every turn and concept set. Only reads; an item keeps its error."""
    items: list[Item] = []
    failed: dict[Turn, QrpStoreError] = {}
    for turn in turns:
        try:
            items += list(_items(job, turn, sets))  # all items of a turn or none
        except Interrupted:
            raise
        except QrpStoreError as error:
            failed[turn] = error
            items += (Item(turn, joined, {}, None, None, job.wanted, error=error) for joined in sets)
    return Plan(job, tuple(turns), tuple(items), failed)


def _items(job: Job, turn: Turn, sets: Sequence[JoinedConcepts]) -> Iterator[Item]:
    store = job.store
    existing: StoredClustering | None = None
    clustering: StoredClustering | None
    if turn.options is None:
        existing, seed = named(store, job.dataset.name, turn.name, turn.seed)
        row = existing.row
        facts = {"backbone": row.backbone, "clusters": row.clusters, "seed": seed, "n": row.n, "dim": row.dim}
        clustering = find_with_seed(store, job.dataset, existing, seed)
    else:
        stored, options, spec = requested(store, job.dataset.name, turn.name, turn.options)
        facts = {"backbone": stored.backbone.name, "clusters": options.clusters, "seed": options.seed}
        facts |= {"n": stored.usable, "dim": stored.array.dim}
        clustering = _find(store, spec)
    if clustering is not None and job.groups is not None:
        clustering = _find(store, grouped_spec(clustering, job.groups))
    imported = existing is not None and bool(existing.artifact.spec["options"].get("imported"))
    for joined in sets:
        yield _item(job, Item(turn, joined, facts, clustering, None, job.wanted, imported), existing)


def _item(job: Job, item: Item, existing: StoredClustering | None) -> Item:
    """Return the item with its existing result, or with the error of its concepts."""
    try:
        check(job.store, existing, item.joined, job.wanted)
    except QrpStoreError as error:
        return replace(item, error=error)
    if item.clustering is None or job.force:
        return item
    result = lease.find(job.store.catalog, result_spec(job, item.clustering, item.joined))
    if result is None:
        return item
    left = missing(job.store, result.id, item.clustering, item.joined, job.request, job.wanted)
    return replace(item, result=result, missing=left)


def _find(store: Store, spec: Spec) -> StoredClustering | None:
    artifact = lease.find(store.catalog, spec)
    return None if artifact is None else clusterings.by_id(store.catalog, artifact.id)


def result_spec(job: Job, clustering: StoredClustering, joined: JoinedConcepts) -> Spec:
    """Return the specification of the result of a clustering and joined concept sets."""
    options, algorithm = job.request.document(), job.request.algorithm(clustering)
    made_by = clustering.artifact.spec
    setting = {
        "dataset": job.dataset.fingerprint,
        "concepts": [part.artifact.identity for part in joined.parts],
        "clustering": made_by.get("options"),
        "probe": options,
        "algorithm": algorithm,
    }
    document = {
        "algorithm": algorithm,
        "dataset": job.dataset.fingerprint,
        "clustering": clustering.artifact.identity,
        "concepts": [part.artifact.identity for part in joined.parts],
        "concept_names": joined.name,
        "options": options,
        "seed": clustering.row.seed,
        "setting": fingerprint(setting)[:12],
    }
    series = fingerprint(["result", clustering.artifact.series, joined.name, options])
    return Spec("result", f"{clustering.artifact.name} {joined.name}", series, document)
