"""Postgres as a team runs it: passwords, TLS with certificates that are verified, PgBouncer, checksums of pages."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import psycopg
import pytest

from qrp_store.errors import Unavailable
from qrp_store.ingest import ingest
from qrp_store.maintenance.doctor import doctor
from qrp_store.maintenance.removal import verify
from qrp_store.store import create_store, open_store


def test_a_password_of_any_characters_gets_in_and_a_wrong_one_does_not(guarded: Any, tmp_path: Path) -> None:
    name, password = guarded.new_database(), "w=rd%/@:#?& '"
    with psycopg.connect(guarded.url(), autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS anybody")
        connection.execute(f"CREATE ROLE anybody LOGIN PASSWORD '{password.replace(chr(39), chr(39) * 2)}'")
        connection.execute(f"ALTER DATABASE {name} OWNER TO anybody")
    for scheme in ("postgresql", "postgresql+psycopg2"):
        for written in (password, quote(password, safe="")):
            url = f"{scheme}://anybody:{written}@{guarded.place}/{name}?sslmode=require"
            create_store(url, str(tmp_path / "arrays"))
            with open_store(url) as store:
                assert "w=rd" not in store.name
    for wrong in ("", ":wrong", f":{password}x"):
        with pytest.raises(Unavailable, match="password") as refused:
            open_store(f"postgresql://anybody{wrong}@{guarded.place}/{name}?sslmode=require")
        assert "w=rd" not in f"{refused.value} {refused.value.hint}"


def test_the_servers_certificate_is_verified(guarded: Any, new_certificates: Callable[[], Any], tmp_path: Path) -> None:
    name = guarded.new_database()
    create_store(guarded.url(name), str(tmp_path / "arrays"))
    with open_store(guarded.url(name)) as store:
        (row,) = store.sql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert row == {"ssl": True}
    for parameters in ({"sslrootcert": str(new_certificates().authority)}, {"sslmode": "disable"}):
        with pytest.raises(Unavailable, match=r"SSL error|no pg_hba\.conf entry") as refused:
            open_store(guarded.url(name, **parameters))
        assert guarded.login[1] not in f"{refused.value} {refused.value.hint} {refused.value.__cause__}"
    elsewhere = guarded.url(name).replace("127.0.0.1", "127.0.0.2")
    with pytest.raises(Unavailable):
        open_store(elsewhere)


@contextmanager
def pgbouncer(guarded: Any, port: int) -> Iterator[None]:
    """PgBouncer in transaction mode before the server, with two connections to it for everybody."""
    host, _, behind = guarded.place.partition(":")
    user, password = guarded.login
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        settings, users = Path(folder) / "pgbouncer.ini", Path(folder) / "users"
        users.write_text(f'"{user}" "{password}"\n')
        settings.write_text(
            f"[databases]\n* = host={host} port={behind}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
            f"auth_type = scram-sha-256\nauth_file = {users}\npool_mode = transaction\ndefault_pool_size = 2\n"
            f"server_tls_sslmode = require\nunix_socket_dir =\nlogfile = {folder}/log\n"
        )
        for path in (Path(folder), settings, users):
            os.chown(path, guarded.user if guarded.user is not None else -1, -1)
        process = subprocess.Popen(["/usr/sbin/pgbouncer", "-q", settings], user=guarded.user, cwd="/")
        try:
            for _ in range(100):
                with (
                    suppress(psycopg.Error),
                    psycopg.connect(f"postgresql://{user}:{password}@127.0.0.1:{port}/postgres"),
                ):
                    break
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait()


@pytest.mark.parametrize("pooled", [True] if shutil.which("pgbouncer", path="/usr/sbin:/usr/bin") else [False])
def test_a_store_behind_pgbouncer_in_transaction_mode(guarded: Any, tmp_path: Path, pooled: bool) -> None:
    """Without PgBouncer on this machine: the same, straight to the server (test_postgres_kinds.py has a stand-in)."""
    name, (user, password) = guarded.new_database(), guarded.login
    url, port = guarded.url(name), 16432 + os.getpid() % 9000
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32))
    with pgbouncer(guarded, port) if pooled else nullcontext():
        if pooled:
            url = f"postgresql://{user}:{password}@127.0.0.1:{port}/{name}"
        create_store(url, str(tmp_path / "arrays"))
        with open_store(url) as store:
            for backbone in ("a", "b"):
                ingest(store, str(tmp_path / "x.npy"), dataset="d", backbone=backbone, block_rows=50)
            assert verify(store, deep=True).problems == ()
            assert [row["n"] for row in store.sql("SELECT count(*) AS n FROM embeddings")] == [2]
        findings = {finding.check: finding for finding in doctor(url).findings}
        assert {finding.status for finding in findings.values()} <= {"ok", "warning"}
        assert ("transaction pooler" in findings["catalog: pooler"].found) == pooled


def test_damaged_pages_are_found_by_their_checksums_and_by_amcheck(guarded: Any, tmp_path: Path) -> None:
    name = guarded.new_database()
    url = guarded.url(name)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20_000, 2)).astype(np.float32))
    create_store(url, str(tmp_path / "arrays"))
    with psycopg.connect(url, autocommit=True) as connection:
        available = connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'amcheck'").fetchone()
        if available:  # the wheel's server has none
            connection.execute("CREATE EXTENSION amcheck")
    with open_store(url) as store:
        ingest(store, str(tmp_path / "x.npy"), dataset="d", backbone="b")
        assert verify(store, deep=True).problems == ()
        assert {f.check: f.found for f in doctor(url).findings}["catalog: data_checksums"] == "on"
        query = "SELECT pg_relation_filepath(oid) AS path FROM pg_class WHERE relname IN ('sample', 'pk_sample')"
        table, index = (row["path"] for row in store.sql(f"{query} ORDER BY relkind DESC"))
    guarded.run("pg_ctl", "-D", guarded.data, "-m", "fast", "-w", "stop")
    for path in (table, index):
        with (guarded.data / path).open("r+b") as file:
            file.seek(3 * 8192 + 5000)
            (byte,) = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
    guarded.start()
    with open_store(url) as store:
        problems = verify(store, deep=True).problems
    messages = [problem["problem"] for problem in problems if problem["kind"] == "catalog"]
    assert any("failed their checksum" in message for message in messages)
    assert any(f"block 3 of relation {index}" in message for message in messages) == bool(available), problems
    assert any("failed their checksum" in f.found for f in doctor(url).findings if f.status == "problem")
