"""From one store into another and back: the same fingerprints, numbers and bytes; what does not fit is refused."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from qrp_store.arrays import blocked as arrays
from qrp_store.catalog.lifecycle import lease
from qrp_store.catalog.overview import transfer
from qrp_store.cluster import cluster
from qrp_store.cluster.imported import import_clustering
from qrp_store.errors import Busy, Corrupt, InvalidInput, NotFound
from qrp_store.evaluate import evaluate
from qrp_store.ingest import ingest
from qrp_store.label import label
from qrp_store.maintenance import copy as story
from qrp_store.maintenance.copy import CopyReport, copy
from qrp_store.maintenance.gc import gc
from qrp_store.maintenance.removal import retire, verify
from qrp_store.store import Store, create_store, open_store

N = 300
VIEWS = {
    "embeddings": "id, dataset, backbone, version, n, dim, dtype, created_at, created_by",
    "labels": "dataset, concepts, version, key, concept, concept_group, score",
    "assignments": "dataset, backbone, clusters, seed, clustering_id, version, key, cluster, part",
    "results": "id, fingerprint, version, clustering_id, concepts, setting, nmi, nmi_ci_lo, train_loss, created_by",
    "cluster_scores": "*",
    "cluster_concepts": "*",
    "forward_scores": "*",
    "curve_scores": "*",
    "threshold_scores": "*",
    "reference_scores": "*",
    "leaderboard": "*",
}


def contents(store: Store) -> dict[str, list[str]]:
    """Every row that a person sees, in one order."""
    return {
        view: sorted(map(repr, map(_plain, store.sql(f"SELECT {what} FROM {view}").table.rows)))
        for view, what in VIEWS.items()
    }


def _plain(row: tuple[object, ...]) -> tuple[object, ...]:
    """Numbers as both databases give them: SQLite knows no booleans."""
    return tuple(
        int(value) if isinstance(value, bool) else float(f"{value:.12g}") if isinstance(value, float) else value
        for value in row
    )


def _new(path: Path) -> Store:
    create_store(str(path))
    return open_store(str(path))


@pytest.fixture
def rows(tmp_path: Path) -> np.ndarray:
    group = np.random.default_rng(3).integers(5, size=N)
    values = np.random.default_rng(4).normal(size=(N, 6)) + group[:, None]
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        pairs = [(i, f"<g {g}%>", 0.9, "of five") for i, g in enumerate(group)]
        csv.writer(file).writerows([("key", "concept", "score", "group"), *pairs])
    np.save(tmp_path / "groups.npy", group)
    return values.astype(np.float32)


@pytest.fixture
def laptop(tmp_path: Path, rows: np.ndarray) -> Store:
    """A store with everything: a bad row, an imported clustering, two results."""
    store = _new(tmp_path / "laptop")
    np.save(tmp_path / "x.npy", np.where(np.arange(N)[:, None] == 7, np.nan, rows))
    ingest(store, str(tmp_path / "x.npy"), dataset="d", backbone="b", block_rows=64, skip_bad=True)
    label(store, str(tmp_path / "labels.csv"), dataset="d", concepts="c")
    import_clustering(store, str(tmp_path / "groups.npy"), dataset="d", name="five")
    evaluate(store, dataset="d", backbones=["b"], imported=["five"], k=(4,), epochs=2, bootstrap=10)
    return store


def result_of(store: Store, backbone: str) -> str:
    (row,) = store.sql("SELECT id FROM results WHERE backbone = ?", (backbone,))
    return str(row["id"])


def kinds(rows: tuple[dict[str, object], ...]) -> list[object]:
    return [row["kind"] for row in rows]


def test_into_postgres_and_s3_and_back_everything_is_the_same(
    laptop: Store, tmp_path: Path, new_database: Callable[[], str], new_bucket: Callable[[], str]
) -> None:
    url = new_database()
    create_store(url, f"{new_bucket()}/team")
    with open_store(url) as team, _new(tmp_path / "home") as home:
        there = copy(laptop, team, "d")
        assert kinds(there.copied) == ["embedding", "concepts", "clustering", "clustering", "result", "result"]
        assert there.blocks == {"total": 5, "written": 5, "reused": 0}
        assert copy(laptop, team, "d").cached
        assert copy(team, home, "d").copied == there.copied
        assert contents(laptop) == contents(team) == contents(home)
        for store in (team, home):
            assert verify(store, deep=True).problems == ()
            assert np.array_equal(store.embedding("d", "b")[:], laptop.embedding("d", "b")[:], equal_nan=True)
        # what was copied is what would be computed: nothing is made twice
        again = evaluate(team, dataset="d", backbones=["b"], imported=["five"], k=(4,), epochs=2, bootstrap=10)
        assert [r.cached for r in again.results] == [True, True]


def test_a_result_brings_what_it_was_made_from_and_nothing_else(laptop: Store, tmp_path: Path) -> None:
    with _new(tmp_path / "team") as team:
        assert kinds(copy(laptop, team, "c").copied) == ["concepts"]
        report = copy(laptop, team, result_of(laptop, "five"))
        assert kinds(report.found) == ["concepts"]
        assert kinds(report.copied) == ["clustering", "result"]
        report = copy(laptop, team, result_of(laptop, "b"))
        assert kinds(report.copied) == ["embedding", "clustering", "result"]
        assert contents(team) == contents(laptop)
        with pytest.raises(NotFound, match="nothing here is called"):
            copy(laptop, team, "no-such-thing")


def test_a_name_that_means_something_else_there_is_refused_before_anything_is_written(
    laptop: Store, rows: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "y.npy", rows + 1)
    with _new(tmp_path / "numbers") as other:
        ingest(other, str(tmp_path / "y.npy"), dataset="d", backbone="b")
        before = contents(other)
        with pytest.raises(InvalidInput, match=r"'d/b' version 1 is something else .* content: .* there, .* here"):
            copy(laptop, other, "d")
        assert contents(other) == before
        assert other.sql("SELECT * FROM labels").table.rows == []
    with _new(tmp_path / "keys") as other:
        np.save(tmp_path / "fewer.npy", rows[:100])
        ingest(other, str(tmp_path / "fewer.npy"), dataset="d", backbone="b")
        with pytest.raises(InvalidInput, match="position 100: nothing there, '100' here"):
            copy(laptop, other, "c")
    with _new(tmp_path / "model") as other:
        np.save(tmp_path / "narrow.npy", rows[:, :3])
        ingest(other, str(tmp_path / "narrow.npy"), dataset="d", backbone="b")
        with pytest.raises(InvalidInput, match="dim: 3 there, 6 here"):
            copy(laptop, other, "b")


def test_a_grouping_computed_with_other_bytes_elsewhere_is_refused(laptop: Store, tmp_path: Path) -> None:
    with _new(tmp_path / "team") as team:
        (embedding,) = laptop.sql("SELECT id FROM embeddings")
        copy(laptop, team, embedding["id"])
        theirs = cluster(team, dataset="d", backbone="b", k=4)
        assert copy(laptop, team, "d").found[1]["id"] == theirs.id  # the same bytes
    with _new(tmp_path / "elsewhere") as team:
        copy(laptop, team, embedding["id"])
        theirs = cluster(team, dataset="d", backbone="b", k=4)
        with team.catalog.write() as connection:
            connection.exec_driver_sql("UPDATE clustering SET centroids_checksum = 'another'")
        with pytest.raises(InvalidInput, match=f"{theirs.id}.*other bytes: centroids"):
            copy(laptop, team, result_of(laptop, "b"))


def test_what_is_retired_is_not_copied_and_not_written_over(laptop: Store, tmp_path: Path) -> None:
    with _new(tmp_path / "team") as team:
        copy(laptop, team, "d")
        retire(team, result_of(team, "b"), yes=True)
        with pytest.raises(InvalidInput, match="was retired in"):
            copy(laptop, team, "d")
    retire(laptop, "five", cascade=True, yes=True)
    with _new(tmp_path / "second") as team:
        assert kinds(copy(laptop, team, "d").copied) == ["embedding", "concepts", "clustering", "result"]


def test_the_same_rows_under_a_later_version_are_found(laptop: Store, tmp_path: Path) -> None:
    with _new(tmp_path / "team") as team:
        copy(laptop, team, "d")
        clustering = laptop.sql("SELECT id FROM clusterings WHERE backbone = 'b'")[0]["id"]
        retire(team, result_of(team, "b"), yes=True)
        retire(team, clustering, cascade=True, yes=True)
        again = cluster(team, dataset="d", backbone="b", k=4)
        assert again.version == 2
        report = copy(laptop, team, clustering)
        assert [row["version"] for row in report.found] == [1, 2]
        assert [row["id"] for row in report.found][-1] == again.id
        assert report.copied == ()


def test_versions_stay_and_a_stopped_copy_goes_on_where_it_was(
    laptop: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", np.arange(N * 6, dtype=np.float32).reshape(N, 6))
    ingest(laptop, str(tmp_path / "x.npy"), dataset="d", backbone="b", block_rows=64, force=True)
    second = laptop.embedding("d", "b").stored.artifact
    written = arrays.write_block
    monkeypatch.setattr(story, "_AT_ONCE", 1)
    with _new(tmp_path / "team") as team:

        def stop(*args: object, **kwargs: object) -> object:
            if args[2] == 3:
                raise KeyboardInterrupt
            return written(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(arrays, "write_block", stop)
        with pytest.raises(KeyboardInterrupt):
            copy(laptop, team, second.id)
        assert team.sql("SELECT * FROM embeddings").table.rows == []
        monkeypatch.setattr(arrays, "write_block", written)
        report = copy(laptop, team, second.id)
        assert report.blocks == {"total": 5, "written": 2, "reused": 3}
        assert [(row["id"], row["version"]) for row in report.copied] == [(second.id, 2)]
        copy(laptop, team, "d")
        assert contents(team) == contents(laptop)
        assert verify(team, deep=True).problems == ()


def test_what_was_scored_beside_a_result_later_follows_it(
    laptop: Store, tmp_path: Path, new_database: Callable[[], str]
) -> None:
    create_store(url := new_database(), str(tmp_path / "arrays"))
    with open_store(url) as team:
        copy(laptop, team, "d")
        asked = {"dataset": "d", "backbones": ["b"], "k": (4,), "epochs": 2, "bootstrap": 10}
        evaluate(laptop, **asked, forward=True, curve=True, thresholds=(0.5,))
        assert contents(team)["forward_scores"] == []
        report = copy(laptop, team, result_of(laptop, "b"))
        assert (report.copied, report.cached) == ((), False)
        assert report.scores > 10
        assert contents(team) == contents(laptop)
        again = copy(laptop, team, "d")
        assert (again.scores, again.cached) == (0, True)
        # newer there: stays, and comes back
        with team.catalog.write() as connection:
            connection.exec_driver_sql("UPDATE forward_score SET value = 0.25, created_at = '3000'")
            connection.exec_driver_sql("UPDATE curve_score SET nmi = 0.25, created_at = '3000' WHERE fraction = 1")
        wanted = contents(team)
        assert copy(laptop, team, "d").scores == 0
        assert contents(team) == wanted
        assert copy(team, laptop, "d").scores > 0
        assert contents(laptop) == wanted


def test_what_changes_there_while_it_is_copied_is_found_or_refused(
    laptop: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "other.npy", np.ones((N - 1, 6), np.float32) * np.arange(6, dtype=np.float32))
    with _new(tmp_path / "keys") as team:
        whole = story._Copy.check

        def and_then_somebody_ingests(job: story._Copy, parcels: list[story.Parcel]) -> None:
            whole(job, parcels)
            ingest(team, str(tmp_path / "other.npy"), dataset="d", backbone="other")

        monkeypatch.setattr(story._Copy, "check", and_then_somebody_ingests)
        with pytest.raises(InvalidInput, match="has other keys"):
            copy(laptop, team, "c")
        assert contents(team)["labels"] == []
        monkeypatch.setattr(story._Copy, "check", whole)
    with _new(tmp_path / "version") as team:
        rows = transfer.write_rows

        def after_somebody_else(*args: object) -> None:
            monkeypatch.setattr(transfer, "write_rows", rows)
            with team.catalog.write() as connection:  # out of the way, as if it had begun with --force
                connection.exec_driver_sql("UPDATE artifact SET fingerprint = fingerprint || ' aside'")
            copy(laptop, team, "c")
            rows(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(transfer, "write_rows", after_somebody_else)
        report = copy(laptop, team, "c")
        assert (kinds(report.copied), kinds(report.found)) == ([], ["concepts"])
        assert contents(team)["labels"] == contents(laptop)["labels"]


@pytest.mark.parametrize("kind", ["embedding", "concepts", "result"])
def test_what_is_retired_here_while_it_is_copied_is_not_made_there(
    laptop: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    commit = lease.fence

    def after_gc(connection: sa.Connection, claimed: lease.Claim) -> None:
        commit(connection, claimed)
        if claimed.id == wanted:
            monkeypatch.setattr(lease, "fence", commit)
            retire(laptop, wanted, cascade=True, yes=True)
            gc(laptop)

    own = {"embedding": "embeddings", "result": "results"}
    query = "SELECT id FROM artifact WHERE name = 'c'" if kind == "concepts" else f"SELECT id FROM {own[kind]}"
    wanted = str(laptop.sql(query).table.rows[0][0])
    monkeypatch.setattr(lease, "fence", after_gc)
    with _new(tmp_path / "team") as team:
        with pytest.raises((NotFound, Corrupt)):
            copy(laptop, team, wanted)
        assert team.sql("SELECT id FROM artifact WHERE state = 'ready' AND id = ?", (wanted,)).table.rows == []


def test_a_damaged_block_is_not_copied(laptop: Store, tmp_path: Path) -> None:
    path = laptop.embedding("d", "b").stored.array.path
    laptop.arrays.put(f"{path}/c/2/0", b"damaged", replace=True)
    with _new(tmp_path / "team") as team:
        with pytest.raises(Corrupt, match="block 2"):
            copy(laptop, team, "d")
        assert team.sql("SELECT * FROM embeddings").table.rows == []


def test_two_copies_at_once_are_one(laptop: Store, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    create_store(str(tmp_path / "team"))

    def run(_: int) -> CopyReport:
        with open_store(str(tmp_path / "laptop")) as here, open_store(str(tmp_path / "team")) as there:
            return copy(here, there, "d")

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, range(2))
    assert len(first.copied) + len(second.copied) == 6
    with open_store(str(tmp_path / "team")) as team:
        assert contents(team) == contents(laptop)
        with pytest.raises(Busy):
            _meet_somebody(laptop, team)


def _meet_somebody(laptop: Store, team: Store) -> None:
    """Copy without waiting what another process (here: pid 1) is writing."""
    from qrp_store.catalog.model import tables as t
    from qrp_store.records import Spec

    label(laptop, str(Path(laptop.name).parent / "labels.csv"), dataset="d", concepts="c", force=True)
    (newest,) = laptop.sql("SELECT max(version) AS version FROM labels")
    assert newest["version"] == 2
    with laptop.catalog.read() as connection:
        row = connection.execute(sa.select(t.artifact).where(t.artifact.c.name == "c", t.artifact.c.version == 2))
        artifact = lease.artifact_of(row.mappings().one())
    lease.claim(team.catalog, Spec(artifact.kind, artifact.name, artifact.series, artifact.spec), force=True)
    copy(laptop, team, artifact.id, wait=False)
