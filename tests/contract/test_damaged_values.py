"""A value in the catalog that nobody of this package wrote: exit 6 with the store's name, never a traceback."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

VALUES = {"bytes": "CAST(x'7bff7d' AS TEXT)", "json": "'{\"options\":'", "nested": "printf('%.*c', 200000, '[')"}


@pytest.mark.parametrize("kind", VALUES)
def test_a_damaged_spec_is_exit_6(qrp: Any, own: Path, kind: str) -> None:
    with closing(sqlite3.connect(own / "catalog.db")) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(f"UPDATE artifact SET spec = {VALUES[kind]}")
        connection.commit()
    for words in (
        ("show", "photos/sharp"),
        ("gc",),
        ("cluster", "--dataset", "photos", "--backbone", "sharp", "-k", 5),
    ):
        message = qrp.fails(6, *words, store=own)
        assert str(own) in message
        assert "damaged" in message
