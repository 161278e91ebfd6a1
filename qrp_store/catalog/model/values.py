"""Every value of a result, once: its name, type, meaning, and how exactly `rerun` must find it again.

The tables' columns, the views, the JSON of `evaluate`, the comparison of `rerun` and the tables of docs/sql.md come
from these classes. To add a value: a field here, the code that computes it, and a migration that adds the column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from sqlalchemy import BigInteger, Boolean, Column, Float, Integer, Text
from sqlalchemy.types import TypeEngine

CLOSE = 1e-3
"""Tolerance (nats, or fractions) where equal bits are not promised: another device, library version or CPU."""
FEW = 0.05
"""The same for the mean over one cluster, which may have very few test images."""
_TYPES: Mapping[type, type[TypeEngine[Any]]] = {str: Text, bool: Boolean, int: BigInteger, float: Float}


@dataclass(frozen=True)
class Value:
    """What the annotation of a field says about a value beside its Python type.

    sql        column type, where it is not the usual one of the Python type
    key        part of the table's primary key
    shown      SQL expression that the views show, when it is not the column itself
    stored     False: no column of this table; the views find it elsewhere (`shown`)
    tolerance  largest difference that `rerun` accepts where equal bits are not promised; 0: equal everywhere; None:
               compared only where equal bits are promised
    checked    False: not recomputed by `rerun` (names, ids, machines)
    young      True: null in the table where a result was made before the value was known
    """

    meaning: str
    sql: type[TypeEngine[Any]] | None = None
    key: bool = False
    shown: str | None = None
    stored: bool = True
    tolerance: float | None = 0.0
    checked: bool = True
    young: bool = False


@dataclass(frozen=True)
class Entry:
    """A value as the registry holds it. `kind` is its Python type, without None."""

    name: str
    kind: type
    nullable: bool
    about: Value

    def column(self) -> Column[Any]:
        """The table's column."""
        sql = self.about.sql or _TYPES[self.kind]
        if self.about.key:
            return Column(self.name, sql, primary_key=True, autoincrement=False)
        return Column(self.name, sql, nullable=self.nullable or self.about.young)

    def selected(self, table: str) -> str:
        """What a view selects, from a table of that alias."""
        shown = self.about.shown
        return f"{table}.{self.name}" if shown is None else f"{shown} AS {self.name}"


@cache
def entries(of: type) -> tuple[Entry, ...]:
    """The values that a class declares, in order."""
    result = []
    for name, hint in get_type_hints(of, include_extras=True).items():
        if get_origin(hint) is Annotated:
            annotated, about = get_args(hint)
            kinds = [kind for kind in get_args(annotated) or (annotated,) if kind is not NoneType]
            result.append(Entry(name, kinds[0], NoneType in get_args(annotated), about))
    return tuple(result)


def columns(of: type) -> list[Column[Any]]:
    """The columns of the table of these values."""
    return [entry.column() for entry in entries(of) if entry.about.stored]


def selected(of: type, table: str) -> str:
    """The select list of the view of these values."""
    return ", ".join(entry.selected(table) for entry in entries(of))


def _name(meaning: str, **more: Any) -> Value:
    return Value(meaning, checked=False, **more)


def _score(meaning: str, **more: Any) -> Value:
    return Value(meaning, tolerance=CLOSE, **more)


def _training(meaning: str, sql: type[TypeEngine[Any]] | None = None, **more: Any) -> Value:
    """What depends on each step of the training, and so on the last bits of the machine."""
    return Value(meaning, sql, tolerance=None, **more)


