"""Tables, tars, folders and label files in random variations, against what was put into them: that, or a refusal."""

from __future__ import annotations

import csv
import io
import json
import random
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qrp_store.errors import InvalidInput
from qrp_store.images import read_image
from qrp_store.ingest.arrays import ArrayRows
from qrp_store.key_matching import Positions
from qrp_store.label.numbering import Numbers, gather, numbered, refuse_unknown
from qrp_store.label.piles import LABEL, LOOKED_AT, Piles
from qrp_store.progress import silent
from qrp_store.readers.image_lists import list_image_source
from qrp_store.readers.labels.formats import read_labels

ROUNDS = pytest.mark.parametrize("rounds", [40, pytest.param(700, marks=pytest.mark.soak)])
WORDS = ("red", "green", "blue", "area", "edges", "hue", "tone", "grain", "shade", "depth", "light", "noise")
KEY_NAMES = ("key", "filename", "File Name", "image_id", "id", "UID", "path", "url", "__key__", "name", "image")
INDEX_NAMES = ("", "Unnamed: 0", "index", "__index_level_0__")
CLASS_NAMES = ("label", "class_id", "split", "fold", "target", "category_id")
PNG = b"\x89PNG\r\n\x1a\n"


def table_of(rng: random.Random) -> tuple[dict[str, list[Any]], list[str], list[str], np.ndarray, set[str]]:
    """A table's columns, the vector's names, the keys, the vectors, and the columns that are no features."""
    n, dim = rng.randint(3, 40), rng.randint(2, len(WORDS))
    style = rng.choice(("f{}", "feat_{}", "{}", "dim-{}", "words"))
    names = list(WORDS[:dim]) if style == "words" else [style.format(i) for i in range(dim)]
    x = np.random.default_rng(rng.getrandbits(32)).normal(size=(n, dim))
    for row in rng.sample(range(n), rng.choice((0, 0, 1))):
        x[row, rng.randrange(dim)] = np.nan
    aside: dict[str, list[Any]] = {}
    keys = [str(i) for i in range(n)]
    if rng.random() < 0.7:
        numbers = rng.sample(range(10_000), n)
        kind = rng.choice(("text", "integer", "float"))
        keys = [f"{number:05}.jpg" if kind == "text" else str(number) for number in numbers]
        cells: dict[str, list[Any]] = {"text": keys, "integer": numbers, "float": [float(number) for number in numbers]}
        aside[rng.choice(KEY_NAMES)] = cells[kind]
    if rng.random() < 0.5:
        first = rng.choice((0, 0, 1))
        aside[rng.choice(INDEX_NAMES)] = list(range(first, first + n))
    for name in rng.sample(CLASS_NAMES, rng.choice((0, 0, 1, 2))):
        aside[name] = [rng.randrange(3) for _ in range(n)]
    columns: dict[str, list[Any]] = {name: x[:, i].tolist() for i, name in enumerate(names)}
    for name, cells_of in aside.items():
        items = list(columns.items())
        items.insert(rng.choice((0, len(items))), (name, cells_of))
        columns = dict(items)
    return columns, names, keys, x, set(aside)


def attempt(function: Callable[[], Any]) -> Any:
    """What a function returns, or the InvalidInput that it raises."""
    try:
        return function()
    except InvalidInput as error:
        return error


def save(path: Path, columns: dict[str, list[Any]]) -> None:
    if path.suffix == ".parquet":
        numbers = {name: [None if v != v else v for v in cells] for name, cells in columns.items()}
        pq.write_table(pa.table(numbers), path, row_group_size=7)
        return
    with path.open("w", newline="", encoding=random.Random(len(columns)).choice(("utf-8", "utf-8-sig"))) as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(columns)
        writer.writerows(["" if v != v else v for v in row] for row in zip(*columns.values(), strict=True))


