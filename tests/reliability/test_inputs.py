"""Tables, tars and folders in random variations, against what was put into them: the same rows, or a refusal."""

from __future__ import annotations

import csv
import io
import random
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qrp_store.errors import InvalidInput
from qrp_store.images import read_image
from qrp_store.ingest.arrays import ArrayRows
from qrp_store.readers.image_lists import list_image_source

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
