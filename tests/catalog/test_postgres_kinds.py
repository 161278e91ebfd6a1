"""Postgres as others have set it up: encodings, a schema of one's own, a pooler in front."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import psycopg
import pytest

from qrp_store.cli.main import call
from qrp_store.errors import InvalidInput
from qrp_store.maintenance.doctor import doctor
from qrp_store.store import create_store, open_store


def test_a_database_that_knows_no_characters_is_refused_with_what_to_do(
    postgres: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS bytes")
        connection.execute("CREATE DATABASE bytes ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    url = postgres.replace("/postgres?", "/bytes?")
    for use in (lambda: create_store(url, str(tmp_path / "a")), lambda: open_store(url)):
        with pytest.raises(InvalidInput, match="SQL_ASCII") as refused:
            use()
        assert "UTF8" in str(refused.value.hint)
    (finding,) = [f for f in doctor(url).findings if f.check == "store"]
    assert (finding.status, "SQL_ASCII" in finding.found) == ("problem", True)
    assert call(["ls", "--store", url]) == 4
    assert "UTF8" in capsys.readouterr().err


@pytest.fixture
def pooler(postgres: str) -> Iterator[int]:
    """The port of a stand-in for PgBouncer: it refuses the startup parameter that PgBouncer refuses."""
    folder = unquote(re.search(r"host=([^&]+)", postgres)[1])  # type: ignore[index]
    (path,) = Path(folder).glob(".s.PGSQL.*[0-9]")

    def serve(client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(str(path))
            while True:
                (size,) = struct.unpack("!i", client.recv(4, socket.MSG_WAITALL))
                start = client.recv(size - 4, socket.MSG_WAITALL)
                if struct.unpack("!i", start[:4])[0] != 196608:  # asks for TLS or GSS
                    client.sendall(b"N")
                    continue
                break
            if b"\0options\0" in b"\0" + start[4:]:
                fields = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0"
                client.sendall(b"E" + struct.pack("!i", len(fields) + 4) + fields)
                return
            server.sendall(struct.pack("!i", size) + start)
            other = threading.Thread(target=pump, args=(server, client), daemon=True)
            other.start()
            pump(client, server)
            other.join()

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def test_a_schema_of_ones_own_works_behind_a_pooler(
    new_database: Callable[[], str], pooler: int, tmp_path: Path
) -> None:
    url = new_database()
    name = re.search(r"/(\w+)\?", url)[1]  # type: ignore[index]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA team")
        connection.execute("CREATE TABLE artifact (another int)")  # somebody else's, in public
    through = f"postgresql://postgres@127.0.0.1:{pooler}/{name}?options=-csearch_path%3Dteam"
    create_store(through, str(tmp_path / "a"))
    with open_store(through) as store:
        assert len(store.sql("SELECT uuid FROM store")) == 1
        assert list(store.sql("SELECT current_schema() AS here")) == [{"here": "team"}]
    with psycopg.connect(url) as connection:
        where = connection.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'store'").fetchall()
    assert where == [("team",)]
    assert doctor(through).error is None