@ROUNDS
def test_a_table_is_its_vectors_and_keys_or_is_refused(tmp_path: Path, rounds: int) -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(rounds):
        rng = random.Random(seed)
        columns, names, keys, x, aside = table_of(rng)
        path = tmp_path / f"x{rng.choice(('.csv', '.tsv', '.parquet'))}"
        save(path, columns)
        source = attempt(lambda path=path: ArrayRows(path, None, None, None, np.dtype(np.float64)))
        outcomes["refused" if isinstance(source, InvalidInput) else "read"] += 1
        if isinstance(source, InvalidInput):
            assert any(repr(name) in source.message for name in aside), (seed, source.message)
            assert "--field" in str(source.hint), seed
            source = ArrayRows(path, ",".join(names), None, None, np.dtype(np.float64))
        np.testing.assert_array_equal(source._source.read(0, len(x)), x, err_msg=f"seed {seed}")
        assert list(source.keys) == keys, seed
        assert source.columns is not None
        assert (set(source.columns["vector"]), set(columns) - set(names)) == (set(names), aside), seed
    print(f"\n{rounds} tables: {dict(outcomes)}")
    assert outcomes["read"] > outcomes["refused"] > 0


def archive_of(rng: random.Random, number: int) -> tuple[bytes, dict[str, bytes], Counter[str]]:
    """An archive, its images by name, and the endings of its other members."""
    images: dict[str, bytes] = {}
    others: Counter[str] = Counter()
    out = io.BytesIO()
    form = rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for i in range(rng.randint(1, 6)):
            ending = rng.choice((".png", ".PNG", ".jpg", "", ".json", ".cls", ".heics"))
            name = f"{rng.choice(('', 'a/', 'deep/er/', 'é/'))}{number}-{i}{'x' * rng.choice((0, 120))}{ending}"
            data = PNG + rng.randbytes(rng.choice((0, 100, 512, 3000)))
            info = tarfile.TarInfo(name if form != tarfile.USTAR_FORMAT else name.replace("x" * 120, "y"))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            if ending.lower() in (".png", ".jpg", ""):
                images[info.name] = data
            else:
                others[ending] += 1
    return out.getvalue(), images, others


@ROUNDS
def test_a_tar_is_all_its_images_or_is_refused(tmp_path: Path, rounds: int) -> None:
    refused = 0
    for seed in range(rounds):
        rng = random.Random(seed)
        parts = [archive_of(rng, number) for number in range(rng.choice((1, 1, 2, 3)))]
        data = b"".join(part + bytes(512 * rng.choice((0, 0, 3))) for part, _, _ in parts)
        images = {name: content for _, named, _ in parts for name, content in named.items()}
        damage = rng.choice(("none", "none", "cut", "garbage"))
        if damage == "cut" and len(parts) == 1:
            data = data[: rng.randrange(1, len(data))]
        elif damage == "garbage":
            data += rng.randbytes(rng.choice((1, 512, 5000)))
        (tmp_path / "x.tar").write_bytes(data)
        counts: Counter[str] = Counter()
        result = attempt(lambda counts=counts: list_image_source(tmp_path / "x.tar", not_taken=counts))
        if isinstance(result, InvalidInput):
            assert "x.tar" in result.message
            assert damage != "none" or not images, (seed, result.message)
            refused += 1
            continue
        assert damage != "garbage", seed
        listed, _ = result
        assert {image.key: read_image(image) for image in listed} == images, seed
        assert counts == sum((other for _, _, other in parts), Counter()), seed
    print(f"\n{rounds} tars: {refused} refused, all others whole")
    assert refused


