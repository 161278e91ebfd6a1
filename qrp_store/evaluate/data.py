"""The request of a probe, and its data: samples with concepts, cluster and part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.entities import clusterings, concept_sets
from qrp_store.catalog.entities.clusterings import StoredClustering
from qrp_store.catalog.entities.concept_sets import StoredConcepts
from qrp_store.cluster.grouped import sample_groups
from qrp_store.errors import InvalidInput
from qrp_store.evaluate.verified import known_block
from qrp_store.label import concept_rows
from qrp_store.options import ProbeOptions, ScoreOptions, suggested_k, taken
from qrp_store.probing.sparse import ConceptMatrix, permute_rows
from qrp_store.records import TEST, TRAIN, VAL, derive_seed
from qrp_store.store import Store

_MATRICES = 4  # cached for each store in use
_matrices: WeakKeyDictionary[Store, dict[str, ConceptMatrix]] = WeakKeyDictionary()
NO_GROUP = "(none)"
"""The name of the concepts without a group in `group_scores`."""


@dataclass(frozen=True)
class JoinedConcepts:
    """One or several concept sets, joined under the name that users see (`C1+C2`)."""

    name: str
    parts: tuple[StoredConcepts, ...]


@dataclass(frozen=True)
class ProbeRequest(ScoreOptions):
    """All options of a probe, without its data. `device` changes no promised number."""

    options: ProbeOptions
    device: str

    def document(self) -> dict[str, Any]:
        """Return the options that change a number, for the fingerprint."""
        return {**self.options.identity(), **self.identity()}

    def algorithm(self, clustering: StoredClustering) -> int:
        """Return the version of the computation, for the fingerprint.

        2 where the split keeps groups together: interval, permutations and correction are over whole groups. 1: they
        are over samples.
        """
        return max(self.options.algorithm, 1 if clustering.row.groups_path is None else 2)

    @classmethod
    def of(cls, document: Mapping[str, Any], device: str) -> ProbeRequest:
        """Return the request whose `document()` this is."""
        scoring = taken(ScoreOptions, document)
        return cls(options=taken(ProbeOptions, document), device=device, **vars(scoring))


@dataclass(frozen=True)
class Concepts:
    """The concepts of a probe: the matrix of samples and concepts, names, groups and sets.

    `sets` names the concepts without a group: the name of their set when several are joined, else NO_GROUP.
    """

    matrix: ConceptMatrix
    names: tuple[str, ...]
    groups: tuple[str | None, ...]
    sets: tuple[str, ...]

    @property
    def groups_named(self) -> tuple[str, ...]:
        """Return a group for every concept; without a group it is the entry of `sets`."""
        return tuple(name if group is None else group for group, name in zip(self.groups, self.sets, strict=True))


@dataclass(frozen=True, eq=False)
class ProbeData:
    """The samples of a probe by position in the dataset: concepts, cluster and part, each (n,).

    `groups`, int64 (n,): the group of each sample where the split keeps groups together; else None.
    """

    positions: np.ndarray
    concepts: Concepts
    clusters: np.ndarray
    parts: np.ndarray
    groups: np.ndarray | None = None

    def groups_of(self, number: int) -> np.ndarray | None:
        """Return the groups of the samples of one part."""
        return None if self.groups is None else self.groups[self.parts == number]

    def part(self, number: int) -> tuple[ConceptMatrix, np.ndarray]:
        """Return concepts and clusters of one part (records.TRAIN, VAL or TEST)."""
        at = np.flatnonzero(self.parts == number)
        return self.concepts.matrix.take(at), self.clusters[at]


def load(store: Store, clustering: StoredClustering, joined: JoinedConcepts, request: ProbeRequest) -> ProbeData:
    """Load the samples that a probe is trained and scored on. Raise InvalidInput for an empty part."""
    positions, clusters, parts = clusterings.assignments(store.catalog, clustering.artifact.id)
    groups = sample_groups(store, clustering)
    block = known_block(store, joined.parts, positions) if request.only_verified else None
    if block is not None:
        positions, clusters, parts = positions[block.samples], clusters[block.samples], parts[block.samples]
        groups = None if groups is None else groups[block.samples]
    concepts = _concepts(store, joined, positions, request, None if block is None else block.concepts)
    x = concepts.matrix
    if request.labelled_only:
        labelled = np.flatnonzero(np.diff(x.indptr))
        x, positions, clusters, parts = x.take(labelled), positions[labelled], clusters[labelled], parts[labelled]
        groups = None if groups is None else groups[labelled]
    if request.sample_eval is not None and request.sample_eval < len(parts):
        seed = derive_seed(clustering.row.seed, "sample-eval")
        sample = stratified(positions, clusters, parts, request.sample_eval, seed)
        x, positions, clusters, parts = x.take(sample), positions[sample], clusters[sample], parts[sample]
        groups = None if groups is None else groups[sample]
    if request.permute:
        x = permute_rows(x, parts, seed=derive_seed(clustering.row.seed, "permute"), groups=groups)
    for part, name in ((TRAIN, "training"), (VAL, "validation"), (TEST, "test")):
        if not (parts == part).any():
            raise InvalidInput(
                f"the {name} part of {clustering.artifact.id} has no sample left for {joined.name!r}",
                hint="choose fewer clusters, more samples, or leave out --labelled-only and --only-verified"
                + suggested_k(clustering.row.clusters, clustering.row.n),
            )
    return ProbeData(positions, replace(concepts, matrix=x), clusters, parts, groups)


def stratified(positions: np.ndarray, clusters: np.ndarray, parts: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Draw n of N samples so that each cluster keeps its share of each part, to one sample.

    `positions`, `clusters` and `parts` are (N,), N >= n; returns their indices, int64 (n,), increasing. A position has
    the same random number under every backbone, so that two backbones keep mostly the same samples.
    """
    stratum = clusters.astype(np.int64) * 3 + parts
    number = np.random.default_rng(seed).random(int(positions.max()) + 1)[positions]
    order = np.lexsort((number, stratum))
    sizes = np.bincount(stratum)
    exact = sizes * (n / len(positions))
    quota = np.floor(exact).astype(np.int64)
    largest = np.argsort(quota - exact, kind="stable")[: n - int(quota.sum())]
    quota[largest] += 1
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < np.repeat(quota, sizes)])


