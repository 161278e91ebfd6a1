"""Every published layout is known by its content and gives its labels; what it cannot mean is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.formats import detect, read_labels
from qrp_store.readers.labels.rows import LabelRows

Row = tuple[str, str, float, str | None]


def read(source: Path, **options: Any) -> tuple[set[Row], LabelRows]:
    """Labels as (key, concept, score or 1, group) with a score above 0, and everything beside them joined."""
    batches = list(read_labels(source, **options))
    rows: set[Row] = set()
    checked: list[bool] = []
    for b in batches:
        scores = [1.0] * len(b.keys) if b.scores is None else [1.0 if math.isnan(s) else s for s in b.scores.tolist()]
        rows |= {row for row in zip(b.keys, b.concepts, scores, b.groups, strict=True) if row[2] > 0}
        checked += [False] * len(b.keys) if b.verified is None else b.verified.tolist()
    seen = [key for b in batches for key in b.seen]
    keys, concepts = [k for b in batches for k in b.keys], [c for b in batches for c in b.concepts]
    groups = [g for b in batches for g in b.groups]
    return rows, LabelRows(keys, concepts, None, groups, np.array(checked), seen, batches[-1].vocabulary)


def known(rows: LabelRows) -> set[tuple[str, str]]:
    """The pairs that are marked as looked at."""
    assert rows.verified is not None
    return {(rows.keys[i], rows.concepts[i]) for i in np.flatnonzero(rows.verified)}


def test_a_wide_csv_has_a_column_a_concept(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text("cat;key;red car;never\n1;a;0;0\n0;b;0.75;0\n;c;1;0\n0;d;0;0\n")
    assert detect(path) == "wide"
    labels, rows = read(path, group="g")
    assert labels == {("a", "cat", 1.0, "g"), ("b", "red car", 0.75, "g"), ("c", "red car", 1.0, "g")}
    assert list(rows.seen) == ["a", "b", "d"]
    assert known(rows) == {("c", "red car"), ("c", "never")}
    assert [name for name, _ in rows.vocabulary] == ["cat", "red car", "never"]


@pytest.mark.parametrize("dtype", ["int64", "bool", "float32", "string"])
def test_wide_parquet_gives_what_wide_csv_gives(tmp_path: Path, dtype: str) -> None:
    columns = {"cat": [1, 0, None], "dog": [0, 1, 1]}
    kind = getattr(pa, {"bool": "bool_", "string": "string"}.get(dtype, dtype))()
    arrays = {
        name: pa.array(
            [None if v is None else {"bool": bool, "string": str}.get(dtype, float)(v) for v in values], kind
        )
        for name, values in columns.items()
    }
    pq.write_table(pa.table({"key": ["a", "b", "c"], **arrays}), tmp_path / "w.parquet")
    assert detect(tmp_path / "w.parquet") == "wide"
    labels, rows = read(tmp_path / "w.parquet")
    assert labels == {("a", "cat", 1.0, None), ("b", "dog", 1.0, None), ("c", "dog", 1.0, None)}
    assert (list(rows.seen), known(rows)) == (["a", "b"], {("c", "dog")})


def test_wide_json_lines_take_their_concepts_from_the_first(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    path.write_text('{"key": "a", "cat": 1, "dog": false}\n{"dog": 0.75, "key": "b", "cat": null}\n{"key": "c"}\n')
    assert detect(path) == "wide"
    labels, rows = read(path, group="g")
    assert labels == {("a", "cat", 1.0, "g"), ("b", "dog", 0.75, "g")}
    assert (list(rows.seen), known(rows)) == (["a"], {("b", "dog")})
    assert rows.vocabulary == [("cat", "g"), ("dog", "g")]


def test_the_index_that_pandas_writes_is_no_concept(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["a"], "cat": [1], "__index_level_0__": [1]}), tmp_path / "w.parquet")
    assert read(tmp_path / "w.parquet")[0] == {("a", "cat", 1.0, None)}
    (tmp_path / "w.csv").write_text(",key,cat\n0,a,1\n")
    assert read(tmp_path / "w.csv")[0] == {("a", "cat", 1.0, None)}
    (tmp_path / "w.csv").write_text(",key,cat\nx,a,1\n")
    with pytest.raises(InvalidInput, match="column 1, which has no name, does not number the rows") as caught:
        read(tmp_path / "w.csv")
    assert "index=False" in (caught.value.hint or "")


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_text_in_parquet_is_text_however_it_is_stored(tmp_path: Path, kind: pa.DataType) -> None:
    texts = {"key": ["a", "b"], "concept": ["x", "x"], "group": ["g", "g"]}
    columns = {name: pa.array(values, kind) for name, values in texts.items()}
    pq.write_table(pa.table(columns), tmp_path / "l.parquet")
    assert read(tmp_path / "l.parquet")[0] == {("a", "x", 1.0, "g"), ("b", "x", 1.0, "g")}
    columns["key"] = pa.array(["a", None], kind)
    pq.write_table(pa.table(columns), tmp_path / "l.parquet")
    with pytest.raises(InvalidInput, match="row 2: key is missing"):
        read(tmp_path / "l.parquet")


def coco(path: Path, **changed: Any) -> Path:
    document = {
        "info": {"description": "tiny"},
        "images": [
            {"id": 7, "file_name": "000000000007.jpg", "height": 4},
            {"id": 9, "file_name": "9.jpg"},
            {"id": 11, "file_name": "empty.jpg"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0.5, 1, 1], "segmentation": [[1, 2.5]]},
            {"id": 2, "image_id": 7, "category_id": 1, "iscrowd": 1},
            {"id": 3, "image_id": 9, "category_id": 17},
        ],
        "categories": [
            {"id": 1, "name": "person", "supercategory": "human"},
            {"id": 17, "name": "cat", "supercategory": "animal"},
            {"id": 18, "name": "dog", "supercategory": "animal"},
        ],
    }
    path.write_text(json.dumps({**document, **changed}))
    return path


COCO_LABELS = {("000000000007.jpg", "person", 1.0, "human"), ("9.jpg", "cat", 1.0, "animal")}


def test_coco_instances_with_supercategories_as_groups(tmp_path: Path) -> None:
    labels, rows = read(coco(tmp_path / "instances.json"))
    assert labels == COCO_LABELS
    assert list(rows.seen) == ["000000000007.jpg", "9.jpg", "empty.jpg"]
    assert ("dog", "animal") in rows.vocabulary


def test_coco_panoptic_has_its_categories_in_segments(tmp_path: Path) -> None:
    annotations = [
        {"image_id": 7, "file_name": "7.png", "segments_info": [{"id": 5, "category_id": 1}, {"category_id": 1}]},
        {"image_id": 9, "file_name": "9.png", "segments_info": [{"id": 6, "category_id": 17}]},
    ]
    assert read(coco(tmp_path / "panoptic.json", annotations=annotations))[0] == COCO_LABELS


BAD_COCO: Mapping[str, tuple[dict[str, Any], str]] = {
    "captions": ({"categories": []}, "no categories"),
    "no images": ({"images": []}, "no images"),
    "no name": ({"categories": [{"id": 1}]}, "category 1: name is missing"),
    "one id for two": ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "two categories have id 1"),
    "one id for two images": (
        {"images": [{"id": 7, "file_name": "a"}, {"id": 7, "file_name": "b"}]},
        "two images have id 7: 'a' and 'b'",
    ),
    "unknown image": ({"annotations": [{"image_id": 8, "category_id": 1}]}, "annotation 1 is of image 8"),
    "unknown category": ({"annotations": [{"image_id": 7, "category_id": 2}]}, "annotation 1 is of category 2"),
    "no annotations": ({"annotations": []}, "has no annotations"),
    "no segments": (
        {"annotations": [{"image_id": 7, "segments_info": None}]},
        "annotation 1: segments_info is missing",
    ),
    "no category": ({"annotations": [{"image_id": 7}]}, "annotation 1 has no category_id"),
    "no file": ({"images": [{"id": 7}]}, "file_name is missing"),
}


@pytest.mark.parametrize("case", BAD_COCO)
def test_bad_coco_is_named(tmp_path: Path, case: str) -> None:
    changed, said = BAD_COCO[case]
    with pytest.raises(InvalidInput, match=said) as caught:
        read(coco(tmp_path / "instances.json", **changed))
    assert "instances.json" in caught.value.message


def test_a_cut_json_document_is_refused(tmp_path: Path) -> None:
    path = coco(tmp_path / "instances.json")
    path.write_text(path.read_text()[:-200])
    with pytest.raises(InvalidInput, match="not JSON, or damaged"):
        read(path)
    (tmp_path / "empty.json").write_text("")
    with pytest.raises(InvalidInput, match="not JSON"):
        read(tmp_path / "empty.json")


def test_a_json_document_may_begin_with_a_mark_and_must_be_utf_8(tmp_path: Path) -> None:
    path = coco(tmp_path / "instances.json")
    text = path.read_text()
    path.write_bytes(text.encode("utf-8-sig"))
    assert (detect(path), read(path)[0]) == ("coco", COCO_LABELS)
    for encoding in ("utf-16", "utf-16-le"):
        path.write_bytes(text.encode(encoding))
        with pytest.raises(InvalidInput, match="line 1 is not UTF-8"):
            read(path)


OPEN_IMAGES = """ImageID,Source,LabelName,Confidence
000a,verification,/m/01,1
000a,crowdsource-verification,/m/02,0
000b,machine,/m/02,0.7
"""


def test_open_images_tells_what_people_verified(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(OPEN_IMAGES)
    assert detect(tmp_path / "l.csv") == "open-images"
    labels, rows = read(tmp_path / "l.csv")
    assert labels == {("000a", "/m/01", 1.0, None), ("000b", "/m/02", 0.7, None)}
    assert known(rows) == {("000a", "/m/01"), ("000a", "/m/02")}


def test_names_replace_codes(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(OPEN_IMAGES)
    names = tmp_path / "class-descriptions.csv"
    names.write_text('LabelName,DisplayName\n/m/01,Tortoise\n/m/02,"Container, box"\n')
    labels, rows = read(tmp_path / "l.csv", names=names)
    assert {label[1] for label in labels} == {"Tortoise", "Container, box"}
    assert ("000a", "Container, box") in known(rows)
    names.write_text("/m/01,Box,things\n/m/02,Box,things\n")
    assert {(c, g) for _, c, _, g in read(tmp_path / "l.csv", names=names)[0]} == {
        ("Box (/m/01)", "things"),
        ("Box (/m/02)", "things"),
    }
    for text in ("/m/01,Red box\n/m/02,Green box\n", "code;name\n/m/01;Red box\n/m/02;Green box\n"):
        names.write_text(text)
        assert {label[1] for label in read(tmp_path / "l.csv", names=names)[0]} == {"Red box", "Green box"}
    names.write_text("/m/01,Tortoise\n")
    with pytest.raises(InvalidInput, match="no name for concept '/m/02'"):
        read(tmp_path / "l.csv", names=names)


@pytest.mark.parametrize(
    "content, said",
    [
        ("/m/01,Box\n/m/01,Bag\n", "the name of '/m/01' is the second of its code"),
        ("/m/01,Box\n/m/02,\n", "the name of '/m/02' is empty"),
        ("", "holds no names"),
        ("/m/01,Bücher\n".encode("latin-1"), "line 1 is not UTF-8"),
    ],
)
def test_bad_names_are_named(tmp_path: Path, content: str | bytes, said: str) -> None:
    (tmp_path / "l.csv").write_text(OPEN_IMAGES)
    (tmp_path / "names.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidInput, match=said) as caught:
        read(tmp_path / "l.csv", names=tmp_path / "names.csv")
    assert "names.csv" in caught.value.message


def test_visual_genome_objects_and_attributes(tmp_path: Path) -> None:
    objects = [{"image_id": 1, "objects": [{"names": ["Trees ", "x"], "synsets": ["tree.n.01"]}, {"names": ["trees"]}]}]
    (tmp_path / "objects.json").write_text(json.dumps(objects))
    assert read(tmp_path / "objects.json")[0] == {("1", "trees", 1.0, "object")}
    attributes = [
        {"image_id": 1, "attributes": [{"names": ["tree"], "attributes": ["Green", "tall"]}, {"names": ["a"]}]}
    ]
    (tmp_path / "attributes.json").write_text(json.dumps(attributes))
    labels, rows = read(tmp_path / "attributes.json")
    assert labels == {("1", "green", 1.0, "attribute"), ("1", "tall", 1.0, "attribute")}
    assert not rows.verified.any()  # type: ignore[union-attr]
    (tmp_path / "attributes.json").write_text('[{"image_id": 1, "attributes": [{"attributes": "Green"}]}]')
    assert read(tmp_path / "attributes.json")[0] == {("1", "green", 1.0, "attribute")}
    for content in ('["x"]', '[{"key": "a", "word": "b"}]', '[{"image_id": 1, "objects": ["tree"]}]'):
        (tmp_path / "objects.json").write_text(content)
        with pytest.raises(InvalidInput, match=r"image 1 has no (image_id|list of objects)") as caught:
            read(tmp_path / "objects.json")
        assert "Visual Genome" in (caught.value.hint or "")


def test_image_lists_of_places_and_imagenet(tmp_path: Path) -> None:
    path = tmp_path / "places365_val.txt"
    path.write_text("Places365_val_00000001.jpg 1\n/a/airfield/00000001.jpg 0\n")
    assert detect(path) == "image-list"
    (tmp_path / "categories_places365.txt").write_text("/a/airfield 0\n/a/airplane_cabin 1\n")
    assert read(path, names=tmp_path / "categories_places365.txt")[0] == {
        ("Places365_val_00000001.jpg", "a/airplane_cabin", 1.0, None),
        ("a/airfield/00000001.jpg", "a/airfield", 1.0, None),
    }
    path.write_text("a.jpg 1\nb.jpg\n")
    with pytest.raises(InvalidInput, match="line 2: expected IMAGE CLASS"):
        read(path)


def test_imagenet_synsets_take_the_names_of_the_mapping(tmp_path: Path) -> None:
    path = tmp_path / "LOC_val_solution.csv"
    path.write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00048981,n03995372 85 1 499 272 \n"
        "ILSVRC2012_val_00037956,n03481172 131 0 499 254 n03481172 1 2 3 4 \n"
    )
    (tmp_path / "LOC_synset_mapping.txt").write_text("n03995372 power drill\nn03481172 hammer, maul\n")
    assert read(path, names=tmp_path / "LOC_synset_mapping.txt")[0] == {
        ("ILSVRC2012_val_00048981", "power drill", 1.0, None),
        ("ILSVRC2012_val_00037956", "hammer", 1.0, None),
    }


def test_the_published_imagenet_x_becomes_sixteen_factors() -> None:
    spec = find_spec("imagenet_x")  # its own import brings half of scikit-learn
    assert spec is not None
    assert spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / "annotations" / "imagenet_x_val_multi_factor.jsonl"
    labels, rows = read(path)
    assert len(rows.vocabulary) == 16
    images = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(images) > 48_000
    assert list(rows.seen) == [image["file_name"] for image in images]
    assert len(labels) == sum(sum(image[name] for name, _ in rows.vocabulary) for image in images)
    assert ("ILSVRC2012_val_00004487.JPEG", "pose", 1.0, "factor") in labels


def test_a_matrix_has_its_rows_in_the_datasets_order(tmp_path: Path) -> None:
    path = tmp_path / "hot.npy"
    np.save(path, np.array([[1, 0], [0.25, 1], [np.nan, 1]], np.float32))
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    labels, rows = read(path, keys=["a", "b", "c"], names=tmp_path / "names.txt")
    assert labels == {("a", "cat", 1, None), ("b", "cat", 0.25, None), ("b", "dog", 1, None), ("c", "dog", 1, None)}
    assert (list(rows.seen), known(rows)) == (["a", "b"], {("c", "dog")})
    with pytest.raises(InvalidInput, match="3 rows, the dataset 2"):
        read(path, keys=["a", "b"])
    np.save(path, np.array([[4.5]]))
    with pytest.raises(InvalidInput, match=r"row 0, column 0 is 4\.5, outside"):
        read(path, keys=["a"])


def broden(folder: Path) -> Path:
    (folder / "images" / "ade").mkdir(parents=True)
    (folder / "index.csv").write_text(
        "image,split,ih,iw,sh,sw,color,object,texture,scene\n"
        "ade/1.jpg,train,4,4,2,2,,ade/1_object.png;ade/1_more.png,,12;13\n"
        "dtd/2.jpg,val,4,4,2,2,,,5;6,\n"
    )
    (folder / "label.csv").write_text("number,name,category\n5,banded,texture\n6,dotted,texture\n12,street,scene\n")
    with (folder / "label.csv").open("a") as file:
        file.write("300,wall,object\n7,tree,object\n13,alley-s,scene\n")
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 1] = 300 % 256, 300 // 256, 0
    Image.fromarray(pixels).save(folder / "images" / "ade" / "1_object.png")
    pixels[0, 1] = 7, 0, 0
    Image.fromarray(pixels).save(folder / "images" / "ade" / "1_more.png")
    return folder


def test_broden_reads_numbers_and_label_pictures(tmp_path: Path) -> None:
    folder = broden(tmp_path / "broden")
    wanted = {
        ("ade/1.jpg", "wall-o", 1.0, "object"),
        ("ade/1.jpg", "tree-o", 1.0, "object"),
        ("ade/1.jpg", "street-s", 1.0, "scene"),
        ("ade/1.jpg", "alley-s", 1.0, "scene"),
        ("dtd/2.jpg", "banded-t", 1.0, "texture"),
        ("dtd/2.jpg", "dotted-t", 1.0, "texture"),
    }
    assert detect(folder) == detect(folder / "index.csv") == "broden"
    assert read(folder)[0] == read(folder / "index.csv")[0] == wanted
    (folder / "images" / "ade" / "1_more.png").unlink()
    with pytest.raises(InvalidInput, match=r"1_more\.png: the label picture cannot be read"):
        read(folder)


BAD_TABLES: Sequence[tuple[str, bytes, str]] = [
    ("w.csv", b"key,split\na,train\n", "column 'split' seems to hold ids or parts of the dataset, not a concept"),
    ("w.csv", b"key,cat\na,0\nb,7.5\n", "line 3: column 'cat' holds 7.5, outside"),
    ("w.csv", b"key,cat,cat\na,0,0\n", "column 'cat' appears twice"),
    ("w.csv", b"key:concept\na:b\n", "no column key and no column concept"),
    ("l.csv", b"key,concept,score\na,b,-3.2\n", "score -3.2 is outside"),
    ("l.txt", "key,concept\na,b\n".encode("utf-16-le"), "line 1 is not UTF-8"),
    ("l.csv", "key,concept\na,b\n".encode("utf-16-be"), "line 1 is not UTF-8"),
    ("l.csv", b"key,concept," + b"x" * 200_000 + b"\n", "line 1: field larger than"),
    ("w.jsonl", b'{"key": "a", "cat": 1}\n{"key": "b", "dog": 1}\n', "line 2: 'dog' is not in the first line"),
    ("w.jsonl", b'{"key": "a", "cat": 1}\n{"cat": 1}\n', "line 2: no key"),
    ("w.jsonl", b'{"key": "a", "cat": {"is": 1}}\n', "in line 1 column 'cat' holds"),
    ("f.jsonl", b'{"file_name": "a.jpg", "class": 1, "pose": 2}\n', "factor pose is 2"),
]


@pytest.mark.parametrize("name, content, said", BAD_TABLES)
def test_bad_tables_are_named_with_their_place(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=said):
        read(tmp_path / name)


def test_scores_outside_0_to_1_are_said_to_be_logits(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("key,concept,score\na,b,-3.2\n")
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path / "l.csv")
    assert "logits" in (caught.value.hint or "")


def test_what_arrow_cannot_read_is_read_row_by_row_without_repeats(tmp_path: Path) -> None:
    rows = [f"{i},c{i % 7},{' 0.5' if i == 30_000 else 0.25}" for i in range(40_000)]
    path = tmp_path / "l.csv"
    path.write_text("key,concept,score\n" + "\n".join(rows) + "\n")
    batches = list(read_labels(path))
    keys = [key for b in batches for key in b.keys]
    assert keys == [str(i) for i in range(40_000)]
    assert np.concatenate([b.scores for b in batches if b.scores is not None])[30_000] == 0.5
