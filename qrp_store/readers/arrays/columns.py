"""Roles of a table's columns: which form the vector, which holds the rows' keys, and which are left out.

A column of keys, row numbers, ids or classes is never part of a vector. Where the names do not settle it, the file is
refused until `--field` names the vector's columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from qrp_store.errors import InvalidInput
from qrp_store.samples import shown

KEY_NAMES = (
    *("key", "keys", "filename", "filenames", "file_name", "file_names", "image_path", "path", "paths"),
    *("image_paths", "img_path", "img_paths", "filepath", "filepaths", "file_path", "file_paths", "__key__"),
    *("file", "files", "image", "images", "img", "image_file", "image_name", "image_names", "img_name"),
    *("url", "urls", "image_url", "uri", "sample_id", "sample_ids", "sample", "image_id", "image_ids", "img_id"),
    *("uid", "uids", "uuid", "id", "ids", "name", "names"),
)
"""Names of a column or array of keys, in order of preference; case does not count."""
_SURE_KEY_NAMES = frozenset(KEY_NAMES) - {
    *("image", "images", "img", "image_file", "file", "files", "name", "names", "sample"),
    *("url", "urls", "uri", "image_url"),
}
"""Names that leave no doubt, whatever the column's type: others also name images themselves."""
_ROW_NUMBER = re.compile(
    r"|unnamed:?[ _]?\d+(_level_\d+)?|__index_level_\d+__|index|idx|row|rows|rowid|row_number|rownames|no|nr|number|#"
)
_ASIDE = re.compile(
    r".*_(id|ids|idx|index)|(.*_)?(labels?|targets?|class|classes|category|categories|split|fold|cluster)"
    r"|y|gt|ground_truth|group|subset|part|masked|selected"
)
_NUMBERED = re.compile(r"(.*?)(\d+)", re.DOTALL)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    `kind`: "list" (a vector per row), "integer", "float", "text", "bytes", "scalar" (truth values, times) or "other".
    """

    name: str
    kind: str

    @property
    def is_number(self) -> bool:
        return self.kind in ("integer", "float")


@dataclass(frozen=True)
class Columns:
    """The roles of a table's columns, by name; `key` is None where no column holds keys."""

    vector: tuple[str, ...]
    key: str | None
    left_out: tuple[str, ...]


def key_name(names: Sequence[str]) -> str | None:
    """The name that stands for the rows' keys: the one that comes first in `KEY_NAMES`; None without any."""
    plain = {_plain(name): name for name in reversed(names)}
    return next((plain[name] for name in KEY_NAMES if name in plain), None)


def is_key_name(name: str) -> bool:
    return _plain(name) in KEY_NAMES


