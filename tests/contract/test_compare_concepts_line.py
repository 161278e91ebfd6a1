"""compare-concepts: the agreement of two sets, concept by concept; scikit-learn is the oracle."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, cohen_kappa_score, f1_score, precision_score, recall_score

N = 60
KEYS = [f"{i:02}.jpg" for i in range(N)]
CONCEPTS = ["dog", "cat", "red ball"]


@pytest.fixture(scope="module")
def sets(qrp: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """A store with labels of people (some unknown: NaN), scores of a model, and other sets; the two as arrays."""
    folder = tmp_path_factory.mktemp("sets")
    store = folder / "store"
    rng = np.random.default_rng(0)
    truth = (rng.random((N, 3)) < (0.5, 0.2, 0.3)).astype(float)
    scores = np.round(np.clip(0.5 * truth + rng.random((N, 3)) * 0.6, 0, 1), 1)  # with ties
    truth[rng.random((N, 3)) < 0.2] = np.nan
    np.save(folder / "rows.npy", np.eye(N, dtype=np.float32))
    (folder / "keys.txt").write_text("".join(f"{key}\n" for key in KEYS))
    qrp.ok("init", store=store)
    for dataset in ("photos", "others"):
        line = ("ingest", folder / "rows.npy", "--keys", folder / "keys.txt", "--dataset", dataset, "--backbone", "b")
        qrp.ok(*line, store=store)
    with (folder / "people.csv").open("w", newline="") as file:
        rows = [["" if np.isnan(v) else int(v) for v in row] for row in truth]
        csv.writer(file).writerows([["key", *CONCEPTS], *([key, *row] for key, row in zip(KEYS, rows, strict=True))])
    with (folder / "model.csv").open("w", newline="") as file:
        names = ["dog", "cats", "Red-Ball"]
        pairs = [
            (key, name, s) for key, row in zip(KEYS, scores, strict=True) for name, s in zip(names, row, strict=True)
        ]
        csv.writer(file).writerows([["key", "concept", "score"], *pairs, (KEYS[0], "tree", 0.9)])
    (folder / "plain.csv").write_text("key,concept\n00.jpg,bird\n")
    made = (("people", "photos", 0.5), ("model", "photos", 0.3), ("plain", "photos", 0.5), ("model", "others", 0.3))
    for name, dataset, threshold in made:
        line = ("label", folder / f"{name}.csv", "--dataset", dataset, "--concepts", name, "--threshold", threshold)
        qrp.ok(*line, store=store)
    return store, truth, scores


def test_the_numbers_are_those_of_scikit_learn_on_what_both_know(qrp: Any, sets: Any) -> None:
    store, truth, scores = sets
    report = qrp.ok("compare-concepts", "people", "model", "--dataset", "photos", store=store)
    assert report["schema"] == "qrp-store/compare-concepts/1"
    assert (report["scored"], report["n_common"], report["only_a"], report["only_b"]) == ("b", 3, [], ["tree"])
    rows = {row["concept"]: row for row in report["rows"]}
    assert {row["concept"]: row["other"] for row in rows.values()} == dict(
        zip(CONCEPTS, ("dog", "cats", "Red-Ball"), strict=True)
    )
    for i, concept in enumerate(CONCEPTS):
        known = ~np.isnan(truth[:, i])
        y, s = truth[known, i], np.where(scores[known, i] > 0.3, scores[known, i], 0)
        guess = scores[known, i] > 0.3
        row = rows[concept]
        assert (row["n"], row["n_a"], row["n_b"]) == (known.sum(), y.sum(), guess.sum())
        expected = {
            "precision": precision_score(y, guess),
            "recall": recall_score(y, guess),
            "f1": f1_score(y, guess),
            "kappa": cohen_kappa_score(y, guess),
            "ap": average_precision_score(y, s),
        }
        assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert report["kappa_mean"] == pytest.approx(np.mean([row["kappa"] for row in rows.values()]))
    back = qrp.ok("compare-concepts", report["b"]["id"], report["a"]["id"], store=store)
    assert back["scored"] == "a"
    assert [row["ap"] for row in back["rows"]] == pytest.approx(
        [rows[c]["ap"] for c in ("dog", "cat", "red ball")], abs=1
    )
    assert back["f1_mean"] == pytest.approx(report["f1_mean"])


def test_a_person_reads_a_table_and_a_program_rows(qrp: Any, sets: Any) -> None:
    line = ("compare-concepts", "people", "plain", "--dataset", "photos")
    store = sets[0]
    printed = qrp.run("compare-concepts", "people", "model", "--dataset", "photos", store=store).out
    assert "3 concepts in common" in printed
    assert "red ball" in printed
    table = qrp.run("compare-concepts", "people", "model", "--dataset", "photos", "--format", "csv", store=store).out
    assert [row["concept"] for row in csv.DictReader(table.splitlines())] == ["cat", "dog", "red ball"]
    assert "no concept in common" in qrp.fails(4, *line, store=store)


def test_show_of_a_set_has_its_agreement_with_the_others(qrp: Any, sets: Any) -> None:
    store = sets[0]
    report = qrp.ok("compare-concepts", "people", "model", "--dataset", "photos", store=store)
    (shown,) = qrp.ok("show", "people", store=store)["agreement"]
    assert (shown["concepts"], shown["n_common"]) == ("model", 3)
    assert (shown["f1_mean"], shown["kappa_mean"]) == (report["f1_mean"], report["kappa_mean"])


def test_what_cannot_be_compared_is_refused(qrp: Any, sets: Any) -> None:
    store = sets[0]
    assert "did you mean people?" in qrp.fails(
        3, "compare-concepts", "peple", "model", "--dataset", "photos", store=store
    )
    assert "names 2 things" in qrp.fails(4, "compare-concepts", "people", "model", store=store)
    rows = {row["dataset"]: row["id"] for row in qrp.rows("ls", "concepts", store=store) if row["name"] == "model"}
    assert "of 'others'" in qrp.fails(4, "compare-concepts", "people", rows["others"], store=store)
    assert "expected a concept set" in qrp.fails(4, "compare-concepts", "people", "photos", store=store)