@dataclass(frozen=True)
class ResultValues:
    """A probe result. Information in nats unless the name says bits."""

    id: Annotated[str, _name("id of this version", stored=False, shown="a.id")]
    version: Annotated[int, _name("version, counted over equal questions", stored=False, shown="a.version")]
    fingerprint: Annotated[
        str, _name("hash of every option and input that changes a number", stored=False, shown="a.fingerprint")
    ]
    dataset: Annotated[str, _name("dataset")]
    backbone: Annotated[str, _name("backbone, or the name of an imported clustering")]
    clustering_id: Annotated[str, _name("id of the clustering", stored=False, shown="ca.id")]
    concepts: Annotated[str, _name("concept set, or several joined by +")]
    clusters: Annotated[int, _name("K", sql=Integer)]
    seed: Annotated[int, _name("seed of K-means, split and shuffles")]
    protocol: Annotated[str, _name("protocol of the probe")]
    solver: Annotated[str, _name("solver of the probe")]
    setting: Annotated[str, _name("short hash of every option and input version but backbone and seed")]
    permuted: Annotated[bool, _name("whether this is a control with permuted concepts")]
    n_train: Annotated[int, Value("training images")]
    n_val: Annotated[int, Value("validation images")]
    n_test: Annotated[int, Value("test images")]
    n_small_clusters: Annotated[int, _name("clusters of under 5 images, all of them in the training part", sql=Integer)]
    n_concepts: Annotated[int, Value("concepts that take part", Integer)]
    entropy_nats: Annotated[float, _score("H(c), entropy of the test part's clusters")]
    cross_entropy_nats: Annotated[float, _score("CE, mean of −ln q(c | y) on the test part")]
    mi_nats: Annotated[float, _score("H − CE, a lower bound on the mutual information (in expectation)")]
    mi_bits: Annotated[float, _score("the same in bits: nats / ln 2")]
    nmi: Annotated[float | None, _score("(H − CE) / H; null when all test images are in one cluster")]
    nmi_ci_lo: Annotated[float | None, _score("lower end of the 95 % bootstrap interval, given clustering and split")]
    nmi_ci_hi: Annotated[float | None, _score("upper end of that interval")]
    top1: Annotated[float, _score("fraction of test images whose cluster is the most likely one")]
    top5: Annotated[float, _score("fraction whose cluster is among the 5 most likely; 1 when K < 5")]
    train_loss: Annotated[float, _score("the probe's objective on the training part")]
    grad_norm: Annotated[float, _training("2-norm of the objective's gradient")]
    converged: Annotated[bool, _training("whether grad_norm² / (2λ) ≤ 0.001")]
    epochs_run: Annotated[int, _training("epochs (sgd) or iterations (lbfgs) that were run", Integer)]
    best_epoch: Annotated[int, _training("epoch whose weights were kept; 0: the model without concepts", Integer)]
    device: Annotated[str, _name("device of the probe")]
    engine: Annotated[str, _name("K-means engine; import for imported clusterings")]
    entropy_miller_madow_nats: Annotated[float, _score("H with the Miller-Madow correction")]
    train_cross_entropy_nats: Annotated[float, _score("CE on the training part")]
    weight_decay: Annotated[float, _training("λ, as given or (tight) as validation chose it")]
    n_permutations: Annotated[int, Value("number of permuted controls", Integer)]
    null_nmi_mean: Annotated[float | None, _score("mean NMI of the permuted controls; null without them")]
    null_nmi_std: Annotated[float | None, _score("their standard deviation (n − 1)")]
    p_value: Annotated[float | None, _training("(1 + controls that score at least as high) / (1 + controls)")]
    nmi_adjusted: Annotated[float | None, _score("(nmi − null_nmi_mean) / (1 − null_nmi_mean)")]
    algorithm: Annotated[
        int, _name("version of what is computed", sql=Integer, shown="coalesce(r.algorithm, 1)", young=True)
    ]
    gap_nats: Annotated[float | None, _score("MI on the training part − MI on the test part", young=True)]
    training_failed: Annotated[
        bool,
        _training(
            "whether no epoch of sgd beat the model without concepts, or every permuted control scored higher",
            shown="coalesce(r.training_failed, r.solver = 'sgd' AND r.best_epoch = 0 AND r.epochs_run > 0)",
            young=True,
        ),
    ]


