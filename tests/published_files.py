"""Small files in the layouts in which label sets are published and tools export them, for datasets with these keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PHOTOS = ["a.jpg", "b.jpg", "trip/c.jpg"]
KEYS = {
    "objects365": ["objects365_v1_1.jpg", "objects365_v1_2.jpg"],
    "inat": ["val2019/Aves/1/ab.jpg", "val2019/Aves/2/cd.jpg"],
    "cub": ["001.Albatross/Albatross_1.jpg", "002.Auk/Auk_2.jpg"],
    "awa": ["antelope/antelope_1.jpg", "bat/bat_1.jpg"],
    "dtd": ["banded/banded_0002.jpg", "dotted/dotted_0001.jpg"],
    "sun": ["a/abbey/sun_1.jpg", "a/airport/sun_2.jpg"],
    "ade": ["training/ADE_train_00000001.jpg", "training/ADE_train_00000002.jpg"],
    "voc": ["2007_000027.jpg", "2007_000032.jpg", "2007_000033.jpg"],
}


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def document(path: Path, content: object) -> None:
    text(path, json.dumps(content))


def write_published(folder: Path) -> None:
    """Write a file or folder for every line of docs/concepts.md that reads one of these layouts."""
    for write in (coco_like, attribute_folders, boxes, tools, hugging_face, tags_and_scores, imagenet):
        write(folder)


def coco_like(folder: Path) -> None:
    pd.DataFrame({"image_id": ["000001.jpg", "000002.jpg"], "Bald": [1, -1], "Smiling": [-1, 1]}).to_csv(
        folder / "list_attr_celeba.csv", index=False
    )
    images: list[dict[str, Any]] = [
        {"id": i, "file_name": f"images/v1/patch8/{key}"} for i, key in enumerate(KEYS["objects365"])
    ]
    categories = [{"id": 1, "name": "Person"}, {"id": 2, "name": "Sneakers"}]
    marks = [{"id": 9, "image_id": 1, "category_id": 2, "bbox": [1, 1, 2, 2], "isfake": 0, "iscrowd": 0}]
    whole = {"images": images, "annotations": marks, "categories": categories}
    document(folder / "zhiyuan_objv2_val.json", whole)
    images = [{"id": i, "file_name": key, "width": 8, "height": 8} for i, key in enumerate(KEYS["inat"])]
    species = [
        {"id": i, "name": name, "kingdom": "Animalia", "genus": "Pica"}
        for i, name in enumerate(("Pica pica", "Pica x"))
    ]
    marks = [{"id": i, "image_id": i, "category_id": 1 - i} for i in range(2)]
    document(folder / "val2019.json", {"images": images, "annotations": marks, "categories": species})
    record = {"image_id": "2", "instance_id": "7", "object_name": "tree", "instance_bbox": [0, 0, 1, 1]}
    document(folder / "vaw_val.json", [{**record, "positive_attributes": ["green"], "negative_attributes": ["red"]}])


def attribute_folders(folder: Path) -> None:
    from scipy.io import savemat

    cub = folder / "CUB_200_2011"
    text(cub / "images.txt", *(f"{i} {key}" for i, key in enumerate(KEYS["cub"], 1)))
    text(cub / "classes.txt", "1 001.Albatross", "2 002.Auk")
    text(cub / "image_class_labels.txt", "1 1", "2 2")
    text(cub / "attributes" / "attributes.txt", "1 has_wing_color::blue", "2 has_wing_color::red")
    text(cub / "attributes" / "image_attribute_labels.txt", "1 1 1 4 3.5", "1 2 0 1 9.0", "2 1 0 3 1.1", "2 2 1 2 8.0")
    awa = folder / "Animals_with_Attributes2"
    text(awa / "classes.txt", "1\tantelope", "2\tbat")
    text(awa / "predicates.txt", "1\tblack", "2\tflys")
    text(awa / "predicate-matrix-binary.txt", "0 0", "1 1")
    text(
        folder / "dtd" / "labels" / "labels_joint_anno.txt",
        f"{KEYS['dtd'][0]} banded lined",
        f"{KEYS['dtd'][1]} dotted",
    )
    sun = folder / "SUNAttributeDB"
    sun.mkdir()
    names = np.array(["sailing/ boating", "open area"], object)[:, None]
    savemat(sun / "images.mat", {"images": np.array(KEYS["sun"], object)[:, None]})
    savemat(sun / "attributes.mat", {"attributes": names})
    savemat(sun / "attributeLabels_continuous.mat", {"labels_cv": np.array([[1, 1 / 3], [0, 2 / 3]])})
    ade = folder / "ADEChallengeData2016"
    text(
        ade / "objectInfo150.txt",
        "Idx\tRatio\tTrain\tVal\tName",
        "1\t0.2\t9\t9\twall",
        "2\t0.1\t9\t9\tdoor, double door",
    )
    for key, numbers in zip(KEYS["ade"], ([[1, 2]], [[0, 1]]), strict=True):
        path = ade / "annotations" / key.replace(".jpg", ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array(numbers, np.uint8)).save(path)


def boxes(folder: Path) -> None:
    voc = folder / "VOC2012"
    for key, things in zip(KEYS["voc"], (["person", "person"], ["aeroplane"]), strict=False):
        objects = "".join(f"<object><name>{thing}</name><difficult>0</difficult></object>" for thing in things)
        text(voc / "Annotations" / f"{key[:-4]}.xml", f"<annotation><filename>{key}</filename>{objects}</annotation>")
    sets = voc / "ImageSets" / "Main"
    text(sets / "person_trainval.txt", "2007_000027  1", "2007_000032  0", "2007_000033 -1")
    text(folder / "coco8" / "data.yaml", "path: ../coco8", "names:", "  0: cat", "  1: red car")
    text(folder / "coco8" / "labels" / "train" / "a.txt", "1 0.5 0.5 0.2 0.2")
    text(folder / "coco8" / "labels" / "train" / "b.txt")
    marks = '<box label="car" xtl="1" ytl="1" xbr="2" ybr="2" occluded="0"/>'
    seen = f'<image id="0" name="a.jpg" width="8" height="8">{marks}</image><image id="1" name="b.jpg"/>'
    labels = "<labels><label><name>car</name></label><label><name>tree</name></label></labels>"
    text(folder / "annotations.xml", f"<annotations><meta><task>{labels}</task></meta>{seen}</annotations>")


def tools(folder: Path) -> None:
    actual = [
        {"_cls": "Detection", "label": "cat", "confidence": 0.8},
        {"_cls": "Detection", "label": "dog", "confidence": 0.2},
    ]
    samples = [{"filepath": "/home/ada/photos/a.jpg", "truth": {"_cls": "Detections", "detections": actual}}]
    document(folder / "fiftyone" / "samples.json", {"name": "my", "media_type": "image", "samples": samples})
    document(folder / "export" / "labels.json", {"classes": ["cat", "dog"], "labels": {"a": 0, "b": 1}})

    def result(control: str, kind: str, words: list[str]) -> dict[str, Any]:
        return {"from_name": control, "to_name": "image", "type": kind, "value": {kind: words}}

    tasks = [
        {
            "id": 1,
            "data": {"image": "/data/upload/1/3fa4b2c1-a.jpg"},
            "annotations": [{"result": [result("sky", "choices", ["sunny"])]}],
        },
        {"id": 2, "data": {"image": "s3://bucket/b.jpg"}, "annotations": [{"result": []}]},
        {"id": 3, "data": {"image": "s3://bucket/trip/c.jpg"}, "annotations": []},
    ]
    document(folder / "project-1.json", tasks)
    document(
        folder / "project-1-min.json",
        [{"id": 1, "annotation_id": 4, "image": "a.jpg", "sky": {"choices": ["sunny", "dry"]}}],
    )


def hugging_face(folder: Path) -> None:
    kinds = {"image": {"_type": "Image"}, "label": {"names": ["cat", "red car"], "_type": "ClassLabel"}}
    pictures = [{"bytes": b"x", "path": key} for key in PHOTOS]
    table = pa.table({"image": pictures, "label": [0, 1, -1]})
    described = {b"huggingface": json.dumps({"info": {"features": kinds}}).encode()}
    pq.write_table(table.replace_schema_metadata(described), folder / "train-00000-of-00001.parquet")
    saved = folder / "beans"
    document(saved / "dataset_info.json", {"features": kinds})
    document(saved / "state.json", {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
    name = saved / "data-00000-of-00001.arrow"
    with pa.OSFile(str(name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def tags_and_scores(folder: Path) -> None:
    tags = [
        {"image": "a.jpg", "tags": ["dog", "red ball"]},
        {"image": "b.jpg", "tags": [{"name": "cat", "score": 0.3}]},
    ]
    text(folder / "tags.jsonl", *map(json.dumps, tags))
    document(folder / "tags.json", {"a.jpg": ["dog"], "trip/c.jpg": ["tree", "sky"]})
    scores = np.array([[0.9, 0.1], [1.0000002, 0.6]], np.float32)
    np.savez(folder / "clip.npz", scores=scores, concepts=["cat", "dog"], keys=PHOTOS[:2])
    text(folder / "clip.jsonl", json.dumps({"a.jpg": {"cat": 0.9}}), json.dumps({"b.jpg": {"cat": 0.2, "dog": 0.7}}))
    cosines = pd.DataFrame({"key": PHOTOS, "cat": [0.31, 0.21, 0.2], "dog": [0.22, 0.3, 0.19]})
    cosines.to_parquet(folder / "cosines.parquet")


def imagenet(folder: Path) -> None:
    text(folder / "val.txt", "ILSVRC2012_val_00000001.JPEG 1", "ILSVRC2012_val_00000002.JPEG 0")
    document(folder / "imagenet_class_index.json", {"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]})
    text(
        folder / "synset_groups.csv",
        "code,name,group",
        "n01440764,tench,fish.n.01",
        "n03995372,power drill,artifact.n.01",
    )
