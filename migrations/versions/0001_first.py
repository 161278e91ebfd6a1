"""The first schema: datasets, backbones, artifacts and what belongs to each kind; triggers that keep what is ready."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from qrp_store.migrations import triggers_0001

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    _tables()
    if op.get_bind().dialect.name == "sqlite":
        triggers_0001.sqlite()
    else:
        triggers_0001.postgres()


def _tables() -> None:
    op.create_table(
        "artifact",
        sa.Column("pk", KEY, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("series", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("spec", DOCUMENT, nullable=False),
        sa.Column("provenance", DOCUMENT, nullable=False),
        sa.Column("path", sa.Text(), nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("created_at_seconds", sa.Float(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("ready_at", sa.Text(), nullable=True),
        sa.Column("retired_at", sa.Text(), nullable=True),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("lease_host", sa.Text(), nullable=True),
        sa.Column("lease_boot", sa.Text(), nullable=True),
        sa.Column("lease_pid", sa.Integer(), nullable=True),
        sa.Column("lease_started", sa.Text(), nullable=True),
        sa.Column("lease_since", sa.Text(), nullable=True),
        sa.Column("lease_expires", sa.Float(), nullable=True),
        sa.CheckConstraint("kind IN ('embedding', 'concepts', 'clustering', 'result')", name=op.f("ck_artifact_kind")),
        sa.CheckConstraint("state IN ('writing', 'ready', 'retired', 'failed')", name=op.f("ck_artifact_state")),
        sa.CheckConstraint(
            "state NOT IN ('ready', 'retired') OR version IS NOT NULL", name=op.f("ck_artifact_version")
        ),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_artifact")),
        sa.UniqueConstraint("id", name=op.f("uq_artifact_id")),
        sa.UniqueConstraint("series", "version", name=op.f("uq_artifact_series_version")),
    )
    op.create_index("ix_artifact_fingerprint", "artifact", ["fingerprint"], unique=False)
    op.create_index("ix_artifact_kind_name", "artifact", ["kind", "name"], unique=False)
    op.create_table(
        "backbone",
        sa.Column("pk", KEY, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("spec", DOCUMENT, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("created_at_seconds", sa.Float(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.CheckConstraint("state IN ('staged', 'ready')", name=op.f("ck_backbone_state")),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_backbone")),
        sa.UniqueConstraint("id", name=op.f("uq_backbone_id")),
    )
    op.create_index(
        "uq_backbone_name_ready",
        "backbone",
        ["name"],
        unique=True,
        sqlite_where=sa.text("state = 'ready'"),
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_table(
        "dataset",
        sa.Column("pk", KEY, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("image_root", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("created_at_seconds", sa.Float(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.CheckConstraint("state IN ('writing', 'staged', 'ready')", name=op.f("ck_dataset_state")),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_dataset")),
        sa.UniqueConstraint("id", name=op.f("uq_dataset_id")),
    )
    op.create_index(
        "uq_dataset_name_ready",
        "dataset",
        ["name"],
        unique=True,
        sqlite_where=sa.text("state = 'ready'"),
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_table(
        "store",
        sa.Column("pk", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("arrays_url", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.CheckConstraint("pk = 1", name=op.f("ck_store_one_row")),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_store")),
    )
    op.create_table(
        "concept_set",
        sa.Column("artifact_pk", KEY, nullable=False),
        sa.Column("dataset_pk", KEY, nullable=False),
        sa.Column("exclusive", sa.Boolean(), nullable=False),
        sa.Column("n_concepts", sa.Integer(), nullable=False),
        sa.Column("n_labels", sa.BigInteger(), nullable=False),
        sa.Column("n_labelled_samples", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["artifact_pk"], ["artifact.pk"], name=op.f("fk_concept_set_artifact_pk_artifact")),
        sa.ForeignKeyConstraint(["dataset_pk"], ["dataset.pk"], name=op.f("fk_concept_set_dataset_pk_dataset")),
        sa.PrimaryKeyConstraint("artifact_pk", name=op.f("pk_concept_set")),
    )
    op.create_index("ix_concept_set_dataset_pk", "concept_set", ["dataset_pk"], unique=False)
    op.create_table(
        "embedding",
        sa.Column("artifact_pk", KEY, nullable=False),
        sa.Column("dataset_pk", KEY, nullable=False),
        sa.Column("backbone_pk", KEY, nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("dim", sa.Integer(), nullable=False),
        sa.Column("dtype", sa.Text(), nullable=False),
        sa.Column("block_rows", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["artifact_pk"], ["artifact.pk"], name=op.f("fk_embedding_artifact_pk_artifact")),
        sa.ForeignKeyConstraint(["backbone_pk"], ["backbone.pk"], name=op.f("fk_embedding_backbone_pk_backbone")),
        sa.ForeignKeyConstraint(["dataset_pk"], ["dataset.pk"], name=op.f("fk_embedding_dataset_pk_dataset")),
        sa.PrimaryKeyConstraint("artifact_pk", name=op.f("pk_embedding")),
    )
    op.create_index("ix_embedding_dataset_pk", "embedding", ["dataset_pk"], unique=False)
    op.create_table(
        "image_file",
        sa.Column("dataset_pk", KEY, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["dataset_pk"], ["dataset.pk"], name=op.f("fk_image_file_dataset_pk_dataset")),
        sa.PrimaryKeyConstraint("dataset_pk", "position", name=op.f("pk_image_file")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "sample",
        sa.Column("dataset_pk", KEY, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["dataset_pk"], ["dataset.pk"], name=op.f("fk_sample_dataset_pk_dataset")),
        sa.PrimaryKeyConstraint("dataset_pk", "position", name=op.f("pk_sample")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "block",
        sa.Column("embedding_pk", KEY, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("first_row", sa.BigInteger(), nullable=False),
        sa.Column("n_rows", sa.Integer(), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("checksum", sa.Text(), nullable=False),
        sa.Column("bad", DOCUMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["embedding_pk"], ["embedding.artifact_pk"], name=op.f("fk_block_embedding_pk_embedding")
        ),
        sa.PrimaryKeyConstraint("embedding_pk", "number", name=op.f("pk_block")),
    )
    op.create_table(
        "clustering",
        sa.Column("artifact_pk", KEY, nullable=False),
        sa.Column("dataset_pk", KEY, nullable=False),
        sa.Column("embedding_pk", KEY, nullable=True),
        sa.Column("backbone", sa.Text(), nullable=False),
        sa.Column("clusters", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("dim", sa.Integer(), nullable=True),
        sa.Column("n_sampled", sa.BigInteger(), nullable=True),
        sa.Column("n_train", sa.BigInteger(), nullable=False),
        sa.Column("n_val", sa.BigInteger(), nullable=False),
        sa.Column("n_test", sa.BigInteger(), nullable=False),
        sa.Column("n_small_clusters", sa.Integer(), nullable=False),
        sa.Column("objective", sa.Float(), nullable=True),
        sa.Column("objective_per_iteration", DOCUMENT, nullable=True),
        sa.Column("centroids_path", sa.Text(), nullable=True),
        sa.Column("centroids_checksum", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["artifact_pk"], ["artifact.pk"], name=op.f("fk_clustering_artifact_pk_artifact")),
        sa.ForeignKeyConstraint(["dataset_pk"], ["dataset.pk"], name=op.f("fk_clustering_dataset_pk_dataset")),
        sa.ForeignKeyConstraint(
            ["embedding_pk"], ["embedding.artifact_pk"], name=op.f("fk_clustering_embedding_pk_embedding")
        ),
        sa.PrimaryKeyConstraint("artifact_pk", name=op.f("pk_clustering")),
    )
    op.create_index("ix_clustering_dataset_pk", "clustering", ["dataset_pk"], unique=False)
    op.create_table(
        "concept",
        sa.Column("concept_set_pk", KEY, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("concept_group", sa.Text(), nullable=True),
        sa.Column("n_positive", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["concept_set_pk"], ["concept_set.artifact_pk"], name=op.f("fk_concept_concept_set_pk_concept_set")
        ),
        sa.PrimaryKeyConstraint("concept_set_pk", "number", name=op.f("pk_concept")),
    )
    op.create_table(
        "label",
        sa.Column("concept_set_pk", KEY, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("concept", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("score", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["concept_set_pk"], ["concept_set.artifact_pk"], name=op.f("fk_label_concept_set_pk_concept_set")
        ),
        sa.PrimaryKeyConstraint("concept_set_pk", "position", "concept", name=op.f("pk_label")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "assignment",
        sa.Column("clustering_pk", KEY, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("cluster", sa.Integer(), nullable=False),
        sa.Column("part", sa.SmallInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["clustering_pk"], ["clustering.artifact_pk"], name=op.f("fk_assignment_clustering_pk_clustering")
        ),
        sa.PrimaryKeyConstraint("clustering_pk", "position", name=op.f("pk_assignment")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "cluster",
        sa.Column("clustering_pk", KEY, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["clustering_pk"], ["clustering.artifact_pk"], name=op.f("fk_cluster_clustering_pk_clustering")
        ),
        sa.PrimaryKeyConstraint("clustering_pk", "number", name=op.f("pk_cluster")),
    )
    op.create_table(
        "result",
        sa.Column("artifact_pk", KEY, nullable=False),
        sa.Column("dataset_pk", KEY, nullable=False),
        sa.Column("clustering_pk", KEY, nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("backbone", sa.Text(), nullable=False),
        sa.Column("concepts", sa.Text(), nullable=False),
        sa.Column("clusters", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("solver", sa.Text(), nullable=False),
        sa.Column("setting", sa.Text(), nullable=False),
        sa.Column("permuted", sa.Boolean(), nullable=False),
        sa.Column("n_train", sa.BigInteger(), nullable=False),
        sa.Column("n_val", sa.BigInteger(), nullable=False),
        sa.Column("n_test", sa.BigInteger(), nullable=False),
        sa.Column("n_small_clusters", sa.Integer(), nullable=False),
        sa.Column("n_concepts", sa.Integer(), nullable=False),
        sa.Column("entropy_nats", sa.Float(), nullable=False),
        sa.Column("cross_entropy_nats", sa.Float(), nullable=False),
        sa.Column("mi_nats", sa.Float(), nullable=False),
        sa.Column("mi_bits", sa.Float(), nullable=False),
        sa.Column("nmi", sa.Float(), nullable=True),
        sa.Column("nmi_ci_lo", sa.Float(), nullable=True),
        sa.Column("nmi_ci_hi", sa.Float(), nullable=True),
        sa.Column("top1", sa.Float(), nullable=False),
        sa.Column("top5", sa.Float(), nullable=False),
        sa.Column("train_loss", sa.Float(), nullable=False),
        sa.Column("grad_norm", sa.Float(), nullable=False),
        sa.Column("converged", sa.Boolean(), nullable=False),
        sa.Column("epochs_run", sa.Integer(), nullable=False),
        sa.Column("best_epoch", sa.Integer(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("weight_decay", sa.Float(), nullable=False),
        sa.Column("train_cross_entropy_nats", sa.Float(), nullable=False),
        sa.Column("entropy_miller_madow_nats", sa.Float(), nullable=False),
        sa.Column("n_permutations", sa.Integer(), nullable=False),
        sa.Column("null_nmi_mean", sa.Float(), nullable=True),
        sa.Column("null_nmi_std", sa.Float(), nullable=True),
        sa.Column("p_value", sa.Float(), nullable=True),
        sa.Column("nmi_adjusted", sa.Float(), nullable=True),
        sa.Column("history", DOCUMENT, nullable=False),
        sa.Column("timings", DOCUMENT, nullable=False),
        sa.Column("weights_path", sa.Text(), nullable=False),
        sa.Column("weights_checksum", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["artifact_pk"], ["artifact.pk"], name=op.f("fk_result_artifact_pk_artifact")),
        sa.ForeignKeyConstraint(
            ["clustering_pk"], ["clustering.artifact_pk"], name=op.f("fk_result_clustering_pk_clustering")
        ),
        sa.ForeignKeyConstraint(["dataset_pk"], ["dataset.pk"], name=op.f("fk_result_dataset_pk_dataset")),
        sa.PrimaryKeyConstraint("artifact_pk", name=op.f("pk_result")),
    )
    op.create_index("ix_result_dataset_pk", "result", ["dataset_pk"], unique=False)
    op.create_table(
        "cluster_concept",
        sa.Column("result_pk", KEY, nullable=False),
        sa.Column("cluster", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("rank", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("concept", sa.Text(), nullable=False),
        sa.Column("concept_group", sa.Text(), nullable=True),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("lift", sa.Float(), nullable=True),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["result_pk"], ["result.artifact_pk"], name=op.f("fk_cluster_concept_result_pk_result")
        ),
        sa.PrimaryKeyConstraint("result_pk", "cluster", "rank", name=op.f("pk_cluster_concept")),
    )
    op.create_table(
        "cluster_score",
        sa.Column("result_pk", KEY, nullable=False),
        sa.Column("cluster", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("n_test", sa.BigInteger(), nullable=False),
        sa.Column("cross_entropy_nats", sa.Float(), nullable=True),
        sa.Column("top1", sa.Float(), nullable=True),
        sa.Column("mi_nats", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["result_pk"], ["result.artifact_pk"], name=op.f("fk_cluster_score_result_pk_result")),
        sa.PrimaryKeyConstraint("result_pk", "cluster", name=op.f("pk_cluster_score")),
    )
    op.create_table(
        "group_score",
        sa.Column("result_pk", KEY, nullable=False),
        sa.Column("concept_group", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("nmi", sa.Float(), nullable=False),
        sa.Column("mi_nats", sa.Float(), nullable=False),
        sa.CheckConstraint("role IN ('alone', 'all', 'without')", name=op.f("ck_group_score_role")),
        sa.ForeignKeyConstraint(["result_pk"], ["result.artifact_pk"], name=op.f("fk_group_score_result_pk_result")),
        sa.PrimaryKeyConstraint("result_pk", "concept_group", "role", name=op.f("pk_group_score")),
    )
    op.create_table(
        "result_concept_set",
        sa.Column("result_pk", KEY, nullable=False),
        sa.Column("concept_set_pk", KEY, nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["concept_set_pk"],
            ["concept_set.artifact_pk"],
            name=op.f("fk_result_concept_set_concept_set_pk_concept_set"),
        ),
        sa.ForeignKeyConstraint(
            ["result_pk"], ["result.artifact_pk"], name=op.f("fk_result_concept_set_result_pk_result")
        ),
        sa.PrimaryKeyConstraint("result_pk", "concept_set_pk", name=op.f("pk_result_concept_set")),
    )
