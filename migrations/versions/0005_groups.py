"""The groups of a clustering whose split keeps them together: an array beside the centroids."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("groups_path", "groups_checksum"):
        op.add_column("clustering", sa.Column(name, sa.Text(), nullable=True))