@ROUNDS
def test_a_folder_is_all_its_images_and_the_rest_is_counted(tmp_path: Path, rounds: int) -> None:
    for seed in range(rounds):
        rng = random.Random(seed)
        folder = tmp_path / str(seed)
        images: dict[str, bytes] = {}
        others: Counter[str] = Counter()
        for i in range(rng.randint(1, 8)):
            where = rng.choice(("", "a/", "b b/c/", "é/", "@eaDir/", ".hidden/"))
            ending = rng.choice((".png", ".JPG", ".Jpeg", "", ".txt", ".XMP", ".heics"))
            path = folder / f"{where}{i}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            content = rng.choice((PNG, b"text")) + bytes([i])
            path.write_bytes(content)
            if where in ("@eaDir/", ".hidden/"):
                others["@eaDir" if where == "@eaDir/" else "hidden"] += 1
            elif ending.lower() in (".png", ".jpg", ".jpeg") or (ending == "" and content.startswith(PNG)):
                images[f"{where}{i}{ending}"] = content
            else:
                others[ending.lower() or "no ending"] += 1
        counts: Counter[str] = Counter()
        if not images:
            with pytest.raises(InvalidInput, match="holds no images"):
                list_image_source(folder, not_taken=counts)
            continue
        listed, _ = list_image_source(folder, not_taken=counts)
        assert [image.key for image in listed] == sorted(images), seed
        assert all(read_image(image) == images[image.key] for image in listed), seed
        assert counts == others, seed


NAMES = ("cat", " cat", "Cat", "caf\u00e9", "cafe\u0301", "red apple", 'say "hi"', "a,b", "x\ny", "\u72d7", "0", "=1+1")
COLUMNS = (("key", "concept"), ("Key", "Concept"), ("image", "label"), ("filename", "class"), ("img_path", "tags"))
SPOILED = ("cat|dog", "['cat', 'dog']", "nan", "", "a\0b")


def stored_name(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())


@dataclass(frozen=True)
class LabelFile:
    """A label file as it was written; `spoiled`: a row of it is to be refused, or its keys are no dataset's."""

    path: Path
    keys: list[str]
    spoiled: bool


def label_file(rng: random.Random, folder: Path) -> LabelFile:
    """Write labels of a dataset's keys in a random layout, format and dialect."""
    n = rng.randint(2, 30)
    keys = [f"{i}" for i in range(n)] if rng.random() < 0.3 else [f"d\u00e9/{i:03}.jpg" for i in range(n)]
    numbered = keys[0] == "0"
    if rng.random() < 0.4:
        return LabelFile(wide_file(rng, folder, keys), keys, False)
    rows = [[rng.choice(keys), rng.choice(NAMES), round(rng.random(), 3)] for _ in range(rng.randint(1, 60))]
    spoil = rng.choice(("", "", "", "cell", "keys"))
    if spoil == "cell":
        rng.choice(rows)[1] = rng.choice(SPOILED)
    elif spoil == "keys":
        rows = [[str(int(key) + 1) if numbered else f"x/{key}", *rest] for key, *rest in rows]
        rows.append([str(n) if numbered else "x/y", "cat", 1.0])
    elif not numbered and rng.random() < 0.3:
        rows = [[unicodedata.normalize("NFD", f" {key}"), *rest] for key, *rest in rows]
    names = [*rng.choice(COLUMNS), *rng.choice((("score",), ()))]
    rows = [row[: len(names)] for row in rows]
    ending = rng.choice((".csv", ".csv", ".tsv", ".txt", ".parquet", ".jsonl"))
    path = folder / f"labels{ending}"
    if ending == ".parquet":
        pq.write_table(pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), path)
    elif ending == ".jsonl":
        lines = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=rng.random() < 0.5) for row in rows]
        path.write_text("\n".join(lines) + rng.choice(("", "\n\n")), rng.choice(("utf-8", "utf-8-sig")))
    else:
        write_text(rng, path, names, rows)
    return LabelFile(path, keys, spoil != "")


