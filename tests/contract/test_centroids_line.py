"""`cluster --centroids-of ID`: the centroids of one clustering, the assignments of another embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

TRAINED = ("cluster", "--dataset", "photos", "--backbone", "sharp", "-k", 6)
FEW = ("--epochs", 40, "--bootstrap", 20)


def assigned(sql: Any, store: Path, identifier: str) -> dict[str, tuple[int, str]]:
    rows = sql(store, "SELECT key, cluster, part FROM assignments WHERE clustering_id = ?", identifier)
    return {row["key"]: (row["cluster"], row["part"]) for row in rows}


@pytest.fixture
def val(qrp: Any, own: Path, world: Any, files: Any) -> Path:
    """The store with a second dataset under the same backbones: half of the rows, moved a little, with concepts."""
    keys, noise = world.keys[::2], np.random.default_rng(3).normal(size=(200, 8)) * 0.1
    listed = files.keys([f"val/{key}" for key in keys])
    for name in ("sharp", "dull"):
        rows = files.array((world.rows[name][::2] + noise).astype(np.float32), f"val-{name}.npy")
        qrp.ok("ingest", rows, "--keys", listed, "--dataset", "val", "--backbone", name, store=own)
    labels = files.labels([(f"val/{key}", f"object-{world.group[2 * i]}") for i, key in enumerate(keys)])
    qrp.ok("label", labels, "--dataset", "val", "--concepts", "objects", store=own)
    return own


def test_rows_go_to_the_nearest_of_the_other_clustering(qrp: Any, val: Path, world: Any, sql: Any) -> None:
    source = qrp.ok(*TRAINED, "--niter", 60, store=val)
    report = qrp.ok("cluster", "--dataset", "val", "--backbone", "sharp", "--centroids-of", source["id"], store=val)
    assert (report["dataset"], report["backbone"], report["clusters"], report["n"]) == ("val", "sharp", 6, 200)
    assert (report["n_sampled"], report["objective_per_iteration"], report["cached"]) == (None, None, False)
    assert report["centroids_of"] == source["id"]
    # at convergence a centroid is the mean of its rows
    trained = assigned(sql, val, source["id"])
    cluster = np.array([trained[key][0] for key in world.keys])
    centroids = np.stack([world.rows["sharp"][cluster == k].mean(0) for k in range(6)])
    noise = np.random.default_rng(3).normal(size=(200, 8)) * 0.1
    apart = ((world.rows["sharp"][::2] + noise)[:, None] - centroids) ** 2
    found = assigned(sql, val, report["id"])
    assert [found[f"val/{key}"][0] for key in world.keys[::2]] == apart.sum(2).argmin(1).tolist()
    assert report["objective"] == pytest.approx(apart.sum(2).min(1).sum(), rel=1e-4)
    assert {part for _, part in found.values()} == {"train", "val", "test"}
    again = qrp.ok("cluster", "--dataset", "val", "--centroids-of", source["id"][:10], "-k", 6, store=val)
    assert (again["id"], again["cached"]) == (report["id"], True)


def test_the_same_embedding_is_assigned_as_it_was_and_split_by_the_seed(qrp: Any, own: Path, sql: Any) -> None:
    source = qrp.ok(*TRAINED, "--normalize", "--init", "kmeans++", store=own)
    words = ("cluster", "--dataset", "photos", "--centroids-of", source["id"])
    same, other = (qrp.ok(*words, "--seed", seed, store=own) for seed in (0, 1))
    assert assigned(sql, own, same["id"]) == assigned(sql, own, source["id"])
    before, after = assigned(sql, own, source["id"]), assigned(sql, own, other["id"])
    assert {key: cluster for key, (cluster, _) in after.items()} == {key: c for key, (c, _) in before.items()}
    assert after != before
    assert same["objective"] == source["objective"]
    assert len({r["fingerprint"] for r in (source, same, other)}) == 3


def test_another_version_of_the_centroids_makes_another_version(qrp: Any, val: Path, sql: Any) -> None:
    words = ("cluster", "--dataset", "val", "--centroids-of")
    first = qrp.ok(*words, qrp.ok(*TRAINED, store=val)["id"], store=val)
    second = qrp.ok(*words, qrp.ok(*TRAINED, "--force", store=val)["id"], store=val)
    assert first["fingerprint"] != second["fingerprint"]
    rows = sql(val, "SELECT DISTINCT clustering_id, version, is_newest FROM assignments WHERE dataset = 'val'")
    assert {tuple(r.values()) for r in rows} == {(first["id"], 1, 0), (second["id"], 2, 1)}


def test_its_results_are_ranked_until_the_centroids_are_superseded(qrp: Any, val: Path, sql: Any) -> None:
    def ranked() -> list[str]:
        return [row["backbone"] for row in sql(val, "SELECT backbone FROM leaderboard WHERE dataset = 'val'")]

    def current() -> dict[str, tuple[str | None, int]]:
        rows = sql(val, "SELECT id, centroids_of, is_current FROM clusterings")
        return {row["id"]: (row["centroids_of"], row["is_current"]) for row in rows}

    words = ("cluster", "--dataset", "val", "--seed", 4, "--centroids-of")
    source = qrp.ok(*TRAINED, "--seed", 4, store=val)["id"]
    made = qrp.ok(*words, source, store=val)["id"]
    onward = qrp.ok(*words, made, store=val)["id"]
    qrp.ok("evaluate", "--dataset", "val", "--clustering", made, *FEW, store=val)
    assert ranked() == ["sharp"]
    assert (current()[source], current()[made], current()[onward]) == ((None, 1), (source, 1), (made, 1))
    newer = qrp.ok(*TRAINED, "--seed", 4, "--force", store=val)["id"]
    assert ranked() == []
    assert (current()[source], current()[made], current()[newer]) == ((None, 0), (source, 0), (None, 1))
    qrp.ok("rm", source, "--yes", store=val)
    qrp.ok("gc", store=val)
    assert ranked() == []  # what is gone is no newer
    again = qrp.ok(*words, newer, store=val)["id"]
    qrp.ok("evaluate", "--dataset", "val", "--clustering", again, *FEW, store=val)
    assert ranked() == ["sharp"]
    assert {row["id"]: row["centroids_of"] for row in qrp.rows("ls", "clusterings", store=val)}[again] == newer
    qrp.ok("rm", newer, "--yes", store=val)
    assert ranked() == ["sharp"]  # retired, not superseded


def test_it_is_evaluated_and_ranked_beside_other_backbones(qrp: Any, val: Path, sql: Any) -> None:
    made = {}
    for backbone in ("sharp", "dull"):
        for seed in (0, 1):
            words = ("cluster", "--dataset", "photos", "--backbone", backbone, "-k", 6, "--seed", seed)
            source = qrp.ok(*words, store=val)["id"]
            words = ("cluster", "--dataset", "val", "--centroids-of", source, "--seed", seed)
            made[backbone, seed] = qrp.ok(*words, store=val)["id"]
    chosen = [word for identifier in made.values() for word in ("--clustering", identifier)]
    report = qrp.ok("evaluate", "--dataset", "val", *chosen, *FEW, store=val)
    assert report["errors"] == []
    got = {(r["backbone"], r["seed"]): r["clustering_id"] for r in report["results"]}
    assert got == made
    assert len({r["setting"] for r in report["results"]}) == 1
    board = sql(val, "SELECT backbone, n_seeds, clusters, rank FROM leaderboard WHERE dataset = 'val' ORDER BY rank")
    assert [tuple(r.values()) for r in board] == [("sharp", 2, 6, 1), ("dull", 2, 6, 2)]
    # K-means on val itself, or centroids of another seed than the split's, are other settings
    plain = qrp.ok("evaluate", "--dataset", "val", "--backbone", "sharp", "-k", 6, *FEW, store=val)
    words = ("cluster", "--dataset", "val", "--centroids-of", plain["results"][0]["clustering_id"], "--seed", 1)
    mixed = qrp.ok(*words, store=val)["id"]
    mixed = qrp.ok("evaluate", "--dataset", "val", "--clustering", mixed, *FEW, store=val)
    settings = {r["results"][0]["setting"] for r in (report, plain, mixed)}
    assert len(settings) == 3


def test_a_clustering_by_name_or_id_has_its_own_seed(qrp: Any, val: Path) -> None:
    source = qrp.ok(*TRAINED, "--seed", 2, store=val)
    words = ("evaluate", "--dataset", "photos", "--concepts", "objects", *FEW)
    (by_id,) = qrp.ok(*words, "--clustering", source["id"], store=val)["results"]
    (by_name,) = qrp.ok(*words, "--clustering", "sharp/k6/s2", store=val)["results"]
    assert (by_id["clustering_id"], by_id["seed"]) == (source["id"], 2)
    assert (by_name["id"], by_name["cached"]) == (by_id["id"], True)
    assert "has seed 2, not 5" in qrp.run(*words, "--clustering", source["id"], "--seed", 5, "--json", store=val).out
    (plan,) = qrp.ok(*words, "--clustering", source["id"], "--dry-run", store=val)["plan"]
    assert (plan["clustering"], plan["result"], plan["seed"], plan["clusters"]) == ("there", "there", 2, 6)
    said = qrp.fails(4, "evaluate", "--dataset", "val", "--clustering", source["id"], store=val)
    assert "dataset 'photos', not 'val'" in said
    assert "--centroids-of" in said


def test_it_outlives_the_clustering_whose_centroids_it_has(qrp: Any, val: Path, sql: Any) -> None:
    source = qrp.ok(*TRAINED, "--seed", 3, store=val)
    made = qrp.ok("cluster", "--dataset", "val", "--centroids-of", source["id"], "--seed", 3, store=val)
    qrp.ok("rm", source["id"], "--cascade", "--yes", store=val)
    qrp.ok("gc", store=val)
    assert qrp.ok("verify", "--deep", store=val)
    assert qrp.ok("show", made["id"], store=val)["provenance"]["centroids_of"] == source["id"]
    onward = qrp.ok("cluster", "--dataset", "photos", "--centroids-of", made["id"], "--seed", 3, store=val)
    assert onward["n"] == 400


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (3, ("--dataset", "val", "--centroids-of", "clu-0123456789ab"), "clu-0123456789ab"),
        (3, ("--dataset", "nowhere", "--centroids-of", "SOURCE"), "nowhere"),
        (4, ("--dataset", "photos", "--centroids-of", "IMPORTED"), "imported"),
        (4, ("--dataset", "wide", "--backbone", "wide", "--centroids-of", "SOURCE"), "5 dimensions"),
        (4, ("--dataset", "val", "--centroids-of", "RESULT"), "not a clustering"),
        (4, ("--dataset", "val", "--centroids-of", "SOURCE", "-k", 7), "6 centroids"),
        (2, ("--dataset", "val", "--centroids-of", "SOURCE", "--niter", 3), "--niter"),
        (2, ("--dataset", "val", "--centroids-of", "SOURCE", "--import", "x.npy", "--name", "n"), "either"),
        (2, ("--dataset", "val"), "--backbone"),
    ],
)
def test_what_does_not_fit_is_refused(
    qrp: Any, val: Path, files: Any, sql: Any, code: int, words: tuple[object, ...], said: str
) -> None:
    before = len(qrp.rows("ls", "clusterings", store=val))
    names = {"SOURCE": qrp.ok(*TRAINED, store=val)["id"], "RESULT": qrp.rows("ls", "results", store=val)[0]["id"]}
    if "IMPORTED" in words:
        groups = files.array(np.arange(400) % 3, "groups.npy")
        names["IMPORTED"] = qrp.ok("cluster", "--dataset", "photos", "--import", groups, "--name", "g", store=val)["id"]
        before += 1
    if "wide" in words:
        rows = files.array(np.random.default_rng(0).normal(size=(50, 5)), "wide.npy")
        qrp.ok("ingest", rows, "--dataset", "wide", "--backbone", "wide", store=val)
    assert said in qrp.fails(code, "cluster", *(names.get(str(w), w) for w in words), store=val)
    assert len(qrp.rows("ls", "clusterings", store=val)) == before
