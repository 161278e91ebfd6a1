"""One probe, from stored assignments and labels to a scored outcome: the compute half of evaluate."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from qrp_store.arrays.arrays import save_array
from qrp_store.arrays.root import Root
from qrp_store.catalog import clusterings, concept_sets
from qrp_store.catalog.clusterings import StoredClustering
from qrp_store.catalog.concept_sets import StoredConcepts
from qrp_store.catalog.engine import Catalog
from qrp_store.errors import InvalidInput
from qrp_store.evaluate.verified import known_block
from qrp_store.label import concept_rows
from qrp_store.probing.reverse import ProbeFit, ProbeOptions
from qrp_store.probing.sparse import ConceptMatrix, permute_rows
from qrp_store.probing.trial import Trial
from qrp_store.progress import Progress
from qrp_store.records import TEST, TRAIN, VAL, derive_seed
from qrp_store.store import Store

if TYPE_CHECKING:
    from qrp_store.probing.alone import Alone
    from qrp_store.probing.controls import GroupScore, Null
    from qrp_store.probing.explain import Explanation
    from qrp_store.probing.metrics import Score

MOST_CONCEPTS = 1000
"""How many concepts' scores alone are kept of a result, the best ones."""
_YOUNGER = ("soft", "only_verified")
NO_GROUP = "(none)"
"""What `group_scores` call the concepts that have no group."""


@dataclass(frozen=True)
class JoinedConcepts:
    """One or several concept sets side by side, under the name that shows (`C1+C2`)."""

    name: str
    parts: tuple[StoredConcepts, ...]


@dataclass(frozen=True)
class ProbeRequest:
    """Everything that is asked of a probe beside its data. `device` changes no number that is promised."""

    options: ProbeOptions
    bootstrap: int
    permute: bool
    labelled_only: bool
    min_count: int
    device: str
    ablate: bool = False
    permutations: int = 0
    soft: bool = False
    only_verified: bool = False

    def document(self) -> dict[str, Any]:
        """What changes a number, for the fingerprint. Options younger than the first results stand there if asked."""
        own = {name: value for name, value in vars(self).items() if name not in ("options", "device")}
        return {**vars(self.options), **{k: v for k, v in own.items() if v or k not in _YOUNGER}}

    @classmethod
    def of(cls, document: Mapping[str, Any], device: str) -> ProbeRequest:
        """The request whose `document()` this is."""
        training = {f.name: document[f.name] for f in fields(ProbeOptions)}
        return cls(
            options=ProbeOptions(**training), device=device, **{k: document[k] for k in document.keys() - training}
        )


@dataclass(frozen=True)
class Concepts:
    """The concepts that take part: which hold for which sample, their names, groups, and the set they come from.

    `sets` says what to call the concepts without a group: their set's name when several are joined, else NO_GROUP.
    """

    matrix: ConceptMatrix
    names: tuple[str, ...]
    groups: tuple[str | None, ...]
    sets: tuple[str, ...]

    @property
    def groups_named(self) -> tuple[str, ...]:
        """The group of every concept, also of those without."""
        return tuple(own if group is None else group for group, own in zip(self.groups, self.sets, strict=True))