def wide_file(rng: random.Random, folder: Path, keys: list[str]) -> Path:
    """A table with a column of 0 and 1 for each concept; some cells are unknown."""
    names = rng.sample(("cat", "dog", "red apple", "\u72d7", "tree"), rng.randint(1, 4))
    rows: list[list[Any]] = [[key, *(rng.choice((0, 1, 1, None)) for _ in names)] for key in keys]
    header = ["key", *names]
    if rng.random() < 0.4:  # pandas' index
        header, rows = ["Unnamed: 0", *header], [[7 * i, *row] for i, row in enumerate(rows)]
    path = folder / f"wide{rng.choice(('.csv', '.tsv', '.parquet'))}"
    if path.suffix == ".parquet":
        pq.write_table(pa.table(dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))), path)
    else:
        write_text(rng, path, header, [["" if cell is None else cell for cell in row] for row in rows])
    return path


def write_text(rng: random.Random, path: Path, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A text table in a dialect that its first line, or its content, shows."""
    out = io.StringIO()
    delimiter = rng.choice(",;\t|")
    out.write(rng.choice(("", "", "# exported by a tool\n", "\n")))
    if not out.getvalue() and rng.random() < 0.2:
        out.write(f"sep={delimiter}\n")
    end = rng.choice(("\n", "\r\n"))
    quoting: Any = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(names)
    writer.writerows(rows)
    if rng.random() < 0.2:
        out.write(delimiter * (len(names) - 1) + end)
    path.write_bytes(out.getvalue().encode(rng.choice(("utf-8", "utf-8-sig", "utf-16"))))


def plain_reading(path: Path) -> list[dict[str, Any]]:
    """The rows of a label file as the standard library and pyarrow read them."""
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    data = path.read_bytes()
    text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    while text.startswith(("#", "\n", "sep=")):
        text = text.partition("\n")[2]
    header = text.splitlines()[0]
    delimiter = max(",;\t|", key=header.count)
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    return [dict(row) for row in table if any(row.values())]


def expected_pairs(path: Path, keys: Sequence[str]) -> set[tuple[str, str]]:
    """The labels above the threshold in a plain reading."""
    by_form = {stored_name(key): key for key in keys}
    pairs = set()
    for row in plain_reading(path):
        cells = {name: cell for name, cell in row.items() if name != "Unnamed: 0"}
        key = by_form[stored_name(cells.pop(next(iter(cells))))]
        if path.stem == "wide":
            pairs |= {(key, name) for name, cell in cells.items() if cell not in (None, "") and int(cell) == 1}
        elif float(cells.pop("score", 1)) > 0.5:
            (concept,) = cells.values()
            pairs.add((key, stored_name(concept)))
    return pairs


def pairs_of(file: LabelFile) -> set[tuple[str, str]]:
    """The labels that `label` would store."""
    numbers, positions = Numbers(str(file.path), 1000), Positions(file.keys)
    batches = read_labels(file.path, keys=file.keys)
    with Piles(len(file.keys), LABEL) as labels, Piles(len(file.keys), LOOKED_AT) as looked_at:
        unknown, n, zero = gather(batches, numbers, positions, 0.5, labels, looked_at, silent)
        refuse_unknown(str(file.path), "d", unknown, n, file.keys, ignore=False, zero=zero)
        table = numbered(numbers, labels, looked_at, file.keys, unknown)
        names = [table.vocabulary.names[i] for i in table.concepts.tolist()]
        return {(file.keys[at], name) for at, name in zip(table.positions.tolist(), names, strict=True)}


@ROUNDS
def test_a_label_file_is_what_plain_python_reads_or_is_refused(tmp_path: Path, rounds: int) -> None:
    refused = 0
    for seed in range(rounds):
        folder = tmp_path / str(seed)
        folder.mkdir()
        file = label_file(random.Random(seed), folder)
        pairs = attempt(lambda file=file: pairs_of(file))
        if file.spoiled:
            assert isinstance(pairs, InvalidInput), (seed, file.path.read_bytes(), pairs)
            assert file.path.name in pairs.message, seed
            refused += 1
        else:
            assert pairs == expected_pairs(file.path, file.keys), (seed, pairs, file.path.read_bytes())
    print(f"\n{rounds} label files: {refused} refused, all others as written")
    assert refused