def _matrix(store: Store, concepts: StoredConcepts) -> ConceptMatrix:
    """Return a concept set over its dataset's positions, cached for the next result: a ready set never changes."""
    cache, key = _matrices.setdefault(store, {}), concepts.artifact.id
    matrix = cache.pop(key, None)
    if matrix is None:
        matrix = ConceptMatrix(*concept_rows.load(store, concepts), concepts.n_concepts)
    cache[key] = matrix  # the most recently used is the last
    if len(cache) > _MATRICES:
        del cache[next(iter(cache))]
    return matrix


def _scores(catalog: Catalog, joined: JoinedConcepts) -> dict[str, np.ndarray]:
    """Return each set's label scores, float32; a missing score is 1. Raise InvalidInput when all are missing."""
    scores = {part.artifact.id: concept_sets.label_scores(catalog, part.artifact.id) for part in joined.parts}
    all_scores = np.concatenate(list(scores.values()))
    if len(all_scores) and np.isnan(all_scores).all():
        raise InvalidInput(
            f"concepts {joined.name!r} have no scores: each holds or does not",
            hint="without --soft and --thresholds; or label again with a score column",
        )
    return {name: np.where(np.isnan(values), np.float32(1), values) for name, values in scores.items()}


def _concepts(
    store: Store, joined: JoinedConcepts, positions: np.ndarray, request: ProbeRequest, verified: np.ndarray | None
) -> Concepts:
    """Return the joined concepts over these positions, without those of fewer than `min_count` samples.

    `verified` (bool, of all concepts) selects some of them; None: all.
    """
    min_count = request.min_count
    matrices: list[ConceptMatrix] = []
    names: list[str] = []
    groups: list[str | None] = []
    sets: list[str] = []
    origin: list[str] = []
    scores = _scores(store.catalog, joined) if request.soft else {}
    for part, called in zip(joined.parts, joined.name.split("+"), strict=True):
        whole = _matrix(store, part)
        if request.soft:
            whole = replace(whole, values=scores[part.artifact.id])
        matrices.append(whole.take(positions))
        vocabulary = concept_sets.vocabulary(store.catalog, part.artifact.id)
        names += vocabulary.names
        groups += vocabulary.groups
        sets += [part.artifact.name if len(joined.parts) > 1 else NO_GROUP] * len(vocabulary.names)
        origin += [called] * len(vocabulary.names)
    shared = Counter(zip(names, groups, strict=True))
    names = [f"{n} ({o})" if shared[n, g] > 1 else n for n, g, o in zip(names, groups, origin, strict=True)]
    matrix = matrices[0].hstack(matrices[1:]) if len(matrices) > 1 else matrices[0]
    selected = np.flatnonzero((matrix.counts() >= min_count) & (True if verified is None else verified))
    if len(selected) == 0 and min_count > 0:
        raise InvalidInput(f"--min-count {min_count}: no concept of {joined.name!r} holds that often")
    if len(selected) < matrix.n_concepts:
        matrix = matrix.select(selected)
        names, groups, sets = [names[i] for i in selected], [groups[i] for i in selected], [sets[i] for i in selected]
    return Concepts(matrix, tuple(names), tuple(groups), tuple(sets))
