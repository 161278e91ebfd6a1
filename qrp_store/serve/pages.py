"""What all pages share: parts of lists, pictures, the page of errors, of jobs and of SQL."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from qrp_store.catalog.overview import listing as lists
from qrp_store.errors import InvalidInput, QrpStoreError
from qrp_store.records import Table
from qrp_store.rendering import site
from qrp_store.serve.reader import Reader

Query = Mapping[str, str]
Names = Mapping[str, Any]
"""What the address names: dataset, result, cluster, position."""


@dataclass(frozen=True)
class Slice:
    """A page of a list: `number` from 1 to `last`, `total` items in all."""

    number: int
    last: int
    total: int
    size: int

    @property
    def span(self) -> slice:
        return slice((self.number - 1) * self.size, self.number * self.size)


def sliced(query: Query, total: int, size: int) -> Slice:
    """The page that ?page= names. Raises InvalidInput for what is no number of a page."""
    text = query.get("page", "1")
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidInput(f"page {text[:40]!r} is not a number")
    last = max(1, math.ceil(total / size))
    return Slice(min(max(1, int(text)), last), last, total, size)


def urls(path: str, query: Query) -> Callable[[int], str]:
    """The address of another page of the same list."""
    return lambda number: f"{path}?{urlencode({**query, 'page': number})}"


def shown(reader: Reader, name: str, **content: Any) -> str:
    """Return the HTML of a page."""
    from qrp_store import __version__

    return site.page(name, store=reader.store.name, version=__version__, **content)


def picture(position: int, keys: Mapping[int, str], note: str = "") -> dict[str, Any]:
    """A thumbnail for the templates; `note` is shown under it."""
    return {"position": position, "key": keys.get(position, ""), "note": note}


def jobs_now(reader: Reader) -> list[dict[str, Any]]:
    """Jobs that are not failed, newest last."""
    return [job for job in lists.listing(reader.store.catalog, "jobs").named() if job["state"] != "failed"]


def jobs(reader: Reader, names: Names, query: Query) -> str:
    return shown(reader, "jobs", jobs=jobs_now(reader))


def sql(
    reader: Reader,
    query: str,
    table: Table | None,
    truncated: bool,
    error: str | None,
    questions: Sequence[tuple[str, str]],
    limit: int,
    seconds: float,
) -> str:
    """The query page: the question, its rows or its error, and questions to start from."""
    columns, rows = (None, ()) if table is None else (table.columns, [list(map(_cell, row)) for row in table.rows])
    content = {"q": query, "columns": columns, "rows": rows, "truncated": truncated, "error": error}
    return shown(reader, "sql", questions=questions, limit=limit, seconds=f"{seconds:g}", **content)


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def failure(reader: Reader, heading: str, error: QrpStoreError) -> str:
    """A page for an error."""
    return shown(reader, "error", heading=heading, message=error.message, hint=error.hint)