@dataclass(frozen=True, eq=False)
class Outcome:
    """A trained and scored probe with everything that is stored of it."""

    fit: ProbeFit
    score: Score
    explanation: Explanation
    concepts: Concepts
    n_parts: tuple[int, int, int]
    train_cross_entropy_nats: float
    alone: Alone
    groups: tuple[GroupScore, ...]
    null: Null | None
    load_s: float
    score_s: float

    @property
    def weights(self) -> np.ndarray:
        """The probe as it is stored: float32 (K, M + 1), the bias as last column."""
        return np.concatenate([self.fit.weight, self.fit.bias[:, None]], axis=1)

    def row(self, cluster_s: float) -> dict[str, Any]:
        """The columns of `result` that the probe itself knows."""
        fit, score = self.fit, self.score
        return {
            "protocol": fit.options.protocol,
            "solver": fit.options.solver,
            "n_train": self.n_parts[TRAIN],
            "n_val": self.n_parts[VAL],
            "n_test": self.n_parts[TEST],
            "n_concepts": fit.n_concepts,
            "entropy_nats": score.entropy_nats,
            "cross_entropy_nats": score.cross_entropy_nats,
            "mi_nats": score.mi_nats,
            "mi_bits": score.mi_bits,
            "nmi": score.nmi,
            "nmi_ci_lo": score.nmi_ci_lo,
            "nmi_ci_hi": score.nmi_ci_hi,
            "top1": score.top1,
            "top5": score.top5,
            "train_loss": fit.train_loss,
            "grad_norm": fit.grad_norm,
            "converged": fit.converged,
            "epochs_run": fit.epochs_run,
            "best_epoch": fit.best_epoch,
            "device": fit.device,
            "weight_decay": fit.weight_decay,
            "train_cross_entropy_nats": self.train_cross_entropy_nats,
            "entropy_miller_madow_nats": score.miller_madow,
            **self._beside_chance(score.nmi),
            "history": [vars(epoch) for epoch in fit.history],
            "timings": {
                "cluster_s": cluster_s,
                "load_s": self.load_s,
                "train_s": fit.timings["train_s"],
                "val_s": fit.timings["val_s"],
                "score_s": self.score_s,
            },
        }

    def _beside_chance(self, nmi: float | None) -> dict[str, Any]:
        null = self.null if nmi is not None else None
        return {
            "n_permutations": 0 if null is None else len(null.nmi),
            "null_nmi_mean": null and null.mean,
            "null_nmi_std": null and null.std,
            "p_value": None if null is None or nmi is None else null.p_value(nmi),
            "nmi_adjusted": None if null is None or nmi is None else null.adjusted(nmi),
        }

    def cluster_scores(self) -> list[tuple[int, int, float | None, float | None, float]]:
        """cluster, n_test, cross-entropy, top-1, share of the MI; None where a cluster has no test sample."""
        per = self.score.per_cluster
        columns = (per.n_test, per.cross_entropy_nats, per.top1, per.mi_nats)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [(k, n, _number(ce), _number(top1), mi) for k, (n, ce, top1, mi) in enumerate(rows)]

    def best_concepts(self) -> list[tuple[str | None, float | None]]:
        """For each cluster the concept that alone says most about it, and its share of that one's MI."""
        if not self.concepts.names:
            return [(None, None)] * len(self.alone.best)
        names = (self.concepts.names[j] for j in self.alone.best)
        return [
            (None, None) if share is None else (name, share)
            for name, share in zip(names, map(_number, self.alone.best_mi_nats.tolist()), strict=True)
        ]

    def concept_scores(self) -> list[tuple[int, str, str | None, int, int, float | None, float]]:
        """rank from 1, concept, its group, n in training and test part, nmi and MI alone; the best ones."""
        told, entropy = self.alone, self.score.entropy_nats
        return [
            (
                rank,
                self.concepts.names[j],
                self.concepts.groups[j],
                int(told.n_train[j]),
                int(told.n_test[j]),
                float(told.mi_nats[j] / entropy) if entropy > 0 else None,
                float(told.mi_nats[j]),
            )
            for rank, j in enumerate(told.ranked[:MOST_CONCEPTS].tolist(), 1)
        ]

    def cluster_concepts(self) -> list[tuple[int, int, str, str | None, float, float | None, int]]:
        """cluster, rank from 1, concept, its group, weight, lift, n."""
        told = self.explanation
        rows = []
        for k, line in enumerate(told.concept.tolist()):
            for place, concept in enumerate(line):
                if concept >= 0:
                    weight, lift, n = told.weight[k, place], told.lift[k, place], told.n[k, place]
                    name, group = self.concepts.names[concept], self.concepts.groups[concept]
                    rows.append((k, place + 1, name, group, float(weight), _number(float(lift)), int(n)))
        return rows

    def group_scores(self) -> list[tuple[str, str, float, float]]:
        """group, role, nmi, MI; nothing without --ablate."""
        return [(g.group, g.role, g.nmi, g.mi_nats) for g in self.groups]

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where it was computed and by which versions (what could change the last bits), and the null's scores."""
        null = {} if self.null is None else {"null_nmi": list(self.null.nmi)}
        return {"device": self.fit.device, **surroundings(), **null}


