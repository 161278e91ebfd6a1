"""Published attribute and class sets, against what json, pandas or numpy reads from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from label_files import KEYS, document, text

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.formats import detect, source_digest


def test_vaw_negatives_are_looked_at(tmp_path: Path, labels_of: Any) -> None:
    records = [
        {"image_id": "1", "object_name": "tree", "positive_attributes": ["green"], "negative_attributes": ["red"]},
        {"image_id": "1", "object_name": "car", "positive_attributes": ["red"], "negative_attributes": ["old", "new"]},
        {"image_id": "2", "object_name": "sky", "positive_attributes": [], "negative_attributes": ["green"]},
    ]
    positive = {(r["image_id"], a) for r in records for a in r["positive_attributes"]}
    negative = {(r["image_id"], a) for r in records for a in r["negative_attributes"]}
    for path in (document(tmp_path / "val.json", records), text(tmp_path / "val.jsonl", *map(json.dumps, records))):
        assert detect(path) == "vaw"
        labels = labels_of(path)
        assert labels.pairs == positive
        assert labels.looked_at == positive | negative
        assert set(labels.group.values()) == {"attribute"}


def cub(folder: Path) -> Path:
    text(folder / "images.txt", *(f"{i + 1} 001.Alba/{key}" for i, key in enumerate(KEYS)))
    text(folder / "classes.txt", "1 001.Alba", "2 002.Beta")
    text(folder / "image_class_labels.txt", *(f"{i + 1} {1 + i % 2}" for i in range(6)))
    text(folder / "attributes" / "attributes.txt", "1 has_bill_shape::curved_(up_or_down)", "2 has_wing_color::blue")
    marks = ["1 1 1 4 3.5", "1 2 0 1 9.0", "2 1 0 3 1.1", "2 2 1 2 8.0", "3 1 1 1 0 1.5", "3 2 1 4 2.2"]
    text(folder / "attributes" / "image_attribute_labels.txt", *marks)
    return folder


def test_cub_has_classes_and_attributes_with_certainty(tmp_path: Path, labels_of: Any) -> None:
    folder = cub(tmp_path / "CUB_200_2011")
    assert detect(folder) == "cub"
    labels = labels_of(folder, keys=[f"images/001.Alba/{key}" for key in KEYS])
    key = {str(i + 1): f"images/001.Alba/{name}" for i, name in enumerate(KEYS)}
    names = {"1": "has_bill_shape::curved_(up_or_down)", "2": "has_wing_color::blue"}
    rows = [line.split() for line in (folder / "attributes" / "image_attribute_labels.txt").read_text().splitlines()]
    classes = {(key[str(i + 1)], ["001.Alba", "002.Beta"][i % 2]) for i in range(6)}
    present = {(key[r[0]], names[r[1]]) for r in rows if r[2] == "1" and r[3] != "1"}
    assert labels.pairs == classes | present
    seen = {(key[r[0]], names[r[1]]) for r in rows if r[3] != "1"}
    assert labels.looked_at == seen | {(k, c) for k in key.values() for c in ("001.Alba", "002.Beta")}
    assert labels.vocabulary["has_wing_color::blue"] == "has_wing_color"
    assert labels.vocabulary["001.Alba"] == "class"
    before = source_digest(folder, "cub")
    text(folder / "attributes" / "image_attribute_labels.txt", "1 1 1 4 3.5")
    assert source_digest(folder, "cub") != before
    text(folder / "image_class_labels.txt", "1 9")
    with pytest.raises(InvalidInput, match=r"line 1: class 9 is not in classes\.txt"):
        labels_of(folder)


def test_cub_without_attributes_has_classes(tmp_path: Path, labels_of: Any) -> None:
    folder = cub(tmp_path / "CUB")
    (folder / "attributes" / "attributes.txt").unlink()
    labels = labels_of(folder)
    assert {concept for _, concept in labels.pairs} == {"001.Alba", "002.Beta"}
    assert len(labels.seen) == len(labels.pairs) == 6


def sun(folder: Path, votes: np.ndarray, attributes: list[str]) -> Path:
    """The three files as MATLAB saves them: cell arrays of texts, and the share of three annotators."""
    from scipy.io import savemat

    folder.mkdir(exist_ok=True)
    images = [f"a/abbey/sun_{key}" for key in KEYS[: len(votes)]]
    savemat(folder / "images.mat", {"images": np.array(images, object)[:, None]})
    savemat(folder / "attributes.mat", {"attributes": np.array(attributes, object)[:, None]})
    savemat(folder / "attributeLabels_continuous.mat", {"labels_cv": votes})
    return folder


def test_sun_attributes_tell_one_vote_from_none(tmp_path: Path, labels_of: Any) -> None:
    votes = np.array([[0, 1 / 3, 2 / 3], [1, 0, 0]])
    names = ["sailing/ boating", "driving", "far-away horizon"]
    folder = sun(tmp_path / "SUNAttributeDB", votes, names)
    assert detect(folder) == "sun"
    keys = [f"images/a/abbey/sun_{key}" for key in KEYS]
    labels = labels_of(folder, keys=keys)
    frame = pd.DataFrame(votes, index=keys[:2], columns=names).stack()
    assert labels.scores == pytest.approx(frame[frame > 0.5].to_dict())
    assert labels.looked_at == set(frame[frame != 1 / 3].index)
    assert labels.vocabulary == dict.fromkeys(names, "attribute")
    sun(folder, votes[:1], names)
    sun(folder / "..", votes, names)
    (folder.parent / "images.mat").replace(folder / "images.mat")
    with pytest.raises(InvalidInput, match="expected numbers of 2 images × 3 attributes"):
        labels_of(folder)
    sun(folder, votes * 3, names)
    with pytest.raises(InvalidInput, match=r"row 1: score 2.* is outside \[0, 1\]"):
        labels_of(folder)
    (folder / "images.mat").write_bytes(b"MATLAB 7.3 MAT-file" + b"\0" * 200)
    with pytest.raises(InvalidInput, match=r"images\.mat: not a MATLAB file, or damaged"):
        labels_of(folder)


def test_ade20k_has_its_classes_in_masks(tmp_path: Path, labels_of: Any) -> None:
    from PIL import Image

    folder = tmp_path / "ADEChallengeData2016"
    lines = ["Idx\tRatio\tTrain\tVal\tName", "1\t0.15\t11664\t1172\twall", "2\t0.1\t5\t5\tdoor, double door"]
    table = text(folder / "objectInfo150.txt", *lines)
    masks = {"ADE_train_00000001": [[0, 1], [2, 2]], "ADE_train_00000002": [[0, 0], [0, 0]]}
    (folder / "annotations" / "training").mkdir(parents=True)
    for name, numbers in masks.items():
        Image.fromarray(np.array(numbers, np.uint8)).save(folder / "annotations" / "training" / f"{name}.png")
    assert detect(folder) == "ade20k"
    of = pd.read_csv(table, sep="\t").set_index("Idx")["Name"].str.split(",").str[0]
    for form in ("images/training/{}.jpg", "training/{}.jpg", "{}.jpg"):
        labels = labels_of(folder, keys=[form.format(name) for name in masks])
        expected = {(form.format(name), of[i]) for name, rows in masks.items() for i in np.unique(rows) if i}
        assert labels.pairs == expected
        assert labels.seen == [form.format(name) for name in masks]
    assert list(labels.vocabulary) == ["wall", "door"]
    text(table, lines[1])
    with pytest.raises(InvalidInput, match=r"ADE_train_00000001\.png: class 2 is not in objectInfo150\.txt"):
        labels_of(folder)
    Image.new("RGB", (2, 2), "red").save(folder / "annotations" / "training" / "ADE_train_00000001.png")
    with pytest.raises(InvalidInput, match="holds colours"):
        labels_of(folder)


def test_dtd_joint_labels(tmp_path: Path, labels_of: Any) -> None:
    path = text(
        tmp_path / "dtd" / "labels" / "labels_joint_anno.txt",
        "banded/banded_0002.jpg banded lined ",
        "dotted/dotted_0001.jpg dotted",
    )
    assert detect(path) == detect(tmp_path / "dtd") == "dtd"
    expected = {(w[0], c) for w in (line.split() for line in path.read_text().splitlines()) for c in w[1:]}
    assert labels_of(tmp_path / "dtd").pairs == labels_of(path).pairs == expected
    keys = ["images/banded/banded_0002.jpg", "images/dotted/dotted_0001.jpg"]
    assert labels_of(path, keys=keys).pairs == {(f"images/{key}", concept) for key, concept in expected}


def test_awa2_gives_a_class_its_attributes(tmp_path: Path, labels_of: Any) -> None:
    folder = tmp_path / "AwA2"
    text(folder / "classes.txt", "     1\tantelope", "     2\tgrizzly+bear")
    text(folder / "predicates.txt", "     1\tblack", "     2\tbig teeth", "     3\tclaws")
    text(folder / "predicate-matrix-binary.txt", "0 1 0", "1 1 1")
    assert detect(folder) == "awa2"
    keys = ["JPEGImages/antelope/antelope_1.jpg", "JPEGImages/grizzly+bear/grizzly+bear_1.jpg", "other/x.jpg"]
    labels = labels_of(folder, keys=keys)
    assert labels.pairs == {
        *((keys[0], "antelope"), (keys[0], "big teeth"), (keys[1], "grizzly+bear")),
        *((keys[1], name) for name in ("black", "big teeth", "claws")),
    }
    assert labels.seen == keys[:2]
    with pytest.raises(InvalidInput, match="no key of the dataset lies in the folder of a class"):
        labels_of(folder, keys=["a.jpg"])


def test_inaturalist_says_nothing_of_other_species(tmp_path: Path, labels_of: Any) -> None:
    taxon = {"kingdom": "Animalia", "genus": "Lumbricus", "supercategory": "Animalia"}
    content = {
        "images": [{"id": i, "file_name": key} for i, key in enumerate(KEYS)],
        "annotations": [{"id": i, "image_id": i, "category_id": i % 2} for i in range(6)],
        "categories": [{"id": i, "name": f"Lumbricus s{i}", "image_dir_name": f"0000{i}", **taxon} for i in range(2)],
    }
    path = document(tmp_path / "val.json", content)
    assert detect(path) == "inaturalist"
    labels = labels_of(path)
    assert labels.pairs == {(key, f"Lumbricus s{i % 2}") for i, key in enumerate(KEYS)}
    assert labels.seen == []
    assert labels.looked_at == set()


def test_imagenets_class_index_names_numbers_and_synsets(tmp_path: Path, labels_of: Any) -> None:
    names = document(tmp_path / "imagenet_class_index.json", {"0": ["n01440764", "tench"], "1": ["n01443537", "crane"]})
    for codes in (("0", "1"), ("n01440764", "n01443537")):
        path = text(tmp_path / "val.txt", *(f"{key} {code}" for key, code in zip(KEYS, codes, strict=False)))
        assert labels_of(path, names=names).pairs == {(KEYS[0], "tench"), (KEYS[1], "crane")}
    document(names, ["tench", "crane"])
    path = text(tmp_path / "val.txt", f"{KEYS[0]} 1")
    assert labels_of(path, names=names).pairs == {(KEYS[0], "crane")}
    document(names, {"1": "goldfish"})
    assert labels_of(path, names=names).pairs == {(KEYS[0], "goldfish")}
    document(names, {"1": {"a": "b"}})
    with pytest.raises(InvalidInput, match="expected an object of names"):
        labels_of(path, names=names)
