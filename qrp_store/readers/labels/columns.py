"""Which column of a table is the key, the concept, the score and the group."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from qrp_store.errors import InvalidInput, near_names
from qrp_store.readers.labels.rows import Source
from qrp_store.samples import shown

KEY, CONCEPT = "key", "concept"
KEY_NAMES = (
    *("key", "image", "image_id", "imageid", "image_name", "image_path", "image_file", "img", "img_name", "img_path"),
    *("file", "filename", "file_name", "filepath", "file_path", "path", "relative_path", "__key__"),
)
CONCEPT_NAMES = (
    *("concept", "concepts", "label", "labels", "class", "class_name", "classname", "classes"),
    *("category", "categories", "tag", "tags"),
)
_LISTED = 12


@dataclass(frozen=True)
class Long:
    """The columns of a long table, by what they hold; "" for none.

    Rows whose `origin` is not `unverified` were checked by somebody.
    """

    key: str
    concept: str
    score: str
    group: str
    origin: str | None = None
    unverified: str = ""

    @property
    def required(self) -> tuple[str, str]:
        return self.key, self.concept

    @property
    def columns(self) -> tuple[str, ...]:
        names = (self.key, self.concept, self.score, self.group, self.origin or "")
        return tuple(name for name in names if name)


def wide_layout(key: str) -> Long:
    """Return the layout of a wide table, of which only the key is fixed."""
    return Long(key, key, "", "")


LONG = Long("key", "concept", "score", "group")
OPEN_IMAGES = Long("ImageID", "LabelName", "Confidence", "", "Source", "machine")


def key_of(source: Source, columns: Sequence[str]) -> str | None:
    """Return the key column: the named one, `key`, or the only one with a usual name; None when that is unclear."""
    return source.table.key or _called(columns, KEY) or _usual(columns, KEY_NAMES)


def usual_concept(columns: Sequence[str]) -> str | None:
    """Return the only column with a usual name for concepts (`label`, `class`, …), or None."""
    return _usual(columns, CONCEPT_NAMES)


def layout_of(source: Source, columns: Sequence[str]) -> Long | None:
    """Return the columns of a long table, or None when its key or its concept is unclear.

    Names from the options count first, then `key` and `concept` in any case, then a pair of usual ones (`image,label`).
    A table that has `key` or `concept` and lacks the other is unclear: the other may be missing.
    """
    options = source.table
    key, concept = _called(columns, KEY), _called(columns, CONCEPT)
    if key is None and (concept is None or options.concept):
        key = _usual(columns, KEY_NAMES)
    if concept is None and (_called(columns, KEY) is None or options.key):
        concept = _usual(columns, CONCEPT_NAMES)
    key, concept = options.key or key, options.concept or concept
    if key is None or concept is None or key == concept:
        return None
    score = options.score or _called(columns, "score") or ""
    group = options.group or _called([name for name in columns if name != concept], "group") or ""
    return Long(key, concept, score, group)


def _called(columns: Sequence[str], name: str) -> str | None:
    """Return the column of this name, or the only one of it in another case."""
    if name in columns:
        return name
    same = [column for column in columns if column.lower() == name]
    return same[0] if len(same) == 1 else None


def _usual(columns: Sequence[str], names: Sequence[str]) -> str | None:
    usual = [column for column in columns if column.lower() in names]
    return usual[0] if len(usual) == 1 else None


def check_columns(source: Source, columns: Sequence[str], layout: Long) -> None:
    """Raise InvalidInput unless the columns of a layout, and those that the options name, exist, each once.

    A column called like one of the dataset's keys shows that the table has no header: naming it would lose a row.
    """
    data = next((name for name in columns if name and name in source.key_set), None)
    if data is not None and layout.required != (KEY, CONCEPT):
        raise no_header(source, data)
    for option, name in source.table.columns.items():
        if name not in columns:
            raise InvalidInput(f"{source}: no column {shown(name, 40)} ({option})", hint=near_names(name, columns))
    missing = [name for name in layout.required if name not in columns]
    if missing:
        raise unknown_table(source, columns, missing)
    twice = [name for name in dict.fromkeys(layout.columns) if columns.count(name) > 1]
    if twice:
        raise InvalidInput(f"{source}: column {twice[0]} appears twice in the header")


def unknown_table(source: Source, columns: Sequence[str], missing: Sequence[str]) -> InvalidInput:
    """Return the error for a table of which it is unclear what its columns are, with options that would read it."""
    data = next((name for name in columns if name and name in source.key_set), None)
    if data is not None:
        return no_header(source, data)
    listed = ", ".join(shown(name, 40) for name in columns[:_LISTED]) + (", …" if len(columns) > _LISTED else "")
    named = [name for name in columns if name]
    hint = "expected columns key and concept (optionally score and group), or key and a column of 0 and 1 a concept"
    if "" in columns:
        hint = "is the column without a name pandas' index? to_csv(…, index_label='key') gives it one; " + hint
    elif len(named) > 1:
        index = next((name for name in named if name.startswith("__index_level_")), named[0])
        key = source.table.key or next((name for name in named if name.lower() in KEY_NAMES), index)
        rest = [name for name in named if name != key]
        concept = next((name for name in rest if name.lower() in CONCEPT_NAMES), rest[0])
        hint += (
            f"; name them: --key-column {_word(key)} --concept-column {_word(concept)}, or --key-column {_word(key)} "
            "alone for a column of 0 and 1 a concept"
        )
    else:
        hint += "; delimiter one of , ; tab |"
    return InvalidInput(f"{source}: no column {' and no column '.join(missing)} (columns: {listed})", hint=hint)


def no_header(source: Source, key: str) -> InvalidInput:
    """Return the error for a table whose first line is a row."""
    return InvalidInput(
        f"{source}: its first line is a row ({shown(key, 40)} is a key of the dataset), not the columns' names",
        hint="put a line with the names before it: key,concept",
    )


def _word(name: str) -> str:
    return shlex.quote(name) if name.isprintable() and len(name) <= 40 else shown(name, 40)