def surroundings() -> dict[str, Any]:
    """Threads, instruction set and library versions that this process computes probes with."""
    from qrp_store.probing.device import instructions, threads

    names = ("qrp-store", "torch", "numpy")
    versions = {name: _version(name) for name in names} | {"python": platform.python_version()}
    return {"threads": threads(), "instructions": instructions(), "versions": versions}


def _number(value: float) -> float | None:
    return None if value != value else value


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True, eq=False)
class ProbeData:
    """The samples that take part, by position in the dataset: their concepts, cluster and part, each (n,)."""

    positions: np.ndarray
    concepts: Concepts
    clusters: np.ndarray
    parts: np.ndarray

    def part(self, number: int) -> tuple[ConceptMatrix, np.ndarray]:
        """Concepts and clusters of one part (records.TRAIN, VAL or TEST)."""
        at = np.flatnonzero(self.parts == number)
        return self.concepts.matrix.take(at), self.clusters[at]


def load(store: Store, clustering: StoredClustering, joined: JoinedConcepts, request: ProbeRequest) -> ProbeData:
    """What a probe is trained and scored on. Raises InvalidInput for an empty part."""
    positions, clusters, parts = clusterings.assignments(store.catalog, clustering.artifact.id)
    block = known_block(store, joined.parts, positions) if request.only_verified else None
    if block is not None:
        positions, clusters, parts = positions[block.samples], clusters[block.samples], parts[block.samples]
    concepts = _concepts(store, joined, positions, request, None if block is None else block.concepts)
    x = concepts.matrix
    if request.labelled_only:
        kept = np.flatnonzero(np.diff(x.indptr))
        x, positions, clusters, parts = x.take(kept), positions[kept], clusters[kept], parts[kept]
    if request.permute:
        x = permute_rows(x, parts, seed=derive_seed(clustering.row.seed, "permute"))
    for part, name in ((TRAIN, "training"), (VAL, "validation"), (TEST, "test")):
        if not (parts == part).any():
            raise InvalidInput(
                f"the {name} part of {clustering.artifact.id} has no sample left for {joined.name!r}",
                hint="fewer clusters, more samples, or without --labelled-only or --only-verified",
            )
    return ProbeData(positions, replace(concepts, matrix=x), clusters, parts)


def run(
    store: Store, clustering: StoredClustering, joined: JoinedConcepts, request: ProbeRequest, progress: Progress
) -> Outcome:
    """Train on the stored split and score on its test part. Raises InvalidInput for an empty part."""
    from qrp_store.probing.alone import alone
    from qrp_store.probing.explain import explain
    from qrp_store.probing.metrics import score

    started = time.perf_counter()
    data = load(store, clustering, joined, request)
    x_test, c_test = data.part(TEST)
    load_s = time.perf_counter() - started
    seed, device = clustering.row.seed, request.device
    trial = Trial(
        data.clusters, data.parts, clustering.row.clusters, request.options, derive_seed(seed, "shuffle"), device
    )
    fitted = trial.fit(data.concepts.matrix, progress)
    scored_at = time.perf_counter()
    told = score(
        fitted, x_test, c_test, bootstrap=request.bootstrap, seed=derive_seed(seed, "bootstrap"), device=device
    )
    x_train, c_train = data.part(TRAIN)
    on_train = score(fitted, x_train, c_train, bootstrap=0, seed=0, device=device)
    explanation = explain(fitted, x_train, c_train)
    single = alone((x_train, c_train), data.part(VAL), (x_test, c_test), clustering.row.clusters)
    counts = np.bincount(data.parts, minlength=3).tolist()
    score_s = time.perf_counter() - scored_at
    groups, null = _controls(trial, data.concepts, told, request, seed, progress)
    n_parts = (counts[TRAIN], counts[VAL], counts[TEST])
    return Outcome(
        fit=fitted,
        score=told,
        explanation=explanation,
        concepts=data.concepts,
        n_parts=n_parts,
        train_cross_entropy_nats=on_train.cross_entropy_nats,
        alone=single,
        groups=groups,
        null=null,
        load_s=load_s,
        score_s=score_s,
    )


