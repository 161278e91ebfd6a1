"""`qrp-store sql`: only queries, only as many rows and as long as allowed, and it ends when it is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qrp_store.store import create_store

FOREVER = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
HUGE = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 50000000) SELECT x FROM c"


@pytest.fixture(params=["directory", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty store of either kind. The tests' Postgres role is a superuser: nothing but the query is refused."""
    if request.param == "directory":
        create_store(str(tmp_path / "store"))
        yield str(tmp_path / "store")
    else:
        new_database: Callable[[], str] = request.getfixturevalue("new_database")
        url = new_database()
        create_store(url, str(tmp_path / "arrays"))
        yield url


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_long_query_ends_at_a_signal(qrp: Any, place: str, number: signal.Signals, code: int) -> None:
    child = qrp.start("sql", FOREVER, "--json", store=place)
    pid = child.pid
    while len(os.listdir(f"/proc/{pid}/task")) < 2 and place.startswith("/"):  # the query's thread
        assert child.poll() is None
        time.sleep(0.05)
    time.sleep(3 if place.startswith("postgres") else 0.5)
    child.send_signal(number)
    began = time.monotonic()
    out, err = child.communicate(timeout=30)
    assert child.returncode == code, (out, err)
    assert '"interrupted"' in out
    assert time.monotonic() - began < 10


def test_a_timeout_ends_a_long_query(qrp: Any, place: str) -> None:
    began = time.monotonic()
    message = qrp.fails(8, "sql", FOREVER, "--timeout", 1, store=place)
    assert "took longer than 1 s" in message
    assert "--timeout" in message
    assert time.monotonic() - began < 15
    assert qrp.rows("sql", "SELECT 1 AS one", "--timeout", 60, store=place) == [{"one": 1}]


@pytest.mark.parametrize("words", [("--limit", 0), ("--limit", -1), ("--timeout", "soon")])
def test_a_limit_or_timeout_that_is_none_is_a_usage_error(qrp: Any, world: Any, words: tuple[object, ...]) -> None:
    qrp.fails(2, "sql", "SELECT 1", *words, store=world.store)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e300"])
def test_a_timeout_is_a_number_of_seconds(qrp: Any, world: Any, seconds: str) -> None:
    assert "timeout" in qrp.fails(4, "sql", "SELECT 1", "--timeout", seconds, store=world.store)


def test_a_limit_cuts_and_says_so(qrp: Any, place: str) -> None:
    query = (
        "SELECT x FROM (VALUES (1), (2), (3)) AS v (x)" if "://" in place else "SELECT 1 AS x UNION ALL VALUES (2), (3)"
    )
    ran = qrp.run("sql", query, "--limit", 2, "--json", store=place)
    assert (ran.json["rows"], ran.json["truncated"]) == ([{"x": 1}, {"x": 2}], True)
    assert "first 2 rows" in ran.err
    ran = qrp.run("sql", query, "--limit", 3, "--json", store=place)
    assert (len(ran.json["rows"]), set(ran.json), ran.err) == (3, {"schema", "rows"}, "")
    ran = qrp.run("sql", query, "--limit", 2, "--format", "csv", store=place)
    assert ran.out.split() == ["x", "1", "2"]
    assert "--limit" in ran.err


