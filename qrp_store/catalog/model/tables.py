"""The tables. Users query the views (`views.py`); these may change from release to release.

Every versioned thing is a row of `artifact`, which holds its whole life; a table of its own kind holds the rest.
Large tables (`sample`, `label`, `assignment`) are keyed by integers and written in bulk. A result and all that is
scored in it or later are in `result_tables.py`.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from qrp_store.catalog.model.columns import KEYED, PK, Document, bulk_of, key, metadata, of
from qrp_store.catalog.model.result_tables import (
    BESIDE,
    SAID,
    cluster_concept,
    cluster_score,
    concept_score,
    curve_score,
    forward_score,
    further_number,
    group_score,
    reference_score,
    result,
    result_concept_set,
    threshold_score,
)

__all__ = [
    "BESIDE",
    "SAID",
    "artifact",
    "assignment",
    "backbone",
    "block",
    "cluster",
    "cluster_concept",
    "cluster_score",
    "clustering",
    "clustering_agreement",
    "concept",
    "concept_score",
    "concept_set",
    "curve_score",
    "dataset",
    "embedding",
    "forward_score",
    "further_number",
    "group_score",
    "image_file",
    "label",
    "metadata",
    "reference_score",
    "result",
    "result_concept_set",
    "sample",
    "store",
    "threshold_score",
    "verified_pair",
]

store = Table(
    "store",
    metadata,
    Column("pk", Integer, primary_key=True, autoincrement=False),
    Column("uuid", Text, nullable=False),
    Column("arrays_url", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    CheckConstraint("pk = 1", name="one_row"),
)

dataset = Table(
    "dataset",
    metadata,
    Column("pk", PK, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("fingerprint", Text, nullable=False),
    # writing: samples are going in; staged: all in, no embedding committed yet; ready: visible; writing again, with
    # retired_at: retired
    Column("state", Text, nullable=False),
    Column("image_root", Text),
    Column("created_at", Text, nullable=False),
    Column("created_at_seconds", Float, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("retired_at", Text),
    CheckConstraint("state IN ('writing', 'staged', 'ready')", name="state"),
)
# Partial on Postgres too (see the migration); naming its dialect here would import it for every look at SQLite.
Index(
    "uq_dataset_name_ready",
    dataset.c.name,
    unique=True,
    sqlite_where=text("state = 'ready'"),
)

sample = Table(
    "sample",
    metadata,
    key("dataset", primary=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("key", Text, nullable=False),
    **KEYED,
)

image_file = Table(
    "image_file",
    metadata,
    key("dataset", primary=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("digest", Text),  # null: the file could not be decoded
    **KEYED,
)

backbone = Table(
    "backbone",
    metadata,
    Column("pk", PK, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("spec", Document, nullable=False),
    Column("state", Text, nullable=False),  # staged, with retired_at: retired
    Column("created_at", Text, nullable=False),
    Column("created_at_seconds", Float, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("retired_at", Text),
    Column("series", Text),
    Column("position", Integer),
    CheckConstraint("state IN ('staged', 'ready')", name="state"),
)
Index(
    "uq_backbone_name_ready",
    backbone.c.name,
    unique=True,
    sqlite_where=text("state = 'ready'"),
)

artifact = Table(
    "artifact",
    metadata,
    Column("pk", PK, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("series", Text, nullable=False),
    Column("version", Integer),
    Column("fingerprint", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("spec", Document, nullable=False),
    Column("provenance", Document, nullable=False),
    Column("path", Text),
    Column("epoch", Integer, nullable=False),
    Column("error", Text),
    Column("created_at", Text, nullable=False),
    Column("created_at_seconds", Float, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("ready_at", Text),
    Column("retired_at", Text),
    # The process that writes it. The token stays after the commit, so that a commit whose reply was lost is recognised.
    Column("lease_token", Text),
    Column("lease_host", Text),
    Column("lease_boot", Text),
    Column("lease_pid", Integer),
    Column("lease_started", Text),
    Column("lease_since", Text),
    Column("lease_expires", Float),
    Column("checksums", Document),  # of its rows, by table; null: made before there were any
    UniqueConstraint("series", "version"),
    CheckConstraint("state IN ('writing', 'ready', 'retired', 'failed')", name="state"),
    CheckConstraint("kind IN ('embedding', 'concepts', 'clustering', 'result')", name="kind"),
    CheckConstraint("state NOT IN ('ready', 'retired') OR version IS NOT NULL", name="version"),
)
Index("ix_artifact_fingerprint", artifact.c.fingerprint)
Index("ix_artifact_kind_name", artifact.c.kind, artifact.c.name)

embedding = Table(
    "embedding",
    metadata,
    key("artifact", primary=True),
    key("dataset"),
    key("backbone"),
    Column("n", BigInteger, nullable=False),
    Column("dim", Integer, nullable=False),
    Column("dtype", Text, nullable=False),
    Column("block_rows", Integer, nullable=False),
)
Index("ix_embedding_dataset_pk", embedding.c.dataset_pk)

block = Table(
    "block",
    metadata,
    of("embedding"),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("first_row", BigInteger, nullable=False),
    Column("n_rows", Integer, nullable=False),
    Column("n_bytes", BigInteger, nullable=False),
    Column("checksum", Text, nullable=False),
    Column("bad", Document, nullable=False),
    Column("rolling", LargeBinary),
)

concept_set = Table(
    "concept_set",
    metadata,
    key("artifact", primary=True),
    key("dataset"),
    Column("exclusive", Boolean, nullable=False),
    Column("n_concepts", Integer, nullable=False),
    Column("n_labels", BigInteger, nullable=False),
    Column("n_labelled_samples", BigInteger, nullable=False),
    Column("n_verified", BigInteger),  # null: what is no label is absent
)
Index("ix_concept_set_dataset_pk", concept_set.c.dataset_pk)

concept = Table(
    "concept",
    metadata,
    of("concept_set"),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("concept_group", Text),
    Column("n_positive", BigInteger, nullable=False),
)

label = Table(
    "label",
    metadata,
    bulk_of("concept_set"),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("concept", Integer, primary_key=True, autoincrement=False),
    Column("score", Float),
    **KEYED,
)

# What somebody looked at, found or not; concept -1 is every concept. Rows only where a set has unknown pairs.
verified_pair = Table(
    "verified_pair",
    metadata,
    bulk_of("concept_set"),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("concept", Integer, primary_key=True, autoincrement=False),
    **KEYED,
)

clustering = Table(
    "clustering",
    metadata,
    key("artifact", primary=True),
    key("dataset"),
    Column("embedding_pk", PK, ForeignKey("embedding.artifact_pk")),  # null: imported
    Column("backbone", Text, nullable=False),
    Column("clusters", Integer, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("dim", Integer),
    Column("n_sampled", BigInteger),
    Column("n_train", BigInteger, nullable=False),
    Column("n_val", BigInteger, nullable=False),
    Column("n_test", BigInteger, nullable=False),
    Column("n_small_clusters", Integer, nullable=False),
    Column("objective", Float),
    Column("objective_per_iteration", Document),
    Column("centroids_path", Text),
    Column("centroids_checksum", Text),
    Column("centroids_of", Text),  # the clustering they were taken from; it need not be in this catalog
    Column("groups_path", Text),
    Column("groups_checksum", Text),
)
Index("ix_clustering_dataset_pk", clustering.c.dataset_pk)

cluster = Table(
    "cluster",
    metadata,
    of("clustering"),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
)

assignment = Table(
    "assignment",
    metadata,
    bulk_of("clustering"),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("cluster", Integer, nullable=False),
    Column("part", SmallInteger, nullable=False),
    **KEYED,
)

clustering_agreement = Table(
    "clustering_agreement",
    metadata,
    of("clustering"),
    Column("other_id", Text, primary_key=True),  # a clustering of the same samples; it may be retired before this one
    Column("ami", Float, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("created_at", Text, nullable=False),
)
Index("ix_clustering_agreement_other_id", clustering_agreement.c.other_id)
