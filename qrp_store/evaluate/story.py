"""The story of evaluate: from embeddings to ranked, versioned results, reusing whatever exists.

gather: the embeddings, the concept sets, the clustering (made when there is none). compute: train the reverse probe
on the stored split and score it on the test part. commit: weights first, then the result with its per-cluster rows
in one short transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qrp_store.catalog import clusterings, concept_sets, datasets, embeddings, lease, results
from qrp_store.catalog.clusterings import StoredClustering
from qrp_store.cluster.grouped import Groups, grouped_spec, groups_of, split_by
from qrp_store.cluster.imported import named, with_seed
from qrp_store.cluster.story import ClusterOptions, called, cluster_with
from qrp_store.errors import InvalidInput, NotFound, QrpStoreError
from qrp_store.evaluate import probe
from qrp_store.evaluate.beside import QUERIES, Question, Wanted, check, missing, score_beside
from qrp_store.evaluate.curve import flips as order_flips
from qrp_store.evaluate.forecast import Estimate, forecast
from qrp_store.evaluate.probe import JoinedConcepts, ProbeRequest
from qrp_store.evaluate.result import Result, stored_result
from qrp_store.probing.reverse import ProbeOptions
from qrp_store.progress import Progress, silent
from qrp_store.records import Artifact, Dataset, Spec, fingerprint
from qrp_store.store import Store, split_version

SCHEMA = "qrp-store/evaluate/1"
ALGORITHM = 1


@dataclass(frozen=True)
class EvaluateReport:
    """Every result asked for, and what went wrong with the others; `error` and `exit_kind` are the first failure's."""

    schema: str
    results: tuple[Result, ...]
    errors: tuple[dict[str, Any], ...]
    timings: dict[str, float]
    plan: tuple[dict[str, Any], ...] = ()
    estimate: Estimate | None = None
    flips: tuple[dict[str, Any], ...] = ()
    exit_kind: str | None = None
    error: dict[str, Any] | None = None


