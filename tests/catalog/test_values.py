"""A value of a result exists once: tables, views and the page of the views are what the registry says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qrp_store.catalog.model import tables as t
from qrp_store.catalog.model.values import TABLES, Entry, ResultValues, entries

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sql.md").read_text(encoding="utf-8")
KINDS = {str: "text", int: "integer", float: "number", bool: "truth value"}
STORED = {
    "results": t.result,
    "cluster_scores": t.cluster_score,
    "cluster_concepts": t.cluster_concept,
    "group_scores": t.group_score,
    "concept_scores": t.concept_score,
}


def of(view: str) -> tuple[Entry, ...]:
    return entries(TABLES.get(view, ResultValues))


@pytest.mark.parametrize("view", STORED)
def test_the_page_of_the_views_explains_every_value(view: str) -> None:
    _, section = PAGE.split("## The values of a result")
    _, begin, part = section.partition("As in `results`" if view == "results" else f"Those of `{view}`:")
    assert begin
    rows = re.findall(r"^\| `(\w+)` \| ([\w ]+) \| (.*) \|$", re.split(r"\n\nThose of|\n## ", part)[0], flags=re.M)
    expected = [(e.name, KINDS[e.kind] + " or null" * e.nullable, e.about.meaning) for e in of(view)]
    assert rows == expected


@pytest.mark.parametrize("view", STORED)
def test_the_table_has_a_column_for_every_stored_value(view: str) -> None:
    for entry in of(view):
        assert (entry.name in STORED[view].c) == entry.about.stored
        if entry.about.stored and not entry.about.key:
            assert STORED[view].c[entry.name].nullable == (entry.nullable or entry.about.young)
