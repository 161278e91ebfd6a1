"""Numbers to read results by: upper reference, code length, known groups, agreement of clusterings."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
DOCUMENT = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "further_number",
        sa.Column("result_pk", KEY, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("details", DOCUMENT, nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["result_pk"], ["result.artifact_pk"], name=op.f("fk_further_number_result_pk_result")),
        sa.PrimaryKeyConstraint("result_pk", "name", name=op.f("pk_further_number")),
    )
    op.create_table(
        "reference_score",
        sa.Column("result_pk", KEY, nullable=False),
        sa.Column("concept_group", sa.Text(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("n_concepts", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Float(), nullable=False) for name in ("ami", "homogeneity", "completeness", "purity")),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["result_pk"], ["result.artifact_pk"], name=op.f("fk_reference_score_result_pk_result")
        ),
        sa.PrimaryKeyConstraint("result_pk", "concept_group", name=op.f("pk_reference_score")),
    )
    op.create_table(
        "clustering_agreement",
        sa.Column("clustering_pk", KEY, nullable=False),
        sa.Column("other_id", sa.Text(), nullable=False),
        sa.Column("ami", sa.Float(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["clustering_pk"], ["clustering.artifact_pk"], name=op.f("fk_clustering_agreement_clustering_pk_clustering")
        ),
        sa.PrimaryKeyConstraint("clustering_pk", "other_id", name=op.f("pk_clustering_agreement")),
    )
    op.create_index("ix_clustering_agreement_other_id", "clustering_agreement", ["other_id"], unique=False)
