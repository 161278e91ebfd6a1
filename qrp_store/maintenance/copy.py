"""The story of copy: from one store into another; fingerprints, versions and ids stay.

gather: the artifact and all its inputs; nothing is written if one of them conflicts with the target. compute: read,
verify and write blocks; blocks of an interrupted copy are reused. commit: one artifact at a time, inputs first, so that
an interrupted copy resumes. Results also get the extra scores added since, even if the target already had the result.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from qrp_store import execution
from qrp_store.arrays import blocked as arrays
from qrp_store.catalog.entities import datasets, embeddings, extra_scores
from qrp_store.catalog.lifecycle import lease
from qrp_store.catalog.overview import references, transfer
from qrp_store.catalog.overview.transfer import Parcel
from qrp_store.embedding import Embedding
from qrp_store.errors import Busy, Corrupt, InvalidInput, NotFound
from qrp_store.ingest.resume import standing_blocks
from qrp_store.options import WaitOptions, takes
from qrp_store.progress import Progress, silent
from qrp_store.records import Artifact, Backbone, Block, Dataset, Spec, StoredEmbedding
from qrp_store.samples import shown
from qrp_store.store import Store

SCHEMA = "qrp-store/copy/1"
_AT_ONCE = 4  # concurrent blocks: enough to hide the latency of a bucket


@dataclass(frozen=True)
class CopyReport:
    """What `copy` did: artifacts `copied`, and those `found` in the target; inputs first. `bytes`: blocks written.

    `scores` counts the copied rows of extra scores: forward scores, curves and thresholds.
    """

    schema: str
    id: str
    name: str
    to: str
    copied: tuple[dict[str, object], ...]
    found: tuple[dict[str, object], ...]
    blocks: dict[str, int]
    bytes: int
    scores: int
    cached: bool
    timings: dict[str, float]


@takes(WaitOptions)
def copy(source: Store, target: Store, reference: str, *, wait: bool = True, progress: Progress = silent) -> CopyReport:
    """Copy an artifact, named by name or id, with all its inputs into another store.

    A dataset or a backbone is copied with everything made from it. Artifacts that the target has are reused. Raise
    InvalidInput, before anything is written, if a name means something else in the target.
    """
    started = time.perf_counter()
    artifact = references.resolve(source.catalog, reference)
    if artifact.state != "ready":
        raise InvalidInput(f"{artifact.id} is retired", hint="qrp-store ls")
    parcels = transfer.parcels(source.catalog, artifact)
    if not parcels:
        raise NotFound(f"nothing of {artifact.kind} {artifact.name!r} is complete", hint="qrp-store ls embeddings")
    job = _Copy(source, target, wait, progress)
    job.check(parcels)
    with progress.task(f"copy {artifact.name}", len(parcels), "artifacts") as task:
        for parcel in parcels:
            job.take(parcel)
            task.advance()
    return CopyReport(
        schema=SCHEMA,
        id=artifact.id,
        name=artifact.name,
        to=target.name,
        copied=tuple(job.copied),
        found=tuple(job.found),
        blocks=job.blocks,
        bytes=job.bytes,
        scores=job.scores,
        cached=not job.copied and not job.scores,
        timings={"total_s": time.perf_counter() - started},
    )


@dataclass
class _Copy:
    """The state of one copy. `copied_ids` maps ids of the source to ids of the target."""

    source: Store
    target: Store
    wait: bool
    progress: Progress
    copied_ids: dict[str, str] = field(default_factory=dict)
    copied: list[dict[str, object]] = field(default_factory=list)
    found: list[dict[str, object]] = field(default_factory=list)
    blocks: dict[str, int] = field(default_factory=lambda: {"total": 0, "written": 0, "reused": 0})
    bytes: int = 0
    scores: int = 0

    def check(self, parcels: list[Parcel]) -> None:
        """Raise InvalidInput if a name means different things in the two stores."""
        for dataset in {p.dataset.name: p.dataset for p in parcels}.values():
            self._check_dataset(dataset)
        for name in {p.backbone: None for p in parcels if p.backbone is not None}:
            known = datasets.find_backbone(self.target.catalog, name)
            if known is not None:
                datasets.require_same_backbone(known, self._backbone(name).spec)
        for parcel in parcels:
            counterpart = transfer.counterpart(self.source.catalog, self.target.catalog, parcel.artifact)
            if counterpart is not None:
                self._check_same_bytes(parcel.artifact, counterpart)

    def take(self, parcel: Parcel) -> None:
        """Copy one artifact, unless the target has it, and its extra scores."""
        original, catalogs = parcel.artifact, (self.source.catalog, self.target.catalog)
        try:
            with ExitStack() as stack:
                made = self._held(original, stack)
                if isinstance(made, lease.Held):
                    self._write(parcel, made)
        except Busy:  # another process has written this version meanwhile: reuse it if it is the same
            copied = transfer.counterpart(self.source.catalog, self.target.catalog, original)
            if copied is None:
                raise
            made = copied
        if isinstance(made, Artifact):
            self._check_same_bytes(original, made)
        identifier = made.id if isinstance(made, Artifact) else made.claim.id
        self.copied_ids[original.id] = identifier
        row: dict[str, object] = {"kind": original.kind, "id": identifier, "name": original.name}
        row["version"] = made.version if isinstance(made, Artifact) else original.version
        (self.found if isinstance(made, Artifact) else self.copied).append(row)
        if original.kind == "result":
            self.scores += extra_scores.bring(*catalogs, original.id, identifier)

    def _write(self, parcel: Parcel, work: lease.Held) -> None:
        dataset = self._dataset(parcel.dataset)
        if parcel.artifact.kind == "embedding":
            self._embedding(parcel, work.claim, dataset, work.heartbeat)
            return
        self._arrays(parcel.artifact, work.claim)
        inputs: Mapping[str, str] = {source_id: self.copied_ids[source_id] for source_id in parcel.inputs}
        catalogs = self.source.catalog, self.target.catalog
        transfer.write_rows(*catalogs, work.claim, parcel.artifact, dataset, inputs)

    def _held(self, original: Artifact, stack: ExitStack) -> Artifact | lease.Held:
        """Return the target's same version, or a lease to write it until `stack` closes. Wait for another writer."""
        spec = Spec(original.kind, original.name, original.series, original.spec)
        force = False
        while True:
            counterpart = transfer.counterpart(self.source.catalog, self.target.catalog, original)
            if counterpart is not None:
                return counterpart
            work = stack.enter_context(
                lease.find_or_hold(
                    self.target.catalog,
                    spec,
                    force=force,
                    wait=self.wait,
                    progress=self.progress,
                    identifier=original.id,
                )
            )
            if isinstance(work, lease.Held):
                return work
            force = work.version != original.version  # another version of the same fingerprint is not this one

    def _check_dataset(self, original: Dataset) -> None:
        existing = datasets.find_dataset(self.target.catalog, original.name)
        if existing is None:
            return
        self._require_same_keys(original, existing)
        before = datasets.image_files(self.target.catalog, existing)
        changed = [
            position
            for position, (_, _, digest) in datasets.image_files(self.source.catalog, original).items()
            if digest is not None and before.get(position, (0, 0, None))[2] not in (None, digest)
        ]
        if changed:
            keys = datasets.keys(self.source.catalog, original)
            examples = ", ".join(shown(keys[position]) for position in sorted(changed)[:5])
            raise InvalidInput(
                f"{len(changed)} images of dataset {original.name!r} have other bytes in {self.target.name}: "
                f"{examples}",
                hint="they are other images: ingest them as another --dataset, then copy that",
            )

    def _require_same_keys(self, original: Dataset, existing: Dataset) -> None:
        if existing.fingerprint != original.fingerprint:
            differing = self._first_difference(original, existing)
            raise InvalidInput(
                f"dataset {original.name!r} has other keys in {self.target.name} "
                f"({existing.n}, here {original.n}): {differing}",
                hint="ingest and label under another --dataset name, then copy that",
            )

    def _first_difference(self, original: Dataset, existing: Dataset) -> str:
        ours, others = datasets.keys(self.source.catalog, original), datasets.keys(self.target.catalog, existing)
        pairs = enumerate(zip(ours, others, strict=False))
        at = next((i for i, (a, b) in pairs if a != b), min(len(ours), len(others)))
        keys_there_and_here = [shown(keys[at]) if at < len(keys) else "nothing" for keys in (others, ours)]
        return (
            f"the first difference is at position {at}: {keys_there_and_here[0]} there, {keys_there_and_here[1]} here"
        )

    def _check_same_bytes(self, original: Artifact, existing: Artifact) -> None:
        """Raise InvalidInput if two machines computed different bytes for the same fingerprint."""
        if original.kind == "result":  # weights may differ by rounding; their clustering is the same
            return
        ours = transfer.array_checksums(self.source.catalog, original)
        others = transfer.array_checksums(self.target.catalog, existing)
        differing = [name for name in ours if name in others and ours[name] != others[name]]
        if differing:
            raise InvalidInput(
                f"{original.kind} {original.name!r} version {original.version} was also made in {self.target.name} "
                f"({existing.id}), on another machine and with other bytes: "
                f"{differing[0]} and {len(differing) - 1} more differ",
                hint=f"qrp-store rm {existing.id} there, or make a new version here (--force) and copy that",
            )

    def _backbone(self, name: str) -> Backbone:
        backbone = datasets.find_backbone(self.source.catalog, name)
        assert backbone is not None, f"an embedding of backbone {name!r} is ready"
        return backbone

    def _dataset(self, original: Dataset) -> Dataset:
        existing = datasets.find_dataset(self.target.catalog, original.name)
        if existing is not None:
            self._require_same_keys(original, existing)  # it may have been created since `check`
            return existing
        keys = datasets.keys(self.source.catalog, original)
        root = datasets.image_root(self.source.catalog, original)
        return datasets.stage_dataset(self.target.catalog, original.name, keys, original.fingerprint, root)

    def _embedding(self, parcel: Parcel, claimed: lease.Claim, dataset: Dataset, heartbeat: lease.Heartbeat) -> None:
        stored = embeddings.by_id(self.source.catalog, parcel.artifact.id)
        backbone = datasets.stage_backbone(self.target.catalog, stored.backbone.name, stored.backbone.spec)
        requested = replace(stored.array, path=f"{claimed.path}/{embeddings.MEMBER}")
        layout, recorded = embeddings.begin(self.target.catalog, claimed, dataset, backbone, requested)
        known = {b.index: b.checksum for b in stored.blocks}
        # blocks of an interrupted ingest in the target may hold other rows, or have another size
        spoiled = {b.index for b in recorded if layout != requested or known.get(b.index) != b.checksum}
        kept = standing_blocks(self.target, claimed, layout, recorded, spoiled)
        named = embeddings.attributes(self.target.catalog, claimed.id)
        arrays.create(self.target.arrays, layout, attributes=named)
        files = datasets.image_files(self.source.catalog, parcel.dataset)
        reader = Embedding(self.source.arrays, stored)

        def write(number: int) -> Block:
            heartbeat.check()
            start, count = layout.rows_of(number)
            rows = reader[start : start + count]
            bad = [p for p in stored.bad if start <= p < start + count]
            block = arrays.write_block(self.target.arrays, layout, number, rows, bad)
            seen = [(i, *files[i]) for i in range(start, start + count) if i in files]
            embeddings.record_blocks(self.target.catalog, claimed, dataset, [(block, seen)])
            return block

        missing = [number for number in range(layout.n_blocks) if number not in kept]
        with self.progress.task(f"copy {parcel.artifact.name}", len(missing), "blocks") as task:
            for block in execution.run(write, missing, workers=_AT_ONCE):
                self._expect(stored, block)
                self.bytes += block.nbytes
                task.advance()
        self.blocks["total"] += layout.n_blocks
        self.blocks["written"] += len(missing)
        self.blocks["reused"] += len(kept)
        self.target.arrays.sync(layout.path)  # data before the catalog row that promises it
        catalogs = self.source.catalog, self.target.catalog
        transfer.commit_embedding(*catalogs, claimed, parcel.artifact, dataset, backbone)
        places = datasets.places_in_series(self.source.catalog, [backbone.name])
        if places:
            datasets.place_in_series(self.target.catalog, places)

    def _expect(self, stored: StoredEmbedding, block: Block) -> None:
        recorded = next((b for b in stored.blocks if (b.start, b.rows) == (block.start, block.rows)), None)
        if recorded is not None and recorded.checksum != block.checksum:
            raise Corrupt(f"block {block.index} of {stored.artifact.id} changed during the copy", hint="copy again")

    def _arrays(self, original: Artifact, claimed: lease.Claim) -> None:
        """Copy centroids and weights: read, verify, write under the new path."""
        for path, checksum in transfer.arrays_of(self.source.catalog, original):
            place = f"{claimed.path}{path.removeprefix(str(original.path))}"
            array = arrays.load_array(self.source.arrays, path, checksum)
            if arrays.save_array(self.target.arrays, place, array, replace=True) != checksum:
                raise Corrupt(f"array {path} changed during the copy", hint="copy again")
