"""The database's clock, the only one that leases and dates are read from."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Float, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement


class now_seconds(FunctionElement[float]):
    """Seconds since 1970 as a float."""

    type = Float()
    inherit_cache = True


class now_text(FunctionElement[str]):
    """UTC in ISO 8601 with milliseconds, e.g. 2026-01-31T12:00:00.000Z."""

    type = Text()
    inherit_cache = True


@compiles(now_seconds, "sqlite")
def _(element: Any, compiler: Any, **kwargs: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now_seconds, "postgresql")
def _(element: Any, compiler: Any, **kwargs: Any) -> str:
    return "extract(epoch FROM clock_timestamp())::float8"


@compiles(now_text, "sqlite")
def _(element: Any, compiler: Any, **kwargs: Any) -> str:
    return "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"


@compiles(now_text, "postgresql")
def _(element: Any, compiler: Any, **kwargs: Any) -> str:
    return "to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
