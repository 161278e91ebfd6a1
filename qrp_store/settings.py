"""Location of a store, resolved once: option, then environment, then default. Passwords are never shown."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode

from qrp_store.errors import InvalidInput, conceal

DEFAULT_STORE = "qrp-data"
_DATABASE = re.compile(r"postgres(?:ql)?(?:\+\w+)?://", re.I)
_URL = re.compile(r"\s*[a-z][a-z0-9+.-]+:/", re.I)
_WORDS = re.compile(  # libpq's and ODBC's connection strings
    r"(?:^|[\s;,])(?:host|hostaddr|server|port|dbname|database|user|uid|user id|passfile|service|sslmode)\s*=",
    re.I,
)
_SECRET_WORD = re.compile(r"(?:passw(?:or)?d|pwd|secret|token|access_key)\w*\s*=", re.I)
_USER_AND_PASSWORD = re.compile(r"[^:]+:.*@", re.S)
_PARAMETERS = re.compile(
    "application_name|channel_binding|client_encoding|connect_timeout|dbname|fallback_application_name|gss\\w*|host|"
    "hostaddr|keepalives\\w*|krbsrvname|load_balance_hosts|options|passfile|password|port|replication|require_\\w+|"
    "service|ssl\\w*|target_session_attrs|tcp_user_timeout|user",
    re.I,
)
_PLACE = re.compile(
    r"(?:\[[0-9a-f:.%]+\]|[\w.%-]*)(?::\d{1,5})?(?:/[^/?#@\s]*)?(?:\?(?:(?P<parameter>[\w%]+)=.*)?)?", re.I | re.S
)
_NOT_SHOWN = "(not shown, since it may hold a password)"
_LIKE = "like postgresql://USER@HOST:5432/DATABASE; the password: PGPASSWORD, ~/.pgpass, or :PASSWORD after USER"


@dataclass(frozen=True)
class Location:
    """Location of a store: `catalog` is an SQLAlchemy URL, `directory` the folder of a directory store.

    `arrays` is the user's path or s3://… URL; None means the location recorded in the catalog.
    """

    catalog: str
    directory: Path | None
    arrays: str | None

    @property
    def name(self) -> str:
        """Name of the store in messages, without its password."""
        return str(self.directory) if self.directory is not None else redact(self.catalog.replace("+psycopg", "", 1))


def resolve(
    store: str | os.PathLike[str] | None = None,
    arrays: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> Location:
    """Return the location from option, environment or default, without opening it.

    Raise InvalidInput for an unsupported URL or connection string.
    """
    env = os.environ if env is None else env
    store = os.fspath(store or env.get("QRP_STORE") or DEFAULT_STORE)
    arrays = os.fspath(arrays or env.get("QRP_STORE_ARRAYS") or "") or None
    if arrays is not None and not arrays.startswith("s3://"):
        require_path(arrays, "--arrays", "a directory or s3://bucket/prefix, with the keys in AWS_* variables")
    if _DATABASE.match(store):
        return Location(_database_url(store), None, arrays)
    if store.startswith("sqlite:"):
        raise InvalidInput(f"--store is an SQLite URL {_NOT_SHOWN}", hint="name the store's directory instead")
    require_path(store, "--store", f"a directory, or a database URL {_LIKE}")
    directory = absolute(store)
    return Location(f"sqlite:///{directory / 'catalog.db'}", directory, arrays)


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path, with ~ expanded. Raise InvalidInput if the home or working folder does not exist."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise InvalidInput(f"{os.fspath(path)}: {error}", hint="write the path without ~") from error
    except FileNotFoundError as error:
        raise InvalidInput(
            f"{os.fspath(path)}: the working folder {os.environ.get('PWD', '')} was deleted",
            hint="cd to a folder that exists, or name absolute paths",
        ) from error


def require_path(text: str, option: str, expected: str) -> None:
    """Raise InvalidInput, without showing the text, if it looks like a URL or a connection string."""
    if "\0" in text:
        raise InvalidInput(f"{option} holds a NUL character")
    if text.startswith(("/", "./", "../", "~")):
        return
    decoded = unquote(text)
    looks = (_URL.match(text), _WORDS.search(decoded), _SECRET_WORD.search(decoded), _USER_AND_PASSWORD.match(text))
    if any(looks):
        raise InvalidInput(
            f"{option} looks like an unsupported URL or connection string {_NOT_SHOWN}",
            hint=f"expected {expected}; a directory with such a name: ./NAME",
        )


@dataclass(frozen=True)
class ImagesFolder:
    """A folder of images. `recorded`: the catalog names it, not the user, so only ingested images may be shown."""

    path: Path
    recorded: bool


def images_folder(
    option: str | None, recorded: str | None, env: Mapping[str, str] | None = None
) -> ImagesFolder | None:
    """Return the folder of a dataset's images: the option, else QRP_STORE_IMAGES, else the recorded folder."""
    env = os.environ if env is None else env
    named = option or env.get("QRP_STORE_IMAGES")
    folder = named or recorded
    return None if folder is None else ImagesFolder(Path(folder).expanduser(), recorded=not named)


