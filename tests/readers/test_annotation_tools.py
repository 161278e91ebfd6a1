"""Labels of annotation tools (VOC, YOLO, CVAT, FiftyOne, Label Studio), against what json or xml.etree reads."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from label_files import KEYS, document, text

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.formats import detect

VOC = """<annotation><folder>VOC2007</folder><filename>{name}</filename><size><width>5</width></size>{objects}
</annotation>"""
YAMLS = {
    "list": ["path: /etc", "train: ../../etc/passwd", "names: ['cat', \"red car\", dog]  # three", "nc: 3"],
    "numbers": ["names:", "  0: cat", "  1: red car # comment", "  '2': dog", "nc: 3"],
    "lines": ["nc: 3", "names:", "- cat", "- 'red car'", "- dog"],
    "object": ["names: {0: cat, 1: red car, 2: dog}"],
    "long": ["names: [cat,", "  'red car',", "  dog ]"],
}


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
    expected = set()
    for path in (folder / "Annotations").iterdir():
        root = ET.parse(path).getroot()
        expected |= {(root.findtext("filename"), thing.findtext("name")) for thing in root.findall("object")}
    labels = labels_of(folder)
    assert labels.pairs == expected
    assert labels.seen == KEYS[:3]
    moved = labels_of(folder, keys=[f"JPEGImages/{key}" for key in KEYS])
    assert moved.pairs == {(f"JPEGImages/{key}", concept) for key, concept in expected}
    converted = labels_of(folder, keys=[f"{key[:-4]}.png" for key in KEYS])
    assert converted.pairs == {(f"{str(key)[:-4]}.png", concept) for key, concept in expected}


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
    expected = {(f"{stem}.jpg", names[int(line.split()[0])]) for stem, lines in boxes.items() for line in lines}
    images = layout.replace("labels", "images").replace("{}.txt", "")
    for prefix in ("", images, images.removeprefix("images/")):
        keys = [f"{prefix}{key}" for key in KEYS]
        labels = labels_of(folder, keys=keys)
        assert labels.pairs == {(f"{prefix}{key}", concept) for key, concept in expected}
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
    expected = {
        (image.get("name"), mark.get("label")) for image in ET.parse(path).getroot().iter("image") for mark in image
    }
    assert labels.pairs == expected
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
        expected = {(KEYS[0], "cat"): 0.4, (KEYS[0], "dog"): 1.0, (KEYS[1], "cat"): 0.9, (KEYS[2], "dog"): 1.0}
        assert labels.scores == expected
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
