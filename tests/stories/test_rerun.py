"""A result computed again from its row alone."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from qrp_store.catalog.model.values import TABLES, ResultValues, entries
from qrp_store.errors import InvalidInput, NotFound
from qrp_store.evaluate import evaluate
from qrp_store.evaluate.rerun import rerun
from qrp_store.store import Store, open_store

STORED = {
    "results": "result",
    "cluster_scores": "cluster_score",
    "cluster_concepts": "cluster_concept",
    "group_scores": "group_score",
    "concept_scores": "concept_score",
}
WAYS: list[dict[str, Any]] = [
    {"epochs": 3, "bootstrap": 40},
    {"epochs": 2, "permute": True, "labelled_only": True, "min_count": 2, "ablate": True},
    {"epochs": 2, "permutations": 3, "bootstrap": 0},
    {"protocol": "tight", "bootstrap": 0},
    {"solver": "lbfgs", "weight_decay": 1e-3, "concepts": ["loose+named"], "seeds": [3]},
]


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_every_number_comes_out_equal(apples: Store, options: dict[str, Any]) -> None:
    asked = {"concepts": ["named"], "backbones": ["blurred"], "k": [9], **options}
    (result,) = evaluate(apples, dataset="fruit", **asked).results
    before = torch.get_num_threads()
    report = rerun(apples, result.id)
    assert (report.equal, report.agrees, report.tolerance, report.differences) == (True, True, 0, ())
    assert report.nmi == result.nmi
    assert report.n_compared > 20
    assert torch.get_num_threads() == before


def test_as_many_threads_as_the_first_time(apples: Store) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        (result,) = evaluate(apples, dataset="fruit", imported=["combined"], concepts=["named"], epochs=2).results
        torch.set_num_threads(1)
        report = rerun(apples, result.id)
    finally:
        torch.set_num_threads(before)
    assert (report.threads, report.equal) == (2, True)


def forged(store: Store, folder: Path, *statements: str) -> Store:
    """A copy of the store in which somebody got past the triggers."""
    shutil.copytree(Path(str(store.location.directory)), folder)
    with closing(sqlite3.connect(folder / "catalog.db")) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return open_store(str(folder))


def test_a_number_that_was_changed_is_found(apples: Store, tmp_path: Path) -> None:
    (result,) = evaluate(apples, dataset="fruit", imported=["combined"], concepts=["named"], epochs=2).results
    with forged(apples, tmp_path / "forged", "UPDATE result SET nmi = nmi + 0.0001") as store:
        report = rerun(store, result.id)
    (difference,) = report.differences
    assert difference.name == "nmi"
    assert difference.recomputed == result.nmi
    assert difference.difference == pytest.approx(1e-4)
    assert (report.equal, report.agrees) == (False, False)


def test_every_value_that_was_changed_is_found(apples: Store, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 2, "permutations": 2, "bootstrap": 20, "ablate": True}
    (result,) = evaluate(apples, dataset="fruit", imported=["combined"], concepts=["named"], **options).results
    for view, table in STORED.items():
        for entry in entries(TABLES.get(view, ResultValues)):
            if not entry.about.stored or not entry.about.checked or entry.about.key:
                continue
            changed = f"{entry.name} || 'x'" if entry.kind is str else f"1 - {entry.name}"
            name = entry.name if view == "results" else f"{view}.{entry.name}"
            with forged(apples, tmp_path / name, f"UPDATE {table} SET {entry.name} = {changed}") as store:
                report = rerun(store, result.id)
            assert name in [difference.name for difference in report.differences]
            assert not report.agrees
            shutil.rmtree(tmp_path / name)


def test_under_another_version_scores_agree_within_a_tolerance(apples: Store, tmp_path: Path) -> None:
    (result,) = evaluate(apples, dataset="fruit", imported=["combined"], concepts=["named"], epochs=2).results
    older = (
        "UPDATE artifact SET provenance = replace(provenance, '\"torch\": \"', '\"torch\": \"0.') WHERE kind = 'result'"
    )
    for shift, agrees in ((0.0001, True), (0.01, False)):
        moved = f"UPDATE result SET mi_nats = mi_nats + {shift}"
        with forged(apples, tmp_path / str(shift), older, moved) as store:
            report = rerun(store, result.id)
        assert (report.equal, report.agrees, report.tolerance) == (False, agrees, 1e-3)


def test_what_is_no_result_is_refused(apples: Store) -> None:
    with pytest.raises(InvalidInput, match="is a dataset, not a result"):
        rerun(apples, "fruit")
    with pytest.raises(NotFound):
        rerun(apples, "res-0")