def redact(url: str) -> str:
    """Return the URL with its password replaced by ***. Other text is returned unchanged."""
    if not _URL.match(url):
        return url
    try:
        user, password, place, query = _taken_apart(url) if _DATABASE.match(url) else (None, None, "", "")
    except InvalidInput:
        password = None
    if password is None:
        return conceal(url)
    scheme = url.split("://", 1)[0]
    return conceal(f"{scheme}://{quote(user or '', safe='')}:***@{place}{query}")


def _database_url(url: str) -> str:
    """Return the URL for SQLAlchemy; the driver is always psycopg."""
    user, password, place, query = _taken_apart(url)
    login = "" if user is None else quote(user, safe="")
    login += "" if password is None else ":" + quote(password, safe="")
    return f"postgresql+psycopg://{login}{'' if user is None else '@'}{place}{query}"


def _taken_apart(url: str) -> tuple[str | None, str | None, str, str]:
    """Return user, password, HOST:PORT/DATABASE and ?QUERY of a database URL.

    The password may hold any character: it ends at the last @ that is followed by a valid HOST:PORT/DATABASE. %41 in
    it means A. Raise InvalidInput, without showing the URL, if there is no such @.
    """
    rest = url.split("://", 1)[1]
    if _place(rest) == "with parameters":  # an @ belongs to a parameter
        return None, None, *_normal(rest)
    ends = [match.start() for match in re.finditer("@", rest)][::-1]
    kinds = {end: _place(rest[end + 1 :]) for end in ends}
    end = next((end for kind in ("with parameters", "plain") for end in ends if kinds[end] == kind), None)
    if end is None and (ends or not _place(rest)):
        raise InvalidInput(f"--store is no database URL {_NOT_SHOWN}", hint=_LIKE)
    if end is None:
        return None, None, *_normal(rest)
    user, colon, password = rest[:end].partition(":")
    if any(c in user for c in "/?#") or any(c.isspace() for c in user):
        raise InvalidInput(f"--store is no database URL: its user name holds one of / ? # {_NOT_SHOWN}", hint=_LIKE)
    return unquote(user), unquote(password) if colon else None, *_normal(rest[end + 1 :])


def _place(text: str) -> str | None:
    """Return "plain" for HOST:PORT/DATABASE, "with parameters" if libpq parameters follow, None for other text."""
    match = _PLACE.fullmatch(text)
    if match is None or match["parameter"] is None:
        return "plain" if match else None
    return "with parameters" if _PARAMETERS.fullmatch(unquote(match["parameter"])) else None


def _normal(text: str) -> tuple[str, str]:
    """Return HOST:PORT/DATABASE and ?QUERY, with names and values encoded for SQLAlchemy."""
    place, _, query = text.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    return place, "?" + urlencode(pairs, safe="/", quote_via=quote) if pairs else ""
