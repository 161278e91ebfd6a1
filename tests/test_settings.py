"""Where a store is, from text that people paste: no password shown, taken for a host name, or made a folder's name."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qrp_store.arrays.location import open_root
from qrp_store.errors import InvalidInput, QrpStoreError, conceal
from qrp_store.settings import redact, resolve

SECRET = "S3CR3T"
CHARACTERS = "@/#?%:&=+;,'\"\\ !$^*()[]{}<>|~`.-_é日"
passwords = st.builds(
    lambda before, after: before + SECRET + after,
    st.text(CHARACTERS + "aZ9", max_size=6),
    st.text(CHARACTERS + "aZ9", max_size=6),
)
PLACES = [
    "db.example.org/x",
    "db.example.org:5432/x",
    "127.0.0.1:1/x?sslmode=require",
    "[::1]:5432/x",
    "h",
    "h/x?host=/run/pg",
]


def decodes(password: str) -> bool:
    """Whether a % and two hexadecimal digits in it would be read as another character."""
    from urllib.parse import unquote

    return unquote(password) != password


@given(passwords, st.sampled_from(PLACES), st.sampled_from(["postgresql", "postgres", "postgresql+psycopg2"]))
@example("w=rd%/@:#?" + SECRET, PLACES[0], "postgresql")
@example(SECRET + "w=rd%/@:#?", PLACES[0], "postgresql")
@example(SECRET + "p@ss?word", PLACES[0], "postgresql")
@settings(max_examples=400, deadline=None)
def test_a_raw_password_of_any_characters_reaches_the_driver_whole_and_is_never_shown(
    password: str, place: str, scheme: str
) -> None:
    raw = password if not decodes(password) else password.replace("%", "%25")
    for written in (raw, quote(password, safe="")):
        location = resolve(f"{scheme}://me:{written}@{place}")
        url = sa.make_url(location.catalog)
        assert (url.drivername, url.username, url.password) == ("postgresql+psycopg", "me", password)
        assert url.host in ("db.example.org", "127.0.0.1", "::1", "h")
        assert SECRET not in location.name
        assert SECRET not in redact(f"{scheme}://me:{written}@{place}")


FORMS = [
    " postgresql://u:{}@h/db",
    "\tpostgresql://u:{}@h/db",
    "postgresql://u:{}@h/db ",
    "postgresql://u:{}@h/db\n",
    "postgresql:/u:{}@h/db",
    "postgresql:///u:{}@h/db",
    "postgresql:u:{}@h/db",
    "postgres//u:{}@h/db",
    "//u:{}@h/db"[2:],
    "u/x:{}@h/db"[:1] + ":{}@h/db",
    "postgresql://u/x:{}@h/db",
    "postgresql://u#x:{}@h/db",
    "host=h user=u password={} dbname=x",
    "user=u password = '{}'",
    "dbname=x passwor%64={}",
    "Server=h;Database=x;Uid=u;Pwd={};",
    "mysql://u:{}@h/db",
    "sqlite:///x:{}@y",
    "https://u:{}@h/db",
    "s3://k:{}@b/p",
    "s3://b/p?aws_secret_access_key={}",
    "s3:/b/p?aws_secret_access_key={}",
    "gs://b/p?token={}",
    "postgresql://u:{}",
    "postgresql://u:{}@h:port/x",
    "postgresql://u:{}@h1:1,h2:2/x",
]


@given(st.text(CHARACTERS.replace("&", "") + "aZ9", max_size=4), st.sampled_from(FORMS))
@settings(max_examples=600, deadline=None)
def test_what_looks_like_a_url_and_is_none_is_refused_without_being_shown(before: str, form: str) -> None:
    if form == "postgresql://u:{}":  # with an @ this is a place
        before = before.replace("@", "")
    text = form.format(before + SECRET)
    for use in (lambda: resolve(text).name, lambda: resolve("here", text).arrays, lambda: open_root(text)):
        shown = outcome(use)
        # only as the store may it be a database's URL, whose password may hold anything
        assert shown.startswith("refused") or text.startswith(("postgres", "s3://"))
        assert SECRET not in shown or shown == text  # what `resolve` hands on is shown by nobody


def outcome(use: Callable[[], object]) -> str:
    """What a call returns, or what it says when it refuses."""
    try:
        return str(use())
    except InvalidInput as error:
        return f"refused: {error} {error.hint}"


@pytest.mark.parametrize(
    "name", ["qrp-data", "a b", "x@y", "run=1", "/srv/a:b@c", "./host=1", "../a:b@c", "~/x", "a:b"]
)
def test_plain_folders_are_folders(name: str) -> None:
    assert resolve(name).directory is not None


def test_a_secret_in_a_query_is_not_shown_however_its_name_is_written() -> None:
    for name in ("password", "passwor%64", "PASSWORD", "sslpassword"):
        location = resolve(f"postgresql://u@127.0.0.1:1/db?{name}={SECRET}@{SECRET}")
        assert SECRET not in location.name
        assert "127.0.0.1" in location.name


@pytest.mark.parametrize(
    "text",
    [
        f"cannot reach postgresql://me:{SECRET}@db/x",
        f"postgresql+psycopg://me:a@{SECRET}@db/x failed",
        f"postgresql:/u/x:{SECRET}@db/x",
        f"connection failed: password={SECRET} host=db",
        f"connection failed: password='{SECRET} {SECRET}' host=db",
        f"db?aws_secret_access_key={SECRET}&x=1",
        f'{{"SecretAccessKey": "{SECRET}"}} db',
        f"db AWS_SESSION_TOKEN={SECRET}",
    ],
)
def test_an_error_shows_no_secret_in_python_either(text: str) -> None:
    error = QrpStoreError(text, hint=text)
    for shown in (str(error), error.message, error.hint, repr(error), conceal(text)):
        assert SECRET not in str(shown)
        assert "db" in str(shown)


def test_concealing_is_linear() -> None:
    for text in ("a" * 200_000, "a:/" * 50_000, "=" * 200_000, "a=" * 100_000):
        conceal(text)
