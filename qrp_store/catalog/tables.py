"""The tables. Users query the views (`views.py`); these may change from release to release.

Every versioned thing is a row of `artifact`, which holds its whole life; a table of its own kind holds the rest.
Large tables (`sample`, `label`, `assignment`) are keyed by integers and written in bulk.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine


class _Document(TypeDecorator[Any]):
    """JSON; JSONB on Postgres, whose dialect is imported only there."""

    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name != "postgresql":
            return dialect.type_descriptor(JSON())
        from sqlalchemy.dialects.postgresql import JSONB

        return dialect.type_descriptor(JSONB())


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
# An autoincrementing key on both databases: SQLite wants INTEGER for its rowid.
_PK = BigInteger().with_variant(Integer(), "sqlite")
_KEYED: dict[str, Any] = {"sqlite_with_rowid": False}


def _key(table: str, *, primary: bool = False, nullable: bool = False) -> Column[int]:
    return Column(f"{table}_pk", _PK, ForeignKey(f"{table}.pk"), primary_key=primary, nullable=nullable)


def _of(parent: str, *, primary: bool = True) -> Column[int]:
    """The key of a row that belongs to an artifact's own table (its key is the artifact's)."""
    return Column(f"{parent}_pk", _PK, ForeignKey(f"{parent}.artifact_pk"), primary_key=primary, nullable=False)


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
    Column("pk", _PK, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("fingerprint", Text, nullable=False),
    # writing: samples are going in; staged: all in, no embedding committed yet; ready: visible
    Column("state", Text, nullable=False),
    Column("image_root", Text),
    Column("created_at", Text, nullable=False),
    Column("created_at_seconds", Float, nullable=False),
    Column("created_by", Text, nullable=False),
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
    _key("dataset", primary=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("key", Text, nullable=False),
    **_KEYED,
)

image_file = Table(
    "image_file",
    metadata,
    _key("dataset", primary=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("digest", Text),  # null: the file could not be decoded
    **_KEYED,
)

backbone = Table(
    "backbone",
    metadata,
    Column("pk", _PK, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("spec", _Document, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("created_at_seconds", Float, nullable=False),
    Column("created_by", Text, nullable=False),
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
    Column("pk", _PK, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("series", Text, nullable=False),
    Column("version", Integer),
    Column("fingerprint", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("spec", _Document, nullable=False),
    Column("provenance", _Document, nullable=False),
    Column("path", Text),
    Column("epoch", Integer, nullable=False),
    Column("error", Text),
    Column("created_at", Text, nullable=False),
    Column("created_at_seconds", Float, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("ready_at", Text),
    Column("retired_at", Text),
    # Who is writing it. The token stays after the commit, so that a commit whose reply was lost is recognised.
    Column("lease_token", Text),
    Column("lease_host", Text),
    Column("lease_boot", Text),
    Column("lease_pid", Integer),
    Column("lease_started", Text),
    Column("lease_since", Text),
    Column("lease_expires", Float),
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
    _key("artifact", primary=True),
    _key("dataset"),
    _key("backbone"),
    Column("n", BigInteger, nullable=False),
    Column("dim", Integer, nullable=False),
    Column("dtype", Text, nullable=False),
    Column("block_rows", Integer, nullable=False),
)
Index("ix_embedding_dataset_pk", embedding.c.dataset_pk)

block = Table(
    "block",
    metadata,
    _of("embedding"),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("first_row", BigInteger, nullable=False),
    Column("n_rows", Integer, nullable=False),
    Column("n_bytes", BigInteger, nullable=False),
    Column("checksum", Text, nullable=False),
    Column("bad", _Document, nullable=False),
)

concept_set = Table(
    "concept_set",
    metadata,
    _key("artifact", primary=True),
    _key("dataset"),
    Column("exclusive", Boolean, nullable=False),
    Column("n_concepts", Integer, nullable=False),
    Column("n_labels", BigInteger, nullable=False),
    Column("n_labelled_samples", BigInteger, nullable=False),
)
Index("ix_concept_set_dataset_pk", concept_set.c.dataset_pk)

concept = Table(
    "concept",
    metadata,
    _of("concept_set"),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("concept_group", Text),
    Column("n_positive", BigInteger, nullable=False),
)

label = Table(
    "label",
    metadata,
    _of("concept_set"),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("concept", Integer, primary_key=True, autoincrement=False),
    Column("score", Float),
    **_KEYED,
)

clustering = Table(
    "clustering",
    metadata,
    _key("artifact", primary=True),
    _key("dataset"),
    Column("embedding_pk", _PK, ForeignKey("embedding.artifact_pk")),  # null: imported
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
    Column("objective_per_iteration", _Document),
    Column("centroids_path", Text),
    Column("centroids_checksum", Text),
)
Index("ix_clustering_dataset_pk", clustering.c.dataset_pk)

cluster = Table(
    "cluster",
    metadata,
    _of("clustering"),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
)

assignment = Table(
    "assignment",
    metadata,
    _of("clustering"),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("cluster", Integer, nullable=False),
    Column("part", SmallInteger, nullable=False),
    **_KEYED,
)

result = Table(
    "result",
    metadata,
    _key("artifact", primary=True),
    _key("dataset"),
    _of("clustering", primary=False),
    Column("dataset", Text, nullable=False),
    Column("backbone", Text, nullable=False),
    Column("concepts", Text, nullable=False),
    Column("clusters", Integer, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("protocol", Text, nullable=False),
    Column("solver", Text, nullable=False),
    Column("setting", Text, nullable=False),
    Column("permuted", Boolean, nullable=False),
    Column("n_train", BigInteger, nullable=False),
    Column("n_val", BigInteger, nullable=False),
    Column("n_test", BigInteger, nullable=False),
    Column("n_small_clusters", Integer, nullable=False),
    Column("n_concepts", Integer, nullable=False),
    Column("entropy_nats", Float, nullable=False),
    Column("cross_entropy_nats", Float, nullable=False),
    Column("mi_nats", Float, nullable=False),
    Column("mi_bits", Float, nullable=False),
    Column("nmi", Float),  # null: all test samples are in one cluster
    Column("nmi_ci_lo", Float),
    Column("nmi_ci_hi", Float),
    Column("top1", Float, nullable=False),
    Column("top5", Float, nullable=False),
    Column("train_loss", Float, nullable=False),
    Column("grad_norm", Float, nullable=False),
    Column("converged", Boolean, nullable=False),
    Column("epochs_run", Integer, nullable=False),
    Column("best_epoch", Integer, nullable=False),
    Column("device", Text, nullable=False),
    Column("engine", Text, nullable=False),
    Column("weight_decay", Float, nullable=False),
    Column("train_cross_entropy_nats", Float, nullable=False),
    Column("entropy_miller_madow_nats", Float, nullable=False),
    Column("n_permutations", Integer, nullable=False),
    Column("null_nmi_mean", Float),  # null, like the next three: no permutations
    Column("null_nmi_std", Float),
    Column("p_value", Float),
    Column("nmi_adjusted", Float),
    Column("history", _Document, nullable=False),
    Column("timings", _Document, nullable=False),
    Column("weights_path", Text, nullable=False),
    Column("weights_checksum", Text, nullable=False),
)
Index("ix_result_dataset_pk", result.c.dataset_pk)

result_concept_set = Table(
    "result_concept_set",
    metadata,
    _of("result"),
    _of("concept_set"),
    Column("place", Integer, nullable=False),
)

cluster_score = Table(
    "cluster_score",
    metadata,
    _of("result"),
    Column("cluster", Integer, primary_key=True, autoincrement=False),
    Column("n_test", BigInteger, nullable=False),
    Column("cross_entropy_nats", Float),  # null: no test sample
    Column("top1", Float),
    Column("mi_nats", Float, nullable=False),
)

cluster_concept = Table(
    "cluster_concept",
    metadata,
    _of("result"),
    Column("cluster", Integer, primary_key=True, autoincrement=False),
    Column("rank", Integer, primary_key=True, autoincrement=False),
    Column("concept", Text, nullable=False),
    Column("concept_group", Text),
    Column("weight", Float, nullable=False),
    Column("lift", Float),
    Column("n", BigInteger, nullable=False),
)

group_score = Table(
    "group_score",
    metadata,
    _of("result"),
    Column("concept_group", Text, primary_key=True),
    Column("role", Text, primary_key=True),
    Column("nmi", Float, nullable=False),
    Column("mi_nats", Float, nullable=False),
    CheckConstraint("role IN ('alone', 'all', 'without')", name="role"),
)
