"""`cluster --dataset D --backbone B`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WHERE = ("cluster", "--dataset", "photos", "--backbone", "dull")


def assignments(sql: Any, store: Path, identifier: str) -> dict[str, int]:
    rows = sql(store, "SELECT key, cluster FROM assignments WHERE clustering_id = ?", identifier)
    return {row["key"]: row["cluster"] for row in rows}


def test_every_row_has_a_cluster_from_0_and_sizes_agree(qrp: Any, own: Path, world: Any, sql: Any) -> None:
    report = qrp.ok(*WHERE, "-k", 10, store=own)
    found = assignments(sql, own, report["id"])
    assert set(found) == set(world.keys)
    sizes = np.bincount(list(found.values()), minlength=10)
    assert len(sizes) == 10
    told = {"min": sizes.min(), "median": np.median(sizes), "max": sizes.max(), "empty": (sizes == 0).sum()}
    assert report["sizes"] == told == qrp.ok("show", report["id"], store=own)["sizes"]
    assert report["imbalance"] == pytest.approx(10 * np.square(sizes / sizes.sum()).sum())
    assert qrp.ok("show", report["id"], store=own)["imbalance"] == report["imbalance"]
    assert (report["clusters"], report["seed"], report["n"], report["dim"]) == (10, 0, 400, 8)


def test_the_objective_is_the_sum_of_squared_distances_to_the_nearest_centroid(
    qrp: Any, own: Path, world: Any, sql: Any
) -> None:
    report = qrp.ok(*WHERE, "-k", 9, "--niter", 60, store=own)
    found = assignments(sql, own, report["id"])
    rows, cluster = world.rows["dull"].astype(np.float64), np.array([found[key] for key in world.keys])
    # at convergence a centroid is the mean of its rows
    around = sum(((rows[cluster == k] - rows[cluster == k].mean(0)) ** 2).sum() for k in set(cluster))
    assert report["objective"] == pytest.approx(around, rel=1e-4)
    steps = report["objective_per_iteration"]
    assert len(steps) == len(report["splits_per_iteration"]) == 60
    assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(steps))


def test_the_parts_are_64_16_20_within_every_cluster(world: Any, sql: Any) -> None:
    rows = sql(
        world.store,
        "SELECT clustering_id, cluster, count(*) AS n, sum(part = 'train') AS train, sum(part = 'val') AS val, "
        "sum(part = 'test') AS test FROM assignments GROUP BY clustering_id, cluster",
    )
    assert len(rows) == 9 * 6
    for row in rows:
        assert row["train"] + row["val"] + row["test"] == row["n"]
        if row["n"] < 5:
            assert row["train"] == row["n"]
        else:
            assert abs(row["test"] - 0.2 * row["n"]) <= 1
            assert abs(row["val"] - 0.16 * row["n"]) <= 1


def test_backbones_share_nearly_the_same_test_images(world: Any, sql: Any) -> None:
    (row,) = sql(
        world.store,
        "SELECT count(*) AS n FROM assignments a JOIN assignments b USING (key, seed, part) "
        "WHERE a.backbone = 'sharp' AND b.backbone = 'dull' AND part = 'test' AND seed = 0",
    )
    assert row["n"] > 0.75 * 80  # 80 are in a test part; by chance 16 would be in both


def test_seeds_differ_and_a_seed_repeats_itself_in_another_store(
    qrp: Any, own: Path, world: Any, sql: Any, tmp_path: Path, files: Any
) -> None:
    told = {s: qrp.ok(*WHERE, "-k", 7, "--seed", s, store=own) for s in (0, 1)}
    first, second = (assignments(sql, own, told[s]["id"]) for s in (0, 1))
    assert first != second
    other = tmp_path / "other"
    qrp.ok("init", store=other)
    words = ("--keys", files.keys(world.keys), "--dataset", "photos", "--backbone", "dull", "--block-rows", 33)
    qrp.ok("ingest", files.array(world.rows["dull"]), *words, store=other)
    again = qrp.ok(*WHERE, "-k", 7, "--memory", "1MB", "--workers", 3, store=other)
    assert assignments(sql, other, again["id"]) == first
    assert again["fingerprint"] == told[0]["fingerprint"]
    assert again["objective_per_iteration"] == told[0]["objective_per_iteration"]


def test_the_default_k_is_a_fiftieth_of_the_usable_rows(qrp: Any, own: Path) -> None:
    ran = qrp.run(*WHERE, "--json", store=own)
    assert ran.json["clusters"] == 400 // 50
    assert "400 usable rows, so -k auto is 8" in ran.err
    same = qrp.run(*WHERE, "-k", 8, "--json", store=own)
    assert (same.json["id"], same.json["cached"]) == (ran.json["id"], True)
    assert "auto" not in same.err
    assert qrp.ok("show", ran.json["id"], store=own)["options"]["clusters"] == 8
    words = ("evaluate", "--dataset", "photos", "--backbone", "dull", "--concepts", "objects", "--epochs", 2)
    (result,) = qrp.ok(*words, store=own)["results"]
    assert (result["clusters"], result["clustering_id"]) == (8, ran.json["id"])


@pytest.mark.parametrize("words", [("cluster", "--backbone", "sharp"), ("evaluate", "--backbone", "sharp")])
def test_a_refused_k_comes_with_the_one_that_auto_would_be(qrp: Any, own: Path, words: tuple[str, ...]) -> None:
    for k in ("1", "401"):
        told = qrp.fails(4, *words, "--dataset", "photos", "-k", k, store=own)
        assert f"-k {k}: " in told
        assert "-k auto would be 8" in told


def test_sample_is_256_a_centroid_all_or_n(qrp: Any, store: Path, files: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(900, 2))
    qrp.ok("ingest", files.array(rows), "--dataset", "d", "--backbone", "b", store=store)
    words = ("cluster", "--dataset", "d", "--backbone", "b", "-k", 3, "--niter", 2)
    assert qrp.ok(*words, store=store)["n_sampled"] == 768
    assert qrp.ok(*words, "--sample", "all", store=store)["n_sampled"] == 900
    assert qrp.ok(*words, "--sample", 100, store=store)["n_sampled"] == 100


@pytest.mark.parametrize("option", [("--init", "kmeans++"), ("--nredo", "3"), ("--normalize",), ("--spherical",)])
def test_options_make_another_clustering(qrp: Any, own: Path, option: tuple[str, ...]) -> None:
    plain = qrp.ok(*WHERE, "-k", 6, store=own)
    assert plain["cached"]
    other = qrp.ok(*WHERE, "-k", 6, *option, store=own)
    assert not other["cached"]
    assert other["fingerprint"] != plain["fingerprint"]


def test_normalize_is_k_means_of_rows_of_length_1(qrp: Any, own: Path, world: Any, files: Any, sql: Any) -> None:
    rows = world.rows["dull"] / np.linalg.norm(world.rows["dull"], axis=1, keepdims=True)
    report = qrp.ok(*WHERE, "-k", 6, "--normalize", store=own)
    assert report["objective"] < len(rows)  # distances of rows of length 1 to the mean of all are below 1
    words = ("--keys", files.keys(world.keys), "--dataset", "photos", "--backbone", "short")
    qrp.ok("ingest", files.array(rows), *words, store=own)
    plain = qrp.ok("cluster", "--dataset", "photos", "--backbone", "short", "-k", 6, store=own)
    assert report["objective"] == pytest.approx(plain["objective"], rel=1e-3)


def test_the_same_asked_again_is_cached_and_force_makes_the_next_version(qrp: Any, own: Path, sql: Any) -> None:
    first, second = (qrp.ok(*WHERE, "-k", 5, store=own) for _ in range(2))
    assert (first["cached"], second["cached"]) == (False, True)
    assert first["id"] == second["id"]
    third = qrp.ok(*WHERE, "-k", 5, "--force", store=own)
    assert not third["cached"]
    assert assignments(sql, own, third["id"]) == assignments(sql, own, first["id"])
    rows = sql(own, "SELECT DISTINCT version, is_newest FROM assignments WHERE clusters = 5 ORDER BY version")
    assert [tuple(r.values()) for r in rows] == [(1, 0), (2, 1)]


def test_small_clusters_stay_in_train_are_counted_and_warned_about(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    far = np.concatenate([np.random.default_rng(0).normal(size=(60, 2)), np.full((3, 2), 1000.0)])
    told = qrp.run("ingest", files.array(far), "--dataset", "d", "--backbone", "b", store=store)
    assert told.out.rstrip().endswith("in 1 block")
    assert qrp.ok("show", "b", store=store)["spec"] == {"kind": "array", "dim": 2}
    words = ("cluster", "--dataset", "d", "--backbone", "b", "-k", 2, "--init", "kmeans++", "--json")
    ran = qrp.run(*words, store=store)
    assert ran.code == 0
    assert "b, K 2, seed 0: 1 of 2 clusters has under 5 rows" in ran.err
    rows = sql(store, "SELECT part FROM assignments WHERE key IN ('60', '61', '62')")
    assert [r["part"] for r in rows] == ["train"] * 3
    qrp.ok(
        "label",
        files.labels([(str(i), str(i % 2)) for i in range(63)]),
        "--dataset",
        "d",
        "--concepts",
        "c",
        store=store,
    )
    # every test sample is in the one big cluster
    ran = qrp.run("evaluate", "--dataset", "d", "-k", 2, "--init", "kmeans++", "--epochs", 2, "--json", store=store)
    assert ran.code == 4
    assert ran.json["errors"][0]["kind"] == "invalid_input"


def test_memory_that_no_block_fits_in_is_refused_at_once(qrp: Any, own: Path) -> None:
    for words in (WHERE, ("evaluate", "--dataset", "photos", "--backbone", "dull")):  # blocks of 100 × 8 × 4 bytes
        ran = qrp.run(*words, "-k", 11, "--memory", "3KB", "--json", store=own)
        assert ran.code == 4
        assert "one block of photos/dull alone is 3,200 bytes" in ran.out
    assert qrp.ok(*WHERE, "-k", 11, "--memory", "4KB", store=own)["clusters"] == 11


def test_workers_are_at_least_1(qrp: Any, own: Path) -> None:
    assert "--workers 0: at least 1" in qrp.fails(4, *WHERE, "-k", 11, "--workers", 0, store=own)


def test_no_scheduler_is_told_at_once(qrp: Any, own: Path) -> None:
    assert "tcp://HOST:8786" in qrp.fails(4, *WHERE, "-k", 11, "--scheduler", "somewhere", store=own)
