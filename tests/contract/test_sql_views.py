"""The SQL views, asked through the plain sqlite3 module and through `sql`."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import pty
import re
import sqlite3
import subprocess
import sys
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

VIEWS = {
    "leaderboard": "dataset backbone concepts clusters protocol setting n_seeds nmi_mean nmi_std nmi_min nmi_max "
    "mi_nats_mean top1_mean top5_mean rank rank_lo rank_hi nmi_se entropy_mean effective_clusters_mean n_failed",
    "results": "id version fingerprint dataset backbone clustering_id concepts clusters seed protocol solver setting "
    "permuted n_train n_val n_test n_small_clusters n_concepts entropy_nats cross_entropy_nats mi_nats mi_bits nmi "
    "nmi_ci_lo nmi_ci_hi top1 top5 train_loss grad_norm converged epochs_run best_epoch device engine created_at "
    "created_by",
    "cluster_scores": "result_id cluster n_test cross_entropy_nats top1 mi_nats top_concept val_cross_entropy_nats "
    "cross_entropy_lo cross_entropy_hi",
    "cluster_concepts": "result_id cluster rank concept concept_group weight lift n",
    "group_scores": "result_id concept_group role nmi mi_nats",
    "assignments": "dataset backbone clusters seed clustering_id version is_newest key cluster part",
    "labels": "dataset concepts version is_newest key concept concept_group score",
    "embeddings": "id dataset backbone version is_newest n dim dtype array_url created_at created_by group_url",
}
VIEWS["result_versions"] = VIEWS["results"]


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_has_its_columns(qrp: Any, world: Any, view: str) -> None:
    with closing(sqlite3.connect(world.store / "catalog.db")) as connection:
        cursor = connection.execute(f"SELECT * FROM {view}")
        assert {d[0] for d in cursor.description} >= set(VIEWS[view].split())
        n = len(cursor.fetchall())
    assert len(qrp.rows("sql", f"SELECT * FROM {view}", store=world.store)) == n


def test_results_hold_what_json_said(world: Any, sql: Any) -> None:
    rows = {row["id"]: row for row in sql(world.store, "SELECT * FROM results")}
    told = world.evaluated["results"] + world.permuted["results"]
    assert set(rows) == {r["id"] for r in told}
    for r in told:
        assert {name: rows[r["id"]][name] for name in r if name not in ("timings", "cached")} == {
            name: value for name, value in r.items() if name not in ("timings", "cached")
        }


def test_the_leaderboard_is_mean_std_and_rank_over_seeds(world: Any, sql: Any) -> None:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for r in world.evaluated["results"]:
        groups[r["concepts"], r["backbone"]].append(r)
    rows = sql(world.store, "SELECT * FROM leaderboard")
    assert len(rows) == len(groups) == 6
    for row in rows:
        results = groups[row["concepts"], row["backbone"]]
        nmi = np.array([r["nmi"] for r in results])
        assert row["n_seeds"] == 3
        assert row["nmi_mean"] == pytest.approx(nmi.mean(), abs=1e-9)
        assert row["nmi_std"] == pytest.approx(nmi.std(ddof=1), abs=1e-9)
        assert (row["nmi_min"], row["nmi_max"]) == (nmi.min(), nmi.max())
        for name in ("mi_nats", "top1", "top5"):
            assert row[f"{name}_mean"] == pytest.approx(np.mean([r[name] for r in results]), abs=1e-9)
        above = [o for o in rows if o["setting"] == row["setting"] and o["nmi_mean"] > row["nmi_mean"]]
        assert row["rank"] == 1 + len(above)
    assert {(r["concepts"], r["rank"]): r["backbone"] for r in rows}["objects", 1] == "sharp"


def test_the_leaderboards_std_is_null_for_one_seed(qrp: Any, own: Path, sql: Any) -> None:
    words = ("evaluate", "--dataset", "photos", "--backbone", "sharp", "--concepts", "objects", "-k", 5)
    qrp.ok(*words, "--epochs", 2, store=own)
    (row,) = sql(own, "SELECT n_seeds, nmi_std FROM leaderboard WHERE clusters = 5")
    assert row == {"n_seeds": 1, "nmi_std": None}


def test_controls_never_stand_in_the_leaderboard(world: Any, sql: Any) -> None:
    (control,) = world.permuted["results"]
    assert sql(world.store, "SELECT permuted FROM results WHERE id = ?", control["id"]) == [{"permuted": 1}]
    rows = sql(world.store, "SELECT sum(n_seeds) AS n FROM leaderboard")
    assert rows == [{"n": len(world.evaluated["results"])}]
    assert control["setting"] not in {r["setting"] for r in sql(world.store, "SELECT setting FROM leaderboard")}


def test_the_leaderboard_counts_the_newest_inputs_only(qrp: Any, own: Path, world: Any, files: Any, sql: Any) -> None:
    def ranked() -> set[tuple[str, str]]:
        return {(r["backbone"], r["concepts"]) for r in sql(own, "SELECT * FROM leaderboard")}

    table = files.labels([(key, str(i % 4)) for i, key in enumerate(world.keys)])
    qrp.ok("label", table, "--dataset", "photos", "--concepts", "classes", store=own)
    assert ranked() == {(b, "objects") for b in world.rows}
    words = ("--keys", files.keys(world.keys), "--dataset", "photos", "--backbone", "dull", "--force")
    qrp.ok("ingest", files.array(world.rows["noise"]), *words, store=own)
    assert ranked() == {("sharp", "objects"), ("noise", "objects")}
    # results of old inputs stay, each under its own id
    assert len(sql(own, "SELECT * FROM results")) == 19


def test_the_leaderboard_command_is_the_view_by_dataset(qrp: Any, world: Any, sql: Any) -> None:
    rows = qrp.rows("leaderboard", "--dataset", "photos", store=world.store)
    key = ("concepts", "backbone")
    assert sorted(rows, key=lambda r: [r[k] for k in key]) == sorted(
        sql(world.store, "SELECT * FROM leaderboard"), key=lambda r: [r[k] for k in key]
    )
    assert "nope" in qrp.fails(3, "leaderboard", "--dataset", "nope", store=world.store)


def test_on_a_terminal_the_leaderboard_is_one_table_a_setting(world: Any) -> None:
    ours, theirs = pty.openpty()
    line = [
        sys.executable,
        "-c",
        "from qrp_store.cli.main import main; main()",
        "leaderboard",
        "--store",
        str(world.store),
    ]
    with subprocess.Popen(line, stdout=theirs, env={**os.environ, "COLUMNS": "80"}) as running:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError), open(ours, "rb", buffering=0) as terminal:  # EIO: the other end is closed
            while more := terminal.read(4096):
                shown += more
    assert running.returncode == 0
    first, second = re.split("(?m)^dataset photos, concepts ", shown.decode())[1:]
    assert first.startswith("classes, clusters 6, protocol laina2022, setting ")
    assert second.startswith("objects, clusters 6, protocol laina2022, setting ")
    assert all(name in table for table in (first, second) for name in ("sharp", "dull", "noise"))


def test_the_shares_of_clusters_sum_to_mi(world: Any, sql: Any) -> None:
    for r in world.evaluated["results"]:
        rows = sql(world.store, "SELECT * FROM cluster_scores WHERE result_id = ?", r["id"])
        assert [row["cluster"] for row in rows] == list(range(6))
        assert sum(row["n_test"] for row in rows) == r["n_test"]
        assert sum(row["mi_nats"] for row in rows) == pytest.approx(r["mi_nats"], abs=1e-6)
        for row in (row for row in rows if row["n_test"]):
            p = row["n_test"] / r["n_test"]
            assert row["mi_nats"] == pytest.approx(p * (-math.log(p) - row["cross_entropy_nats"]), abs=1e-6)
        hits = sum(row["top1"] * row["n_test"] for row in rows if row["n_test"])
        assert hits / r["n_test"] == pytest.approx(r["top1"], abs=1e-6)


def test_the_top_concept_is_the_first_that_enough_training_images_have(world: Any, sql: Any) -> None:
    sizes = defaultdict(int)
    for row in sql(world.store, "SELECT clustering_id, cluster FROM assignments WHERE part = 'train'"):
        sizes[row["clustering_id"], row["cluster"]] += 1
    listed = defaultdict(list)
    for row in sql(world.store, "SELECT * FROM cluster_concepts ORDER BY rank"):
        listed[row["result_id"], row["cluster"]].append(row)
    several = set()
    clustering = {r["id"]: r["clustering_id"] for r in sql(world.store, "SELECT id, clustering_id FROM results")}
    for row in sql(world.store, "SELECT * FROM cluster_scores"):
        size = sizes[clustering[row["result_id"]], row["cluster"]]
        assert row["n_train"] == size
        concepts = listed[row["result_id"], row["cluster"]]
        supported = [c["concept"] for c in concepts if c["n"] >= 5 and c["n"] >= 0.1 * size]
        assert row["top_concept"] == (supported[0] if supported else None)
        several.add(supported[:1] == [concepts[0]["concept"]])
    assert several == {True, False}


def test_clusters_are_chosen_by_validation_and_shown_with_an_interval(world: Any, sql: Any) -> None:
    inside = 0
    rows = sql(world.store, "SELECT * FROM cluster_scores WHERE n_test > 1")
    for row in rows:
        assert 0 <= row["cross_entropy_lo"] <= row["cross_entropy_nats"] <= row["cross_entropy_hi"]
        assert row["val_cross_entropy_nats"] >= 0
        inside += row["cross_entropy_lo"] <= row["val_cross_entropy_nats"] <= row["cross_entropy_hi"]
    assert inside > 0.6 * len(rows)


def test_the_gap_is_what_the_training_part_has_more(world: Any) -> None:
    for r in world.evaluated["results"]:
        # the parts are stratified by cluster: their entropies are nearly equal
        assert r["gap_nats"] == pytest.approx(r["cross_entropy_nats"] - r["train_cross_entropy_nats"], abs=0.05)
        assert r["training_failed"] == (r["best_epoch"] == 0)
        assert r["algorithm"] >= 1


def test_lift_is_p_of_the_concept_in_the_cluster_over_p_of_the_concept_in_train(world: Any, sql: Any) -> None:
    result = next(r for r in world.evaluated["results"] if r["backbone"] == "sharp" and r["concepts"] == "objects")
    rows = sql(world.store, "SELECT * FROM cluster_concepts WHERE result_id = ?", result["id"])
    train = sql(
        world.store,
        "SELECT key, cluster FROM assignments WHERE clustering_id = ? AND part = 'train'",
        result["clustering_id"],
    )
    cluster = {row["key"]: row["cluster"] for row in train}
    holds = defaultdict(set)
    for row in sql(world.store, "SELECT key, concept FROM labels WHERE concepts = 'objects'"):
        holds[row["concept"]].add(row["key"])
    assert rows
    for row in rows:
        inside = {key for key, k in cluster.items() if k == row["cluster"]}
        both = len(inside & holds[row["concept"]])
        expected = (both / len(inside)) / (len(set(cluster) & holds[row["concept"]]) / len(cluster))
        assert row["lift"] == pytest.approx(expected, rel=1e-5)
        assert row["n"] == both
        assert row["concept_group"] == ("thing" if row["concept"].startswith("object") else "trait")


def test_weights_fall_with_rank_and_are_centred_over_clusters(world: Any, sql: Any) -> None:
    rows = sql(world.store, "SELECT * FROM cluster_concepts ORDER BY result_id, cluster, rank")
    lists = defaultdict(list)
    columns = defaultdict(list)
    for row in rows:
        lists[row["result_id"], row["cluster"]].append(row)
        columns[row["result_id"], row["concept"]].append(row["weight"])
    for listed in lists.values():
        assert [row["rank"] for row in listed] == list(range(1, len(listed) + 1))
        assert all(a["weight"] >= b["weight"] for a, b in itertools.pairwise(listed))
    whole = [weights for weights in columns.values() if len(weights) == 6]
    assert whole  # concepts that are listed for every cluster
    assert all(abs(sum(weights)) < 1e-4 for weights in whole)


def test_assignments_have_their_parts_names(world: Any, sql: Any) -> None:
    rows = sql(world.store, "SELECT part, count(*) AS n FROM assignments WHERE is_newest GROUP BY part")
    assert {r["part"] for r in rows} == {"train", "val", "test"}
    assert sum(r["n"] for r in rows) == 9 * 400


def test_embeddings_say_shape_and_place(world: Any, sql: Any) -> None:
    for row in sql(world.store, "SELECT * FROM embeddings"):
        assert (row["n"], row["dim"], row["dtype"], row["version"], row["is_newest"]) == (400, 8, "float32", 1, 1)
        assert (Path(row["array_url"]) / "zarr.json").is_file()


WRITES = [
    "UPDATE result SET nmi = 1",
    "UPDATE result SET permuted = 1",
    "DELETE FROM result",
    "UPDATE cluster_score SET mi_nats = 1",
    "DELETE FROM cluster_score",
    "UPDATE cluster_concept SET lift = 1",
    "INSERT OR REPLACE INTO result SELECT * FROM result",
]


@pytest.mark.parametrize("statement", WRITES)
def test_the_database_refuses_to_change_results(own: Path, sql: Any, statement: str) -> None:
    before = [sql(own, f"SELECT * FROM {view}") for view in ("results", "cluster_scores", "cluster_concepts")]
    with closing(sqlite3.connect(own / "catalog.db")) as connection:
        with pytest.raises(sqlite3.DatabaseError):
            connection.execute(statement)
        connection.commit()
    assert [sql(own, f"SELECT * FROM {view}") for view in ("results", "cluster_scores", "cluster_concepts")] == before


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM dataset",
        "WITH x AS (SELECT 1) UPDATE artifact SET name = 'x'",
        "DROP VIEW leaderboard",
        "CREATE TABLE t (x)",
        "PRAGMA user_version = 3",
        "PRAGMA query_only = OFF",
        "ATTACH 'other.db' AS other",
        "VACUUM INTO 'copy.db'",
        "SELECT 1; DELETE FROM dataset",
        "SELEC 1",
        "SELECT * FROM no_such_view",
        "SELECT locked FROM disk",
        "",
    ],
)
def test_sql_reads_only(qrp: Any, own: Path, sql: Any, statement: str, tmp_path: Path) -> None:
    before = sql(own, "SELECT * FROM sqlite_master")
    qrp.fails(4, "sql", statement, store=own, cwd=tmp_path)
    assert sql(own, "SELECT * FROM sqlite_master") == before
    assert len(qrp.rows("ls", "datasets", store=own)) == 1
    assert not {p.name for p in tmp_path.iterdir()} & {"other.db", "copy.db"}


def test_only_ready_things_show(qrp: Any, own: Path, world: Any, sql: Any) -> None:
    qrp.ok("rm", world.ingested["dull"]["id"], "--cascade", "--yes", store=own)
    for view in ("embeddings", "results", "assignments", "leaderboard"):
        assert {r["backbone"] for r in sql(own, f"SELECT DISTINCT backbone FROM {view}")} == {"sharp", "noise"}
    assert {r["backbone"] for r in sql(own, "SELECT DISTINCT backbone FROM result_versions")} == set(world.rows)
    gone = {r["id"] for r in world.evaluated["results"] if r["backbone"] == "dull"}
    for view in ("cluster_scores", "cluster_concepts"):
        assert not gone & {r["result_id"] for r in sql(own, f"SELECT DISTINCT result_id FROM {view}")}
    collected = qrp.ok("gc", store=own)
    assert collected["objects"] > 0
    assert qrp.ok("verify", "--deep", store=own)["problems"] == []
    # results leave a tombstone
    assert gone <= {r["id"] for r in sql(own, "SELECT id FROM result_versions")}


def test_every_column_of_a_view_has_one_type_in_arrow_and_parquet(
    own: Path, world: Any, qrp: Any, tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    import qrp_store

    empty = tmp_path / "empty"
    qrp.ok("init", store=empty)
    with qrp_store.open(own) as full, qrp_store.open(empty) as nothing:
        views = [row["name"] for row in nothing.sql("SELECT name FROM sqlite_master WHERE type = 'view'")]
        assert len(views) > 10
        for view in views:
            with_rows = full.sql(f"SELECT * FROM {view}").arrow()
            without = nothing.sql(f"SELECT * FROM {view}").arrow()
            assert without.schema == with_rows.schema, view
            assert not [f.name for f in without.schema if pa.types.is_null(f.type)], view
        board = nothing.sql("SELECT * FROM leaderboard").arrow().schema
        kinds = {name: board.field(name).type for name in ("backbone", "clusters", "nmi_mean", "nmi_std", "rank")}
        assert list(kinds.values()) == [pa.string(), pa.int64(), pa.float64(), pa.float64(), pa.int64()]
        assert full.sql("SELECT is_newest FROM labels").arrow().schema.field(0).type == pa.bool_()
    qrp.ok("export", "labels", "-o", tmp_path / "l.parquet", store=own)
    schema = pq.read_schema(tmp_path / "l.parquet")
    assert (schema.field("concept_group").type, schema.field("score").type) == (pa.string(), pa.float64())
