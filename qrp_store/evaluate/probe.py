"""One probe, from stored assignments and labels to a scored outcome: the compute half of evaluate."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from qrp_store.arrays.blocked import save_array
from qrp_store.arrays.root import Root
from qrp_store.catalog.entities.clusterings import StoredClustering
from qrp_store.catalog.model.values import ClusterConcept, ClusterScore, ConceptScore, GroupScore
from qrp_store.errors import QrpStoreError
from qrp_store.evaluate.data import Concepts, JoinedConcepts, ProbeData, ProbeRequest, load
from qrp_store.probing.controls import Trial
from qrp_store.probing.student import quantile
from qrp_store.progress import Progress
from qrp_store.records import TEST, TRAIN, VAL, derive_seed
from qrp_store.store import Store

if TYPE_CHECKING:
    from qrp_store.probing import controls
    from qrp_store.probing.alone import Alone
    from qrp_store.probing.explain import Explanation
    from qrp_store.probing.metrics import Score
    from qrp_store.probing.train import ProbeFit, Problem

MOST_CONCEPTS = 1000
"""Number of concepts of a result whose single scores are stored, the best ones."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A trained and scored probe, with everything that is stored of it."""

    fit: ProbeFit
    score: Score
    explanation: Explanation
    concepts: Concepts
    n_parts: tuple[int, int, int]
    on_train: Score
    on_val: Score
    alone: Alone
    groups: tuple[controls.GroupScore, ...]
    null: controls.Null | None
    load_s: float
    score_s: float
    made_by: Mapping[str, Any]
    """The `surroundings` of the process that trained it."""

    @property
    def weights(self) -> np.ndarray:
        """Return the weights as they are stored: float32 (K, M + 1), the bias as last column."""
        return np.concatenate([self.fit.weight, self.fit.bias[:, None]], axis=1)

    def row(self, cluster_s: float) -> dict[str, Any]:
        """Return the columns of `result` that come from the probe."""
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
            "train_cross_entropy_nats": self.on_train.cross_entropy_nats,
            "gap_nats": self.on_train.mi_nats - score.mi_nats,
            "training_failed": self.training_failed,
            "entropy_miller_madow_nats": score.miller_madow,
            **self._against_chance(score.nmi),
            "history": [vars(epoch) for epoch in fit.history],
            "timings": {
                "cluster_s": cluster_s,
                "load_s": self.load_s,
                "train_s": fit.timings["train_s"],
                "val_s": fit.timings["val_s"],
                "score_s": self.score_s,
            },
        }

    @property
    def training_failed(self) -> bool:
        """Return whether no epoch of sgd beat the model without concepts, or every permuted control scored higher."""
        fit, nmi = self.fit, self.score.nmi
        unmoved = fit.options.solver == "sgd" and fit.best_epoch == 0 and fit.epochs_run > 0
        return unmoved or (self.null is not None and nmi is not None and nmi < min(self.null.nmi))

    def _against_chance(self, nmi: float | None) -> dict[str, Any]:
        null = self.null if nmi is not None else None
        return {
            "n_permutations": 0 if null is None else len(null.nmi),
            "null_nmi_mean": null and null.mean,
            "null_nmi_std": null and null.std,
            "p_value": None if null is None or nmi is None else null.p_value(nmi),
            "nmi_adjusted": None if null is None or nmi is None else null.adjusted(nmi),
        }

    def cluster_scores(self) -> list[ClusterScore]:
        """Return the scores of each cluster; None where it has no image of the part."""
        per, names = self.score.per_cluster, self.concepts.names
        on_val, top = self.on_val.per_cluster.cross_entropy_nats, self.explanation.supported
        rows = []
        for k, share in enumerate(map(_number, self.alone.best_mi_nats.tolist())):
            ce, half = float(per.cross_entropy_nats[k]), self._half_width(k)
            explained = share is not None and bool(names)
            rows.append(
                ClusterScore(
                    cluster=k,
                    n_test=int(per.n_test[k]),
                    cross_entropy_nats=_number(ce),
                    top1=_number(float(per.top1[k])),
                    mi_nats=float(per.mi_nats[k]),
                    top_concept=names[top[k]] if top[k] >= 0 else None,
                    best_concept=names[self.alone.best[k]] if explained else None,
                    best_concept_mi_nats=share if explained else None,
                    n_train=int(self.explanation.n_train[k]),
                    val_cross_entropy_nats=_number(float(on_val[k])),
                    cross_entropy_lo=None if half is None else max(0.0, ce - half),
                    cross_entropy_hi=None if half is None else ce + half,
                )
            )
        return rows

    def _half_width(self, cluster: int) -> float | None:
        """Return half the width of the 95 % t interval of a cluster's test cross-entropy; None below two images."""
        n = int(self.score.per_cluster.n_test[cluster])
        sd = float(self.score.per_cluster.cross_entropy_sd[cluster])
        return None if n < 2 else quantile(n - 1) * sd / math.sqrt(n)

    def concept_scores(self) -> list[ConceptScore]:
        """Return the scores of the best single concepts, best on the validation part first."""
        alone, entropy = self.alone, self.score.entropy_nats
        return [
            ConceptScore(
                rank=rank,
                concept=self.concepts.names[j],
                concept_group=self.concepts.groups[j],
                n_train=int(alone.n_train[j]),
                n_test=int(alone.n_test[j]),
                nmi=float(alone.mi_nats[j] / entropy) if entropy > 0 else None,
                mi_nats=float(alone.mi_nats[j]),
            )
            for rank, j in enumerate(alone.ranked[:MOST_CONCEPTS].tolist(), 1)
        ]

    def cluster_concepts(self) -> list[ClusterConcept]:
        """Return the concepts that define each cluster, largest weight first."""
        top = self.explanation
        return [
            ClusterConcept(
                cluster=k,
                rank=place + 1,
                concept=self.concepts.names[concept],
                concept_group=self.concepts.groups[concept],
                weight=float(top.weight[k, place]),
                lift=_number(float(top.lift[k, place])),
                n=int(top.n[k, place]),
            )
            for k, line in enumerate(top.concept.tolist())
            for place, concept in enumerate(line)
            if concept >= 0
        ]

    def group_scores(self) -> list[GroupScore]:
        """Return the scores of the concept groups; none without --ablate."""
        return [GroupScore(score.group, score.role, score.nmi, score.mi_nats) for score in self.groups]

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Return device, threads and versions, which could change the last bits, and the scores of the null."""
        null = {} if self.null is None else {"null_nmi": list(self.null.nmi)}
        return {"device": self.fit.device, **self.made_by, **null}


def surroundings() -> dict[str, Any]:
    """Return threads, instruction set and library versions of this process."""
    from qrp_store.probing.runtime import instructions, threads

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
class Prepared:
    """A probe that is ready for training: its data and request. It can be sent to another process."""

    data: ProbeData
    n_clusters: int
    request: ProbeRequest
    seed: int
    load_s: float

    @cached_property
    def trial(self) -> Trial:
        """The probe without its concepts."""
        data, shuffle = self.data, derive_seed(self.seed, "shuffle")
        options, device = self.request.options, self.request.device
        return Trial(data.clusters, data.parts, self.n_clusters, options, shuffle, device, data.groups)

    @cached_property
    def problem(self) -> Problem:
        """What is trained: the rows of the training and of the validation part, taken out of all."""
        return self.trial.problem(self.data.concepts.matrix)


def run(
    store: Store, clustering: StoredClustering, joined: JoinedConcepts, request: ProbeRequest, progress: Progress
) -> Outcome:
    """Train on the stored split and score on its test part. Raise InvalidInput for an empty part."""
    return trained(prepare(store, clustering, joined, request), progress)


def trained(ready: Prepared, progress: Progress) -> Outcome:
    """Train and score a prepared probe. It needs no store."""
    from qrp_store.probing.train import fit_together

    (fit,) = fit_together([ready.problem], progress)
    return conclude(ready, fit, progress)


def prepare(store: Store, clustering: StoredClustering, joined: JoinedConcepts, request: ProbeRequest) -> Prepared:
    """Do the first part of `run`, before training. Raise InvalidInput for an empty part."""
    started = time.perf_counter()
    data = load(store, clustering, joined, request)
    return Prepared(data, clustering.row.clusters, request, clustering.row.seed, time.perf_counter() - started)


def conclude(ready: Prepared, fit: ProbeFit | QrpStoreError, progress: Progress) -> Outcome:
    """Do the last part of `run`: scores, explanation and controls of the trained probe.

    `fit` is the result of the training (`train.fit_together`). Raise it when it is an error.
    """
    from qrp_store.probing.alone import alone
    from qrp_store.probing.explain import explain
    from qrp_store.probing.metrics import score

    if isinstance(fit, QrpStoreError):
        raise fit
    data, request, seed, device = ready.data, ready.request, ready.seed, ready.request.device
    scored_at = time.perf_counter()
    x_train, c_train, x_val, c_val = ready.problem.parts
    x_test, c_test = data.part(TEST)
    bootstrap = {"bootstrap": request.bootstrap, "seed": derive_seed(seed, "bootstrap")}
    on_test = score(fit, x_test, c_test, **bootstrap, device=device, groups=data.groups_of(TEST))
    on_train = score(fit, x_train, c_train, bootstrap=0, seed=0, device=device)
    explanation = explain(fit, x_train, c_train)
    single = alone((x_train, c_train), (x_val, c_val), (x_test, c_test), ready.trial.n_clusters)
    counts = np.bincount(data.parts, minlength=3).tolist()
    score_s = time.perf_counter() - scored_at
    groups, null = _controls(ready.trial, data.concepts, on_test, request, seed, progress)
    return Outcome(
        fit=fit,
        score=on_test,
        explanation=explanation,
        concepts=data.concepts,
        n_parts=(counts[TRAIN], counts[VAL], counts[TEST]),
        on_train=on_train,
        on_val=score(fit, x_val, c_val, bootstrap=0, seed=0, device=device),
        alone=single,
        groups=groups,
        null=null,
        load_s=ready.load_s,
        score_s=score_s,
        made_by=surroundings(),
    )


def _controls(
    trial: Trial, concepts: Concepts, whole: Score, request: ProbeRequest, seed: int, progress: Progress
) -> tuple[tuple[controls.GroupScore, ...], controls.Null | None]:
    """Return the scores by concept group and the null distribution, as far as they were requested."""
    from qrp_store.probing.controls import ablate, null_distribution

    if whole.nmi is None:
        return (), None
    x = concepts.matrix
    groups = tuple(ablate(trial, x, concepts.groups_named, whole, progress)) if request.ablate else ()
    seeds = [derive_seed(seed, f"permutation {i}") for i in range(request.permutations)]
    return groups, null_distribution(trial, x, seeds, progress) if seeds else None


def save_weights(root: Root, path: str, outcome: Outcome) -> tuple[str, str]:
    """Store the probe's weights. Return path and checksum."""
    weights_path = f"{path}/weights"
    return weights_path, save_array(root, weights_path, outcome.weights, replace=True)
