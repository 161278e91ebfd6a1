"""Execute a plan: load each result, or claim, train and commit it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qrp_store.catalog.entities import clusterings, results
from qrp_store.catalog.entities.clusterings import StoredClustering
from qrp_store.catalog.lifecycle import lease
from qrp_store.cluster.grouped import split_by
from qrp_store.cluster.imported import with_seed
from qrp_store.cluster.story import cluster_with
from qrp_store.errors import Busy, Interrupted, QrpStoreError
from qrp_store.evaluate import probe
from qrp_store.evaluate.clustering_agreement import store_agreements
from qrp_store.evaluate.extras import check, score_beside
from qrp_store.evaluate.further import Question, store_references
from qrp_store.evaluate.plan import Item, Plan, Turn, result_spec
from qrp_store.evaluate.probe import Outcome
from qrp_store.evaluate.remote import train_on_workers
from qrp_store.evaluate.result import Result, stored_result
from qrp_store.probing.stack import fit_all
from qrp_store.progress import Progress
from qrp_store.records import Artifact, Spec
from qrp_store.store import Store

if TYPE_CHECKING:
    from qrp_store.probing.train import Problem


@dataclass(eq=False)
class Unit:
    """An item of the plan, and its outcome: `result` or `error`."""

    item: Item
    clustering: StoredClustering | None = None
    result: Result | None = None
    error: QrpStoreError | None = None


@dataclass(frozen=True, eq=False)
class _Held:
    """A claimed result; its lease is released when `leases` closes."""

    unit: Unit
    clustering: StoredClustering
    spec: Spec
    work: lease.Held
    ready: probe.Prepared
    leases: ExitStack


@dataclass
class Evaluation:
    """The execution of a plan. `failed`: the turns without a clustering, and the error of each."""

    plan: Plan
    wait: bool
    progress: Progress
    failed: dict[Turn, QrpStoreError] = field(init=False)
    _clusterings: dict[Turn, StoredClustering] = field(default_factory=dict, init=False)
    _seconds: dict[Turn, float] = field(default_factory=dict, init=False)
    """The seconds that clustering took, by turn."""
    _bare: list[Unit] = field(default_factory=list, init=False)
    """Units whose results still lack their extras."""
    _n_held: int = field(default=0, init=False)
    """Number of results that are claimed and not yet committed."""

    def __post_init__(self) -> None:
        self.failed = dict(self.plan.failed)

    @property
    def store(self) -> Store:
        return self.plan.job.store

    def run(self) -> list[Unit]:
        """Execute the plan. A unit that fails keeps its error and does not stop the others.

        A result is claimed when its training is about to begin, and committed when it has ended.
        """
        units = [Unit(item, error=item.error) for item in self.plan.items]
        todo = deque(unit for unit in units if unit.error is None)
        while todo:
            with ExitStack() as leases:
                for held, outcome in self._outcomes(self._claims(todo, leases)):
                    self._finish(held, outcome)
                    del held, outcome  # before the next one is prepared
        self._score_extras()
        self._warn(units)
        store_agreements(self.store, [unit.clustering for unit in units if unit.clustering], self.progress)
        return units

    def _outcomes(self, claims: Iterator[_Held]) -> Iterator[tuple[_Held, Outcome | QrpStoreError]]:
        """Train and score what is claimed, here or on the workers of a scheduler; in the order of the claims."""
        scheduler = self.plan.job.scheduler
        if scheduler is not None:
            yield from train_on_workers(scheduler, ((held, held.ready) for held in claims))
            return
        for held, fit in fit_all(_problems(claims), self.progress):
            try:
                outcome = probe.conclude(held.ready, fit, self.progress)
            except Interrupted:
                raise
            except QrpStoreError as error:
                yield held, error
            else:
                yield held, outcome
                del outcome
            del held, fit

    def _claims(self, todo: deque[Unit], leases: ExitStack) -> Iterator[_Held]:
        """Claim each missing result when it is drawn, and prepare its training. End early instead of waiting.

        Never wait while holding leases: two evaluators could deadlock.
        """
        while todo:
            if not self._n_held:
                self._score_extras()
            unit, claimed = todo[0], None
            try:
                claimed = self._claimed(unit, wait=self.wait and not self._n_held)
            except Interrupted:
                raise
            except QrpStoreError as error:
                if isinstance(error, Busy) and self._n_held:  # perhaps this process holds it, for a repeated request
                    return
                unit.error = _without_frames(error)
            todo.popleft()
            if claimed is not None:
                leases.enter_context(claimed.leases)
                self._n_held += 1
                yield claimed

    def _claimed(self, unit: Unit, *, wait: bool) -> _Held | None:
        """Claim a result and load its data. Return None when the result exists."""
        job, store, item = self.plan.job, self.store, unit.item
        clustering = unit.clustering = self._clustering(item, wait)
        check(store, clustering, item.joined, job.wanted)
        spec = result_spec(job, clustering, item.joined)
        making: AbstractContextManager[Artifact | lease.Held] = lease.find_or_hold(
            store.catalog, spec, force=job.force, wait=wait, progress=self.progress
        )
        if item.result is not None:
            making = nullcontext(item.result)
        with ExitStack() as leases:
            work = leases.enter_context(making)
            if isinstance(work, Artifact):
                unit.result = stored_result(store, work.id, cached=True)
                self._bare.append(unit)
                return None
            ready = probe.prepare(store, clustering, item.joined, job.request)
            return _Held(unit, clustering, spec, work, ready, leases.pop_all())

    def _clustering(self, item: Item, wait: bool) -> StoredClustering:
        """Return the item's clustering: an existing one, or one computed once for all items of its turn."""
        turn = item.turn
        if item.clustering is not None:
            return item.clustering
        if turn in self.failed:
            raise self.failed[turn]
        if turn not in self._clusterings:
            try:
                self._clusterings[turn] = self._split(self._made(turn, wait), wait)
            except Busy as error:
                if not self.wait:
                    self.failed[turn] = error
                raise
            except QrpStoreError as error:
                self.failed[turn] = error
                raise
        return self._clusterings[turn]

    def _made(self, turn: Turn, wait: bool) -> StoredClustering:
        store, name, dataset = self.store, turn.name, self.plan.job.dataset.name
        if turn.options is None:
            return with_seed(store, dataset, name, turn.seed, wait=wait, progress=self.progress)
        report = cluster_with(store, dataset, name, turn.options, wait=wait, force=False, progress=self.progress)
        if not report.cached:
            self._seconds[turn] = report.timings["total_s"]
        return clusterings.by_id(store.catalog, report.id)

    def _split(self, clustering: StoredClustering, wait: bool) -> StoredClustering:
        """Return the clustering itself, or one with a split by groups."""
        groups = self.plan.job.groups
        if groups is None:
            return clustering
        return split_by(self.store, clustering, groups, wait=wait, progress=self.progress)

    def _finish(self, held: _Held, outcome: Outcome | QrpStoreError) -> None:
        """Commit a result, and release its lease in any case."""
        unit = held.unit
        self._n_held -= 1
        try:
            with held.leases:
                if isinstance(outcome, QrpStoreError):
                    raise outcome
                self._commit(held, outcome)
            if not self.plan.job.request.permute:
                store_references(self.store, held.work.claim.id, held.ready.data)
            unit.result = stored_result(self.store, held.work.claim.id, cached=False)
            self._bare.append(unit)
        except Interrupted:
            raise
        except QrpStoreError as error:
            unit.error = _without_frames(error)

    def _warn(self, units: list[Unit]) -> None:
        """Warn once of new results that failed to train, and of too few data for a protocol."""
        results = [unit.result for unit in units if unit.result is not None and not unit.result.cached]
        failed = [result for result in results if result.training_failed]
        if failed:
            first = failed[0]
            name = f"{first.backbone}, K {first.clusters}, seed {first.seed}, {first.concepts}"
            more = f" (and {len(failed) - 1} more results)" if len(failed) > 1 else ""
            reason = "no epoch beat the model without concepts" if first.best_epoch == 0 else "below every control"
            self.progress.note(f"{name}{more}: {reason}; a lower learning rate or protocol tight may")
        few = [r for r in results if r.protocol != "tight" and r.n_train < r.n_concepts * r.clusters]
        if few:
            first = few[0]
            self.progress.note(
                f"{first.n_train:,} training images are few for {first.n_concepts:,} concepts × {first.clusters:,} "
                "clusters: --protocol tight is the protocol for this size (docs/method.md)"
            )

    def _commit(self, held: _Held, outcome: Outcome) -> None:
        held.work.heartbeat.check()
        path, checksum = probe.save_weights(self.store.arrays, held.work.claim.path, outcome)
        row = {
            "dataset": self.plan.job.dataset.name,
            "backbone": held.clustering.row.backbone,
            "concepts": held.unit.item.joined.name,
            "clusters": held.clustering.row.clusters,
            "seed": held.clustering.row.seed,
            "setting": held.spec.document["setting"],
            "algorithm": held.spec.document["algorithm"],
            "permuted": self.plan.job.request.permute,
            "n_small_clusters": held.clustering.row.n_small_clusters,
            "engine": str(held.clustering.artifact.provenance.get("engine", "import")),
            "weights_path": path,
            "weights_checksum": checksum,
            **outcome.row(self._seconds.get(held.unit.item.turn, 0.0)),
        }
        results.commit(
            self.store.catalog,
            held.work.claim,
            self.plan.job.dataset,
            held.clustering.artifact.id,
            [part.artifact.id for part in held.unit.item.joined.parts],
            row,
            outcome.cluster_scores(),
            outcome.cluster_concepts(),
            outcome.group_scores(),
            outcome.concept_scores(),
            outcome.provenance,
        )

    def _score_extras(self) -> None:
        """Score the extras of the results so far. Hold no claim meanwhile: it may take longer than the results."""
        job, (bare, self._bare) = self.plan.job, (self._bare, [])
        for unit in bare:
            assert unit.result is not None
            assert unit.clustering is not None
            try:
                result, joined = unit.result, unit.item.joined
                question = Question(self.store, result, unit.clustering, joined, job.request, self.progress)
                unit.result = score_beside(question, job.wanted)
            except Interrupted:
                raise
            except QrpStoreError as error:
                unit.result, unit.error = None, _without_frames(error)


def _problems(claims: Iterator[_Held]) -> Iterator[tuple[_Held, Problem]]:
    for held in claims:
        yield held, held.ready.problem
        del held  # before the next one is prepared


def _without_frames(error: QrpStoreError) -> QrpStoreError:
    """Return the error without its frames, which hold a probe's data."""
    behind: BaseException | None = error
    while behind is not None:
        behind.__traceback__ = None
        behind = behind.__cause__ or behind.__context__
    return error