def evaluate(
    store: Store,
    *,
    dataset: str,
    backbones: Sequence[str] = (),
    concepts: Sequence[str] = (),
    imported: Sequence[str] = (),
    k: Sequence[int] = (1000,),
    seeds: Sequence[int] | None = None,
    protocol: str = "laina2022",
    solver: str | None = None,
    epochs: int = 100,
    batch_size: int = 512,
    lr: float = 3.5,
    momentum: float = 0.9,
    weight_decay: float = 3e-6,
    bootstrap: int = 1000,
    permute: bool = False,
    permutations: int = 0,
    ablate: bool = False,
    labelled_only: bool = False,
    min_count: int = 0,
    only_verified: bool = False,
    group_by: str | None = None,
    forward: bool = False,
    knn_queries: int = QUERIES,
    curve: bool = False,
    thresholds: Sequence[float] = (),
    soft: bool = False,
    dry_run: bool = False,
    force: bool = False,
    wait: bool = True,
    progress: Progress = silent,
    **clustering: Any,
) -> EvaluateReport:
    """Score every backbone × concept set × K × seed of a dataset.

    `imported` names clusterings (imported ones by name, others by id), scored as they are (and alone, unless backbones
    are named too). `seeds` None: 0, and for a clustering by id its own.
    `concepts` names sets (`C`, `C@N`, or `C1+C2` joined; default: each alone); `clustering` holds `cluster`'s other
    options. `permutations` adds a null distribution from so many controls; `ablate` each concept group's scores, alone
    and left out; `group_by` names a file of key,group rows whose groups are not torn apart by the split. `forward`
    adds the usual probes, from embedding to concepts, the nearest neighbours of at most `knn_queries` samples (0: all);
    `curve` scores with less data and fewer concepts, `thresholds` those with surer labels only; `soft` takes labels by
    their score instead of 1.
    `force` makes new versions of results, not of clusterings. One backbone's failure keeps the others.
    """
    started = time.perf_counter()
    options = ProbeOptions(
        protocol=protocol,  # type: ignore[arg-type]
        solver=solver,  # type: ignore[arg-type]
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
    )
    if min(bootstrap, min_count, permutations) < 0:
        asked_for = f"--bootstrap {bootstrap}, --min-count {min_count} and --permutations {permutations}"
        raise InvalidInput(f"{asked_for} must be at least 0")
    if permute and permutations:
        raise InvalidInput("--permute is a control itself: it has no --permutations")
    request = ProbeRequest(
        options=options,
        bootstrap=bootstrap,
        permute=permute,
        labelled_only=labelled_only,
        min_count=min_count,
        ablate=ablate,
        permutations=permutations,
        soft=soft,
        only_verified=only_verified,
        device=clustering.get("device", "auto"),
    )
    wanted = Wanted(forward, knn_queries, curve, tuple(sorted(set(thresholds))))
    owner = datasets.get_dataset(store.catalog, dataset)
    names = _each_once(backbones, lambda name: embeddings.get(store.catalog, dataset, *split_version(name)).artifact.id)
    if not names and not imported:
        names = embeddings.backbones(store.catalog, dataset)
    if not names and not imported:
        raise NotFound(f"dataset {dataset!r} has no embeddings", hint="qrp-store ingest")
    asked_sets = [_concepts(store, dataset, name) for name in _concept_names(store, dataset, concepts)]
    vocabularies = list({joined.name: joined for joined in asked_sets}.values())
    base = ClusterOptions.of(**clustering)
    groups = groups_of(store, owner, group_by) if group_by is not None else None
    job = _Evaluation(store, owner, request, groups, wanted, force, wait, progress)
    done: list[Result] = []
    plan: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    # what is named twice is done once
    seeds, sizes = tuple(dict.fromkeys(seeds or ())), dict.fromkeys(k)
    todo = [(name, seed, replace(base, k=n, seed=seed)) for name in names for n in sizes for seed in seeds or (0,)]
    there = _each_once(imported, lambda reference: _grouping(store, dataset, reference))
    for name, seed, asked in [*todo, *((name, seed, None) for name in there for seed in seeds or (None,))]:
        try:
            if dry_run:
                plan += job.plan(name, seed, asked, vocabularies)
            else:
                done += job.run(name, seed, asked, vocabularies)
        except QrpStoreError as error:
            if error.kind == "interrupted":
                raise
            where = {"backbone": name, "clusters": asked.k if asked else None, "seed": seed}
            errors.append({**where, "kind": error.kind, "message": error.message, "hint": error.hint})
    errors += [_nothing_to_explain(result) for result in done if result.nmi is None]
    lines, estimate = forecast(store, plan, vocabularies, request, wanted, base, owner.n) if dry_run else ((), None)
    flips = tuple(order_flips(done))
    for flip in flips:
        progress.note("with {fraction:g} of the {axis} {better} no longer stands before {worse}".format(**flip))
    timings = {"total_s": time.perf_counter() - started}
    kind = errors[0]["kind"] if errors else None
    first = {name: errors[0][name] for name in ("kind", "message", "hint")} if errors else None
    return EvaluateReport(SCHEMA, tuple(done), tuple(errors), timings, lines, estimate, flips, kind, first)


def _each_once(names: Sequence[str], meaning: Callable[[str], str]) -> list[str]:
    """Names without those that mean the same as one before; what is not there is told when its turn comes."""
    once: dict[str, str] = {}
    for name in names:
        try:
            once.setdefault(meaning(name), name)
        except (NotFound, InvalidInput):
            once.setdefault(name, name)
    return list(once.values())


def _grouping(store: Store, dataset: str, reference: str) -> str:
    stored, seed = named(store, dataset, reference, None)
    return f"{stored.artifact.id} {seed}"


def _nothing_to_explain(result: Result) -> dict[str, Any]:
    return {
        "backbone": result.backbone,
        "clusters": result.clusters,
        "seed": result.seed,
        "kind": InvalidInput.kind,
        "message": f"{result.id}: all test images are in one cluster; its entropy is 0 and there is nothing to explain",
        "hint": "look at the embedding, or use more clusters",
    }


def _concept_names(store: Store, dataset: str, asked: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(asked)) or concept_sets.names(store.catalog, dataset)
    if not names:
        raise NotFound(
            f"dataset {dataset!r} has no concepts yet", hint=f"qrp-store label FILE --dataset {dataset} --concepts NAME"
        )
    return names


def _concepts(store: Store, dataset: str, name: str) -> JoinedConcepts:
    """The sets that C1+C2 names. A version that is the newest goes by the plain name."""
    parts = []
    shown = []
    for piece in name.split("+"):
        plain, version = split_version(piece)
        stored = concept_sets.get(store.catalog, dataset, plain, version)
        newest = version is None or concept_sets.get(store.catalog, dataset, plain).artifact.version == version
        parts.append(stored)
        shown.append(plain if newest else piece)
    if len({p.artifact.id for p in parts}) < len(parts):
        raise InvalidInput(f"concepts {name!r}: the same set stands there twice")
    return JoinedConcepts("+".join(shown), tuple(parts))


