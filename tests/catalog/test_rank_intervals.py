"""The leaderboard's rank intervals against scipy's paired t test with Holm's correction, on SQLite and Postgres."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from scipy import stats

from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.model import tables as t

Scores = Mapping[str, Mapping[int, float]]
"""NMI by backbone and seed."""


def put(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows with a value in every column that needs one."""
    usual: dict[type, Any] = {str: "", int: 1, bool: False, float: 1.0, object: {}}
    needed = {c.name: usual[c.type.python_type] for c in table.c if not c.nullable and c.name != "pk"}
    connection.execute(table.insert(), [{**needed, **row} for row in rows])


def fill(catalog: Catalog, scores: Scores, setting: str = "s", first: int = 1) -> None:
    """Ready results of these scores, all of one clustering."""
    with catalog.write() as connection:
        if first == 1:
            put(connection, t.dataset, [{"pk": 1, "id": "d", "name": "d", "state": "ready"}])
            made = {"pk": 1, "id": "k", "kind": "clustering", "series": "k", "state": "ready", "version": 1}
            put(connection, t.artifact, [made])
            put(connection, t.clustering, [{"artifact_pk": 1, "dataset_pk": 1}])
        pairs = [(b, seed, nmi) for b, seeds in scores.items() for seed, nmi in seeds.items()]
        artifacts, results = [], []
        for pk, (backbone, seed, nmi) in enumerate(pairs, first + 1):
            artifacts.append({"pk": pk, "id": f"res-{pk}", "kind": "result", "series": f"r{pk}", "state": "writing"})
            about = {"dataset": "d", "backbone": backbone, "concepts": "c", "clusters": 8, "seed": seed}
            about |= {"setting": setting, "protocol": "tight", "nmi": nmi, "entropy_nats": 2.0}
            results.append({"artifact_pk": pk, "dataset_pk": 1, "clustering_pk": 1, **about})
        put(connection, t.artifact, artifacts)
        put(connection, t.result, results)
        ready = t.artifact.update().where(t.artifact.c.state == "writing")
        connection.execute(ready.values(state="ready", version=1))


def board(catalog: Catalog, setting: str = "s") -> dict[str, dict[str, Any]]:
    with catalog.read() as connection:
        rows = connection.execute(sa.text("SELECT * FROM leaderboard WHERE setting = :s"), {"s": setting}).mappings()
        return {row["backbone"]: dict(row) for row in rows}


def expected(scores: Scores) -> dict[str, tuple[int, int]]:
    """The intervals by scipy, for backbones that all share at least three seeds."""
    tested = []
    for one, other in itertools.combinations(sorted(scores), 2):
        common = sorted(scores[one].keys() & scores[other].keys())
        differences = [scores[one][seed] - scores[other][seed] for seed in common]
        tested.append((stats.ttest_1samp(differences, 0).pvalue, one, other, np.mean(differences)))
    better, worse = dict.fromkeys(scores, 0), dict.fromkeys(scores, 0)
    for done, (p, one, other, mean) in enumerate(sorted(tested)):
        if p * (len(tested) - done) > 0.05:
            break
        winner, loser = (one, other) if mean > 0 else (other, one)
        better[loser] += 1
        worse[winner] += 1
    return {name: (1 + better[name], len(scores) - worse[name]) for name in scores}


def drawn(rng: np.random.Generator, backbones: int, seeds: int, apart: float) -> Scores:
    common = rng.normal(0, 0.02, seeds)
    return {
        f"b{number:02}": {s: 0.3 + apart * number + common[s] + rng.normal(0, 0.01) for s in range(seeds)}
        for number in range(backbones)
    }


def test_the_intervals_are_those_of_paired_t_tests_with_holms_correction(catalog: Catalog) -> None:
    rng, first = np.random.default_rng(0), 1
    widths = set()
    for case, (backbones, seeds, apart) in enumerate(itertools.product((2, 6), (3, 4, 5, 8), (0.0, 0.02))):
        scores = drawn(rng, backbones, seeds, apart)
        fill(catalog, scores, f"s{case}", first)
        first += backbones * seeds
        found = {name: (row["rank_lo"], row["rank_hi"]) for name, row in board(catalog, f"s{case}").items()}
        assert found == expected(scores)
        widths |= {hi - lo for lo, hi in found.values()}
    assert {0, 1, 5} <= widths


def test_two_common_seeds_give_no_interval_and_an_untested_pair_no_difference(catalog: Catalog) -> None:
    few = {"a": {0: 0.5, 1: 0.5}, "b": {0: 0.1, 1: 0.1}}
    fill(catalog, few)
    assert {(row["rank_lo"], row["rank_hi"]) for row in board(catalog).values()} == {(None, None)}
    mixed = {"a": {0: 0.5, 1: 0.51, 2: 0.52}, "b": {0: 0.1, 1: 0.12, 2: 0.11}, "c": {7: 0.9}}
    fill(catalog, mixed, "mixed", 10)
    rows = board(catalog, "mixed")
    assert {name: (row["rank_lo"], row["rank_hi"]) for name, row in rows.items()} == {
        "a": (1, 2),
        "b": (2, 3),
        "c": (None, None),
    }
    fill(catalog, {"only": {0: 0.1, 1: 0.2, 2: 0.3}}, "alone", 20)
    assert (board(catalog, "alone")["only"]["rank_lo"], board(catalog, "alone")["only"]["rank_hi"]) == (1, 1)


def test_exact_ties_and_constant_differences(catalog: Catalog) -> None:
    base = {0: 0.5, 1: 0.25, 2: 0.75}
    fill(catalog, {"a": base, "b": base, "c": {s: nmi + 0.125 for s, nmi in base.items()}})
    rows = board(catalog)
    assert {name: (row["rank_lo"], row["rank_hi"]) for name, row in rows.items()} == {
        "a": (2, 3),
        "b": (2, 3),
        "c": (1, 1),
    }


def test_standard_error_entropy_and_failures(catalog: Catalog) -> None:
    fill(catalog, {"a": {0: 0.1, 1: 0.2, 2: 0.6}, "b": {0: 0.1}})
    rows = board(catalog)
    assert rows["a"]["nmi_se"] == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1) / np.sqrt(3))
    assert rows["b"]["nmi_se"] is None
    assert rows["a"]["entropy_mean"] == 2
    assert rows["a"]["effective_clusters_mean"] == pytest.approx(np.exp(2))
    assert rows["a"]["n_failed"] == 0


def test_six_exchangeable_copies_are_told_apart_in_at_most_5_percent(catalog: Catalog) -> None:
    rng, cases = np.random.default_rng(1), 200
    for case in range(cases):
        fill(catalog, drawn(rng, 6, 3 + 2 * (case % 2), 0.0), f"s{case}", 1 + 100 * case)
    with catalog.read() as connection:
        query = "SELECT setting FROM leaderboard GROUP BY setting HAVING max(rank_lo) > 1 OR min(rank_hi) < 6"
        told_apart = len(connection.execute(sa.text(query)).all())
    assert told_apart <= cases * 0.05 + 2 * np.sqrt(cases * 0.05 * 0.95)


def test_a_hundred_backbones_have_ranks_that_agree_with_their_order(catalog: Catalog) -> None:
    fill(catalog, drawn(np.random.default_rng(2), 100, 5, 0.001))
    rows = board(catalog)
    assert len(rows) == 100
    assert all(
        1 <= row["rank_lo"] <= row["rank_hi"] <= 100 for row in (rows.values() if isinstance(rows, dict) else rows)
    )
