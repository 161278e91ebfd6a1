"""A checksum over each artifact's rows, recorded when it becomes ready. Null: made before, until `migrate` fills it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("artifact", sa.Column("checksums", DOCUMENT, nullable=True))