def _controls(
    trial: Trial, concepts: Concepts, whole: Score, request: ProbeRequest, seed: int, progress: Progress
) -> tuple[tuple[GroupScore, ...], Null | None]:
    """The scores by concept group and the null distribution, as far as they are asked for."""
    from qrp_store.probing.controls import ablate, null_distribution

    if whole.nmi is None:
        return (), None
    x = concepts.matrix
    groups = tuple(ablate(trial, x, concepts.groups_named, whole, progress)) if request.ablate else ()
    seeds = [derive_seed(seed, f"permutation {i}") for i in range(request.permutations)]
    return groups, null_distribution(trial, x, seeds, progress) if seeds else None


@lru_cache(maxsize=4)
def _matrix(store: Store, dataset: str, name: str, version: int) -> ConceptMatrix:
    """A concept set over its dataset's positions, kept for the next result: what is ready never changes."""
    stored = concept_sets.get(store.catalog, dataset, name, version)
    return ConceptMatrix(*concept_rows.load(store, stored), stored.n_concepts)


def _scores(catalog: Catalog, concepts: StoredConcepts) -> np.ndarray:
    """Each label's score, float32; one without a score counts as sure. Raises InvalidInput when none has any."""
    scores = concept_sets.label_scores(catalog, concepts.artifact.id)
    if len(scores) and np.isnan(scores).all():
        raise InvalidInput(
            f"concepts {concepts.artifact.name!r} have no scores: each holds or does not",
            hint="without --soft and --thresholds; or label again with a score column",
        )
    return np.where(np.isnan(scores), np.float32(1), scores)


def _concepts(
    store: Store, joined: JoinedConcepts, positions: np.ndarray, request: ProbeRequest, known: np.ndarray | None
) -> Concepts:
    """The joined concepts over these positions, of all or of the `known`; those that hold for fewer than `min_count`
    are left out."""
    min_count = request.min_count
    matrices: list[ConceptMatrix] = []
    names: list[str] = []
    groups: list[str | None] = []
    sets: list[str] = []
    origin: list[str] = []
    for part, called in zip(joined.parts, joined.name.split("+"), strict=True):
        whole = _matrix(store, part.dataset, part.artifact.name, part.artifact.version or 0)
        if request.soft:
            whole = replace(whole, values=_scores(store.catalog, part))
        matrices.append(whole.take(positions))
        vocabulary = concept_sets.vocabulary(store.catalog, part.artifact.id)
        names += vocabulary.names
        groups += vocabulary.groups
        sets += [part.artifact.name if len(joined.parts) > 1 else NO_GROUP] * len(vocabulary.names)
        origin += [called] * len(vocabulary.names)
    shared = Counter(zip(names, groups, strict=True))
    names = [f"{n} ({o})" if shared[n, g] > 1 else n for n, g, o in zip(names, groups, origin, strict=True)]
    matrix = matrices[0].hstack(matrices[1:]) if len(matrices) > 1 else matrices[0]
    kept = np.flatnonzero((matrix.counts() >= min_count) & (True if known is None else known))
    if len(kept) == 0 and min_count > 0:
        raise InvalidInput(f"--min-count {min_count}: no concept of {joined.name!r} holds that often")
    if len(kept) < matrix.n_concepts:
        matrix = matrix.select(kept)
        names, groups, sets = [names[i] for i in kept], [groups[i] for i in kept], [sets[i] for i in kept]
    return Concepts(matrix, tuple(names), tuple(groups), tuple(sets))


def save_weights(root: Root, path: str, outcome: Outcome) -> tuple[str, str]:
    """Store the probe's weights; returns path and checksum."""
    where = f"{path}/weights"
    return where, save_array(root, where, outcome.weights, replace=True)
