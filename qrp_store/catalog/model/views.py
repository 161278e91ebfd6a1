"""The SQL views: the stable, documented interface for people. Only ready things show.

One dialect for SQLite and Postgres. Changing a view needs a new (even empty) migration, since existing stores get
their views renewed by migrating.
"""

from __future__ import annotations

import sqlalchemy as sa

from qrp_store.catalog.model.values import (
    ClusterConcept,
    ClusterScore,
    ConceptScore,
    GroupScore,
    ResultValues,
    selected,
)

# The newest ready version of each series.
_NEWEST = """
SELECT series, max(version) AS version FROM artifact WHERE state = 'ready' GROUP BY series
"""

_NEWEST_PKS = f"""
SELECT i.pk FROM artifact i JOIN ({_NEWEST}) n ON n.series = i.series AND n.version = i.version WHERE i.state = 'ready'
"""

_SUPERSEDED_PKS = f"""
SELECT i.pk FROM artifact i JOIN ({_NEWEST}) n ON n.series = i.series AND n.version > i.version
"""

# The clusterings whose inputs and centroids are the newest: those that are ranked.
_CURRENT = f"""
SELECT k.artifact_pk FROM clustering k
LEFT JOIN artifact source ON source.id = k.centroids_of
LEFT JOIN clustering source_row ON source_row.artifact_pk = source.pk
WHERE k.artifact_pk IN ({_NEWEST_PKS})
AND (k.embedding_pk IS NULL OR k.embedding_pk IN ({_NEWEST_PKS}))
AND coalesce(source.pk, 0) NOT IN ({_SUPERSEDED_PKS})
AND coalesce(source_row.embedding_pk, 0) NOT IN ({_SUPERSEDED_PKS})
"""

_RESULT_COLUMNS = f"{selected(ResultValues, 'r')}, a.created_at, a.created_by"

# What names the result that a score stands beside.
_BESIDE = """
    a.id AS result_id, r.dataset, r.backbone, r.concepts, ca.id AS clustering_id, r.clusters, r.seed, r.protocol,
    r.setting, r.permuted
"""

# The forward probes' scores over all concepts, one row a result.
_FORWARD = """
SELECT result_pk, max(metric) AS metric,
    max(CASE WHEN probe = 'linear' THEN value END) AS linear, max(CASE WHEN probe = 'knn' THEN value END) AS knn
FROM forward_score WHERE concept_group = '(all)' GROUP BY result_pk
"""

# Ranked among the same seed's results of the setting.
_CURVE = f"""
SELECT {_BESIDE}, c.axis, c.fraction, c.draw, c.n_train, c.n_concepts, c.nmi, c.mi_nats,
    rank() OVER (
        PARTITION BY r.dataset, r.concepts, r.clusters, r.protocol, r.setting, r.seed, c.axis, c.fraction, c.draw
        ORDER BY c.nmi DESC) AS rank,
    c.created_at
FROM curve_score c
JOIN result r ON r.artifact_pk = c.result_pk
JOIN artifact a ON a.pk = c.result_pk AND a.state = 'ready'
JOIN artifact ca ON ca.pk = r.clustering_pk
JOIN ({_NEWEST}) newest ON newest.series = a.series AND newest.version = a.version
"""

