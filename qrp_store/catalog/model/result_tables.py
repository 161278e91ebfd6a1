"""The tables of a result: its own row, what it says per cluster, concept and group, and what is scored beside it."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Float, Index, Integer, Table, Text

from qrp_store.catalog.model.columns import Document, key, metadata, of

result = Table(
    "result",
    metadata,
    key("artifact", primary=True),
    key("dataset"),
    of("clustering", primary=False),
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
    Column("history", Document, nullable=False),
    Column("timings", Document, nullable=False),
    Column("weights_path", Text, nullable=False),
    Column("weights_checksum", Text, nullable=False),
)
Index("ix_result_dataset_pk", result.c.dataset_pk)

result_concept_set = Table(
    "result_concept_set",
    metadata,
    of("result"),
    of("concept_set"),
    Column("place", Integer, nullable=False),
)

cluster_score = Table(
    "cluster_score",
    metadata,
    of("result"),
    Column("cluster", Integer, primary_key=True, autoincrement=False),
    Column("n_test", BigInteger, nullable=False),
    Column("cross_entropy_nats", Float),  # null: no test sample
    Column("top1", Float),
    Column("mi_nats", Float, nullable=False),
    Column("best_concept", Text),  # null, like the next: no test sample, or made before it was looked for
    Column("best_concept_mi_nats", Float),
)

cluster_concept = Table(
    "cluster_concept",
    metadata,
    of("result"),
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
    of("result"),
    Column("concept_group", Text, primary_key=True),
    Column("role", Text, primary_key=True),
    Column("nmi", Float, nullable=False),
    Column("mi_nats", Float, nullable=False),
    CheckConstraint("role IN ('alone', 'all', 'without')", name="role"),
)

concept_score = Table(
    "concept_score",
    metadata,
    of("result"),
    Column("rank", Integer, primary_key=True, autoincrement=False),
    Column("concept", Text, nullable=False),
    Column("concept_group", Text),
    Column("n_train", BigInteger, nullable=False),
    Column("n_test", BigInteger, nullable=False),
    Column("nmi", Float),
    Column("mi_nats", Float, nullable=False),
)

# Beside a result: computed when asked for, also later. They say nothing that the result itself says, and take no part
# in its fingerprint.
forward_score = Table(
    "forward_score",
    metadata,
    of("result"),
    Column("concept_group", Text, primary_key=True),
    Column("probe", Text, primary_key=True),
    Column("metric", Text, primary_key=True),
    Column("value", Float),  # null: no concept has a test positive
    Column("n_test", BigInteger, nullable=False),
    Column("n_concepts", Integer, nullable=False),
    Column("n_left_out", Integer, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("question", Text, nullable=False),  # what was asked, hashed: the same is not computed twice
    Column("details", Document, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    CheckConstraint("probe IN ('linear', 'knn')", name="probe"),
    CheckConstraint("metric IN ('top1', 'map')", name="metric"),
)
Index("ix_forward_score_question", forward_score.c.question)

curve_score = Table(
    "curve_score",
    metadata,
    of("result"),
    Column("axis", Text, primary_key=True),
    Column("fraction", Float, primary_key=True),
    Column("draw", Integer, primary_key=True, autoincrement=False),
    Column("n_train", BigInteger, nullable=False),
    Column("n_concepts", Integer, nullable=False),
    Column("nmi", Float, nullable=False),
    Column("mi_nats", Float, nullable=False),
    Column("created_at", Text, nullable=False),
    CheckConstraint("axis IN ('samples', 'concepts')", name="axis"),
)

threshold_score = Table(
    "threshold_score",
    metadata,
    of("result"),
    Column("threshold", Float, primary_key=True),
    Column("n_labels", BigInteger, nullable=False),
    Column("n_concepts", Integer, nullable=False),
    Column("nmi", Float, nullable=False),
    Column("mi_nats", Float, nullable=False),
    Column("created_at", Text, nullable=False),
)

SAID = (concept_score, group_score, cluster_concept, cluster_score)
"""What a result says of itself, written with it and never changed."""
BESIDE = (forward_score, curve_score, threshold_score)
"""What is scored beside a result, maybe later."""