@dataclass
class _Evaluation:
    """What is common to all results of one call."""

    store: Store
    dataset: Dataset
    request: ProbeRequest
    groups: Groups | None
    wanted: Wanted
    force: bool
    wait: bool
    progress: Progress

    def plan(
        self, backbone: str, seed: int | None, asked: ClusterOptions | None, sets: Sequence[JoinedConcepts]
    ) -> list[dict[str, Any]]:
        """What `run` would do, without doing it."""
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

    def run(
        self, backbone: str, seed: int | None, asked: ClusterOptions | None, sets: Sequence[JoinedConcepts]
    ) -> list[Result]:
        """The results of one backbone, K and seed; without cluster options, those of a clustering that is there."""
        if asked is None:
            clustering = with_seed(
                self.store, self.dataset.name, backbone, seed, wait=self.wait, progress=self.progress
            )
            return [self._result(self._split(clustering), joined, 0.0) for joined in sets]
        report = cluster_with(
            self.store, self.dataset.name, backbone, asked, wait=self.wait, force=False, progress=self.progress
        )
        stored = self._split(clusterings.by_id(self.store.catalog, report.id))
        cluster_s = 0.0 if report.cached else report.timings["total_s"]
        return [self._result(stored, joined, cluster_s) for joined in sets]

    def _split(self, clustering: StoredClustering) -> StoredClustering:
        """The clustering as it is, or split by groups."""
        if self.groups is None:
            return clustering
        return split_by(self.store, clustering, self.groups, wait=self.wait, progress=self.progress)

    def _spec(self, clustering: StoredClustering, joined: JoinedConcepts) -> Spec:
        options = self.request.document()
        own = clustering.artifact.spec
        setting = {
            "dataset": self.dataset.fingerprint,
            "concepts": [part.artifact.identity for part in joined.parts],
            "clustering": own.get("options"),
            "probe": options,
            "algorithm": ALGORITHM,
        }
        document = {
            "algorithm": ALGORITHM,
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

    def _result(self, clustering: StoredClustering, joined: JoinedConcepts, cluster_s: float) -> Result:
        """The result, found or made, with what is wanted beside it."""
        check(self.store, clustering, joined, self.wanted)
        result = self._probed(clustering, joined, cluster_s)
        asked = Question(self.store, result, clustering, joined, self.request, self.progress)
        return score_beside(asked, self.wanted)

    def _probed(self, clustering: StoredClustering, joined: JoinedConcepts, cluster_s: float) -> Result:
        catalog = self.store.catalog
        spec = self._spec(clustering, joined)
        found = None if self.force else lease.find(catalog, spec)
        if found is not None:
            return stored_result(self.store, found.id, cached=True)
        claimed = lease.claim(catalog, spec, force=self.force, wait=self.wait, progress=self.progress)
        if isinstance(claimed, Artifact):
            return stored_result(self.store, claimed.id, cached=True)
        with lease.held(catalog, claimed) as heartbeat:
            outcome = probe.run(self.store, clustering, joined, self.request, self.progress)
            heartbeat.check()
            path, checksum = probe.save_weights(self.store.arrays, claimed.path, outcome)
            row = {
                "dataset": self.dataset.name,
                "backbone": clustering.row.backbone,
                "concepts": joined.name,
                "clusters": clustering.row.clusters,
                "seed": clustering.row.seed,
                "setting": spec.document["setting"],
                "permuted": self.request.permute,
                "n_small_clusters": clustering.row.n_small_clusters,
                "engine": str(clustering.artifact.provenance.get("engine", "import")),
                "weights_path": path,
                "weights_checksum": checksum,
                **outcome.row(cluster_s),
            }
            results.commit(
                catalog,
                claimed,
                self.dataset,
                clustering.artifact.id,
                [part.artifact.id for part in joined.parts],
                row,
                [
                    (*scores, *best)
                    for scores, best in zip(outcome.cluster_scores(), outcome.best_concepts(), strict=True)
                ],
                outcome.cluster_concepts(),
                outcome.group_scores(),
                outcome.concept_scores(),
                outcome.provenance,
            )
        return stored_result(self.store, claimed.id, cached=False)
