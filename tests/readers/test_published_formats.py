"""Published layouts of labels and of annotation tools, against what json, xml.etree, pandas or numpy read from them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.formats import detect, source_digest

KEYS = [f"{i:04}.jpg" for i in range(6)]


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def document(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")
    return path


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
        wanted = {(form.format(name), of[i]) for name, rows in masks.items() for i in np.unique(rows) if i}
        assert labels.pairs == wanted
        assert labels.seen == [form.format(name) for name in masks]
    assert list(labels.vocabulary) == ["wall", "door"]
    text(table, lines[1])
    with pytest.raises(InvalidInput, match=r"ADE_train_00000001\.png: class 2 is not in objectInfo150\.txt"):
        labels_of(folder)
    Image.new("RGB", (2, 2), "red").save(folder / "annotations" / "training" / "ADE_train_00000001.png")
    with pytest.raises(InvalidInput, match="holds colours"):
        labels_of(folder)


VOC = """<annotation><folder>VOC2007</folder><filename>{name}</filename><size><width>5</width></size>{objects}
</annotation>"""


def voc(folder: Path, objects: dict[str, list[str]]) -> Path:
    for name, classes in objects.items():
        inner = "".join(
            f"<object><name>{c}</name><part><name>head</name></part><difficult>0</difficult></object>" for c in classes
        )
        text(folder / "Annotations" / f"{name[:-4]}.xml", VOC.format(name=name, objects=inner))
    return folder


def test_voc_annotations(tmp_path: Path, labels_of: Any) -> None:
    folder = voc(tmp_path / "VOC2007", {KEYS[0]: ["cat", "cat", "person"], KEYS[1]: [], KEYS[2]: ["dog"]})
    assert detect(folder) == detect(folder / "Annotations") == "voc"
    wanted = set()
    for path in (folder / "Annotations").iterdir():
        root = ET.parse(path).getroot()
        wanted |= {(root.findtext("filename"), thing.findtext("name")) for thing in root.findall("object")}
    labels = labels_of(folder)
    assert labels.pairs == wanted
    assert labels.seen == KEYS[:3]
    moved = labels_of(folder, keys=[f"JPEGImages/{key}" for key in KEYS])
    assert moved.pairs == {(f"JPEGImages/{key}", concept) for key, concept in wanted}
    converted = labels_of(folder, keys=[f"{key[:-4]}.png" for key in KEYS])
    assert converted.pairs == {(f"{str(key)[:-4]}.png", concept) for key, concept in wanted}


def test_voc_image_sets_tell_difficult_from_absent(tmp_path: Path, labels_of: Any) -> None:
    sets = tmp_path / "VOC" / "ImageSets" / "Main"
    text(sets / "cat_trainval.txt", "0000  1", "0001 -1", "0002  0")
    text(sets / "dining table_train.txt", "0000 -1", "0002  1")
    text(sets / "train.txt", "0000", "0001")
    assert detect(tmp_path / "VOC") == detect(sets) == "voc"
    labels = labels_of(tmp_path / "VOC", keys=KEYS)
    assert labels.pairs == {(KEYS[0], "cat"), (KEYS[2], "dining table")}
    assert labels.looked_at == labels.pairs | {(KEYS[1], "cat"), (KEYS[0], "dining table")}
    single = labels_of(sets / "cat_trainval.txt", keys=KEYS)
    assert single.pairs == {(KEYS[0], "cat")}


@pytest.mark.parametrize(
    "content, message",
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation><filename>&b;</filename></annotation>', "declares an entity"),
        ('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>', "declares an entity"),
        ("<annotation>" + "<a>" * 60_000, "nests more than 100"),
        ("<annotation>", "not XML, or damaged"),
        ("<svg></svg>", "begins with <svg>"),
        ("<annotation><object><name> </name></object></annotation>", "the concept is empty"),
    ],
)
def test_hostile_or_damaged_xml_is_refused(tmp_path: Path, labels_of: Any, content: str, message: str) -> None:
    path = text(tmp_path / "v" / "Annotations" / "1.xml", content)
    with pytest.raises(InvalidInput, match=message) as caught:
        labels_of(tmp_path / "v", form="voc")
    assert path.name in caught.value.message


def test_a_link_that_leads_out_is_not_followed(tmp_path: Path, labels_of: Any) -> None:
    folder = voc(tmp_path / "VOC", {KEYS[0]: ["cat"]})
    outside = text(tmp_path / "secret.xml", VOC.format(name="a.jpg", objects=""))
    (folder / "Annotations" / "a.xml").symlink_to(outside)
    with pytest.raises(InvalidInput, match="leads out of"):
        labels_of(folder)


YAMLS = {
    "list": ["path: /etc", "train: ../../etc/passwd", "names: ['cat', \"red car\", dog]  # three", "nc: 3"],
    "numbers": ["names:", "  0: cat", "  1: red car # comment", "  '2': dog", "nc: 3"],
    "lines": ["nc: 3", "names:", "- cat", "- 'red car'", "- dog"],
    "object": ["names: {0: cat, 1: red car, 2: dog}"],
    "long": ["names: [cat,", "  'red car',", "  dog ]"],
}


@pytest.mark.parametrize("form", YAMLS)
@pytest.mark.parametrize("layout", ["labels/train/{}.txt", "train/labels/{}.txt"])
def test_yolo(tmp_path: Path, labels_of: Any, form: str, layout: str) -> None:
    yaml = pytest.importorskip("yaml")
    folder = tmp_path / "coco8"
    configuration = text(folder / "data.yaml", *YAMLS[form])
    boxes = {"0000": ["0 0.5 0.5 1 1", "2 0.1 0.1 0.2 0.2"], "0001": [], "0002": ["1 0.5 0.5 0.1 0.1 0.9 0.9"]}
    for name, lines in boxes.items():
        text(folder / layout.format(name), *lines)
    assert detect(folder) == "yolo"
    names = yaml.safe_load(configuration.read_text())["names"]
    names = dict(enumerate(names)) if isinstance(names, list) else {int(k): v for k, v in names.items()}
    wanted = {(f"{stem}.jpg", names[int(line.split()[0])]) for stem, lines in boxes.items() for line in lines}
    images = layout.replace("labels", "images").replace("{}.txt", "")
    for prefix in ("", images, images.removeprefix("images/")):
        keys = [f"{prefix}{key}" for key in KEYS]
        labels = labels_of(folder, keys=keys)
        assert labels.pairs == {(f"{prefix}{key}", concept) for key, concept in wanted}
        assert sorted(labels.seen) == [f"{prefix}{key}" for key in KEYS[:3]]
    assert list(labels.vocabulary) == ["cat", "red car", "dog"]


def test_bad_yolo_is_named(tmp_path: Path, labels_of: Any) -> None:
    folder = tmp_path / "y"
    text(folder / "data.yaml", "names: [cat]")
    path = text(folder / "labels" / "a.txt", "1 0 0 1 1")
    with pytest.raises(InvalidInput, match=r"class 1 has no name in data\.yaml"):
        labels_of(folder)
    text(path, "cat 0 0 1 1")
    with pytest.raises(InvalidInput, match="line 1: 'cat' is not the number of a class"):
        labels_of(folder)
    text(path, "0 0 0")
    with pytest.raises(InvalidInput, match="line 1: 3 words, expected 5"):
        labels_of(folder)
    text(folder / "data.yaml", "names: [cat, [")
    with pytest.raises(InvalidInput, match=r"data\.yaml: names has no closing"):
        labels_of(folder)


def test_cvat_lists_what_was_looked_at(tmp_path: Path, labels_of: Any) -> None:
    path = text(
        tmp_path / "annotations.xml",
        '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task><labels>',
        "<label><name>car</name><attributes><attribute><name>color</name></attribute></attributes></label>",
        "<label><name>tree</name></label></labels></task></meta>",
        f'<image id="0" name="{KEYS[0]}" width="5" height="5"><tag label="day"/>',
        '<box label="car" occluded="0"><attribute name="color">red</attribute></box><polygon label="car"/></image>',
        f'<image id="1" name="{KEYS[1]}" width="5" height="5"></image></annotations>',
    )
    assert detect(path) == "cvat"
    labels = labels_of(path)
    wanted = {
        (image.get("name"), mark.get("label")) for image in ET.parse(path).getroot().iter("image") for mark in image
    }
    assert labels.pairs == wanted
    assert labels.seen == KEYS[:2]
    assert {"car", "tree", "day"} == set(labels.vocabulary)


def fiftyone_samples() -> dict[str, Any]:
    boxes = [{"_cls": "Detection", "label": "cat", "confidence": 0.4}, {"_cls": "Detection", "label": "dog"}]
    values: list[dict[str, Any] | None] = [
        {"_cls": "Detections", "detections": boxes},
        {"_cls": "Classification", "label": "cat", "confidence": 0.9},
        {"_cls": "Classifications", "classifications": [{"_cls": "Classification", "label": "dog"}]},
        None,
    ]
    samples = [
        {"filepath": f"/home/me/data/{key}", "tags": ["train"], "metadata": {"_cls": "ImageMetadata"}, "truth": value}
        for key, value in zip(KEYS, values, strict=False)
    ]
    return {"name": "my", "media_type": "image", "info": {}, "samples": samples}


def test_fiftyone(tmp_path: Path, labels_of: Any) -> None:
    content = fiftyone_samples()
    folder = document(tmp_path / "export" / "samples.json", content).parent
    assert detect(folder) == detect(folder / "samples.json") == "fiftyone"
    for source in (folder, folder / "samples.json"):
        labels = labels_of(source, keys=KEYS)
        wanted = {(KEYS[0], "cat"): 0.4, (KEYS[0], "dog"): 1.0, (KEYS[1], "cat"): 0.9, (KEYS[2], "dog"): 1.0}
        assert labels.scores == wanted
        assert labels.seen == KEYS[:3]
    content["samples"][1]["guess"] = {"_cls": "Classification", "label": "bird"}
    document(folder / "samples.json", content)
    with pytest.raises(InvalidInput, match="several fields with labels: truth, guess") as caught:
        labels_of(folder, keys=KEYS)
    assert "--concept-column truth" in (caught.value.hint or "")


@pytest.mark.parametrize("many", [False, True])
def test_fiftyones_image_datasets(tmp_path: Path, labels_of: Any, many: bool) -> None:
    one = {stem[:-4]: i % 2 for i, stem in enumerate(KEYS[:3])}
    several = {stem: [{"label": value, "bounding_box": [0, 0, 1, 1]}] for stem, value in one.items()}
    path = document(tmp_path / "labels.json", {"classes": ["cat", "dog"], "labels": several if many else one})
    assert detect(path) == "fiftyone"
    labels = labels_of(path, keys=[f"data/{key}" for key in KEYS])
    assert labels.pairs == {(f"data/{stem}.jpg", ["cat", "dog"][value]) for stem, value in one.items()}


def test_label_studio(tmp_path: Path, labels_of: Any) -> None:
    def result(control: str, form: str, words: list[str]) -> dict[str, Any]:
        return {"from_name": control, "to_name": "image", "type": form, "value": {form: words, "x": 1}}

    tasks = [
        {
            "id": 1,
            "data": {"image": f"/data/upload/1/3fa4b2c1-{KEYS[0]}"},
            "annotations": [{"result": [result("weather", "choices", ["sunny", "dry"])], "was_cancelled": False}],
        },
        {
            "id": 2,
            "data": {"image": f"s3://bucket/photos/{KEYS[1]}"},
            "annotations": [{"result": [result("thing", "rectanglelabels", ["car"])]}],
        },
        {"id": 3, "data": {"image": f"/data/local-files/?d=photos/{KEYS[2]}"}, "annotations": [{"result": []}]},
        {"id": 4, "data": {"image": KEYS[3]}, "annotations": []},
        {
            "id": 5,
            "data": {"image": KEYS[4]},
            "annotations": [{"result": [result("weather", "choices", ["wet"])], "was_cancelled": True}],
        },
    ]
    path = document(tmp_path / "project.json", tasks)
    assert detect(path) == "label-studio"
    labels = labels_of(path, keys=KEYS)
    assert labels.pairs == {(KEYS[0], "sunny"), (KEYS[0], "dry"), (KEYS[1], "car")}
    assert labels.seen == KEYS[:3]
    assert labels.group == {"sunny": "weather", "dry": "weather", "car": "thing"}
    minimal = [
        {"id": 1, "annotation_id": 7, "image": KEYS[0], "weather": {"choices": ["sunny", "dry"]}, "annotator": 1},
        {"id": 2, "annotation_id": 8, "image": KEYS[1], "thing": [{"x": 1, "rectanglelabels": ["car"]}]},
        {"id": 3, "annotation_id": 9, "image": KEYS[2], "weather": "sunny", "created_at": "2024-01-01"},
    ]
    path = document(tmp_path / "min.json", minimal)
    assert detect(path) == "label-studio"
    assert labels_of(path, keys=KEYS).pairs == labels.pairs | {(KEYS[2], "sunny")}


def test_dtd_joint_labels(tmp_path: Path, labels_of: Any) -> None:
    path = text(
        tmp_path / "dtd" / "labels" / "labels_joint_anno.txt",
        "banded/banded_0002.jpg banded lined ",
        "dotted/dotted_0001.jpg dotted",
    )
    assert detect(path) == detect(tmp_path / "dtd") == "dtd"
    wanted = {(w[0], c) for w in (line.split() for line in path.read_text().splitlines()) for c in w[1:]}
    assert labels_of(tmp_path / "dtd").pairs == labels_of(path).pairs == wanted
    keys = ["images/banded/banded_0002.jpg", "images/dotted/dotted_0001.jpg"]
    assert labels_of(path, keys=keys).pairs == {(f"images/{key}", concept) for key, concept in wanted}


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


TAGS: dict[str, list[Any]] = {KEYS[0]: ["cat", "sofa"], KEYS[1]: [], KEYS[2]: ["dog"]}


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


SCORES = pd.DataFrame({"cat": [0.875, 0.125], "dog": [0.25, 1.0000001]}, index=KEYS[:2])


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
    wanted = {(k, c): min(SCORES.loc[k, c], 1.0) for k in SCORES.index for c in SCORES.columns if SCORES.loc[k, c] < 1}
    assert labels.scores == pytest.approx(wanted)
    assert labels.pairs == {*wanted, (KEYS[1], "dog")}
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
        wanted = {(KEYS[i], "abc"[j]): shares[i, j] for i in range(2) for j in range(3)}
        assert labels.scores == pytest.approx(wanted)
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


CLASS = {"names": ["cat", "red car", "dog"], "_type": "ClassLabel"}
IMAGE = {"_type": "Image"}
PICTURES = [{"bytes": b"\xff" * 100, "path": key} for key in KEYS[:4]]


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
    wanted = {(row["image"]["path"], CLASS["names"][int(row["labels"])]) for _, row in frame.iterrows()}
    assert labels_of(path).pairs == wanted


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
    wanted = {(key, CLASS["names"][label]) for key, label in zip(KEYS, [0, 1, 2, 0], strict=False)}
    folder = saved(tmp_path / "one", table)
    assert detect(folder) == "hf"
    assert labels_of(folder).pairs == wanted
    saved(tmp_path / "both" / "train", table.slice(0, 2))
    saved(tmp_path / "both" / "test", table.slice(2))
    document(tmp_path / "both" / "dataset_dict.json", {"splits": ["train", "test"]})
    assert detect(tmp_path / "both") == "hf"
    assert labels_of(tmp_path / "both").pairs == wanted
    document(folder / "state.json", {"_data_files": [{"filename": "../both/train/data-00000-of-00002.arrow"}]})
    with pytest.raises(InvalidInput, match="lies outside the folder"):
        labels_of(folder)
    document(tmp_path / "both" / "dataset_dict.json", {"splits": ["../one"]})
    with pytest.raises(InvalidInput, match="lies outside the folder"):
        labels_of(tmp_path / "both")


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
