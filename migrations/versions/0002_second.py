"""What came after 0.1.0. Open until the next release: new tables and columns are added here.

A table that is written with a result (column `result_pk`) is kept by `triggers_0001.belongs_to_result(table)`; what
stands beside a result (forward_score, …) may come later.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from qrp_store.migrations import triggers_0001

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    for table in ("dataset", "backbone"):
        op.add_column(table, sa.Column("retired_at", sa.Text(), nullable=True))
    op.add_column("block", sa.Column("rolling", sa.LargeBinary(), nullable=True))
    _unchecked("label", "concept_set")
    _unchecked("assignment", "clustering")
    op.add_column("clustering", sa.Column("centroids_of", sa.Text(), nullable=True))
    _verified()
    _scores()
    triggers_0001.belongs_to_result("concept_score")


def _unchecked(table: str, owner: str) -> None:
    """Drop the foreign key of a large table: its look-up a row makes a COPY four times as long."""
    with op.batch_alter_table(table, table_kwargs={"sqlite_with_rowid": False}) as batch:
        batch.drop_constraint(op.f(f"fk_{table}_{owner}_pk_{owner}"), type_="foreignkey")


def _verified() -> None:
    op.add_column("concept_set", sa.Column("n_verified", sa.BigInteger(), nullable=True))
    op.create_table(
        "verified_pair",
        sa.Column("concept_set_pk", KEY, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("concept", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("concept_set_pk", "position", "concept", name=op.f("pk_verified_pair")),
        sqlite_with_rowid=False,
    )


def _scores() -> None:
    op.add_column("cluster_score", sa.Column("best_concept", sa.Text(), nullable=True))
    op.add_column("cluster_score", sa.Column("best_concept_mi_nats", sa.Float(), nullable=True))
    op.create_table(
        "concept_score",
        sa.Column("result_pk", KEY, nullable=False),
        sa.Column("rank", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("concept", sa.Text(), nullable=False),
        sa.Column("concept_group", sa.Text(), nullable=True),
        sa.Column("n_train", sa.BigInteger(), nullable=False),
        sa.Column("n_test", sa.BigInteger(), nullable=False),
        sa.Column("nmi", sa.Float(), nullable=True),
        sa.Column("mi_nats", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["result_pk"], ["result.artifact_pk"], name=op.f("fk_concept_score_result_pk_result")),
        sa.PrimaryKeyConstraint("result_pk", "rank", name=op.f("pk_concept_score")),
    )
    op.create_table(
        "forward_score",
        sa.Column("result_pk", KEY, nullable=False),
        sa.Column("concept_group", sa.Text(), nullable=False),
        sa.Column("probe", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(), nullable=True),
        sa.Column("n_test", sa.BigInteger(), nullable=False),
        sa.Column("n_concepts", sa.Integer(), nullable=False),
        sa.Column("n_left_out", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("details", DOCUMENT, nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.CheckConstraint("probe IN ('linear', 'knn')", name=op.f("ck_forward_score_probe")),
        sa.CheckConstraint("metric IN ('top1', 'map')", name=op.f("ck_forward_score_metric")),
        sa.ForeignKeyConstraint(["result_pk"], ["result.artifact_pk"], name=op.f("fk_forward_score_result_pk_result")),
        sa.PrimaryKeyConstraint("result_pk", "concept_group", "probe", "metric", name=op.f("pk_forward_score")),
    )
    op.create_index("ix_forward_score_question", "forward_score", ["question"], unique=False)
    op.create_table(
        "curve_score",
        sa.Column("result_pk", KEY, nullable=False),
        sa.Column("axis", sa.Text(), nullable=False),
        sa.Column("fraction", sa.Float(), nullable=False),
        sa.Column("draw", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("n_train", sa.BigInteger(), nullable=False),
        sa.Column("n_concepts", sa.Integer(), nullable=False),
        sa.Column("nmi", sa.Float(), nullable=False),
        sa.Column("mi_nats", sa.Float(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.CheckConstraint("axis IN ('samples', 'concepts')", name=op.f("ck_curve_score_axis")),
        sa.ForeignKeyConstraint(["result_pk"], ["result.artifact_pk"], name=op.f("fk_curve_score_result_pk_result")),
        sa.PrimaryKeyConstraint("result_pk", "axis", "fraction", "draw", name=op.f("pk_curve_score")),
    )
    op.create_table(
        "threshold_score",
        sa.Column("result_pk", KEY, nullable=False),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("n_labels", sa.BigInteger(), nullable=False),
        sa.Column("n_concepts", sa.Integer(), nullable=False),
        sa.Column("nmi", sa.Float(), nullable=False),
        sa.Column("mi_nats", sa.Float(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["result_pk"], ["result.artifact_pk"], name=op.f("fk_threshold_score_result_pk_result")
        ),
        sa.PrimaryKeyConstraint("result_pk", "threshold", name=op.f("pk_threshold_score")),
    )
