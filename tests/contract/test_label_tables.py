"""`label` on tables as people have them: the pairs that pandas or plain Python reads, or a helpful refusal."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

WHERE = ("--dataset", "d", "--concepts", "c")
KEYS = [f"{i:03}.jpg" for i in range(1, 13)]
PAIRS = {(key, ["cat", "dog", "red apple"][i % 3]) for i, key in enumerate(KEYS)}
ROWS = sorted(PAIRS)


@pytest.fixture
def store(qrp: Any, store: Path, files: Any) -> Path:
    """A store with a dataset of twelve samples under names, `d`, and one under numbers, `numbers`."""
    rows = files.array(np.eye(12))
    qrp.ok("ingest", rows, "--keys", files.keys(KEYS), "--dataset", "d", "--backbone", "b", store=store)
    qrp.ok("ingest", rows, "--dataset", "numbers", "--backbone", "b", store=store)
    return store


@pytest.fixture
def made(qrp: Any, store: Path, files: Any, sql: Any) -> Any:
    """Label dataset `d` by a file of this content; the pairs that it got."""

    def label(name: str, content: str | bytes, *options: object) -> set[tuple[str, str]]:
        path = files.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        qrp.ok("label", path, *WHERE, *options, store=store)
        rows = sql(store, "SELECT key, concept FROM labels WHERE concepts = 'c' AND is_newest")
        return {(row["key"], row["concept"]) for row in rows}

    return label


@pytest.fixture
def refused(qrp: Any, store: Path, files: Any) -> Any:
    """Message and hint of exit 4 for a file of this content."""

    def label(name: str, content: str | bytes, *options: object, dataset: str = "d") -> str:
        path = files.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        message: str = qrp.fails(4, "label", path, "--dataset", dataset, "--concepts", "c", *options, store=store)
        return message

    return label


def lines(rows: list[tuple[str, str]], header: str = "key,concept", comma: str = ",", end: str = "\n") -> str:
    return "".join(line + end for line in [header, *(f"{key}{comma}{concept}" for key, concept in rows)])


DIALECTS = {
    "capitals": ("l.csv", lines(ROWS, "Key,Concept")),
    "usual names": ("l.csv", lines(ROWS, "image,label")),
    "other usual names": ("l.csv", lines(ROWS, "filename,class")),
    "Excel's separator line": ("l.csv", lines(ROWS, "sep=;\r\nkey;concept", ";", "\r\n")),
    "comment": ("l.csv", lines(ROWS, "# exported 2024\nkey,concept")),
    "old Macintosh": ("l.csv", lines(ROWS, end="\r")),
    "UTF-16": ("l.txt", lines(ROWS, "key\tconcept", "\t").encode("utf-16")),
    "UTF-16, big end first": ("l.csv", b"\xfe\xff" + lines(ROWS).encode("utf-16-be")),
    "BOM": ("l.csv", lines(ROWS).encode("utf-8-sig")),
    "empty columns at the end": (
        "l.csv",
        lines([(key, f"{concept},,") for key, concept in ROWS], "key,concept,,"),
    ),
    "blank lines before the header": ("l.csv", "\n \r\n" + lines(ROWS)),
    "rows of commas at the end": ("l.csv", lines(ROWS) + ",\n,\n"),
    "blanks around": ("l.csv", lines([(f" {key} ", f" {concept}\t") for key, concept in ROWS])),
    "an index column": ("l.csv", "".join(f"{i},{row}\n" for i, row in enumerate(lines(ROWS).splitlines()))[1:]),
    "JSON lines": ("l.jsonl", "".join(json.dumps({"image": k, "label": c}) + "\n" for k, c in ROWS)),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_is_read(made: Any, dialect: str) -> None:
    assert made(*DIALECTS[dialect]) == PAIRS


def test_short_rows_under_empty_columns_are_read(made: Any) -> None:
    assert made("l.csv", "key,concept,\n" + "".join(f"{k},{c}\n" for k, c in ROWS)) == PAIRS


def test_decimal_commas_are_scores(made: Any) -> None:
    rows = [(KEYS[0], "cat", "0,9"), (KEYS[1], "cat", "0,4"), (KEYS[2], "cat", "1,0")]
    text = "\ufeffkey;concept;score\r\n" + "".join(";".join(row) + "\r\n" for row in rows)
    assert made("l.csv", text) == {(KEYS[0], "cat"), (KEYS[2], "cat")}
    assert made("w.csv", f"key;cat;dog\n{KEYS[0]};0,9;0,1\n") == {(KEYS[0], "cat")}


def test_a_rounding_above_one_is_one(made: Any, sql: Any, store: Path) -> None:
    assert made("l.csv", f"key,concept,score\n{KEYS[0]},cat,1.0000001\n{KEYS[1]},cat,-1e-9\n") == {(KEYS[0], "cat")}
    assert sql(store, "SELECT max(score) AS top FROM labels") == [{"top": 1.0}]
    table = pa.table({"key": KEYS[:2], "cat": pa.array([1.0000001, 0.0], pa.float32())})
    pq.write_table(table, store.parent / "w.parquet")
    assert made("w.parquet", (store.parent / "w.parquet").read_bytes()) == {(KEYS[0], "cat")}


def test_a_long_header_line_is_read(made: Any) -> None:
    names = [f"concept number {i:05}" for i in range(8000)]
    content = f"key,{','.join(names)}\n{KEYS[0]},{','.join('1' if i == 7777 else '0' for i in range(8000))}\n"
    assert len(content.splitlines()[0]) > 131_072
    assert made("w.csv", content) == {(KEYS[0], "concept number 07777")}


def test_columns_and_values_are_named_by_options(made: Any) -> None:
    table = pd.DataFrame(
        {"id": range(3), "url": KEYS[:3], "what": ["cat", "dog", "cat"], "sure": [0.9, 0.8, 0.2], "kind": ["g"] * 3}
    )
    named = ("--key-column", "url", "--concept-column", "what", "--score-column", "sure", "--group-column", "kind")
    expected = {(row.url, row.what) for row in table.itertuples() if row.sure > 0.5}
    assert made("t.csv", table.to_csv(index=False), *named) == expected
    words = f"photo,red,old\n{KEYS[0]},Y,n\n{KEYS[1]},x,Y\n{KEYS[2]},,x\n"
    options = ("--key-column", "photo", "--true", "y", "x", "--false", "n")
    assert made("w.csv", words, *options) == {(KEYS[0], "red"), (KEYS[1], "red"), (KEYS[1], "old"), (KEYS[2], "old")}


def test_empty_cells_are_unknown_unless_they_mean_no(made: Any, store: Path, sql: Any) -> None:
    content = f"key,red\n{KEYS[0]},x\n{KEYS[1]},\n"
    looked_at = "SELECT key FROM verified WHERE is_newest ORDER BY key"
    assert made("w.csv", content, "--true", "x") == {(KEYS[0], "red")}
    assert [row["key"] for row in sql(store, looked_at)] == [KEYS[0]]
    assert made("w.csv", content, "--true", "x", "--false", "") == {(KEYS[0], "red")}
    assert [row["key"] for row in sql(store, looked_at)] == KEYS[:2]


@pytest.mark.parametrize(
    "content, options, parts",
    [
        ("a,b\nx,y\n", (), ["no column key and no column concept", "'a', 'b'", "--key-column a --concept-column b"]),
        ("uid,url,word\n1,a,b\n", (), ["'url'", "--key-column uid --concept-column url"]),
        ("key,concept\n001.jpg,cat\n", ("--key-column", "kye"), ["no column 'kye'", "did you mean key"]),
        ("key,label\n001.jpg,1\n002.jpg,0\n", (), ["0 and 1 alone", "--concept-column label", "--format wide"]),
        ("key,red\n001.jpg,2\n", ("--true", "1", "--false", "-1"), ["holds '2'", "neither --true nor --false"]),
        ("key,red\n001.jpg,-1\n002.jpg,0\n", (), ["--true 1 --false -1"]),
        ("key,red\n001.jpg,1\n", ("--true", "1", "--false", "1"), ["--true and --false both name '1'"]),
        ("key,concept\n001.jpg,cat\n", ("--split", ""), ["separator is empty"]),
        ("key,concept\n001.jpg,nan\n", (), ["line 2", "missing value"]),
        ("key,concept,score\n001.jpg,cat,90\n", (), ["score 90.0", "divide percentages by 100"]),
        ("key,red\n001.jpg,x\n", (), ["holds 'x'", "--true 'x'"]),
        ("image,concept\n001.jpg,cat\n", (), ["no column key", "--key-column image --concept-column concept"]),
        ("key,label\n001.jpg,cat\n", (), ["column 'label' holds 'cat'", "--concept-column"]),
    ],
)
def test_what_is_unclear_is_refused_with_what_would_read_it(
    refused: Any, content: str, options: tuple[str, ...], parts: list[str]
) -> None:
    message = refused("l.csv", content, *options)
    for part in parts:
        assert part in message


def test_a_compressed_table_is_refused_with_the_command_that_unpacks_it(refused: Any) -> None:
    for pack, name in ((gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")):
        message = refused("l.csv", pack(lines(ROWS).encode()))
        assert f"is compressed ({name})" in message
        assert "unpack it first" in message
    assert "unpack it first" in refused("l.csv.gz", gzip.compress(lines(ROWS).encode()))
    assert "save the sheet as CSV" in refused("l.xlsx", b"PK\x03\x04")


def test_row_numbers_are_no_concept_of_a_wide_table(made: Any) -> None:
    for index in ("", "Unnamed: 0", "index"):
        content = f"{index},key,cat,dog\n" + "".join(f"{i},{key},{i % 2},NA\n" for i, key in enumerate(KEYS[:2]))
        assert made("w.csv", content) == {(KEYS[1], "cat")}
    content = "key,cat,index\n" + "".join(f"{key},1,{7 + 5 * i}\n" for i, key in enumerate(KEYS))
    assert made("w.csv", content) == {(key, "cat") for key in KEYS}


def test_types_that_programs_write_are_read(made: Any, store: Path) -> None:
    table = {
        "key": pa.array(KEYS).cast(pa.binary()),
        "concept": pa.array(["cat"] * 12).cast(pa.binary()),
        "score": pa.array([Decimal("0.9")] * 11 + [Decimal("0.1")]),
    }
    pq.write_table(pa.table(table), store.parent / "l.parquet")
    assert made("l.parquet", (store.parent / "l.parquet").read_bytes()) == {(key, "cat") for key in KEYS[:11]}
    assert made("l.json", json.dumps(dict(ROWS))) == PAIRS
    message = "name the file .json"
    assert made("l.json", json.dumps([{"key": k, "concept": c} for k, c in ROWS], indent=1)) == PAIRS, message


MORE_UNCLEAR: list[tuple[str, tuple[str, ...], list[str]]] = [
    ("key,concept,score\n001.jpg,cat,0_1\n", (), ["score '0_1' is not a number"]),
    ("key,concept,score\n001.jpg,cat,nan\n", (), ["leave rows without a score out"]),
    ("key,fold,cat\n001.jpg,0,1\n002.jpg,1,1\n", (), ["column 'fold' seems to hold ids or parts"]),
    ("key,split,cat\n001.jpg,train,1\n", (), ["column 'split' seems to hold ids or parts"]),
    ("key,image_id,cat\n001.jpg,0,1\n", (), ["column 'image_id' seems to hold ids"]),
    (",key,cat\n5,001.jpg,1\n2,002.jpg,1\n", (), ["column 1, which has no name", "index=False"]),
    ("Unnamed: 0,key,cat\n0,001.jpg,1\n0,002.jpg,1\n", (), ["column 'Unnamed: 0' does not number the rows"]),
    (",label\n001.jpg,cat\n", (), ["index_label='key'"]),
    ("001.jpg,cat\n002.jpg,dog\n", (), ["its first line is a row", "key,concept"]),
    ("001.jpg,cat\n002.jpg,dog\n", ("--key-column", "001.jpg"), ["its first line is a row"]),
    ("key,concept\n'001.jpg',cat\n", (), ["by quotes around it"]),
    ("key,concept\n1,cat\n", (), ["'1' differs from '001.jpg' by zeros at the beginning and the ending"]),
    ("key,concept\nCOCO_0001.jpg,cat\n", (), ["by what comes before the number"]),
]


def test_what_a_table_without_its_conventions_lacks_is_named(refused: Any) -> None:
    for content, options, parts in MORE_UNCLEAR:
        message = refused("l.csv", content, *options)
        assert [part for part in parts if part not in message] == [], message


def test_options_of_tables_do_not_fit_a_folder(qrp: Any, store: Path, files: Any) -> None:
    message = qrp.fails(4, "label", files.images(["cat/1.png"]), *WHERE, "--split", ";", store=store)
    assert "--split does not apply to the format image-folder" in message


LISTS = {
    "bar": ("cat|red apple", "|"),
    "semicolon": ("cat;red apple", ";"),
    "Python": ("['cat', 'red apple']", ","),
    "JSON": ('["cat","red apple"]', ","),
    "NumPy": ("['cat' 'red apple']", ","),
    "no quotes": ("[cat, red apple]", ","),
    "set": ("{'cat', 'red apple'}", "|"),
}


@pytest.mark.parametrize("way", LISTS)
def test_a_list_in_a_cell_is_split_when_told_so(made: Any, refused: Any, way: str) -> None:
    cell, separator = LISTS[way]
    table = pd.DataFrame({"key": [KEYS[0], KEYS[1]], "concept": ["dog", cell]}).to_csv(index=False)
    message = refused("l.csv", table)
    assert "line 3" in message
    assert f"--split '{separator if separator in ';|' and separator in cell else ','}'" in message
    expected = {(KEYS[0], "dog"), (KEYS[1], "cat"), (KEYS[1], "red apple")}
    assert made("l.csv", table, "--split", separator) == expected
    assert made("l.csv", table, "--split", "none") == {(KEYS[0], "dog"), (KEYS[1], cell)}
    lined = "".join(json.dumps({"key": key, "concept": c}) + "\n" for key, c in ((KEYS[0], "dog"), (KEYS[1], cell)))
    assert made("l.jsonl", lined, "--split", separator) == expected


def test_commas_are_no_list_unless_told(made: Any) -> None:
    table = pd.DataFrame({"key": [KEYS[0]], "concept": ["tench, Tinca tinca"]}).to_csv(index=False)
    assert made("l.csv", table) == {(KEYS[0], "tench, Tinca tinca")}
    assert made("l.csv", table, "--split", ",") == {(KEYS[0], "tench"), (KEYS[0], "Tinca tinca")}


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_list_columns_are_labels(made: Any, store: Path, ending: str) -> None:
    tags = [["cat", "dog"], [], ["red apple"]]
    frame = pd.DataFrame({"image": KEYS[:3], "tags": tags})
    path = store.parent / f"t.{ending}"
    if ending == "parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    exploded = frame.explode("tags").dropna()
    assert made(path.name, path.read_bytes()) == set(zip(exploded["image"], exploded["tags"], strict=True))


def test_a_list_of_scores_goes_with_a_list_of_concepts(made: Any, refused: Any) -> None:
    row = {"key": KEYS[0], "concept": ["cat", "dog"], "score": [0.9, 0.1]}
    assert made("l.jsonl", json.dumps(row)) == {(KEYS[0], "cat")}
    assert "2 concepts, but 1 scores" in refused("l.jsonl", json.dumps({**row, "score": [0.9]}))


def test_blanks_and_unicode_forms_are_one_concept_and_case_is_reported(
    qrp: Any, store: Path, files: Any, sql: Any
) -> None:
    names = ["cat", "cat ", "Cat", " cat", "caf\u00e9", "cafe\u0301", "\u00a0caf\u00e9", "dog"]
    table = files.labels(list(zip(KEYS, names, strict=False)))
    ran = qrp.run("label", table, *WHERE, "--json", store=store)
    assert ran.code == 0
    assert ran.json["case_variants"] == [{"Cat": 1, "cat": 3}]
    assert "2 concepts differ only in case" in ran.err
    assert "'cat' (3)" in ran.err
    counts = sql(store, "SELECT concept, count(*) AS n FROM labels GROUP BY concept ORDER BY concept")
    assert [tuple(row.values()) for row in counts] == [("Cat", 1), ("caf\u00e9", 3), ("cat", 3), ("dog", 1)]
    assert qrp.ok("label", table, *WHERE, store=store)["case_variants"] == [{"Cat": 1, "cat": 3}]


def test_a_name_in_several_groups_is_a_concept_of_each(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    rows = [(KEYS[0], "red", "animal"), (KEYS[1], "red", "object"), (KEYS[2], "cat", "animal"), (KEYS[3], "cat", "")]
    ran = qrp.run("label", files.labels(rows, ("key", "concept", "group")), *WHERE, "--json", store=store)
    assert ran.code == 0
    assert ran.json["groups"] == {"animal": 2, "object": 1}
    assert "1 concepts appear in several groups, for example 'red'" in ran.err
    stored = {tuple(row.values()) for row in sql(store, "SELECT key, concept, concept_group FROM labels")}
    assert stored == {
        *((KEYS[0], "red (animal)", "animal"), (KEYS[1], "red (object)", "object")),
        *((KEYS[2], "cat", "animal"), (KEYS[3], "cat", "animal")),
    }


def test_keys_match_whatever_their_unicode_form_and_blanks(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    keys = ["cafe\u0301.jpg", "\u00fc.jpg", "plain.jpg"]
    line = ("ingest", files.array(np.eye(3)), "--keys", files.keys(keys), "--dataset", "e", "--backbone", "e")
    qrp.ok(*line, store=store)
    table = files.labels([("caf\u00e9.jpg", "x"), ("u\u0308.jpg", "x"), (" plain.jpg ", "x")])
    qrp.ok("label", table, "--dataset", "e", "--concepts", "c", store=store)
    assert {row["key"] for row in sql(store, "SELECT key FROM labels")} == set(keys)


def test_a_file_that_counts_from_one_is_never_shifted(qrp: Any, store: Path, refused: Any, files: Any) -> None:
    rows = "".join(f"{i},c{i % 2}\n" for i in range(1, 13))
    message = refused("l.csv", "key,concept\n" + rows, dataset="numbers")
    assert "'12'" in message
    assert "count from 1" in message
    assert "--ignore-unknown-keys" not in message
    assert "count from 1" in refused("l.csv", "key,concept\n" + rows, "--ignore-unknown-keys", dataset="numbers")
    message = refused("l.csv", "key,concept\n0,a\n77,a\n", dataset="numbers")
    assert "--ignore-unknown-keys" not in message
    table = files.labels([("0", "a"), ("77", "a")])
    qrp.ok("label", table, "--dataset", "numbers", "--concepts", "c", "--ignore-unknown-keys", store=store)


def test_ids_with_an_ending_that_count_from_one_are_never_shifted(refused: Any) -> None:
    lenient = ("--ignore-unknown-keys", "--match", "stem")
    for form, match in (("{}.0", ()), ("{}.0", lenient[1:]), ("{}.0", lenient), ("{}.jpg", lenient)):
        rows = "".join(f"{form.format(i)},c{i % 2}\n" for i in range(1, 13))
        assert "count from 1" in refused("l.csv", "key,concept\n" + rows, *match, dataset="numbers")


def test_ids_as_floats_are_ids(qrp: Any, store: Path, files: Any, sql: Any) -> None:
    frame = pd.DataFrame({"key": [0.0, 11.0], "concept": ["cat", "dog"]})
    frame.to_csv(files.folder / "l.csv", index=False)
    frame.to_parquet(files.folder / "l.parquet")
    (files.folder / "l.jsonl").write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))
    for name in ("l.csv", "l.parquet", "l.jsonl"):
        qrp.ok("label", files.folder / name, "--dataset", "numbers", "--concepts", name, store=store)
        stored = sql(store, f"SELECT key, concept FROM labels WHERE concepts = '{name}'")
        assert {tuple(row.values()) for row in stored} == {("0", "cat"), ("11", "dog")}


def test_backslashes_match_by_basename(made: Any, refused: Any) -> None:
    content = lines([(f"..\\label\\{key}", concept) for key, concept in ROWS])
    assert "--match basename" in refused("l.csv", content)
    assert made("l.csv", content, "--match", "basename") == PAIRS


@pytest.mark.parametrize("name", ["list_attr_celeba.txt", "list_attr_celeba.csv", "renamed.csv"])
def test_celeba_holds_at_1_and_not_at_minus_1(made: Any, store: Path, sql: Any, qrp: Any, name: str) -> None:
    attributes = ["Bald", "Smiling", "Wearing_Hat"]
    signs = np.where(np.random.default_rng(1).random((12, 3)) < 0.4, 1, -1)
    signs[0, 0] = -1
    if name.endswith(".txt"):
        content = f"12\r\n{' '.join(attributes)} \r\n"
        rows = zip(KEYS, signs.tolist(), strict=True)
        content += "".join(f"{key} {' '.join(f'{v:2d}' for v in row)} \r\n" for key, row in rows)
    else:
        frame = pd.DataFrame(signs, columns=attributes)
        frame.insert(0, "key" if name == "renamed.csv" else "image_id", KEYS)
        content = frame.to_csv(index=False)
    assert made(name, content) == {(KEYS[i], attributes[j]) for i, j in np.argwhere(signs == 1)}
    (row,) = qrp.rows("ls", "concepts", store=store)
    assert row["n_concepts"] == 3
    assert qrp.ok("label", store.parent / "files" / name, *WHERE, store=store)["format"] == "celeba"


def test_a_cut_celeba_file_is_refused(refused: Any) -> None:
    assert "announces 3 images, but 1" in refused("l.txt", f"3\nBald Hat\n{KEYS[0]} -1 1\n")
    assert "line 3: '0' is neither" in refused("l.txt", f"1\nBald Hat\n{KEYS[0]} 0 1\n")
