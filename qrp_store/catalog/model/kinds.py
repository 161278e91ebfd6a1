"""The registry of artifact kinds: which tables, rows and arrays one has, how they are counted, checked and listed.

To add a kind: its tables (`tables.py`, a migration), one entry here, and the story that makes it. Removal, `verify`,
`copy`, `ls` and `gc` read the entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from qrp_store.catalog.model import tables as t


@dataclass(frozen=True)
class Rows:
    """A table whose rows belong to artifacts of one kind; `owner` is the column that says to which.

    `numbers`: checksum name → integer and float columns, for a large table, written and removed in several
    transactions. `later`: rows may come after the artifact is ready. `kept`: rows outlive it, as its tombstone.
    `layout`: they say how arrays are cut, which each store decides.
    `promised`: the column of the kind's own table that counts them, and what a message calls them.
    """

    table: sa.Table
    owner: str
    numbers: Mapping[str, tuple[str, ...]] | None = None
    later: bool = False
    kept: bool = False
    layout: bool = False
    promised: tuple[str, str] | None = None

    @property
    def bulk(self) -> bool:
        return self.numbers is not None


@dataclass(frozen=True)
class Kind:
    """A kind of artifact. `table` holds one row for each, keyed by `artifact_pk`.

    `rows`: large tables first, so that a removal that was stopped leaves something to find. `inputs`: (table, key of
    the artifact made, key of the artifact it was made from). `arrays`: columns of path and checksum of whole arrays.
    `plural` and `listing`: its name in `ls` and the query behind it.
    """

    name: str
    table: sa.Table
    rows: tuple[Rows, ...]
    plural: str
    listing: str
    inputs: tuple[tuple[sa.Table, str, str], ...] = ()
    arrays: tuple[tuple[str, str], ...] = ()

    @property
    def portable(self) -> frozenset[str]:
        """Names of the checksums that the same rows have in every catalog.

        Others cover keys of other rows, rows that come later, or a layout that each catalog chooses.
        """
        names: set[str] = set()
        for rows in self.rows:
            if rows.numbers is not None:
                names |= set(rows.numbers)
            elif not (rows.kept or rows.later or rows.layout):
                names.add(rows.table.name)
        return frozenset(names)

    @property
    def removable(self) -> tuple[Rows, ...]:
        """The rows that go when an artifact is removed."""
        return tuple(rows for rows in self.rows if not rows.kept)


_EMBEDDING = Kind(
    name="embedding",
    table=t.embedding,
    rows=(Rows(t.block, "embedding_pk", layout=True),),
    plural="embeddings",
    listing="""
SELECT id, dataset || '/' || backbone AS name, dataset, backbone, version, is_newest, n, dim, dtype, array_url,
    created_at, created_by
FROM embeddings ORDER BY dataset, backbone, version
""",
)
_CONCEPTS = Kind(
    name="concepts",
    table=t.concept_set,
    rows=(
        Rows(
            t.label,
            "concept_set_pk",
            numbers={"label": ("position", "concept"), "label.score": ("position", "concept", "score")},
            promised=("n_labels", "labels"),
        ),
        Rows(
            t.verified_pair,
            "concept_set_pk",
            numbers={"verified_pair": ("position", "concept")},
            promised=("n_verified", "verified pairs"),
        ),
        Rows(t.concept, "concept_set_pk", promised=("n_concepts", "concepts")),
    ),
    plural="concepts",
    listing="""
SELECT a.id, a.name, d.name AS dataset, a.version,
    a.version = (SELECT max(x.version) FROM artifact x WHERE x.series = a.series AND x.state = 'ready') AS is_newest,
    c.n_concepts, c.n_labels, c.n_labelled_samples, c.exclusive, a.created_at, a.created_by
FROM concept_set c JOIN artifact a ON a.pk = c.artifact_pk AND a.state = 'ready'
JOIN dataset d ON d.pk = c.dataset_pk ORDER BY d.name, a.name, a.version
""",
)
_CLUSTERING = Kind(
    name="clustering",
    table=t.clustering,
    rows=(
        Rows(
            t.assignment,
            "clustering_pk",
            numbers={"assignment": ("position", "cluster", "part")},
            promised=("n", "assignments"),
        ),
        Rows(t.cluster, "clustering_pk", promised=("clusters", "clusters")),
        Rows(t.clustering_agreement, "clustering_pk", later=True),
    ),
    plural="clusterings",
    listing="""
SELECT c.id, a.name, c.dataset, c.backbone, c.clusters, c.seed, c.version, c.is_newest, c.is_current, c.centroids_of,
    c.n, c.dim, c.n_sampled, c.objective, c.n_train, c.n_val, c.n_test, c.n_small_clusters, c.created_at, c.created_by
FROM clusterings c JOIN artifact a ON a.id = c.id ORDER BY c.dataset, c.backbone, c.clusters, c.seed, c.version
""",
    inputs=((t.clustering, "artifact_pk", "embedding_pk"),),
    arrays=(("centroids_path", "centroids_checksum"), ("groups_path", "groups_checksum")),
)
_RESULT = Kind(
    name="result",
    table=t.result,
    rows=(
        *(Rows(table, "result_pk", later=True) for table in t.BESIDE),
        *(
            Rows(table, "result_pk", promised=("clusters", "cluster scores") if table is t.cluster_score else None)
            for table in t.SAID
        ),
        Rows(t.result_concept_set, "result_pk", kept=True),
    ),
    plural="results",
    listing="""
SELECT r.id, a.name, r.dataset, r.backbone, r.concepts, r.clusters, r.seed, r.protocol, r.solver, r.setting,
    r.permuted, r.version, r.nmi, r.nmi_ci_lo, r.nmi_ci_hi, r.mi_nats, r.top1, r.top5, r.n_test, r.created_at,
    r.created_by
FROM results r JOIN artifact a ON a.id = r.id
ORDER BY r.dataset, r.concepts, r.clusters, r.backbone, r.seed
""",
    inputs=(
        (t.result, "artifact_pk", "clustering_pk"),
        (t.result_concept_set, "result_pk", "concept_set_pk"),
    ),
    arrays=(("weights_path", "weights_checksum"),),
)
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (_EMBEDDING, _CONCEPTS, _CLUSTERING, _RESULT)}
"""Inputs before what is made from them."""