def choose_columns(
    path: Path,
    columns: Sequence[Column],
    field: str | None,
    key_column: str | None,
    *,
    keyed: bool = False,
    index: Collection[str] = (),
    has_row_numbers: Callable[[str], bool],
) -> Columns:
    """The roles of a table's columns.

    `field` names the vector: a column of lists, columns of numbers separated by commas, or what their names begin
    with. `keyed`: the keys come from elsewhere. `index` are the columns that pandas recorded as the table's index.
    `has_row_numbers(name)` reads a column of numbers: whether it is 0…n-1 or 1…n. Raises InvalidInput, naming the
    columns, where a role is unclear.
    """
    names = [column.name for column in columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(f"{path}: two columns are called {shown(twice)}", hint="rename one of them")
    exact = _named_exactly(columns, field)
    key = choose_key(path, [column for column in columns if column.name not in exact], key_column, index)
    others = [column for column in columns if column.name != key]
    keyed_by = keyed or key is not None or key_column is not None
    if field is not None:
        vector = exact or _beginning_with(path, others, field)
    else:
        vector = _vector(path, others, keyed_by, index, has_row_numbers)
    key = None if keyed else key
    left_out = tuple(name for name in names if name != key and name not in vector)
    return Columns(tuple(vector), key, left_out)


def summary(columns: Columns, *, keyed: bool = False) -> str:
    """The roles in one line; `keyed`: the keys come from another file."""
    vector = ", ".join(columns.vector) if len(columns.vector) < 4 else f"{columns.vector[0]} … {columns.vector[-1]}"
    key = "none (rows are numbered from 0)" if columns.key is None else _shown(columns.key)
    key = "from --keys" if keyed else key
    left_out = ", ".join(map(_shown, columns.left_out[:20])) + (", …" if len(columns.left_out) > 20 else "")
    count = f"{len(columns.vector)} column{'s' if len(columns.vector) != 1 else ''}"
    return f"columns: vector {vector} ({count}); key {key}; left out {left_out or 'none'}"


def _shown(name: str) -> str:
    return name if name.isprintable() and name.strip() == name and 0 < len(name) < 60 else shown(name)


def _plain(name: str) -> str:
    return re.sub(r"[ \-]+", "_", name.strip().lower())


def choose_key(
    path: Path, columns: Sequence[Column], key_column: str | None, index: Collection[str] = ()
) -> str | None:
    """The column of keys; texts go before numbers, and a text index of pandas comes last. `key_column` "-": none."""
    if key_column is not None:
        if key_column == "-":
            return None
        if key_column not in [column.name for column in columns]:
            names = ", ".join(_shown(column.name) for column in columns[:20])
            raise InvalidInput(f"{path}: no column {shown(key_column)} for the keys", hint=f"its columns: {names}")
        return key_column
    texts = [column.name for column in columns if column.kind == "text"]
    numbers = [column.name for column in columns if column.is_number]
    encoded = [column.name for column in columns if column.kind == "bytes" and is_sure_key_name(column.name)]
    key = key_name(texts) or key_name(numbers) or key_name(encoded) or next((n for n in texts if n in index), None)
    if key is None:
        refuse_odd_keys(path, [column.name for column in columns if column.kind == "scalar"])
    return key


def is_sure_key_name(name: str) -> bool:
    """Return whether a name is that of keys and of nothing else."""
    return _plain(name) in _SURE_KEY_NAMES


def refuse_odd_keys(path: Path, names: Sequence[str]) -> None:
    """Raise InvalidInput for a column of keys among columns of other types than text and numbers."""
    odd = next((name for name in names if is_sure_key_name(name)), None)
    if odd is not None:
        raise InvalidInput(
            f"{path}: column {shown(odd)} holds neither texts nor whole numbers, which keys are",
            hint="write it as text, name another column with --key-column, or number the rows with --key-column -",
        )


def _named_exactly(columns: Sequence[Column], field: str | None) -> tuple[str, ...]:
    """The columns that `field` names in full, one or several separated by commas; empty when it names none so."""
    if field is None:
        return ()
    usable = [column.name for column in columns if column.is_number or column.kind == "list"]
    if field in usable:
        return (field,)
    names = [name.strip() for name in field.split(",")]
    numbers = {column.name for column in columns if column.is_number}
    return tuple(dict.fromkeys(names)) if len(names) > 1 and numbers.issuperset(names) else ()


def _beginning_with(path: Path, columns: Sequence[Column], field: str) -> list[str]:
    """The columns of numbers whose names begin with `field`, or with one of its parts separated by commas."""
    prefixes = (field, *(part.strip() for part in field.split(",") if part.strip()))
    fitting = [column for column in columns if any(column.name.startswith(prefix) for prefix in prefixes)]
    numbers = [column.name for column in fitting if column.is_number]
    chosen = [name for name in numbers if not _is_aside(name)] or numbers
    if not chosen:
        usable = [column.name for column in columns if column.is_number or column.kind == "list"]
        listed = ", ".join(map(_shown, usable[:10])) + (", …" if len(usable) > 10 else "")
        raise InvalidInput(f"{path}: holds no array {field!r}", hint=f"it holds: {listed or 'no numbers'}")
    _refuse_holes(path, columns, chosen)
    return chosen


def _vector(
    path: Path,
    columns: Sequence[Column],
    has_keys: bool,
    index: Collection[str],
    has_row_numbers: Callable[[str], bool],
) -> list[str]:
    rows = [c for c in columns if c.is_number and (c.name in index or _ROW_NUMBER.fullmatch(_plain(c.name)))]
    if not has_keys:
        lost = [column.name for column in rows if not has_row_numbers(column.name)]
        if lost:
            _refuse_unclear(path, lost, "do they number the rows of a larger table, and are they the keys?")
    lists = [column.name for column in columns if column.kind == "list"]
    if len(lists) > 1:
        names = ", ".join(map(_shown, lists[:10]))
        raise InvalidInput(f"{path}: holds {len(lists)} arrays", hint=f"choose with --field: {names}")
    if lists:
        return lists
    aside = [column for column in columns if column.is_number and (column in rows or _is_aside(column.name))]
    plain = [column for column in columns if column.is_number and column not in aside]
    if not plain:
        _refuse_empty(path, columns, aside)
    series = _in_series([column.name for column in plain])
    if series and len(series) < len(plain) <= 2 * len(series):
        others = [column.name for column in plain if column.name not in series]
        _refuse_unclear(path, others, "are they part of the vector, whose other columns are numbered?")
    if len(series) < len(plain):
        unclear = [c.name for c in aside if c.name not in index and not (c in rows and has_row_numbers(c.name))]
        unclear += [c.name for c in plain if c.kind == "integer" and has_row_numbers(c.name)]
        if unclear:
            _refuse_unclear(path, unclear, "row numbers, ids or classes, or part of the vector?")
    _refuse_holes(path, columns, [column.name for column in plain])
    return [column.name for column in plain]


def _is_aside(name: str) -> bool:
    """Whether a name is that of row numbers, ids, keys or classes."""
    plain = _plain(name)
    return plain in KEY_NAMES or _ROW_NUMBER.fullmatch(plain) is not None or _ASIDE.fullmatch(plain) is not None


def _in_series(names: Sequence[str]) -> set[str]:
    """The names that are numbered: at least two that differ in the number at their end alone."""
    stems: dict[str, list[str]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is not None:
            stems.setdefault(match[1], []).append(name)
    return {name for same in stems.values() if len(same) > 1 for name in same}


def _refuse_holes(path: Path, columns: Sequence[Column], chosen: Sequence[str]) -> None:
    """Raise InvalidInput for a column without numbers among numbered ones."""
    stems = {match[1] for name in chosen if (match := _NUMBERED.fullmatch(name)) is not None}
    for column in columns:
        match = _NUMBERED.fullmatch(column.name)
        if match is not None and match[1] in stems and column.kind in ("text", "bytes", "scalar", "other"):
            raise InvalidInput(
                f"{path}: column {_shown(column.name)} holds other things than numbers",
                hint="mend its cells (empty ones may stay), or leave it out: --field names the vector's columns",
            )


def _refuse_empty(path: Path, columns: Sequence[Column], aside: Sequence[Column]) -> None:
    if aside:
        _refuse_unclear(path, [column.name for column in aside], "row numbers, ids or classes, or the vector?")
    listed = ", ".join(f"{_shown(column.name)} ({column.kind})" for column in columns[:10])
    hint = f"expected a column of lists of numbers, or columns of numbers; it has: {listed or 'none'}"
    if any(column.kind == "text" for column in columns):
        hint += "; vectors written as text in one cell cannot be read: save them as .npy or Parquet"
    raise InvalidInput(f"{path}: no column holds vectors", hint=hint)


def _refuse_unclear(path: Path, names: Sequence[str], what: str) -> None:
    listed = ", ".join(map(shown, names[:10])) + (", …" if len(names) > 10 else "")
    raise InvalidInput(
        f"{path}: column{'s' if len(names) > 1 else ''} {listed}: {what}",
        hint="--field PREFIX or --field A,B,… names the vector's columns; --key-column C the keys (-: row numbers)",
    )
