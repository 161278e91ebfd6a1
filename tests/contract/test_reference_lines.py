"""Numbers to read a score by, from outside: known groups, agreement of clusterings, --upper, --mdl."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score, completeness_score, homogeneity_score


def test_the_clusters_are_compared_with_each_exclusive_group(world: Any, qrp: Any, sql: Any) -> None:
    """objects has an exclusive group (thing) and one that is not (trait); classes has one without a name."""
    for result in world.evaluated["results"]:
        rows = qrp.ok("show", result["id"], store=world.store)["references"]
        assert [row["concept_group"] for row in rows] == ["thing" if result["concepts"] == "objects" else "(none)"]
        pairs = sql(
            world.store,
            "SELECT l.concept, a.cluster FROM labels l JOIN assignments a ON a.key = l.key AND a.clustering_id = ? "
            "WHERE l.concepts = ? AND coalesce(l.concept_group, '(none)') = ?",
            *(result["clustering_id"], result["concepts"], rows[0]["concept_group"]),
        )
        classes, clusters = ([pair[name] for pair in pairs] for name in ("concept", "cluster"))
        assert (rows[0]["n"], rows[0]["n_concepts"]) == (len(pairs), len(set(classes)))
        assert rows[0]["ami"] == pytest.approx(adjusted_mutual_info_score(classes, clusters), abs=1e-9)
        assert rows[0]["homogeneity"] == pytest.approx(homogeneity_score(classes, clusters))
        assert rows[0]["completeness"] == pytest.approx(completeness_score(classes, clusters))
        counts = dict.fromkeys(itertools.product(set(classes), set(clusters)), 0)
        for pair in zip(classes, clusters, strict=True):
            counts[pair] += 1
        largest = (max(counts[name, k] for name in set(classes)) for k in set(clusters))
        assert rows[0]["purity"] == pytest.approx(sum(largest) / len(pairs))
        view = sql(world.store, "SELECT ami, purity FROM reference_scores WHERE result_id = ?", result["id"])
        assert view == [{name: rows[0][name] for name in ("ami", "purity")}]
    (control,) = world.permuted["results"]
    assert sql(world.store, "SELECT * FROM reference_scores WHERE result_id = ?", control["id"]) == []


def test_clusterings_of_two_seeds_and_of_two_backbones_are_compared(world: Any, qrp: Any, sql: Any) -> None:
    rows = sql(world.store, "SELECT * FROM agreement")
    # both orders of 3 pairs of seeds of 3 backbones, and of 3 pairs of backbones under 3 seeds
    assert len(rows) == 2 * (9 + 9)
    clusters: dict[str, list[int]] = {}
    for row in sql(world.store, "SELECT clustering_id, cluster FROM assignments ORDER BY clustering_id, key"):
        clusters.setdefault(row["clustering_id"], []).append(row["cluster"])
    for row in rows:
        expected = adjusted_mutual_info_score(clusters[row["clustering_a"]], clusters[row["clustering_b"]])
        assert row["ami"] == pytest.approx(expected, abs=1e-9)
        assert (row["dataset"], row["clusters"], row["n"]) == ("photos", 6, 400)
        assert (row["a"] == row["b"]) != (row["seed_a"] == row["seed_b"])
    shown = qrp.ok("show", rows[0]["clustering_a"], store=world.store)["agreement"]
    assert len(shown) == 4


@pytest.fixture(scope="module")
def exclusive_or(qrp: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clusters by the XOR of two of four concepts."""
    folder = tmp_path_factory.mktemp("xor")
    rng = np.random.default_rng(0)
    y = rng.random((900, 4)) < 0.5
    lines = ["key,concept", *(f"{i},c{j}" for i, j in zip(*np.nonzero(y), strict=True))]
    (folder / "labels.csv").write_text("\n".join(lines))
    np.save(folder / "rows.npy", rng.normal(size=(900, 3)).astype("f4"))
    np.save(folder / "xor.npy", (y[:, 0] ^ y[:, 1]).astype(np.int64))
    store = folder / "store"
    qrp.ok("init", store=store)
    qrp.ok("ingest", folder / "rows.npy", "--dataset", "d", "--backbone", "b", store=store)
    qrp.ok("label", folder / "labels.csv", "--dataset", "d", "--concepts", "c", store=store)
    qrp.ok("cluster", "--dataset", "d", "--import", folder / "xor.npy", "--name", "xor", store=store)
    return store


def test_exclusive_or_shows_in_the_upper_reference_and_not_in_the_bound(qrp: Any, exclusive_or: Path, sql: Any) -> None:
    line = ("evaluate", "--dataset", "d", "--clustering", "xor", "--protocol", "tight", "--bootstrap", 0)
    (plain,) = qrp.ok(*line, store=exclusive_or)["results"]
    assert {"nmi_upper", "upper", "code_length_nats", "mdl"} & set(plain) == set()
    (result,) = qrp.ok(*line, "--upper", store=exclusive_or)["results"]
    assert result["cached"]
    assert (result["id"], result["setting"]) == (plain["id"], plain["setting"])
    assert result["nmi"] < 0.02
    assert result["nmi_upper"] > 0.9
    candidates = {c["model"]: c for c in result["upper"]["candidates"]}
    assert set(candidates) == {"linear", "products", "network"}
    best = min(candidates.values(), key=lambda candidate: candidate["val_cross_entropy_nats"])
    assert (best["model"], best["nmi"]) == (result["upper"]["model"], result["nmi_upper"])
    assert candidates["linear"]["nmi"] == pytest.approx(result["nmi"], abs=1e-6)
    assert sql(exclusive_or, "SELECT nmi_upper FROM results") == [{"nmi_upper": result["nmi_upper"]}]
    shown = qrp.ok("show", result["id"], store=exclusive_or)
    assert (shown["nmi_upper"], shown["upper"]) == (result["nmi_upper"], result["upper"])
    ran = qrp.run(*line, "--upper", store=exclusive_or)
    assert "nmi_upper" in ran.out.splitlines()[0]
    assert "combinations of concepts that do not add up" in ran.err


def test_the_code_length_is_stored_with_what_it_saves(qrp: Any, exclusive_or: Path, sql: Any) -> None:
    line = ("evaluate", "--dataset", "d", "--clustering", "xor", "--protocol", "tight", "--bootstrap", 0, "--mdl")
    dry = qrp.ok(*line, "--dry-run", store=exclusive_or)
    assert dry["plan"][0]["mdl"] == "to make"
    (result,) = qrp.ok(*line, store=exclusive_or)["results"]
    assert result["mdl"]["n"] == 900
    assert result["mdl"]["entropy_nats"] == pytest.approx(math.log(2), abs=0.01)
    assert result["mdl"]["saved_nats"] == result["mdl"]["entropy_nats"] - result["code_length_nats"]
    assert -0.1 < result["mdl"]["saved_nats"] < 0  # a sum of concepts says nothing, and learning that costs a little
    (again,) = qrp.ok(*line, store=exclusive_or)["results"]
    assert again["code_length_nats"] == result["code_length_nats"]
    assert (
        sql(exclusive_or, "SELECT code_length_nats FROM results")[0]["code_length_nats"] == result["code_length_nats"]
    )
