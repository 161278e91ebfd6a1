"""The place of a backbone in a series of checkpoints or layers. Null: it is of none."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("backbone", sa.Column("series", sa.Text(), nullable=True))
    op.add_column("backbone", sa.Column("position", sa.Integer(), nullable=True))
