"""The keys that JSON documents promise."""

from __future__ import annotations

from typing import Any

import pytest

RESULT = (
    "id version fingerprint dataset backbone clustering_id concepts clusters seed protocol solver setting permuted "
    "n_train n_val n_test n_small_clusters n_concepts entropy_nats cross_entropy_nats mi_nats mi_bits nmi nmi_ci_lo "
    "nmi_ci_hi top1 top5 train_loss grad_norm converged epochs_run best_epoch device engine cached timings "
    "algorithm training_failed gap_nats"
)
CLUSTER = (
    "id fingerprint dataset backbone clusters seed n dim n_sampled objective objective_per_iteration sizes engine "
    "device cached timings peak_rss_bytes"
)
INGEST = "id fingerprint dataset backbone n dim dtype n_bad blocks bytes cached timings"
LABEL = "id version dataset concepts n_concepts n_labels n_labelled_samples groups cached"


def test_evaluate(world: Any) -> None:
    report = world.evaluated
    assert set(report) >= {"schema", "results", "errors", "timings"}
    assert report["schema"] == "qrp-store/evaluate/1"
    assert report["errors"] == []
    assert len(report["results"]) == 3 * 2 * 3
    for result in report["results"]:
        assert set(result) >= set(RESULT.split())
        assert set(result["timings"]) >= {"cluster_s", "load_s", "train_s", "val_s", "score_s"}
        assert all(isinstance(value, (int, float)) and value >= 0 for value in result["timings"].values())
        for name in ("permuted", "converged", "cached", "training_failed"):
            assert isinstance(result[name], bool)
        for name in ("n_train", "n_val", "n_test", "n_concepts", "epochs_run", "best_epoch", "version", "seed"):
            assert type(result[name]) is int


def test_cluster(qrp: Any, world: Any) -> None:
    report = qrp.ok("cluster", "--dataset", "photos", "--backbone", "sharp", "-k", 6, store=world.store)
    assert set(report) >= set(CLUSTER.split())
    assert set(report["sizes"]) >= {"min", "median", "max", "empty"}
    assert set(report["timings"]) >= {"read_s", "train_s", "assign_s", "total_s"}
    assert report["peak_rss_bytes"] > 1 << 20
    assert report["cached"]


def test_ingest(world: Any) -> None:
    for name, report in world.ingested.items():
        assert set(report) >= set(INGEST.split())
        assert report["blocks"] == {"total": 4, "written": 4, "reused": 0}
        assert (report["dataset"], report["backbone"]) == ("photos", name)
        assert (report["n"], report["dim"], report["n_bad"], report["dtype"]) == (400, 8, 0, "float32")
        assert report["bytes"] >= 400 * 8 * 4
        assert not report["cached"]


def test_label(world: Any) -> None:
    for name, report in world.labelled.items():
        assert set(report) >= set(LABEL.split())
        assert (report["dataset"], report["concepts"], report["version"]) == ("photos", name, 1)
    assert world.labelled["objects"]["groups"] == {"thing": 6, "trait": 3}
    assert world.labelled["objects"]["n_labelled_samples"] == 400


@pytest.mark.parametrize(
    "words",
    [
        ("ls", what)
        for what in (
            "datasets",
            "backbones",
            "embeddings",
            "concepts",
            "clusterings",
            "results",
            "recipes",
            "vocabularies",
        )
    ]
    + [("ls",)],
    ids=" ".join,
)
def test_rows_of_ls_have_id_and_name(qrp: Any, world: Any, words: tuple[str, ...]) -> None:
    document = qrp.ok(*words, store=world.store)
    assert set(document) == {"schema", "rows"}
    assert document["rows"]
    assert all(row["id"] and row["name"] for row in document["rows"])


@pytest.mark.parametrize("words", [("leaderboard",), ("sql", "SELECT * FROM results"), ("ls", "jobs")], ids=" ".join)
def test_listings_are_schema_and_rows(qrp: Any, world: Any, words: tuple[str, ...]) -> None:
    assert set(qrp.ok(*words, store=world.store)) == {"schema", "rows"}


def test_json_holds_no_nan(world: Any, qrp: Any) -> None:
    ran = qrp.run("sql", "SELECT 9e999 AS x, -9e999 AS y", "--json", store=world.store)
    assert ran.json["rows"] == [{"x": None, "y": None}]
