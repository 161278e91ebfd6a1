"""Tags, classifier scores and Hugging Face tables, against what json, pandas or numpy reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from label_files import KEYS, document, text

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.formats import detect

TAGS: dict[str, list[Any]] = {KEYS[0]: ["cat", "sofa"], KEYS[1]: [], KEYS[2]: ["dog"]}
SCORES = pd.DataFrame({"cat": [0.875, 0.125], "dog": [0.25, 1.0000001]}, index=KEYS[:2])
CLASS = {"names": ["cat", "red car", "dog"], "_type": "ClassLabel"}
IMAGE = {"_type": "Image"}
PICTURES = [{"bytes": b"\xff" * 100, "path": key} for key in KEYS[:4]]


@pytest.mark.parametrize("way", ["list", "lines", "object", "scored"])
def test_tags_of_captioners(tmp_path: Path, labels_of: Any, way: str) -> None:
    records = [{"image": key, "caption": "a photo", "tags": tags} for key, tags in TAGS.items()]
    if way == "scored":
        records = [{**r, "tags": [{"tag": t, "confidence": 0.75} for t in r["tags"]]} for r in records]
    if way == "lines":
        path = text(tmp_path / "tags.jsonl", *map(json.dumps, records))
    else:
        path = document(tmp_path / "tags.json", TAGS if way == "object" else records)
    assert detect(path) == "tags"
    labels = labels_of(path)
    assert labels.pairs == {(key, tag) for key, tags in TAGS.items() for tag in tags}
    assert set(labels.scores.values()) == {0.75 if way == "scored" else 1.0}


def test_a_json_list_of_rows_is_read(tmp_path: Path, labels_of: Any) -> None:
    frame = pd.DataFrame({"key": KEYS[:2], "concept": ["cat", "dog"], "score": [0.25, 0.75], "group": ["g", "g"]})
    frame.to_json(tmp_path / "rows.json", orient="records")
    labels = labels_of(tmp_path / "rows.json")
    assert labels.scores == dict(zip(zip(frame.key, frame.concept, strict=True), frame.score, strict=True))
    assert set(labels.group.values()) == {"g"}


@pytest.mark.parametrize("way", ["object", "lines", "lines with a name", "npz", "parquet", "csv"])
def test_clip_scores(tmp_path: Path, labels_of: Any, way: str) -> None:
    table = SCORES.T.to_dict()
    if way == "object":
        path = document(tmp_path / "scores.json", table)
    elif way == "npz":
        path = tmp_path / "scores.npz"
        np.savez(path, scores=SCORES.to_numpy("f4"), concepts=list(SCORES.columns), keys=list(SCORES.index))
    elif way in ("parquet", "csv"):
        path = tmp_path / f"scores.{way}"
        frame = SCORES.rename_axis("key").reset_index()
        frame.to_parquet(path) if way == "parquet" else frame.to_csv(path, index=False)
    else:
        rows = [{key: row} if way == "lines" else {"image": key, "scores": row} for key, row in table.items()]
        path = text(tmp_path / "scores.jsonl", *map(json.dumps, rows))
    assert detect(path) == ("wide" if way in ("parquet", "csv") else "clip-scores")
    labels = labels_of(path, form="clip-scores")
    expected = {
        (k, c): min(SCORES.loc[k, c], 1.0) for k in SCORES.index for c in SCORES.columns if SCORES.loc[k, c] < 1
    }
    assert labels.scores == pytest.approx(expected)
    assert labels.pairs == {*expected, (KEYS[1], "dog")}
    assert labels.seen == KEYS[:2]


def test_cosines_and_logits_become_probabilities_when_told(tmp_path: Path, labels_of: Any) -> None:
    cosines = np.array([[0.31, 0.25, 0.1], [-0.2, 0.28, 0.3]])
    for scale in (1, 100):
        path = tmp_path / "scores.csv"
        pd.DataFrame(cosines * scale, columns=["a", "b", "c"]).assign(key=KEYS[:2]).to_csv(path, index=False)
        with pytest.raises(InvalidInput):
            labels_of(path)
        assert detect(path, activation="softmax") == "clip-scores"
        labels = labels_of(path, activation="softmax")
        shares = np.exp(100 * cosines) / np.exp(100 * cosines).sum(1, keepdims=True)
        expected = {(KEYS[i], "abc"[j]): shares[i, j] for i in range(2) for j in range(3)}
        assert labels.scores == pytest.approx(expected)
    labels = labels_of(path, activation="sigmoid")
    assert labels.scores[KEYS[1], "a"] == pytest.approx(1 / (1 + np.exp(20)))
    pd.DataFrame(cosines, columns=["a", "b", "c"]).assign(key=KEYS[:2]).to_csv(path, index=False)
    with pytest.raises(InvalidInput, match="seem to be cosines"):
        labels_of(path, activation="sigmoid")


def test_missing_scores_are_unknown(tmp_path: Path, labels_of: Any) -> None:
    path = document(tmp_path / "s.json", {KEYS[0]: {"cat": 0.9}, KEYS[1]: {"cat": 0.1, "dog": 0.8}})
    labels = labels_of(path)
    assert labels.seen == [KEYS[1]]
    assert labels.looked_at == {(KEYS[0], "cat")}


def test_a_npz_that_unpacks_to_much_more_is_refused(tmp_path: Path, labels_of: Any) -> None:
    np.savez_compressed(tmp_path / "s.npz", scores=np.zeros((20_000, 1000), np.float32))
    with pytest.raises(InvalidInput, match="unpack to"):
        labels_of(tmp_path / "s.npz")


def hugging_face(features: dict[str, Any], table: pa.Table, path: Path) -> Path:
    """Parquet as the library `datasets` writes it."""
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


@pytest.mark.parametrize("key", ["image", "file_name"])
def test_class_labels_have_names(tmp_path: Path, labels_of: Any, key: str) -> None:
    described = {key: IMAGE if key == "image" else {"dtype": "string", "_type": "Value"}, "label": CLASS}
    cells = PICTURES if key == "image" else KEYS[:4]
    table = pa.table({key: cells, "label": pa.array([0, 2, -1, None], pa.int64())})
    path = hugging_face(described, table, tmp_path / "train.parquet")
    assert detect(path) == "hf"
    labels = labels_of(path)
    assert labels.pairs == {(KEYS[0], "cat"), (KEYS[1], "dog")}
    assert list(labels.vocabulary) == CLASS["names"]


@pytest.mark.parametrize("form", ["Sequence", "List", "bare"])
def test_lists_of_class_labels_have_names(tmp_path: Path, labels_of: Any, form: str) -> None:
    listed: Any = [CLASS] if form == "bare" else {"feature": CLASS, "_type": form}
    table = pa.table({"image": PICTURES[:3], "labels": [[0, 1], [], [2]]})
    path = hugging_face({"image": IMAGE, "labels": listed}, table, tmp_path / "t.parquet")
    frame = pd.read_parquet(path).explode("labels").dropna()
    expected = {(row["image"]["path"], CLASS["names"][int(row["labels"])]) for _, row in frame.iterrows()}
    assert labels_of(path).pairs == expected


@pytest.mark.parametrize("form", ["of lists", "in a list"])
def test_class_labels_within_objects(tmp_path: Path, labels_of: Any, form: str) -> None:
    box = {"category": CLASS, "area": {"dtype": "int64", "_type": "Value"}}
    described = {"image": IMAGE, "objects": {"feature": box, "_type": "Sequence" if form == "of lists" else "List"}}
    cells: list[Any] = [{"category": [0, 1], "area": [5, 5]}, {"category": [], "area": []}]
    if form == "in a list":
        cells = [[{"category": 0, "area": 5}, {"category": 1, "area": 5}], []]
    table = pa.table({"image": PICTURES[:2], "objects": cells})
    path = hugging_face(described, table, tmp_path / "t.parquet")
    assert labels_of(path).pairs == {(KEYS[0], "cat"), (KEYS[0], "red car")}


def test_what_is_unclear_in_hugging_faces_parquet_is_refused(tmp_path: Path, labels_of: Any) -> None:
    from qrp_store.readers.labels.rows import TableOptions

    described = {"image": IMAGE, "fine": CLASS, "coarse": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
    table = pa.table({"image": PICTURES[:2], "fine": [0, 1], "coarse": [2, 2]})
    path = hugging_face(described, table, tmp_path / "t.parquet")
    with pytest.raises(InvalidInput, match="several columns hold classes: fine, coarse") as caught:
        labels_of(path)
    assert "--concept-column fine" in (caught.value.hint or "")
    assert labels_of(path, table=TableOptions(concept="coarse")).pairs == {(KEYS[0], "c"), (KEYS[1], "c")}
    table = pa.table({"image": [{"bytes": b"", "path": None}], "label": [0]})
    path = hugging_face({"image": IMAGE, "label": CLASS}, table, tmp_path / "u.parquet")
    with pytest.raises(InvalidInput, match=r"row 1: the column 'image\.path' is empty"):
        labels_of(path)
    table = pa.table({"image": PICTURES[:1], "label": [7]})
    with pytest.raises(InvalidInput, match="row 1: class 7 has no name; there are 3"):
        labels_of(hugging_face({"image": IMAGE, "label": CLASS}, table, tmp_path / "v.parquet"))


def saved(folder: Path, table: pa.Table) -> Path:
    """A folder as `save_to_disk` writes it."""
    folder.mkdir(parents=True)
    files = []
    for number in range(2):
        name = f"data-{number:05}-of-00002.arrow"
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(number * 2, 2))
        files.append({"filename": name})
    document(folder / "state.json", {"_data_files": files, "_fingerprint": "x"})
    document(folder / "dataset_info.json", {"features": {"image": IMAGE, "label": CLASS}})
    return folder


def test_folders_of_save_to_disk(tmp_path: Path, labels_of: Any) -> None:
    table = pa.table({"image": PICTURES, "label": [0, 1, 2, 0]})
    expected = {(key, CLASS["names"][label]) for key, label in zip(KEYS, [0, 1, 2, 0], strict=False)}
    folder = saved(tmp_path / "one", table)
    assert detect(folder) == "hf"
    assert labels_of(folder).pairs == expected
    saved(tmp_path / "both" / "train", table.slice(0, 2))
    saved(tmp_path / "both" / "test", table.slice(2))
    document(tmp_path / "both" / "dataset_dict.json", {"splits": ["train", "test"]})
    assert detect(tmp_path / "both") == "hf"
    assert labels_of(tmp_path / "both").pairs == expected
    document(folder / "state.json", {"_data_files": [{"filename": "../both/train/data-00000-of-00002.arrow"}]})
    with pytest.raises(InvalidInput, match="lies outside the folder"):
        labels_of(folder)
    document(tmp_path / "both" / "dataset_dict.json", {"splits": ["../one"]})
    with pytest.raises(InvalidInput, match="lies outside the folder"):
        labels_of(tmp_path / "both")
