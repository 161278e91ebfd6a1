"""CelebA's attributes: -1 and 1, as the published text or as Kaggle's CSV."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.rows import Batch, LabelRows, Source, Term
from qrp_store.readers.labels.text_tables import encoding_of, not_utf8
from qrp_store.readers.labels.wide_tables import add_cells, read_wide_csv, read_wide_json_lines, read_wide_parquet

_SIGNS = {"1": 1.0, "-1": 0.0}


def read_celeba(source: Source) -> Iterator[LabelRows]:
    """Attributes that hold (1) or not (-1), one column each; every pair was looked at.

    The published text counts its images in the first line and names the attributes in the second; Kaggle's CSV and
    tables like it have `image_id` and a column an attribute.
    """
    table = (
        source.table if source.table.true or source.table.false else replace(source.table, true=("1",), false=("-1",))
    )
    signed = replace(source, table=table)
    ending = source.path.suffix.lower()
    if ending == ".parquet":
        return read_wide_parquet(signed)
    if ending in (".jsonl", ".ndjson"):
        return read_wide_json_lines(signed)
    if ending == ".txt" and _counted(source):
        return _read_text(source)
    return read_wide_csv(signed)


def _counted(source: Source) -> bool:
    with source.path.open(encoding=encoding_of(source.path), errors="replace") as file:
        return file.readline(100).strip().isdecimal()


def _read_text(source: Source) -> Iterator[LabelRows]:
    batch = Batch(source, scored=True)
    terms: list[Term] = []
    count = number = 0
    try:
        with source.path.open(encoding=encoding_of(source.path)) as file:
            count = int(file.readline(100))
            terms = [(batch.term("line 2", name), source.group) for name in file.readline(1 << 20).split()]
            for number, line in enumerate(file, start=1):
                place = f"line {number + 2}"
                words = line.split()
                if not words:
                    number -= 1
                    continue
                if len(words) != len(terms) + 1:
                    raise InvalidInput(f"{source}: {place}: {len(words) - 1} values, but {len(terms)} attributes")
                other = next((word for word in words[1:] if word not in _SIGNS), None)
                if other is not None:
                    raise InvalidInput(f"{source}: {place}: {other!r} is neither 1 nor -1")
                values = [(name, _SIGNS[word]) for (name, _), word in zip(terms, words[1:], strict=True)]
                add_cells(batch, place, batch.text(place, "key", words[0]), values)
                if batch.full:
                    yield batch.take(terms)
    except UnicodeError as error:
        raise not_utf8(source) from error
    if number != count:
        raise InvalidInput(f"{source}: line 1 announces {count} images, but {number} follow", hint="is the file cut?")
    yield batch.take(terms)
