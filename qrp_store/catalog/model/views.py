"""The SQL views: the stable, documented interface for people. Only ready things show.

One dialect for SQLite and Postgres. Changing a view needs a new (even empty) migration, since existing stores get
their views renewed by migrating.
"""

from __future__ import annotations

import sqlalchemy as sa

from qrp_store.catalog.model.values import (
    FURTHER,
    ClusterConcept,
    ClusterScore,
    ConceptScore,
    GroupScore,
    ResultValues,
    entries,
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

_FURTHER = ", ".join(
    f"(SELECT f.value FROM further_number f WHERE f.result_pk = r.artifact_pk AND f.name = '{name}') AS {name}"
    for name in FURTHER
)
_RESULT_COLUMNS = f"{selected(ResultValues, 'r')}, a.created_at, a.created_by, {_FURTHER}"

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

# Whether training failed, also of results that do not hold it.
_FAILED = next(entry.about.shown for entry in entries(ResultValues) if entry.name == "training_failed")

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

_SETTING = "dataset, concepts, clusters, protocol, setting"

# The results that are ranked: of the newest inputs, without controls.
_RANKED = f"""
SELECT r.dataset, r.concepts, r.clusters, r.protocol, r.setting, r.backbone, r.seed, r.nmi, r.mi_nats, r.top1, r.top5,
    r.entropy_nats, CASE WHEN {_FAILED} THEN 1 ELSE 0 END AS failed, f.metric, f.linear, f.knn,
    avg(r.nmi) OVER (PARTITION BY r.dataset, r.backbone, r.concepts, r.clusters, r.protocol, r.setting) AS center
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
"""

# Rank intervals. Every pair of backbones of a setting is compared over its common seeds by the paired t test, where
# there are at least three; the p-values of a setting are corrected by Holm's method at 5 %. The p-value is the finite
# series of Abramowitz and Stegun (26.7.3 and 26.7.4), whose coefficients `series` holds by power of the cosine; terms
# that would underflow are 0.
_RANK_INTERVALS = f"""
seeds AS MATERIALIZED (
    SELECT {_SETTING}, backbone, seed, avg(nmi) AS nmi FROM scored GROUP BY {_SETTING}, backbone, seed
), differences AS (
    SELECT a.dataset, a.concepts, a.clusters, a.protocol, a.setting, a.backbone AS one, b.backbone AS other,
        a.nmi - b.nmi AS difference,
        avg(a.nmi - b.nmi) OVER (
            PARTITION BY a.dataset, a.concepts, a.clusters, a.protocol, a.setting, a.backbone, b.backbone) AS center
    FROM seeds a JOIN seeds b ON b.dataset = a.dataset AND b.concepts = a.concepts AND b.clusters = a.clusters
        AND b.protocol = a.protocol AND b.setting = a.setting AND b.seed = a.seed AND b.backbone > a.backbone
), sums AS (
    SELECT {_SETTING}, one, other, count(*) AS n, avg(difference) AS mean,
        sum((difference - center) * (difference - center)) AS squares
    FROM differences GROUP BY {_SETTING}, one, other HAVING count(*) >= 3
), statistics AS (
    SELECT {_SETTING}, one, other, mean, n - 1 AS df,
        CASE WHEN mean = 0 THEN 0.0 WHEN squares <= mean * mean * 1e-24 THEN 1e9
             ELSE abs(mean) * sqrt(n * (n - 1.0) / squares) END AS t
    FROM sums
), angles AS MATERIALIZED (
    SELECT {_SETTING}, one, other, mean, df, CASE WHEN t > 1e9 THEN 1e9 ELSE t END / sqrt(
        df + CASE WHEN t > 1e9 THEN 1e18 ELSE t * t END) AS sine,
        sqrt(df / (df + CASE WHEN t > 1e9 THEN 1e18 ELSE t * t END)) AS cosine
    FROM statistics
), series (power, coefficient) AS (
    SELECT 0, CAST(1 AS double precision) UNION ALL SELECT 1, CAST(1 AS double precision)
    UNION ALL
    SELECT power + 2, coefficient * (power + 1) / (power + 2) FROM series
    WHERE power < (SELECT max(df) FROM angles) - 3
), tails AS (
    SELECT {_SETTING}, one, other, mean, sine, cosine, df, coalesce((
        SELECT sum(CASE WHEN s.power * ln(g.cosine) < -600 THEN 0.0
            ELSE s.coefficient * exp(s.power * ln(g.cosine)) END)
        FROM series s WHERE s.power <= g.df - 2 AND (g.df - s.power) = 2 * ((g.df - s.power) / 2)), 0.0) AS total
    FROM angles g
), probabilities AS (
    SELECT {_SETTING}, one, other, mean,
        1 - CASE WHEN df = 2 * (df / 2) THEN sine * total
                 ELSE (atan2(sine, cosine) + sine * total) / 1.5707963267948966 END AS p
    FROM tails
), ordered AS (
    SELECT {_SETTING}, one, other, mean, p, count(*) OVER (PARTITION BY {_SETTING}) AS m,
        row_number() OVER (PARTITION BY {_SETTING} ORDER BY p, one, other) AS place
    FROM probabilities
), corrected AS (
    SELECT {_SETTING}, one, other, mean, max((m - place + 1) * p) OVER (
        PARTITION BY {_SETTING} ORDER BY place ROWS UNBOUNDED PRECEDING) AS p
    FROM ordered
), sides AS (
    SELECT {_SETTING}, one AS backbone, CASE WHEN p <= 0.05 THEN sign(mean) ELSE 0 END AS ahead FROM corrected
    UNION ALL
    SELECT {_SETTING}, other AS backbone, CASE WHEN p <= 0.05 THEN -sign(mean) ELSE 0 END AS ahead FROM corrected
), intervals AS MATERIALIZED (
    SELECT {_SETTING}, backbone, sum(CASE WHEN ahead < 0 THEN 1 ELSE 0 END) AS better,
        sum(CASE WHEN ahead > 0 THEN 1 ELSE 0 END) AS worse
    FROM sides GROUP BY {_SETTING}, backbone
)
"""

LEADERBOARD = f"""
WITH RECURSIVE scored AS MATERIALIZED ({_RANKED}), {_RANK_INTERVALS}
SELECT b.dataset, b.backbone, b.concepts, b.clusters, b.protocol, b.setting, b.n_seeds, b.nmi_mean, b.nmi_std,
    b.nmi_min, b.nmi_max, b.mi_nats_mean, b.top1_mean, b.top5_mean, b.rank, b.forward_metric, b.linear_mean, b.knn_mean,
    CASE WHEN b.n_backbones > 1 THEN 1 + i.better WHEN b.n_seeds > 2 THEN 1 END AS rank_lo,
    CASE WHEN b.n_backbones > 1 THEN b.n_backbones - i.worse WHEN b.n_seeds > 2 THEN 1 END AS rank_hi,
    b.nmi_std / sqrt(b.n_seeds) AS nmi_se, b.entropy_mean, b.effective_clusters_mean, b.n_failed
FROM (
    SELECT {_SETTING}, backbone, n_seeds, nmi_mean, nmi_min, nmi_max, mi_nats_mean, top1_mean, top5_mean,
        forward_metric, linear_mean, knn_mean, entropy_mean, effective_clusters_mean, n_failed,
        CASE WHEN n_seeds > 1
             THEN sqrt(CASE WHEN nmi_square > 0 THEN nmi_square / (n_seeds - 1) ELSE 0.0 END) END AS nmi_std,
        rank() OVER (PARTITION BY {_SETTING} ORDER BY nmi_mean DESC) AS rank,
        count(*) OVER (PARTITION BY {_SETTING}) AS n_backbones
    FROM (
        SELECT {_SETTING}, backbone, count(*) AS n_seeds, avg(nmi) AS nmi_mean,
            sum((nmi - center) * (nmi - center)) AS nmi_square, min(nmi) AS nmi_min, max(nmi) AS nmi_max,
            avg(mi_nats) AS mi_nats_mean, avg(top1) AS top1_mean, avg(top5) AS top5_mean,
            max(metric) AS forward_metric, avg(linear) AS linear_mean, avg(knn) AS knn_mean,
            avg(entropy_nats) AS entropy_mean, avg(exp(entropy_nats)) AS effective_clusters_mean,
            sum(failed) AS n_failed
        FROM scored GROUP BY {_SETTING}, backbone
    ) means
) b
LEFT JOIN intervals i ON i.dataset = b.dataset AND i.concepts = b.concepts AND i.clusters = b.clusters
    AND i.protocol = b.protocol AND i.setting = b.setting AND i.backbone = b.backbone
"""

VIEWS: dict[str, str] = {
    "embeddings": f"""
SELECT a.id, d.name AS dataset, b.name AS backbone, a.version,
    a.version = newest.version AS is_newest,
    e.n, e.dim, e.dtype, s.arrays_url || '/' || a.path || '/embedding' AS array_url, a.created_at, a.created_by,
    s.arrays_url || '/' || a.path AS group_url
FROM embedding e
JOIN artifact a ON a.pk = e.artifact_pk AND a.state = 'ready'
JOIN dataset d ON d.pk = e.dataset_pk
JOIN backbone b ON b.pk = e.backbone_pk
JOIN ({_NEWEST}) newest ON newest.series = a.series
CROSS JOIN store s
""",
    "series": """
SELECT DISTINCT d.name AS dataset, b.name AS backbone, b.series, b.position
FROM embedding e
JOIN artifact a ON a.pk = e.artifact_pk AND a.state = 'ready'
JOIN dataset d ON d.pk = e.dataset_pk
JOIN backbone b ON b.pk = e.backbone_pk
WHERE b.series IS NOT NULL
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
SELECT a.id AS result_id, {selected(ClusterScore, "s")}
FROM cluster_score s
JOIN artifact a ON a.pk = s.result_pk AND a.state = 'ready'
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
    "reference_scores": f"""
SELECT {_BESIDE}, s.concept_group, s.n, s.n_concepts, s.ami, s.homogeneity, s.completeness, s.purity, s.created_at
FROM reference_score s
JOIN result r ON r.artifact_pk = s.result_pk
JOIN artifact a ON a.pk = s.result_pk AND a.state = 'ready'
JOIN artifact ca ON ca.pk = r.clustering_pk
""",
    "agreement": f"""
SELECT d.name AS dataset, one.backbone AS a, two.backbone AS b, one.clusters, one.seed AS seed_a, two.seed AS seed_b,
    p.ami, p.n, p.one_id AS clustering_a, p.two_id AS clustering_b, p.created_at
FROM (
    SELECT x.id AS one_id, g.other_id AS two_id, g.ami, g.n, g.created_at
    FROM clustering_agreement g JOIN artifact x ON x.pk = g.clustering_pk
    UNION ALL
    SELECT g.other_id AS one_id, x.id AS two_id, g.ami, g.n, g.created_at
    FROM clustering_agreement g JOIN artifact x ON x.pk = g.clustering_pk
) p
JOIN artifact first ON first.id = p.one_id
JOIN artifact second ON second.id = p.two_id
JOIN clustering one ON one.artifact_pk = first.pk
JOIN clustering two ON two.artifact_pk = second.pk
JOIN dataset d ON d.pk = one.dataset_pk
WHERE one.artifact_pk IN ({_CURRENT}) AND two.artifact_pk IN ({_CURRENT})
""",
    "leaderboard": LEADERBOARD,
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


def is_ours(name: str, sql: str) -> bool:
    """Whether a view's definition, as SQLite keeps it, is this version's."""
    return name in VIEWS and sql.split() == f"CREATE VIEW {name} AS {VIEWS[name]}".split()


def renew(connection: sa.Connection) -> None:
    """Make the views of an SQLite catalog anew where one is another than this version's."""
    rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'view'").all()
    if {name for name, sql in rows if is_ours(name, sql)} != set(VIEWS):
        drop(connection)
        create(connection)
