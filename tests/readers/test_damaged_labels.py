"""Whatever stands where something else belongs in a published layout: refused by name, or read; never a traceback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.formats import read_labels

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}],
    "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}],
    "annotations": [{"image_id": 1, "category_id": 1, "segments_info": [{"category_id": 1}]}],
}
VISUAL_GENOME = [
    {"image_id": 1, "objects": [{"names": ["cat"]}]},
    {"image_id": 2, "attributes": [{"names": ["cat"], "attributes": ["red"]}]},
]
IMAGENET_X = [{"file_name": "a.jpg", "class": 1, "pose": 1, "color": 0}]
ODD: list[Any] = [None, [], {}, "", "x", -1, 1.5, True, [None], [[]], {"a": 1}, 10**30]


def places(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a document something stands."""
    yield place
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, value in inside:
        yield from places(value, (*place, name))


def changed(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of the document with something else at a place."""
    if not place:
        return value
    whole = content.copy()
    whole[place[0]] = changed(whole[place[0]], place[1:], value)
    return whole


@pytest.mark.parametrize(
    "form, content",
    [("coco", COCO), ("visual-genome", VISUAL_GENOME), ("imagenet-x", IMAGENET_X)],
    ids=["coco", "visual-genome", "imagenet-x"],
)
def test_anything_anywhere_is_read_or_refused(tmp_path: Path, form: str, content: Any) -> None:
    path = tmp_path / ("labels.jsonl" if form == "imagenet-x" else "labels.json")
    for place in places(content):
        for odd in ODD:
            document = changed(content, place, odd)
            lines = document if form == "imagenet-x" and isinstance(document, list) else [document]
            path.write_text("\n".join(map(json.dumps, lines)))
            with suppress(InvalidInput):
                list(read_labels(path, form=form))


@pytest.mark.parametrize(
    "index, label, said",
    [
        ("image,scene\na.jpg,1\n", "number,name\nx,cat\n", "line 2: 'x' is not the number of a label"),
        ("image,scene\na.jpg,²\n", "number,name\n1,cat\n", "label picture cannot be read"),
    ],
    ids=["label", "index"],
)
def test_brodens_numbers_are_numbers(tmp_path: Path, index: str, label: str, said: str) -> None:
    (tmp_path / "index.csv").write_text(index, "utf-8")
    (tmp_path / "label.csv").write_text(label, "utf-8")
    with pytest.raises(InvalidInput, match=said):
        list(read_labels(tmp_path))


def test_a_table_of_another_layout_is_refused_under_a_format(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("key,concept\na.jpg,cat\n")
    with pytest.raises(InvalidInput, match="no column ImageId and no column PredictionString"):
        list(read_labels(path, form="imagenet-synsets"))
