"""`label SOURCE --dataset D --concepts C`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WHERE = ("--dataset", "d", "--concepts", "c")
KEYS = ["a/1.png", "a/2.png", "b/1.png", "b/2.png", "b/3.png"]


@pytest.fixture
def store(qrp: Any, store: Path, files: Any) -> Path:
    """A store with one dataset of five samples."""
    rows = files.array(np.eye(5))
    qrp.ok("ingest", rows, "--keys", files.keys(KEYS), "--dataset", "d", "--backbone", "b", store=store)
    return store


def labels(sql: Any, store: Path) -> dict[tuple[str, str], float | None]:
    rows = sql(store, "SELECT key, concept, score FROM labels WHERE is_newest")
    assert len({(r["key"], r["concept"]) for r in rows}) == len(rows)
    return {(r["key"], r["concept"]): r["score"] for r in rows}


def test_a_long_csv_with_key_and_concept(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    report = qrp.ok("label", files.labels([("a/1.png", "x"), ("b/3.png", "y")]), *WHERE, store=store)
    assert labels(sql, store) == {("a/1.png", "x"): None, ("b/3.png", "y"): None}
    assert (report["n_concepts"], report["n_labels"], report["n_labelled_samples"]) == (2, 2, 2)


ROWS = [
    {"key": "a/1.png", "concept": "x", "score": 0.75, "group": "g"},
    {"key": "b/2.png", "concept": "x", "score": 1.0, "group": "g"},
    {"key": "b/2.png", "concept": "y", "score": 0.625, "group": "h"},
]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_long_files_with_score_and_group(qrp: Any, store: Path, files: Any, sql: Any, ending: str) -> None:
    path = files.folder / f"labels.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif ending == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        comma = "," if ending == "csv" else "\t"
        path.write_text("".join(comma.join(map(str, r)) + "\n" for r in [ROWS[0].keys(), *(r.values() for r in ROWS)]))
    report = qrp.ok("label", path, *WHERE, store=store)
    assert labels(sql, store) == {(r["key"], r["concept"]): r["score"] for r in ROWS}
    assert report["groups"] == {"g": 1, "h": 1}
    assert sql(store, "SELECT DISTINCT concept, concept_group FROM labels ORDER BY concept") == [
        {"concept": "x", "concept_group": "g"},
        {"concept": "y", "concept_group": "h"},
    ]


def test_an_image_folder_gives_a_class_a_folder(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    qrp.ok("label", files.images(KEYS), *WHERE, "--exclusive", store=store)
    assert labels(sql, store) == {(key, key[0]): None for key in KEYS}


@pytest.mark.parametrize(
    ("threshold", "kept"), [((), {"c", "d"}), ((0.5,), {"c", "d"}), ((0.75,), {"d"}), ((0,), {*"bcd"})]
)
def test_a_score_counts_when_it_is_greater_than_the_threshold(
    qrp: Any, store: Path, files: Any, sql: Any, threshold: tuple[float, ...], kept: set[str]
) -> None:
    rows = [("a/1.png", "a", 0), ("a/1.png", "b", 0.5), ("a/1.png", "c", 0.75), ("a/1.png", "d", 1)]
    table = files.labels(rows, ("key", "concept", "score"))
    qrp.ok("label", table, *WHERE, *(("--threshold", *threshold) if threshold else ()), store=store)
    assert {concept for _, concept in labels(sql, store)} == kept


def test_a_repeated_key_and_concept_counts_once_with_its_highest_score(
    qrp: Any, store: Path, files: Any, sql: Any
) -> None:
    rows = [("a/1.png", "x", s) for s in (0.6, 0.875, 0.3, 0.7)] + [("a/2.png", "x", 0.75)]
    report = qrp.ok("label", files.labels(rows, ("key", "concept", "score")), *WHERE, store=store)
    assert labels(sql, store) == {("a/1.png", "x"): 0.875, ("a/2.png", "x"): 0.75}
    assert report["n_labels"] == 2


def test_group_names_the_group_of_concepts_without_one(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    rows = [("a/1.png", "x", ""), ("a/1.png", "y", "own")]
    table = files.labels(rows, ("key", "concept", "group"))
    assert qrp.ok("label", table, *WHERE, "--group", "g", store=store)["groups"] == {"g": 1, "own": 1}


def test_exclusive_is_checked_after_the_threshold(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    rows = [("a/1.png", "x", 0.9), ("a/1.png", "y", 0.6), ("a/2.png", "y", 0.9)]
    table = files.labels(rows, ("key", "concept", "score"))
    told = qrp.fails(4, "label", table, *WHERE, "--exclusive", store=store)
    assert "a/1.png" in told
    assert "a/2.png" not in told
    assert labels(sql, store) == {}
    qrp.ok("label", table, *WHERE, "--exclusive", "--threshold", 0.7, store=store)


def test_ignore_unknown_keys_leaves_them_out(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    table = files.labels([("a/1.png", "x"), ("no/such.png", "x"), ("other.png", "z"), ("other.png", "x")])
    told = qrp.fails(4, "label", table, *WHERE, store=store)
    assert "2 keys" in told
    assert "no/such.png" in told
    assert "--ignore-unknown-keys" in told
    assert labels(sql, store) == {}
    ran = qrp.run("label", table, *WHERE, "--ignore-unknown-keys", "--json", store=store)
    assert ran.json["n_labels"] == 1
    assert (ran.json["n_unknown_keys"], ran.json["unknown_keys"]) == (2, ["no/such.png", "other.png"])
    assert "2 keys" in ran.err
    assert set(labels(sql, store)) == {("a/1.png", "x")}


def test_only_unknown_keys_are_refused_even_then(qrp: Any, store: Path, files: Any) -> None:
    qrp.fails(4, "label", files.labels([("no", "x")]), *WHERE, "--ignore-unknown-keys", store=store)


def test_the_same_asked_again_is_cached_and_another_file_is_the_next_version(
    qrp: Any, store: Path, files: Any, sql: Any
) -> None:
    table = files.labels([("a/1.png", "x")])
    first, second = (qrp.ok("label", table, *WHERE, store=store) for _ in range(2))
    assert (first["cached"], second["cached"]) == (False, True)
    assert first["id"] == second["id"]
    third = qrp.ok("label", files.labels([("a/1.png", "y")], name="other.csv"), *WHERE, store=store)
    assert (third["version"], third["cached"]) == (2, False)
    fourth = qrp.ok("label", table, *WHERE, "--force", store=store)
    assert fourth["version"] == 3
    rows = sql(store, "SELECT version, is_newest, concept FROM labels ORDER BY version")
    assert [tuple(r.values()) for r in rows] == [(1, 0, "x"), (2, 0, "y"), (3, 1, "x")]


def test_a_dataset_that_is_not_there_is_exit_3(qrp: Any, store: Path, files: Any) -> None:
    table = files.labels([("a/1.png", "x")])
    assert "nope" in qrp.fails(3, "label", table, "--dataset", "nope", "--concepts", "c", store=store)


def test_a_wide_csv_has_a_column_a_concept(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    rows = [(key, int(i < 2), 0, int(i == 4)) for i, key in enumerate(KEYS)]
    report = qrp.ok("label", files.labels(rows, ("key", "cat", "never", "dog")), *WHERE, store=store)
    assert labels(sql, store) == dict.fromkeys([(KEYS[0], "cat"), (KEYS[1], "cat"), (KEYS[4], "dog")])
    assert (report["n_concepts"], report["n_labels"], report["n_labelled_samples"]) == (3, 3, 3)


def coco(files: Any) -> Path:
    document = {
        "images": [{"id": i, "file_name": Path(key).name} for i, key in enumerate(["a/1.png", "b/3.png"])],
        "annotations": [{"id": 5, "image_id": 0, "category_id": 3}, {"id": 6, "image_id": 1, "category_id": 4}],
        "categories": [
            {"id": 3, "name": "cat", "supercategory": "animal"},
            {"id": 4, "name": "car", "supercategory": "vehicle"},
        ],
    }
    path: Path = files.folder / "instances.json"
    path.write_text(json.dumps(document))
    return path


def test_coco_by_the_names_of_its_files(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    path = coco(files)
    told = qrp.fails(4, "label", path, *WHERE, store=store)
    assert "2 keys are not in dataset 'd'" in told
    assert "--match basename would find them" in told
    told = qrp.fails(4, "label", path, *WHERE, "--match", "basename", store=store)
    assert "'1.png' means several samples: 'a/1.png', 'b/1.png'" in told


@pytest.mark.parametrize(("match", "second"), [("basename", "v/b/3.png"), ("stem", "b/3.jpg")])
def test_two_keys_that_mean_one_sample_are_refused(qrp: Any, store: Path, files: Any, match: str, second: str) -> None:
    table = files.labels([("u/3.png", "x"), ("u/3.png", "y"), (second, "z")])
    told = qrp.fails(4, "label", table, *WHERE, "--match", match, store=store)
    assert f"'u/3.png' and '{second}' both mean the sample 'b/3.png' by --match {match}" in told
    whole = files.labels([("u/3.png", "x"), ("u/3.png", "y")])
    assert qrp.ok("label", whole, *WHERE, "--match", match, store=store)["n_labels"] == 2


def test_a_set_in_which_nothing_counts_is_made_and_said(qrp: Any, store: Path, files: Any) -> None:
    table = files.labels([("a/1.png", "x", 0.2)], ("key", "concept", "score"))
    ran = qrp.run("label", table, *WHERE, "--json", store=store)
    assert (ran.code, ran.json["n_labels"]) == (0, 0)
    assert "no score is greater than --threshold 0.5" in ran.err


def test_coco_takes_its_groups_from_the_supercategories(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    path = coco(files)
    path.write_text(path.read_text().replace("1.png", "a/2.png").replace("3.png", "b/3.png"))
    report = qrp.ok("label", path, *WHERE, store=store)
    assert labels(sql, store) == {("a/2.png", "cat"): None, ("b/3.png", "car"): None}
    assert report["groups"] == {"animal": 1, "vehicle": 1}


def test_open_images_ids_are_the_files_stems(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    rows = [("3", "verification", "/m/x", 1), ("3", "machine", "/m/y", 0.25), ("a/1.png", "machine", "/m/y", 0.75)]
    table = files.labels(rows, ("ImageID", "Source", "LabelName", "Confidence"))
    names = files.labels([("/m/x", "Cat"), ("/m/y", "Dog")], ("LabelName", "DisplayName"), "names.csv")
    qrp.ok("label", table, *WHERE, "--names", names, store=store)
    assert labels(sql, store) == {("b/3.png", "Cat"): 1.0, ("a/1.png", "Dog"): 0.75}


def test_too_many_concepts_are_taken_for_a_swapped_column(qrp: Any, store: Path, files: Any) -> None:
    table = files.labels([("x", key) for key in KEYS])
    told = qrp.fails(4, "label", table, *WHERE, "--max-concepts", 4, store=store)
    assert "more than 4 different concepts" in told
    assert "swapped" in told


def test_an_expert_labels_the_images_of_a_dataset(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    names = files.folder / "names.txt"
    names.write_text("cat\ndog\n")
    line = ("label", "--expert", "torchvision/squeezenet1_1", "--weights", "random", "--images", files.images(KEYS))
    report = qrp.ok(*line, "--names", names, "--top-k", 1, *WHERE, store=store)
    assert (report["n_concepts"], report["n_labels"], report["n_labelled_samples"]) == (2, 5, 5)
    found = labels(sql, store)
    assert {key for key, _ in found} == set(KEYS)
    assert all(0.5 <= (score or 0) <= 1 for score in found.values())
    assert qrp.ok(*line, "--names", names, "--top-k", 1, *WHERE, store=store)["cached"]


def test_a_source_or_an_expert_is_a_matter_of_usage(qrp: Any, store: Path, files: Any) -> None:
    table = files.labels([("a/1.png", "x")])
    qrp.fails(2, "label", *WHERE, store=store)
    qrp.fails(2, "label", table, "--expert", "torchvision/resnet18", *WHERE, store=store)
    qrp.fails(2, "label", "--expert", "torchvision/resnet18", *WHERE, store=store)
