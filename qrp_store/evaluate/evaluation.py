"""How the results of one call come about: each found, or claimed, trained and committed; several at once on a GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

from qrp_store.catalog.entities import clusterings, embeddings, results
from qrp_store.catalog.entities.clusterings import StoredClustering
from qrp_store.catalog.lifecycle import lease
from qrp_store.cluster.grouped import Groups, grouped_spec, split_by
from qrp_store.cluster.imported import named, with_seed
from qrp_store.cluster.story import ClusterOptions, called, cluster_with
from qrp_store.errors import Busy, Interrupted, QrpStoreError
from qrp_store.evaluate import probe
from qrp_store.evaluate.data import JoinedConcepts, ProbeRequest
from qrp_store.evaluate.extras import Question, Wanted, check, missing, score_beside
from qrp_store.evaluate.result import Result, stored_result
from qrp_store.progress import Progress
from qrp_store.records import Artifact, Dataset, Spec, fingerprint
from qrp_store.store import Store, split_version

if TYPE_CHECKING:
    from qrp_store.probing.reverse import ProbeFit
    from qrp_store.probing.stack import Problem


@dataclass(eq=False)
class Turn:
    """A backbone, K and seed; without cluster options, a clustering that is there.

    `clustering` is that of its turn, once it came, and `cluster_s` what it took to make; `error` why there is none.
    """

    name: str
    seed: int | None
    asked: ClusterOptions | None
    clustering: StoredClustering | None = None
    cluster_s: float = 0.0
    error: QrpStoreError | None = None


@dataclass(eq=False)
class Unit:
    """One result that is asked for, and what came of it: `result` or `error`."""

    turn: Turn
    joined: JoinedConcepts
    result: Result | None = None
    error: QrpStoreError | None = None


@dataclass(frozen=True, eq=False)
class _Held:
    """A result that is ours to make, until `leases` is left."""

    unit: Unit
    clustering: StoredClustering
    spec: Spec
    claim: lease.Claim
    heartbeat: lease.Heartbeat
    ready: probe.Prepared
    leases: ExitStack


@dataclass
class Evaluation:
    """What is common to all results of one call."""

    store: Store
    dataset: Dataset
    request: ProbeRequest
    groups: Groups | None
    wanted: Wanted
    force: bool
    wait: bool
    progress: Progress
    _bare: list[Unit] = field(default_factory=list)
    """Units whose results still lack what is scored beside them."""

    def plan(self, turns: Sequence[Turn], sets: Sequence[JoinedConcepts]) -> list[dict[str, Any]]:
        """What `run` would do, without doing it. A turn that cannot be keeps an error."""
        lines = []
        for turn in turns:
            try:
                lines += self._planned(turn.name, turn.seed, turn.asked, sets)
            except Interrupted:
                raise
            except QrpStoreError as error:
                turn.error = error
        return lines

    def _planned(
        self, backbone: str, seed: int | None, asked: ClusterOptions | None, sets: Sequence[JoinedConcepts]
    ) -> list[dict[str, Any]]:
        there = "there"
        facts: dict[str, Any]
        plain: StoredClustering | None = None
        if asked is None:
            plain, seed = named(self.store, self.dataset.name, backbone, seed)
            row, found = plain.row, plain.artifact if plain.row.seed == seed else None
            facts = {"backbone": row.backbone, "clusters": row.clusters, "seed": seed, "n": row.n, "dim": row.dim}
            there = "imported" if plain.artifact.spec["options"].get("imported") else there
        else:
            stored = embeddings.get(self.store.catalog, self.dataset.name, *split_version(backbone))
            found = lease.find(self.store.catalog, asked.spec(stored, called(self.store, stored)))
            facts = {"backbone": stored.backbone.name, "clusters": asked.k, "seed": asked.seed}
            facts |= {"n": stored.array.n - len(stored.bad), "dim": stored.array.dim}
        if found is not None and self.groups is not None:
            found = lease.find(
                self.store.catalog, grouped_spec(clusterings.by_id(self.store.catalog, found.id), self.groups)
            )
        rows = []
        for joined in sets:
            check(self.store, plain, joined, self.wanted)
            known, left = None, self.wanted
            if found is not None and not self.force:
                clustering = clusterings.by_id(self.store.catalog, found.id)
                known = lease.find(self.store.catalog, self._spec(clustering, joined))
                if known is not None:
                    left = missing(self.store, known.id, clustering, joined, self.request, self.wanted)
            made = {
                "clustering": there if found is not None or there == "imported" else "to make",
                "result": "there" if known is not None else "to make",
                **{name: "to make" if getattr(left, name) else "there" for name in self.wanted.named},
            }
            rows.append({"backbone": facts["backbone"], "concepts": joined.name, **facts, **made})
        return rows

    def run(self, turns: Sequence[Turn], sets: Sequence[JoinedConcepts]) -> list[Unit]:
        """Every turn's result with every set. What fails keeps an error and leaves the others.

        Where probes are trained together (`probing.stack`), their results are all claimed before, and committed as
        soon as they are trained; elsewhere one is claimed when the one before is there.
        """
        units = [Unit(turn, joined) for turn in turns for joined in sets]
        todo = deque(units)
        while todo:
            held: deque[_Held] = deque()
            with ExitStack() as leases:
                for found in self._trained(self._problems(todo, held, leases)):
                    self._finish(held.popleft(), found)
        self._score_beside()
        return units

    def _trained(self, problems: Iterator[Problem]) -> Iterator[ProbeFit | QrpStoreError]:
        first = next(problems, None)
        if first is None:  # every result is there: torch need not be
            return iter(())
        from qrp_store.probing.train import fit_all

        # an iterator, which lets go of what it has given
        return fit_all(chain(iter([first]), problems), self.progress)

    def _problems(self, todo: deque[Unit], held: deque[_Held], leases: ExitStack) -> Iterator[Problem]:
        """What is to be trained, each claimed when it is asked for. Ends early where it would have to wait.

        Nobody waits while others may wait for what he holds: two who hold what the other waits for would never end.
        """
        while todo:
            if not held:
                self._score_beside()
            unit, claimed = todo[0], None
            try:
                claimed = self._claimed(unit, wait=self.wait and not held)
            except Interrupted:
                raise
            except QrpStoreError as error:
                if isinstance(error, Busy) and held:  # perhaps what is asked for twice is held here
                    return
                unit.error = _without_frames(error)
            todo.popleft()
            if claimed is not None:
                leases.enter_context(claimed.leases)
                held.append(claimed)
                yield claimed.ready.problem

    def _claimed(self, unit: Unit, *, wait: bool) -> _Held | None:
        """The right to make a result, with all it needs; None when the result is there."""
        store, joined = self.store, unit.joined
        clustering = self._clustering(unit.turn, wait)
        check(store, clustering, joined, self.wanted)
        spec = self._spec(clustering, joined)
        found = None if self.force else lease.find(store.catalog, spec)
        claim = found or lease.claim(store.catalog, spec, force=self.force, wait=wait, progress=self.progress)
        if isinstance(claim, Artifact):
            unit.result = stored_result(store, claim.id, cached=True)
            self._bare.append(unit)
            return None
        with ExitStack() as leases:
            heartbeat = leases.enter_context(lease.held(store.catalog, claim))
            ready = probe.prepare(store, clustering, joined, self.request)
            return _Held(unit, clustering, spec, claim, heartbeat, ready, leases.pop_all())

    def _clustering(self, turn: Turn, wait: bool) -> StoredClustering:
        """That of a turn, found or made once."""
        if turn.error is not None:
            raise turn.error
        if turn.clustering is None:
            try:
                turn.clustering = self._split(self._grouped(turn, wait), wait)
            except Busy as error:
                turn.error = None if self.wait else error
                raise
            except QrpStoreError as error:
                turn.error = error
                raise
        return turn.clustering

    def _grouped(self, turn: Turn, wait: bool) -> StoredClustering:
        store, name, dataset = self.store, turn.name, self.dataset.name
        if turn.asked is None:
            return with_seed(store, dataset, name, turn.seed, wait=wait, progress=self.progress)
        report = cluster_with(store, dataset, name, turn.asked, wait=wait, force=False, progress=self.progress)
        turn.cluster_s += 0.0 if report.cached else report.timings["total_s"]
        return clusterings.by_id(store.catalog, report.id)

    def _split(self, clustering: StoredClustering, wait: bool) -> StoredClustering:
        """The clustering as it is, or split by groups."""
        if self.groups is None:
            return clustering
        return split_by(self.store, clustering, self.groups, wait=wait, progress=self.progress)

    def _spec(self, clustering: StoredClustering, joined: JoinedConcepts) -> Spec:
        options = self.request.document()
        own = clustering.artifact.spec
        algorithm = self.request.algorithm
        setting = {
            "dataset": self.dataset.fingerprint,
            "concepts": [part.artifact.identity for part in joined.parts],
            "clustering": own.get("options"),
            "probe": options,
            "algorithm": algorithm,
        }
        document = {
            "algorithm": algorithm,
            "dataset": self.dataset.fingerprint,
            "clustering": clustering.artifact.identity,
            "concepts": [part.artifact.identity for part in joined.parts],
            "concept_names": joined.name,
            "options": options,
            "seed": clustering.row.seed,
            "setting": fingerprint(setting)[:12],
        }
        series = fingerprint(["result", clustering.artifact.series, joined.name, options])
        return Spec("result", f"{clustering.artifact.name} {joined.name}", series, document)

    def _finish(self, held: _Held, found: ProbeFit | QrpStoreError) -> None:
        """Score what was trained and commit it; its lease ends with it, well or not."""
        unit = held.unit
        try:
            with held.leases:
                outcome = probe.conclude(held.ready, found, self.progress)
                self._commit(held, outcome)
            self._note(held, outcome.fit)
            unit.result = stored_result(self.store, held.claim.id, cached=False)
            self._bare.append(unit)
        except Interrupted:
            raise
        except QrpStoreError as error:
            unit.error = _without_frames(error)

    def _note(self, held: _Held, fit: ProbeFit) -> None:
        if fit.options.solver == "sgd" and fit.best_epoch == 0 and fit.epochs_run:
            row = held.clustering.row
            self.progress.note(
                f"{row.backbone}, K {row.clusters}, seed {row.seed}, {held.unit.joined.name}: no epoch beat the model "
                "without concepts; a lower learning rate or protocol tight may"
            )

    def _commit(self, held: _Held, outcome: probe.Outcome) -> None:
        held.heartbeat.check()
        path, checksum = probe.save_weights(self.store.arrays, held.claim.path, outcome)
        row = {
            "dataset": self.dataset.name,
            "backbone": held.clustering.row.backbone,
            "concepts": held.unit.joined.name,
            "clusters": held.clustering.row.clusters,
            "seed": held.clustering.row.seed,
            "setting": held.spec.document["setting"],
            "permuted": self.request.permute,
            "n_small_clusters": held.clustering.row.n_small_clusters,
            "engine": str(held.clustering.artifact.provenance.get("engine", "import")),
            "weights_path": path,
            "weights_checksum": checksum,
            **outcome.row(held.unit.turn.cluster_s),
        }
        results.commit(
            self.store.catalog,
            held.claim,
            self.dataset,
            held.clustering.artifact.id,
            [part.artifact.id for part in held.unit.joined.parts],
            row,
            outcome.cluster_scores(),
            outcome.cluster_concepts(),
            outcome.group_scores(),
            outcome.concept_scores(),
            outcome.provenance,
        )

    def _score_beside(self) -> None:
        """What is wanted beside the results so far. While none is claimed: it may take longer than they did."""
        bare, self._bare = self._bare, []
        for unit in bare:
            assert unit.result is not None
            assert unit.turn.clustering is not None
            try:
                asked = Question(
                    self.store, unit.result, unit.turn.clustering, unit.joined, self.request, self.progress
                )
                unit.result = score_beside(asked, self.wanted)
            except Interrupted:
                raise
            except QrpStoreError as error:
                unit.result, unit.error = None, _without_frames(error)


def _without_frames(error: QrpStoreError) -> QrpStoreError:
    """The error alone: the frames that it came through hold a probe's data."""
    behind: BaseException | None = error
    while behind is not None:
        behind.__traceback__ = None
        behind = behind.__cause__ or behind.__context__
    return error
