"""One way to make a schema, and a clear word about every other one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from qrp_store.catalog.database import schema
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.model import views
from qrp_store.catalog.model.tables import metadata
from qrp_store.errors import NotFound, SchemaMismatch
from qrp_store.settings import Location, resolve

CONTRACT_COLUMNS = {
    "leaderboard": "dataset backbone concepts clusters protocol setting n_seeds nmi_mean nmi_std nmi_min nmi_max "
    "mi_nats_mean top1_mean top5_mean rank",
    "cluster_scores": "result_id cluster n_test cross_entropy_nats top1 mi_nats top_concept",
    "cluster_concepts": "result_id cluster rank concept concept_group weight lift n",
    "group_scores": "result_id concept_group role nmi mi_nats",
    "assignments": "dataset backbone clusters seed clustering_id version is_newest key cluster part",
    "labels": "dataset concepts version is_newest key concept concept_group score",
    "embeddings": "id dataset backbone version is_newest n dim dtype array_url created_at created_by group_url",
    "series": "dataset backbone series position",
    "results": "id version fingerprint dataset backbone clustering_id concepts clusters seed protocol solver setting "
    "permuted n_train n_val n_test n_small_clusters n_concepts entropy_nats cross_entropy_nats mi_nats mi_bits nmi "
    "nmi_ci_lo nmi_ci_hi top1 top5 train_loss grad_norm converged epochs_run best_epoch device engine created_at "
    "created_by",
}


def test_the_constant_is_the_newest_script() -> None:
    config = Config()
    config.set_main_option("script_location", str(files("qrp_store.migrations")))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_current_head() == schema.HEAD
    assert [s.revision for s in reversed(list(scripts.walk_revisions()))] == list(schema.REVISIONS)


def test_migrating_from_zero_gives_the_tables(catalog: Catalog) -> None:
    with catalog.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


@pytest.mark.parametrize("first", schema.REVISIONS[:-1])
def test_migrating_from_a_released_revision_gives_the_tables(location: Location, first: str) -> None:
    with pytest.MonkeyPatch.context() as then:
        then.setattr(schema, "HEAD", first)
        then.setattr(views, "create", lambda connection: None)  # those of today need today's tables
        schema.create(location, "/arrays")[0].close()
    assert schema.migrate(location) == (first, schema.HEAD)
    catalog = schema.open_catalog(location)
    with catalog.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
        for view in views.VIEWS:
            assert connection.exec_driver_sql(f"SELECT * FROM {view}").all() == []
    catalog.close()


@pytest.mark.parametrize("view", CONTRACT_COLUMNS)
def test_a_view_has_its_columns(catalog: Catalog, view: str) -> None:
    with catalog.read() as connection:
        found = list(connection.exec_driver_sql(f"SELECT * FROM {view}").keys())
    assert [c for c in CONTRACT_COLUMNS[view].split() if c not in found] == []
    assert set(CONTRACT_COLUMNS) <= set(views.VIEWS)


def test_creating_again_changes_nothing(location: Location) -> None:
    first, made = schema.create(location, "/a")
    before = schema.store_row(first)
    second, again = schema.create(location, "/b")
    assert (made, again) == (True, False)
    assert schema.store_row(second) == before
    first.close()
    second.close()


def test_creating_at_once_makes_one(location: Location) -> None:
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: schema.create(location, "/a"), range(8)))
    assert sum(made for _, made in done) == 1
    assert len({schema.store_row(catalog).uuid for catalog, _ in done}) == 1
    for catalog, _ in done:
        catalog.close()


def test_looking_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no store") as caught:
        schema.open_catalog(resolve(str(tmp_path / "none")))
    assert "init" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("revision, word", [("9999", "newer"), ("0000-other", "newer")])
def test_a_newer_schema_is_refused(make: Callable[[], Catalog], location: Location, revision: str, word: str) -> None:
    with make().write() as connection:
        connection.exec_driver_sql(f"UPDATE {schema.VERSION_TABLE} SET version_num = '{revision}'")
    with pytest.raises(SchemaMismatch, match=word):
        schema.open_catalog(location)
    with pytest.raises(SchemaMismatch, match=word):
        schema.create(location, "/a")
    with pytest.raises(SchemaMismatch, match=word):
        schema.migrate(location)


def test_an_older_schema_names_the_command(
    make: Callable[[], Catalog], location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9999"))
    monkeypatch.setattr(schema, "HEAD", "9999")
    with pytest.raises(SchemaMismatch) as caught:
        schema.open_catalog(location)
    assert "qrp-store migrate" in str(caught.value.hint)
    with pytest.raises(SchemaMismatch):
        schema.migrate(location, check=True)


def test_somebody_elses_database_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "catalog.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE cats (name TEXT)")
    with pytest.raises(SchemaMismatch, match="no qrp-store schema"):
        schema.open_catalog(resolve(str(tmp_path)))
    with pytest.raises(SchemaMismatch):
        schema.create(resolve(str(tmp_path)), "/a")
    with closing(sqlite3.connect(tmp_path / "catalog.db", isolation_level=None)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("cats",)]


def test_a_shared_postgres_keeps_the_others_tables(make: Callable[[], Catalog], location: Location) -> None:
    if location.directory is not None:
        return  # SQLite files are not shared: refused above
    engine = sa.create_engine(location.catalog)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num TEXT)")
    catalog = make()
    with catalog.read() as connection:
        assert {"alembic_version", "dataset"} <= set(sa.inspect(connection).get_table_names())
    engine.dispose()
