"""Label files: every layout gives the same labels; what is wrong is named with its line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from qrp_store.errors import InvalidInput, NotFound
from qrp_store.readers.labels import long_tables as tables
from qrp_store.readers.labels import rows as label_rows
from qrp_store.readers.labels.formats import read_labels, source_digest
from qrp_store.readers.labels.rows import LabelRows

LABELS = [
    ("a/1.jpg", "red apple", 0.25, "object"),
    ('b, "2"\n.jpg', "x@y+z 😀", 1.0, None),
    ("c", "red apple", 0.0, "object"),
]


def write_csv(path: Path, delimiter: str = ",", encoding: str = "utf-8", end: str = "\n") -> None:
    def quoted(value: object) -> str:
        return '"' + ("" if value is None else str(value)).replace('"', '""') + '"'

    lines = [("extra", "group", "score", "concept", "key")]
    lines += [("1;,|\t", group, score, concept, key) for key, concept, score, group in LABELS]
    path.write_bytes(end.join(delimiter.join(map(quoted, line)) for line in lines).encode(encoding) + end.encode())


def write_json_lines(path: Path) -> None:
    with path.open("w") as file:
        for key, concept, score, group in LABELS:
            file.write(
                json.dumps({"key": key, "concept": concept, "score": score, "group": group, "more": [1]}) + "\n\n"
            )


def write_parquet(path: Path) -> None:
    columns = dict(zip(("key", "concept", "score", "group"), map(list, zip(*LABELS, strict=True)), strict=True))
    pq.write_table(pa.table({"extra": [1, 2, 3], **columns}), path, row_group_size=2)


def read_all(source: Path, **options: str) -> LabelRows:
    batches = list(read_labels(source, **options))
    scores = None if batches[0].scores is None else np.concatenate([b.scores for b in batches])
    return LabelRows(
        [k for b in batches for k in b.keys],
        [c for b in batches for c in b.concepts],
        scores,
        [g for b in batches for g in b.groups],
    )


def make(path: Path) -> Path:
    if path.suffix == ".parquet":
        write_parquet(path)
    elif path.suffix == ".jsonl":
        write_json_lines(path)
    else:
        write_csv(path)
    return path


@pytest.mark.parametrize("name", ["l.csv", "l.jsonl", "l.parquet", "L.CSV"])
def test_every_format_gives_the_same_labels(tmp_path: Path, name: str) -> None:
    rows = read_all(make(tmp_path / name))
    assert rows.keys == [label[0] for label in LABELS]
    assert rows.concepts == [label[1] for label in LABELS]
    assert rows.scores is not None
    assert rows.scores.dtype == np.float64
    np.testing.assert_array_equal(rows.scores, [0.25, 1.0, 0.0])
    assert rows.groups == ["object", None, "object"]


@pytest.mark.parametrize("name", ["l.csv", "l.jsonl", "l.parquet"])
def test_a_group_is_given_to_labels_without_one(tmp_path: Path, name: str) -> None:
    assert read_all(make(tmp_path / name), group="mine").groups == ["object", "mine", "object"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_dialects(tmp_path: Path, delimiter: str, encoding: str, end: str) -> None:
    write_csv(tmp_path / "l.csv", delimiter, encoding, end)
    assert read_all(tmp_path / "l.csv").keys == [label[0] for label in LABELS]


def test_csv_with_two_columns_has_no_scores(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("concept,key\ncat,1\n\ndog, 2\n")
    rows = read_all(tmp_path / "l.csv")
    assert (rows.keys, rows.concepts, rows.scores, rows.groups) == (["1", " 2"], ["cat", "dog"], None, [None, None])


def test_numbers_serve_as_keys_and_concepts(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"key": [0, 1], "concept": pa.array(["cat", "dog"]).dictionary_encode()}), tmp_path / "l.parquet"
    )
    (tmp_path / "l.jsonl").write_text('{"key": 0, "concept": "cat"}\n{"key": 1, "concept": "dog"}')
    for name in ("l.parquet", "l.jsonl"):
        rows = read_all(tmp_path / name)
        assert (rows.keys, rows.concepts) == (["0", "1"], ["cat", "dog"])


@pytest.mark.parametrize("name", ["l.csv", "l.jsonl", "l.parquet"])
def test_large_files_come_in_batches(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_rows, "BATCH_ROWS", 2)
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 100)
    batches = list(read_labels(make(tmp_path / name)))
    assert sorted(len(batch.keys) for batch in batches) == [1, 2]


def test_image_folder_classes(tmp_path: Path) -> None:
    for key in ("cat/1.png", "cat/more/2.PNG", "dog/1.png"):
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / key)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / ".hidden" / "1.png")
    rows = read_all(tmp_path, group="class")
    assert rows.keys == ["cat/1.png", "cat/more/2.PNG", "dog/1.png"]
    assert rows.concepts == ["cat", "cat", "dog"]
    assert (rows.scores, rows.groups) == (None, ["class"] * 3)
    before = source_digest(tmp_path)
    Image.new("RGB", (2, 2)).save(tmp_path / "3.png")
    assert source_digest(tmp_path) != before
    with pytest.raises(InvalidInput, match=r"'3\.png' lies in no class folder"):
        read_all(tmp_path)


def test_digest_is_sha256_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes(b"key,concept\na,b\n")
    assert source_digest(tmp_path / "l.csv") == hashlib.sha256(b"key,concept\na,b\n").hexdigest()
    with pytest.raises(NotFound):
        source_digest(tmp_path / "absent.csv")


BAD_FILES = {
    "no header": ("l.csv", b"", "no header"),
    "header only": ("l.csv", b"key,concept\n", "no labels"),
    "no concept column": ("l.csv", b"key,word\na,b\n", "no column concept.*'word'"),
    "neither column": ("l.csv", b"a;b;c\n", "no column key and no column concept"),
    "column twice": ("l.csv", b"key,concept,key\na,b,c\n", "column key appears twice"),
    "empty key": ("l.csv", b"key,concept\na,b\n,b\n", "line 3: the key is empty"),
    "empty concept": ("l.csv", b"key,concept\na,b\nb,\n", "line 3: the concept is empty"),
    "NUL in key": ("l.csv", b"key,concept\na\0,b\n", "line 2.*NUL"),
    "NUL in concept": ("l.csv", b"key,concept\na,b\0\n", "line 2.*NUL"),
    "too many fields": ("l.csv", b"key,concept\na,b,c\n", "line 2: 3 fields, but 2"),
    "too few fields": ("l.csv", b"key,concept\na\n", "line 2: 1 fields, but 2"),
    "open quote": ("l.csv", b'key,concept\n"a,b\n', "line 2: unexpected end of data"),
    "text score": ("l.csv", b"key,concept,score\na,b,1\na,b,high\n", "line 3: score 'high' is not a number"),
    "empty score": ("l.csv", b"key,concept,score\na,b,\n", "line 2: score '' is not a number"),
    "NaN score": ("l.csv", b"key,concept,score\na,b,nan\n", r"line 2: score nan is outside"),
    "large score": ("l.csv", b"key,concept,score\na,b,1.01\n", r"line 2: score 1.01 is outside \[0, 1\]"),
    "negative score": ("l.csv", b"key,concept,score\na,b,-0.1\n", "line 2: score -0.1 is outside"),
    "not UTF-8": ("l.csv", b"key,concept\na,b\nc,\xe9\n", "line 3 is not UTF-8"),
    "header not UTF-8": ("l.csv", b"key,concept,\xe9\n", "line 1 is not UTF-8"),
    "lines: empty": ("l.jsonl", b"\n", "no labels"),
    "lines: not JSON": ("l.jsonl", b'{"key": "a", "concept": "b"}\n{"key"\n', "line 2: not JSON"),
    "lines: no object": ("l.jsonl", b"[1]\n", "line 1: expected an object"),
    "lines: no concept": ("l.jsonl", b'{"key": "a"}\n', "no column concept"),
    "lines: null key": ("l.jsonl", b'{"key": null, "concept": "b"}\n', "line 1: key is missing"),
    "lines: object as concept": ("l.jsonl", b'{"key": "a", "concept": {}}\n', "line 1: concept is of type dict"),
    "lines: surrogate": ("l.jsonl", b'{"key": "\\ud800", "concept": "b"}\n', "line 1: the key is not valid Unicode"),
    "lines: NUL": ("l.jsonl", b'{"key": "a\\u0000", "concept": "b"}\n', "line 1: the key holds a NUL"),
    "lines: true score": ("l.jsonl", b'{"key": "a", "concept": "b", "score": true}\n', "score of type bool"),
    "lines: null score": ("l.jsonl", b'{"key": "a", "concept": "b", "score": null}\n', "score missing is not"),
    "lines: NaN score": ("l.jsonl", b'{"key": "a", "concept": "b", "score": NaN}\n', "score nan is outside"),
    "lines: not UTF-8": ("l.jsonl", b'{"key": "\xff", "concept": "b"}\n', "line 1 is not UTF-8"),
    "parquet: not one": ("l.parquet", b"PAR1 no PAR1", "not a Parquet file"),
    "unknown ending": ("l.odd", b"PK", "not a kind of label file"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_named_with_their_line(tmp_path: Path, case: str) -> None:
    name, content, said = BAD_FILES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=said) as caught:
        read_all(tmp_path / name)
    assert name in caught.value.message


@pytest.mark.parametrize(
    "columns, said",
    [
        ({"key": ["a"]}, "no column concept"),
        ({"key": pa.array([], pa.string()), "concept": pa.array([], pa.string())}, "no labels"),
        ({"key": ["a", None], "concept": ["b", "b"]}, "row 2: key is missing"),
        ({"key": ["a", "a"], "concept": ["b", ""]}, "row 2: the concept is empty"),
        ({"key": ["a"], "concept": [1.5]}, "row 1: concept is of type float"),
        ({"key": ["a", "b"], "concept": ["b", "b"], "score": [0.5, None]}, "row 2: score missing"),
        ({"key": ["a"], "concept": ["b"], "score": [7]}, "row 1: score 7.0 is outside"),
    ],
)
def test_bad_parquet_is_named_with_its_row(tmp_path: Path, columns: dict[str, list[object]], said: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "l.parquet")
    with pytest.raises(InvalidInput, match=said):
        read_all(tmp_path / "l.parquet")


def test_a_damaged_parquet_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "l.parquet")
    data = bytearray((tmp_path / "l.parquet").read_bytes())
    data[4:400] = b"\xff" * 396
    (tmp_path / "l.parquet").write_bytes(data)
    with pytest.raises(InvalidInput, match=r"l\.parquet"):
        read_all(tmp_path / "l.parquet")


def test_a_missing_source_is_noticed_at_once(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_labels(tmp_path / "absent.csv")
    with pytest.raises(InvalidInput, match="no images"):
        read_all(tmp_path)
