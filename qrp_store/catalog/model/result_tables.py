"""The tables of a result: its own row, what it says per cluster, concept and group, and what is scored beside it."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Float, Index, Integer, Table, Text

from qrp_store.catalog.model.columns import Document, key, metadata, of
from qrp_store.catalog.model.values import (
    ClusterConcept,
    ClusterScore,
    ConceptScore,
    GroupScore,
    ResultValues,
    columns,
)

result = Table(
    "result",
    metadata,
    key("artifact", primary=True),
    key("dataset"),
    of("clustering", primary=False),
    *columns(ResultValues),
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
    *columns(ClusterScore),
)

cluster_concept = Table(
    "cluster_concept",
    metadata,
    of("result"),
    *columns(ClusterConcept),
)

group_score = Table(
    "group_score",
    metadata,
    of("result"),
    *columns(GroupScore),
    CheckConstraint("role IN ('alone', 'all', 'without')", name="role"),
)

concept_score = Table(
    "concept_score",
    metadata,
    of("result"),
    *columns(ConceptScore),
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

further_number = Table(
    "further_number",
    metadata,
    of("result"),
    Column("name", Text, primary_key=True),  # a name of values.FURTHER
    Column("value", Float, nullable=False),
    Column("details", Document, nullable=False),
    Column("created_at", Text, nullable=False),
)

reference_score = Table(
    "reference_score",
    metadata,
    of("result"),
    Column("concept_group", Text, primary_key=True),
    Column("n", BigInteger, nullable=False),
    Column("n_concepts", Integer, nullable=False),
    Column("ami", Float, nullable=False),
    Column("homogeneity", Float, nullable=False),
    Column("completeness", Float, nullable=False),
    Column("purity", Float, nullable=False),
    Column("created_at", Text, nullable=False),
)

SAID = (concept_score, group_score, cluster_concept, cluster_score)
"""What a result says of itself, written with it and never changed."""
BESIDE = (forward_score, curve_score, threshold_score, further_number, reference_score)
"""What is scored beside a result, maybe later."""
