"""What S3 answers, in words; and where keys, region and server come from."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qrp_store.arrays import aws
from qrp_store.arrays.location import open_root
from qrp_store.errors import InvalidInput, QrpStoreError, Unavailable


class Server(http.server.ThreadingHTTPServer):
    """Answers every request with one error, and remembers the Authorization header."""

    code, status = "AccessDenied", 403
    authorization = ""


class Answer(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.authorization = self.headers.get("Authorization") or ""
        text = f"<Error><Code>{self.server.code}</Code><Message>No.</Message><Token-0>tOkEn</Token-0></Error>".encode()
        text = b"" if self.server.code == "redirect" else b'<?xml version="1.0"?>\n' + text
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_PUT = do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Answer) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{running.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sEcReT")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield running
        running.shutdown()


@pytest.mark.parametrize(
    ("code", "status", "what", "advice"),
    [
        ("ExpiredToken", 400, "token has expired", "new keys"),
        ("RequestTimeTooSkewed", 403, "clock", "NTP"),
        ("InvalidAccessKeyId", 403, "access key", "AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", 403, "secret key", "AWS_SECRET_ACCESS_KEY"),
        ("AccessDenied", 403, "access denied", "GetObject"),
        ("PermanentRedirect", 301, "another region", "AWS_DEFAULT_REGION"),
        ("redirect", 301, "another region", "AWS_DEFAULT_REGION"),
        ("AuthorizationHeaderMalformed", 400, "region is wrong", "AWS_DEFAULT_REGION"),
        ("NoSuchBucket", 404, "no bucket 'b'", "make it"),
        ("TeapotBroken", 400, "TeapotBroken: No.", "AWS_ENDPOINT_URL"),
    ],
)
def test_an_answer_is_one_line_that_says_what_to_do(
    server: Server, code: str, status: int, what: str, advice: str
) -> None:
    server.code, server.status = code, status
    root = open_root("s3://b/p")
    uses: list[Callable[[], object]] = [lambda: root.get("x"), lambda: root.put("x", b""), lambda: list(root.list(""))]
    for use in uses:
        with pytest.raises(Unavailable) as failed:
            use()
        assert what in failed.value.message
        assert advice in str(failed.value.hint)
        assert not any(word in failed.value.message for word in ("<", "tOkEn", "Debug", "RetryError", "\n"))
    with pytest.raises(QrpStoreError) as failed:
        root.size("x")  # an answer to HEAD has no text
    assert not any(word in failed.value.message for word in ("<", "Debug", "RetryError"))


@pytest.mark.parametrize(
    "endpoint", ["localhost:9000", "http//x", "ftp://x", "http://", "https://h:port", "http://k:sEcReT@h", "http://a b"]
)
def test_an_endpoint_that_is_none_is_named_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(InvalidInput, match="AWS_ENDPOINT_URL") as refused:
        open_root("s3://b/p").read_identity()
    assert "http" in str(refused.value.hint)
    assert "sEcReT" not in str(refused.value)


CONFIG = """
[default]
region = eu-central-1
[profile lab]
region = eu-west-3
endpoint_url = http://config.example.org
services = lab-services
[services lab-services]
s3 =
  endpoint_url = http://s3.example.org
[profile sso]
sso_session = corp
"""
CREDENTIALS = """
[default]
aws_access_key_id = KEY0
aws_secret_access_key = SECRET0
[lab]
aws_access_key_id = KEY1
aws_secret_access_key = SECRET1%x
aws_session_token = TOKEN1
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(CONFIG)
    (tmp_path / ".aws" / "credentials").write_text(CREDENTIALS)
    monkeypatch.setenv("HOME", str(tmp_path))
    return {}


def test_keys_region_and_server_come_from_the_profile(home: dict[str, str]) -> None:
    default = aws.access(home).config
    assert (default["aws_access_key_id"], default["aws_region"]) == ("KEY0", "eu-central-1")
    lab = aws.access({**home, "AWS_PROFILE": "lab"}).config
    assert lab == {
        "aws_access_key_id": "KEY1",
        "aws_secret_access_key": "SECRET1%x",
        "aws_session_token": "TOKEN1",
        "aws_region": "eu-west-3",
        "aws_endpoint": "http://s3.example.org",
    }
    of_environment = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "r"}
    assert aws.access({**of_environment, "AWS_PROFILE": "lab", "AWS_ENDPOINT_URL": "https://x"}).config == {
        "aws_region": "r",
        "aws_endpoint": "https://x",
    }


def test_a_profile_that_is_none_or_needs_a_program_is_named(home: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="'typo'") as refused:
        aws.access({"AWS_PROFILE": "typo"})
    assert "lab" in str(refused.value.hint)
    with pytest.raises(InvalidInput, match="sso_session") as refused:
        aws.access({"AWS_PROFILE": "sso"})
    assert "export-credentials" in str(refused.value.hint)


def test_a_damaged_file_is_named(home: dict[str, str], tmp_path: Path) -> None:
    for text in (b"aws_access_key_id = SECRET0\n", b"\xff\xfe[default]"):
        (tmp_path / ".aws" / "credentials").write_bytes(text)
        with pytest.raises(InvalidInput, match="credentials") as refused:
            aws.access({})
        assert "SECRET0" not in f"{refused.value} {refused.value.hint}"


def test_the_profile_signs_the_requests(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: dict[str, str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with pytest.raises(Unavailable):
        open_root("s3://b/p").get("x")
    assert "Credential=KEY1/" in server.authorization
    assert "/eu-west-3/s3/" in server.authorization