# Of results that do not hold it: a cluster's training part is about 64 % of it.
_TOP_CONCEPT = """CASE WHEN s.n_train IS NOT NULL THEN s.top_concept ELSE (
    SELECT c.concept FROM cluster_concept c
    JOIN result r ON r.artifact_pk = c.result_pk
    JOIN cluster k ON k.clustering_pk = r.clustering_pk AND k.number = c.cluster
    WHERE c.result_pk = s.result_pk AND c.cluster = s.cluster AND c.n >= 5 AND c.n >= 0.064 * k.size
    ORDER BY c.rank LIMIT 1) END"""


class ClusterScore(NamedTuple):
    """What a result says about one cluster."""

    cluster: Annotated[int, Value("number of the cluster, from 0", Integer, key=True)]
    n_test: Annotated[int, Value("test images")]
    cross_entropy_nats: Annotated[
        float | None, Value("mean of −ln q on its test images; null without any", tolerance=FEW)
    ]
    top1: Annotated[float | None, _training("fraction of its test images that are predicted")]
    mi_nats: Annotated[float, _score("its share p̂ (−ln p̂ − CE) of the result's MI")]
    top_concept: Annotated[
        str | None,
        _training(
            "concept of largest weight that at least 5 and a tenth of its training images have; null without any",
            shown=_TOP_CONCEPT,
            young=True,
        ),
    ]
    best_concept: Annotated[
        str | None, _training("concept that alone says most about it; null without test images", young=True)
    ]
    best_concept_mi_nats: Annotated[float | None, _training("its share of that concept's MI", young=True)]
    n_train: Annotated[int | None, Value("training images; null in results of older versions", young=True)]
    val_cross_entropy_nats: Annotated[
        float | None, Value("mean of −ln q on its validation images: choose by this", tolerance=FEW, young=True)
    ]
    cross_entropy_lo: Annotated[
        float | None, _training("lower end of the 95 % interval of cross_entropy_nats; null below 2 images", young=True)
    ]
    cross_entropy_hi: Annotated[float | None, _training("upper end of that interval", young=True)]


class ClusterConcept(NamedTuple):
    """One of the concepts that define a cluster."""

    cluster: Annotated[int, Value("number of the cluster, from 0", Integer, key=True)]
    rank: Annotated[int, Value("rank by weight, from 1", Integer, key=True)]
    concept: Annotated[str, _training("concept")]
    concept_group: Annotated[str | None, _training("its group")]
    weight: Annotated[float, _training("the probe's weight, centred over clusters")]
    lift: Annotated[float | None, _training("P(concept in cluster) / P(concept), on the training part")]
    n: Annotated[int, _training("training images of the cluster that have the concept")]


class GroupScore(NamedTuple):
    """The score of one concept group, alone or left out."""

    concept_group: Annotated[str, Value("group; (all) for all of them", key=True)]
    role: Annotated[str, Value("alone, all, or without", key=True)]
    nmi: Annotated[float, _score("NMI of the probe with these concepts")]
    mi_nats: Annotated[float, _score("its MI")]


class ConceptScore(NamedTuple):
    """The score of one concept alone."""

    rank: Annotated[int, Value("rank by the validation part, from 1", Integer, key=True)]
    concept: Annotated[str, _training("concept")]
    concept_group: Annotated[str | None, _training("its group")]
    n_train: Annotated[int, _training("training images that have it")]
    n_test: Annotated[int, _training("test images that have it")]
    nmi: Annotated[float | None, _training("NMI of the concept alone")]
    mi_nats: Annotated[float, _training("its MI")]


TABLES: Mapping[str, type] = {
    "cluster_scores": ClusterScore,
    "cluster_concepts": ClusterConcept,
    "group_scores": GroupScore,
    "concept_scores": ConceptScore,
}
"""The views of a result's rows."""

FURTHER: Mapping[str, str] = {
    "nmi_limit": "NMI that ever more training images would approach (`--curve` under tight); null without",
    "nmi_limit_lo": "lower end of its 95 % interval",
    "nmi_limit_hi": "upper end of that interval",
    "nmi_upper": "NMI of the best of linear probe, products of concepts and network (`--upper`); null without",
    "code_length_nats": "prequential code length of the clusters, nats a sample (`--mdl`); null without",
}
"""Numbers that are added to a result on request, maybe later, with their meaning. Views show them as columns."""