VIEWS: dict[str, str] = {
    "embeddings": f"""
SELECT a.id, d.name AS dataset, b.name AS backbone, a.version,
    a.version = newest.version AS is_newest,
    e.n, e.dim, e.dtype, s.arrays_url || '/' || a.path || '/embedding' AS array_url, a.created_at, a.created_by
FROM embedding e
JOIN artifact a ON a.pk = e.artifact_pk AND a.state = 'ready'
JOIN dataset d ON d.pk = e.dataset_pk
JOIN backbone b ON b.pk = e.backbone_pk
JOIN ({_NEWEST}) newest ON newest.series = a.series
CROSS JOIN store s
""",
    "clusterings": f"""
SELECT a.id, d.name AS dataset, k.backbone, k.clusters, k.seed, a.version, a.version = newest.version AS is_newest,
    k.artifact_pk IN ({_CURRENT}) AS is_current, k.centroids_of, k.n, k.dim, k.n_sampled, k.objective,
    k.n_train, k.n_val, k.n_test, k.n_small_clusters, a.created_at, a.created_by
FROM clustering k
JOIN artifact a ON a.pk = k.artifact_pk AND a.state = 'ready'
JOIN dataset d ON d.pk = k.dataset_pk
JOIN ({_NEWEST}) newest ON newest.series = a.series
""",
    "labels": f"""
SELECT d.name AS dataset, a.name AS concepts, a.version, a.version = newest.version AS is_newest,
    x.key, c.name AS concept, c.concept_group, l.score
FROM artifact a
JOIN ({_NEWEST}) newest ON newest.series = a.series
JOIN concept_set cs ON cs.artifact_pk = a.pk
JOIN dataset d ON d.pk = cs.dataset_pk
JOIN label l ON l.concept_set_pk = a.pk
JOIN concept c ON c.concept_set_pk = a.pk AND c.number = l.concept
JOIN sample x ON x.dataset_pk = cs.dataset_pk AND x.position = l.position
WHERE a.state = 'ready'
""",
    "verified": f"""
SELECT d.name AS dataset, a.name AS concepts, a.version, a.version = newest.version AS is_newest,
    x.key, c.name AS concept, c.concept_group
FROM artifact a
JOIN ({_NEWEST}) newest ON newest.series = a.series
JOIN concept_set cs ON cs.artifact_pk = a.pk
JOIN dataset d ON d.pk = cs.dataset_pk
JOIN verified_pair v ON v.concept_set_pk = a.pk
LEFT JOIN concept c ON c.concept_set_pk = a.pk AND c.number = v.concept
JOIN sample x ON x.dataset_pk = cs.dataset_pk AND x.position = v.position
WHERE a.state = 'ready'
""",
    "assignments": f"""
SELECT d.name AS dataset, k.backbone, k.clusters, k.seed, a.id AS clustering_id, a.version,
    a.version = newest.version AS is_newest, x.key, g.cluster,
    CASE g.part WHEN 0 THEN 'train' WHEN 1 THEN 'val' ELSE 'test' END AS part
FROM artifact a
JOIN ({_NEWEST}) newest ON newest.series = a.series
JOIN clustering k ON k.artifact_pk = a.pk
JOIN dataset d ON d.pk = k.dataset_pk
JOIN assignment g ON g.clustering_pk = a.pk
JOIN sample x ON x.dataset_pk = k.dataset_pk AND x.position = g.position
WHERE a.state = 'ready'
""",
    "result_versions": f"""
SELECT {_RESULT_COLUMNS}, a.state, a.retired_at
FROM result r
JOIN artifact a ON a.pk = r.artifact_pk AND a.state IN ('ready', 'retired')
JOIN artifact ca ON ca.pk = r.clustering_pk
""",
    "results": f"""
SELECT {_RESULT_COLUMNS}
FROM result r
JOIN artifact a ON a.pk = r.artifact_pk AND a.state = 'ready'
JOIN artifact ca ON ca.pk = r.clustering_pk
JOIN ({_NEWEST}) newest ON newest.series = a.series AND newest.version = a.version
""",
    "cluster_scores": f"""
SELECT a.id AS result_id, {selected(ClusterScore, "s")}, c.concept AS top_concept
FROM cluster_score s
JOIN artifact a ON a.pk = s.result_pk AND a.state = 'ready'
LEFT JOIN cluster_concept c ON c.result_pk = s.result_pk AND c.cluster = s.cluster AND c.rank = 1
""",
    "cluster_concepts": f"""
SELECT a.id AS result_id, {selected(ClusterConcept, "c")}
FROM cluster_concept c
JOIN artifact a ON a.pk = c.result_pk AND a.state = 'ready'
""",
    "group_scores": f"""
SELECT a.id AS result_id, {selected(GroupScore, "g")}
FROM group_score g
JOIN artifact a ON a.pk = g.result_pk AND a.state = 'ready'
""",
    "concept_scores": f"""
SELECT a.id AS result_id, {selected(ConceptScore, "c")}
FROM concept_score c
JOIN artifact a ON a.pk = c.result_pk AND a.state = 'ready'
""",
    "forward_scores": f"""
SELECT {_BESIDE}, f.concept_group, f.probe, f.metric, f.value, f.n_test, f.n_concepts, f.n_left_out,
    f.created_at, f.created_by
FROM forward_score f
JOIN result r ON r.artifact_pk = f.result_pk
JOIN artifact a ON a.pk = f.result_pk AND a.state = 'ready'
JOIN artifact ca ON ca.pk = r.clustering_pk
""",
    "curve_scores": f"""
SELECT curve.*, curve.rank <> whole.rank AS flips
FROM ({_CURVE}) curve
JOIN ({_CURVE}) whole ON whole.result_id = curve.result_id AND whole.axis = 'samples' AND whole.fraction = 1
""",
    "threshold_scores": f"""
SELECT {_BESIDE}, t.threshold, t.n_labels, t.n_concepts, t.nmi, t.mi_nats, t.created_at
FROM threshold_score t
JOIN result r ON r.artifact_pk = t.result_pk
JOIN artifact a ON a.pk = t.result_pk AND a.state = 'ready'
JOIN artifact ca ON ca.pk = r.clustering_pk
""",
    "leaderboard": f"""
SELECT dataset, backbone, concepts, clusters, protocol, setting, n_seeds, nmi_mean,
    CASE WHEN n_seeds > 1
         THEN sqrt(CASE WHEN nmi_square > 0 THEN nmi_square / (n_seeds - 1) ELSE 0.0 END) END AS nmi_std,
    nmi_min, nmi_max, mi_nats_mean, top1_mean, top5_mean,
    rank() OVER (PARTITION BY dataset, concepts, clusters, protocol, setting ORDER BY nmi_mean DESC) AS rank,
    forward_metric, linear_mean, knn_mean
FROM (
    SELECT dataset, backbone, concepts, clusters, protocol, setting, count(*) AS n_seeds, avg(nmi) AS nmi_mean,
        sum((nmi - center) * (nmi - center)) AS nmi_square, min(nmi) AS nmi_min, max(nmi) AS nmi_max,
        avg(mi_nats) AS mi_nats_mean, avg(top1) AS top1_mean, avg(top5) AS top5_mean,
        max(metric) AS forward_metric, avg(linear) AS linear_mean, avg(knn) AS knn_mean
    FROM (
        SELECT r.dataset, r.backbone, r.concepts, r.clusters, r.protocol, r.setting, r.nmi, r.mi_nats, r.top1, r.top5,
            f.metric, f.linear, f.knn,
            avg(r.nmi) OVER (PARTITION BY r.dataset, r.backbone, r.concepts, r.clusters, r.protocol, r.setting)
                AS center
        FROM result r
        JOIN artifact a ON a.pk = r.artifact_pk AND a.state = 'ready'
        JOIN ({_NEWEST}) newest ON newest.series = a.series AND newest.version = a.version
        LEFT JOIN ({_FORWARD}) f ON f.result_pk = r.artifact_pk
        WHERE NOT r.permuted AND r.nmi IS NOT NULL
        AND r.clustering_pk IN ({_CURRENT})
        AND NOT EXISTS (
            SELECT 1 FROM result_concept_set u
            JOIN artifact i ON i.pk = u.concept_set_pk
            LEFT JOIN ({_NEWEST}) n ON n.series = i.series AND n.version = i.version
            WHERE u.result_pk = r.artifact_pk AND (n.series IS NULL OR i.state <> 'ready'))
    ) scored
    GROUP BY dataset, backbone, concepts, clusters, protocol, setting
) ranked
""",
}


def create(connection: sa.Connection) -> None:
    """Make every view."""
    for name, select in VIEWS.items():
        connection.exec_driver_sql(f"CREATE VIEW {name} AS {select}")


def drop(connection: sa.Connection) -> None:
    """Remove every view that is there (before tables under them change)."""
    present = set(sa.inspect(connection).get_view_names())
    for name in reversed(VIEWS):
        if name in present:
            connection.exec_driver_sql(f"DROP VIEW {name}")
