"""LVIS and other files of COCO's family, against what plain `json` says they hold; documents that are hostile."""

from __future__ import annotations

import io
import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels import json_documents
from qrp_store.readers.labels.formats import detect, read_labels
from qrp_store.readers.labels.json_documents import MAX_DEPTH, Document
from qrp_store.readers.labels.rows import Source

COCO_PAIRS = {("000000000007.jpg", "person"), ("9.jpg", "cat")}


def coco(path: Path, **changed: Any) -> Path:
    """COCO's instances of two images and two categories, with parts of the document changed."""
    document = {
        "images": [{"id": 7, "file_name": "000000000007.jpg"}, {"id": 9, "file_name": "9.jpg"}],
        "annotations": [{"image_id": 7, "category_id": 1}, {"image_id": 9, "category_id": 17}],
        "categories": [
            {"id": 1, "name": "person", "supercategory": "human"},
            {"id": 17, "name": "cat", "supercategory": "animal"},
        ],
    }
    path.write_text(json.dumps({**document, **changed}))
    return path


def lvis(seed: int = 0) -> dict[str, Any]:
    """Ten images, five categories: two that are absent, and some that are annotated, one not exhaustively."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for i in range(10):
        order = rng.permutation(5)
        absent, present = order[:2].tolist(), order[2 : 2 + int(rng.integers(3))].tolist()
        url = f"http://images.example.org/val2017/{i:012}.jpg"
        image = {"id": i + 1, "coco_url": url, "neg_category_ids": absent}
        images.append({**image, "not_exhaustive_category_ids": present[:1]})
        annotations += [{"image_id": i + 1, "category_id": c, "bbox": [0, 0, 1, 1]} for c in present for _ in range(2)]
    categories = [{"id": i, "name": f"thing{i}", "synset": f"thing.n.0{i}", "frequency": "r"} for i in range(5)]
    return {"info": {}, "annotations": annotations, "images": images, "licenses": [], "categories": categories}


def test_lvis_tells_unknown_from_absent(tmp_path: Path, labels_of: Any) -> None:
    document = lvis()
    path = tmp_path / "lvis_v1_val.json"
    path.write_text(json.dumps(document))
    assert detect(path) == "lvis"
    labels = labels_of(path)
    key = {image["id"]: image["coco_url"].split("/")[-1] for image in document["images"]}
    positive = {(key[a["image_id"]], f"thing{a['category_id']}") for a in document["annotations"]}
    absent = {(key[i["id"]], f"thing{c}") for i in document["images"] for c in i["neg_category_ids"]}
    assert labels.pairs == positive
    assert labels.looked_at == positive | absent
    assert not labels.seen


def test_an_address_becomes_the_key_that_it_ends_with(tmp_path: Path, labels_of: Any) -> None:
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(lvis()))
    keys = [f"val2017/{i:012}.jpg" for i in range(10)]
    assert {key for key, _ in labels_of(path, keys=keys).looked_at} == set(keys)
    images = [{"id": 7, "coco_url": "http://a/x/1.jpg"}, {"id": 9, "coco_url": "http://a/y/1.jpg"}]
    with pytest.raises(InvalidInput, match=r"x/1\.jpg' and 'http://a/y/1\.jpg' both end with the key '1\.jpg'"):
        labels_of(coco(tmp_path / "coco.json", images=images), keys=["1.jpg"])


@pytest.mark.parametrize(
    "name",
    [
        r"..\..\media\upload\4\3fa4b2c1-000000000007.jpg",
        "upload/4/3fa4b2c1-000000000007.jpg",
        r"..\label\000000000007.jpg",
        "http://host/data/upload/4/3fa4b2c1-000000000007.jpg?x=1",
    ],
)
def test_exported_paths_are_keys(tmp_path: Path, labels_of: Any, name: str) -> None:
    images = [{"id": 7, "file_name": name}, {"id": 9, "file_name": "9.jpg"}]
    path = coco(tmp_path / "result.json", images=images)
    assert labels_of(path, keys=["000000000007.jpg", "9.jpg"]).pairs == COCO_PAIRS


@pytest.mark.parametrize("written", [float, str], ids=["floats", "texts"])
def test_ids_are_ids_however_they_are_written(tmp_path: Path, labels_of: Any, written: Any) -> None:
    annotations = [{"image_id": written(i), "category_id": written(c)} for i, c in ((7, 1), (9, 17))]
    assert labels_of(coco(tmp_path / "instances.json", annotations=annotations)).pairs == COCO_PAIRS


def test_categories_of_one_name_stay_apart_and_are_reported(tmp_path: Path, labels_of: Any) -> None:
    categories = [
        *({"id": i, "name": "bat", "supercategory": group} for i, group in ((1, "animal"), (2, "sports"))),
        *({"id": i, "name": "Inocybe", "supercategory": "fungi"} for i in (3, 4)),
    ]
    annotations = [{"image_id": 7, "category_id": c} for c in (1, 2, 3, 4)]
    path = coco(tmp_path / "instances.json", categories=categories, annotations=annotations)
    labels = labels_of(path)
    assert labels.group == {
        "bat (animal)": "animal",
        "bat (sports)": "sports",
        "Inocybe (3)": "fungi",
        "Inocybe (4)": "fungi",
    }
    assert len(labels.warnings) == 1
    assert "2 names belong to several categories" in labels.warnings[0]


def test_nan_is_no_reason_to_refuse(tmp_path: Path, labels_of: Any) -> None:
    annotations = [{"image_id": 7, "category_id": 1, "area": float("nan")}]
    annotations += [{"image_id": 9, "category_id": 17, "area": float("-inf")}]
    assert labels_of(coco(tmp_path / "instances.json", annotations=annotations)).pairs == COCO_PAIRS


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
def test_a_document_is_the_same_in_any_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(json_documents, "_CHUNK", chunk)
    texts = ['a"b', "\\", "NaN", "[[[", '\\"NaN', "-Infinity,", "é", "}", "a" * 100]
    items = [{"text": text, text: [[text], {"NaN": [None, -1.5, True]}]} for text in texts]
    for value in (0.5, float("nan"), float("inf"), float("-inf")):
        path = tmp_path / "d.json"
        path.write_text(json.dumps({"items": [*items, value]}, ensure_ascii=False), "utf-8")
        wanted = [*items, value if value == 0.5 else None]
        assert list(Document(Source(path)).items("items.item")) == wanted


def test_a_document_that_nests_deep_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    rest = '"categories":[{"id":1,"name":"a"}],"annotations":[]}'
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for n in (MAX_DEPTH, 60_000, 2_000_000):
        path.write_text('{"images":' + "[" * n + "]" * n + "," + rest)
        with pytest.raises(InvalidInput, match="nests more than") as caught:
            list(read_labels(path))
        assert "c.json" in caught.value.message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB
    path.write_text('{"images":' + json.dumps([["[" * 60_000]]) + "," + rest)  # brackets in a text do not nest
    with pytest.raises(InvalidInput, match="image 1 has no id"):
        list(read_labels(path))


def test_reading_goes_on_after_an_empty_request() -> None:
    reader = json_documents._WithoutNaN(io.BytesIO(b"[NaN]"))
    assert (reader.read(0), reader.read(10), reader.read(10)) == (b"", b"[null]", b"")
