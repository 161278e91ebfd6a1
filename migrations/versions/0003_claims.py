"""How far a result may be trusted: its algorithm, train–test gap, failed training, and intervals of each cluster.

Null in results that are there already; the views compute what can be known of them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, kind in (("algorithm", sa.Integer()), ("gap_nats", sa.Float()), ("training_failed", sa.Boolean())):
        op.add_column("result", sa.Column(name, kind, nullable=True))
    op.add_column("cluster_score", sa.Column("top_concept", sa.Text(), nullable=True))
    op.add_column("cluster_score", sa.Column("n_train", sa.BigInteger(), nullable=True))
    for name in ("val_cross_entropy_nats", "cross_entropy_lo", "cross_entropy_hi"):
        op.add_column("cluster_score", sa.Column(name, sa.Float(), nullable=True))
