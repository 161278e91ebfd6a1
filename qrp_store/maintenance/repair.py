"""The story of repair: restore damaged parts if that gives the same bytes; retire the artifact otherwise.

Ready artifacts never change, so a restored part must have the recorded checksum. Blocks are ingested again, centroids
come from K-means and weights from the probe, with the recorded options.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from qrp_store.arrays import blocked as arrays
from qrp_store.catalog.entities import clusterings, datasets, embeddings
from qrp_store.catalog.lifecycle import retire
from qrp_store.catalog.model.kinds import KINDS
from qrp_store.cluster.grouped import GROUPS
from qrp_store.cluster.quantize import UsableBlocks, place_for
from qrp_store.embedding import Embedding
from qrp_store.errors import Corrupt, InvalidInput, NotFound, QrpStoreError
from qrp_store.evaluate import probe
from qrp_store.evaluate.rerun import inputs_of
from qrp_store.ingest.rows import RowSource
from qrp_store.ingest.story import open_rows
from qrp_store.maintenance.integrity import METADATA, ROWS, Damage, examine
from qrp_store.maintenance.rows import restore_table
from qrp_store.options import ClusterOptions, RepairOptions, parse_memory, takes
from qrp_store.progress import Progress, silent
from qrp_store.records import StoredEmbedding
from qrp_store.store import Store

SCHEMA = "qrp-store/repair/1"


@dataclass(frozen=True)
class RepairReport:
    """What `repair` did with each damaged part: `mended` (how) or `failed` (why).

    `dropped` are the artifacts retired because of that, `left` the parts that stay damaged.
    """

    schema: str
    checked: dict[str, int]
    mended: tuple[dict[str, Any], ...]
    failed: tuple[dict[str, Any], ...]
    dropped: tuple[dict[str, Any], ...]
    left: tuple[dict[str, Any], ...]
    timings: dict[str, float]


@takes(RepairOptions)
def repair(store: Store, *, keep: bool = False, run_code: bool = False, progress: Progress = silent) -> RepairReport:
    """Read everything like `verify --deep`, and restore missing or damaged parts.

    An artifact with a part that cannot be restored to the same bytes is retired, unless `keep`. Artifacts made from it
    stay. Raise InvalidInput, before anything changes, if restoring would run code that the catalog names
    (`python/MODULE:FACTORY`), unless `run_code`.
    """
    started = time.perf_counter()
    checked, damages = examine(store, True, progress)
    if not run_code:
        _refuse_code(store, damages)
    job = _Repair(store, progress)
    for _, parts in groupby(damages, key=lambda damage: damage.id):
        job.mend(list(parts))
    failed = tuple(job.failed)
    lost = [row for row in failed if row["kind"] in KINDS]  # a dataset or the database itself is not retired
    dropped = {row["id"]: {name: row[name] for name in ("id", "kind", "name")} for row in lost if not keep}
    if dropped:
        retire.retire(store.catalog, list(dropped))
    return RepairReport(
        schema=SCHEMA,
        checked=checked.counts,
        mended=tuple(job.mended),
        failed=failed,
        dropped=tuple(dropped.values()),
        left=tuple(row for row in failed if keep or row["kind"] not in KINDS),
        timings={"total_s": time.perf_counter() - started},
    )


def _refuse_code(store: Store, damages: Sequence[Damage]) -> None:
    for identifier in {damage.id: None for damage in damages if damage.block is not None}:
        arch = embeddings.by_id(store.catalog, identifier).artifact.provenance.get("asked", {}).get("arch")
        if str(arch).startswith("python/"):
            raise InvalidInput(
                f"{identifier}: its blocks are computed by {arch}, code that the catalog names",
                hint="if you trust this store: qrp-store repair --run-code",
            )


@dataclass
class _Repair:
    """Restores the damaged parts of one artifact after the other."""

    store: Store
    progress: Progress
    mended: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)

    def mend(self, damages: Sequence[Damage]) -> None:
        """Restore every damaged part of one artifact that can be restored."""
        blocks = [d for d in damages if d.block is not None]
        for damage in damages:
            if damage.table is not None and damage.kind in KINDS:
                self._try([damage], self._table)
            elif damage.part == ROWS or damage.kind not in KINDS:
                self._fail(damage, "these rows exist only in the catalog: restore it from a backup")
            elif damage.part == METADATA:
                self._try([damage], self._metadata)
            elif damage.block is None:
                if damage.part == GROUPS:
                    self._fail(damage, "the groups came from a file; evaluate --group-by with it again")
                    continue
                self._try([damage], partial(ARRAYS[damage.kind], self))
        if blocks:
            self._try(blocks, self._blocks)

    def _try(self, damages: list[Damage], restore: Callable[[list[Damage]], Iterator[tuple[Damage, str]]]) -> None:
        open_ = {damage.part: damage for damage in damages}
        try:
            for damage, how in restore(damages):
                del open_[damage.part]
                self.mended.append({**asdict(damage), "how": how})
                self.progress.note(f"{damage.id} ({damage.name}) {damage.part}: {how}")
        except (NotFound, InvalidInput, Corrupt) as error:
            for damage in open_.values():
                self._fail(damage, error.message)
        except QrpStoreError as error:
            raise type(error)(f"{damages[0].id}: {error.message}", hint=error.hint) from error

    def _fail(self, damage: Damage, why: str) -> None:
        self.failed.append({**asdict(damage), "why": why})
        self.progress.warn(f"{damage.id} ({damage.name}) {damage.problem}; it cannot be restored: {why}")

    def _table(self, damages: list[Damage]) -> Iterator[tuple[Damage, str]]:
        (damage,) = damages
        assert damage.table is not None
        yield damage, restore_table(self.store, damage.kind, damage.id, damage.table, self.progress)

    def _metadata(self, damages: list[Damage]) -> Iterator[tuple[Damage, str]]:
        (damage,) = damages
        spec = embeddings.by_id(self.store.catalog, damage.id).array
        self.store.arrays.delete(f"{spec.path}/{METADATA}")
        arrays.create(self.store.arrays, spec, attributes=embeddings.attributes(self.store.catalog, damage.id))
        yield damage, "written from the catalog"

    def _blocks(self, damages: list[Damage]) -> Iterator[tuple[Damage, str]]:
        stored = embeddings.by_id(self.store.catalog, damages[0].id)
        known = {block.index: block for block in stored.blocks}
        damaged = {d.block: d for d in damages if d.block is not None and d.block in known}
        source, rows = self._source(stored)
        for number, made in zip(damaged, rows.blocks(stored.array, list(damaged)), strict=True):
            block = known[number]
            bad = [block.start + local for local in made.bad]
            arrays.write_block(
                self.store.arrays, stored.array, number, made.rows, bad, replace=True, expect=block.checksum
            )
            yield damaged[number], f"ingested again from {source}"
        if len(damaged) < len(damages):
            raise Corrupt("the catalog has no checksum of these blocks")

    def _source(self, stored: StoredEmbedding) -> tuple[str, RowSource]:
        """Open the source of the embedding again. Raise InvalidInput if it has changed."""
        provenance = stored.artifact.provenance
        # version 0.1.0 recorded nothing but the field of the array
        plain = {
            "arch": None,
            "keys": None,
            "key_root": None,
            "field": provenance.get("field"),
            "dtype": stored.array.dtype,
        }
        source = str(provenance.get("source"))
        rows = open_rows(self.store, source, stored.dataset, provenance.get("asked", plain), None, self.progress)
        datasets.require_same_backbone(stored.backbone, rows.outputs[0].backbone)
        if rows.content != stored.artifact.spec["content"]:
            raise InvalidInput(f"{source} has changed since it was ingested")
        return source, rows

    def _centroids(self, damages: list[Damage]) -> Iterator[tuple[Damage, str]]:
        (damage,) = damages
        made = clusterings.by_id(self.store.catalog, damage.id)
        row, provenance = made.row, made.artifact.provenance
        assert row.centroids_path is not None
        assert row.centroids_checksum is not None
        if "centroids_of" in provenance:
            other = clusterings.by_id(self.store.catalog, str(provenance["centroids_of"])).row
            centroids = arrays.load_array(self.store.arrays, str(other.centroids_path), row.centroids_checksum)
            how = f"copied from {provenance['centroids_of']}"
        else:
            centroids, how = self._clustered(made.artifact.spec["options"], damage.id, provenance), "clustered again"
        self._save(row.centroids_path, centroids, row.centroids_checksum)
        yield damage, how

    def _clustered(self, options: dict[str, Any], identifier: str, provenance: Any) -> np.ndarray:
        of = clusterings.embedding_id(self.store.catalog, identifier)
        assert of is not None, "an imported clustering has no centroids"
        stored = embeddings.by_id(self.store.catalog, of)
        training = {name: options[name] for name in ("niter", "sample", "init", "nredo", "normalize", "spherical")}
        seed = clusterings.by_id(self.store.catalog, identifier).row.seed
        settings = ClusterOptions(
            k=options["clusters"], seed=seed, engine=provenance["engine"], device=provenance["device"], **training
        )
        keys = datasets.keys(self.store.catalog, stored.dataset)
        blocks = UsableBlocks(Embedding(self.store.arrays, stored))
        with place_for(settings) as place:
            memory = parse_memory(settings.memory)
            return place.kmeans(blocks, keys, settings, memory, None, lambda state: None, self.progress).centroids

    def _weights(self, damages: list[Damage]) -> Iterator[tuple[Damage, str]]:
        from qrp_store.probing.runtime import using_threads

        (damage,) = damages
        inputs = inputs_of(self.store, damage.id)
        with using_threads(inputs.result.artifact.provenance.get("threads")):
            outcome = probe.run(self.store, inputs.clustering, inputs.joined, inputs.request, self.progress)
        row = inputs.result.row
        self._save(row["weights_path"], outcome.weights, row["weights_checksum"])
        yield damage, "trained again"

    def _save(self, path: str, array: np.ndarray, checksum: str) -> None:
        computed = arrays.whole_checksum(array)
        if computed != checksum:
            raise Corrupt(f"this machine computes other bytes (checksum {computed}, not {checksum})")
        arrays.save_array(self.store.arrays, path, array, replace=True)


ARRAYS: Mapping[str, Callable[[_Repair, list[Damage]], Iterator[tuple[Damage, str]]]] = {
    "clustering": _Repair._centroids,
    "result": _Repair._weights,
}
"""By kind of artifact: how `repair` computes its whole arrays again."""