def test_a_huge_answer_takes_neither_time_nor_memory(place: str) -> None:
    program = (
        "import sys; from qrp_store.cli.main import call;"
        "code = call(['sql', *sys.argv[1:], '--format', 'csv']);"
        "status = open('/proc/self/status').read();"
        "print(status.split('VmHWM:')[1].split()[0], file=sys.stderr); sys.exit(code)"
    )
    query = "SELECT generate_series(1, 50000000) AS x" if "://" in place else HUGE
    ran = subprocess.run(
        [sys.executable, "-c", program, query, "--store", place], capture_output=True, text=True, timeout=100
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.split()
    assert (len(lines), lines[0], lines[-1]) == (100_001, "x", "100000")
    assert "only the first 100,000 rows" in ran.stderr
    assert int(ran.stderr.split()[-1]) < 300_000  # KB


QUERIES = {
    "both": [
        "SELECT 1 AS x",
        "  /* a */ -- b\n SELECT 1 AS x ;",
        "VALUES (1)",
        "WITH a AS (SELECT 1 AS x) SELECT * FROM a",
    ],
    "postgres": ["TABLE store", "SHOW server_version", "(SELECT 1)", "EXPLAIN SELECT 1", "/* /* */ */ show all"],
    "directory": [
        "EXPLAIN QUERY PLAN SELECT 1",
        "SELECT name FROM pragma_table_info('results')",
        "PRAGMA table_info(results)",
        "SELECT value FROM json_each('[1, 2]')",
    ],
}
REFUSED = {
    "both": [
        "DELETE FROM store",
        "INSERT INTO store SELECT * FROM store",
        "UPDATE store SET uuid = 'x' RETURNING uuid",
        "DELETE FROM store RETURNING uuid",
        "CREATE TABLE mine (x int)",
        "CREATE TEMP TABLE mine (x int)",
        "DROP VIEW leaderboard",
        "BEGIN",
        "COMMIT",
        "ANALYZE",
        "REINDEX",
        "SAVEPOINT a",
        "-- nothing",
        "SELECT 1; SELECT 2",
    ],
    "postgres": [
        "COPY (SELECT 1) TO PROGRAM 'touch {folder}/ran'",
        "COPY store TO '{folder}/ran'",
        "/* SHOW */ COPY (SELECT 1) TO PROGRAM 'touch {folder}/ran'",
        "/* /* */ SHOW */ COPY (SELECT 1) TO PROGRAM 'touch {folder}/ran'",
        "-- \nCOPY (SELECT 1) TO PROGRAM 'touch {folder}/ran'",
        "SHOW server_version; COPY (SELECT 1) TO PROGRAM 'touch {folder}/ran'",
        "SELECT 1; COPY (SELECT 1) TO PROGRAM 'touch {folder}/ran'",
        "SELECT query_to_xml('COPY (SELECT 1) TO PROGRAM ''touch {folder}/ran''', true, true, '')",
        "EXPLAIN ANALYZE DELETE FROM store",
        "SELECT 1 INTO mine",
        "WITH gone AS (DELETE FROM store RETURNING uuid) SELECT * FROM gone",
        "SELECT * FROM store FOR UPDATE",
        "LOCK TABLE store",
        "DO $$ BEGIN DELETE FROM store; END $$",
        "CALL nothing()",
        "SET search_path = 'x'",
        "SET TRANSACTION READ WRITE",
        "VACUUM",
        "LISTEN x",
        "NOTIFY x",
        "DISCARD ALL",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "FETCH 1 FROM qrp_sql",
        "CHECKPOINT",
        "ALTER SYSTEM SET fsync = on",
        "SELECT set_config('transaction_read_only', 'off', false)",
    ],
    "directory": [
        "ATTACH '{folder}/ran' AS other",
        "VACUUM INTO '{folder}/ran'",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA query_only = OFF",
        "PRAGMA writable_schema = ON",
        "EXPLAIN DELETE FROM store",
        "UPDATE sqlite_master SET sql = ''",
        "DELETE FROM sqlite_master",
        "REPLACE INTO store SELECT * FROM store",
        "SELECT load_extension('x')",
        "CREATE VIRTUAL TABLE mine USING fts5(x)",
    ],
}


def test_every_kind_of_query_is_answered(qrp: Any, place: str) -> None:
    for query in QUERIES["both"] + QUERIES["postgres" if "://" in place else "directory"]:
        assert qrp.rows("sql", query, store=place), query


def test_nothing_else_runs(qrp: Any, place: str, tmp_path: Path) -> None:
    before = qrp.rows("sql", "SELECT * FROM store", store=place)
    for statement in REFUSED["both"] + REFUSED["postgres" if "://" in place else "directory"]:
        ran = qrp.run("sql", "--store", place, "--", statement.format(folder=tmp_path))
        assert (ran.code, ran.out) == (4, ""), (statement, ran.err)
        assert not (tmp_path / "ran").exists(), statement
    if "://" in place:  # Postgres runs this one, in a transaction that is rolled back
        qrp.run("sql", "EXPLAIN ANALYZE CREATE TABLE mine AS SELECT 1", store=place)
        assert qrp.rows("sql", "SELECT to_regclass('mine') AS made", store=place) == [{"made": None}]
    assert qrp.rows("sql", "SELECT * FROM store", store=place) == before
