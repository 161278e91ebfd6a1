"""Where things are: resolved once, option before environment before default."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qrp_store.errors import InvalidInput

DEFAULT_STORE = "qrp-data"
_DATABASE = re.compile(r"^postgres(ql)?(\+\w+)?://", re.I)
_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.I)


@dataclass(frozen=True)
class Location:
    """A store: `catalog` is an SQLAlchemy URL, `directory` its folder when it lives in one.

    `arrays` is what the user named (a path or s3://…), or None for what the catalog recorded.
    """

    catalog: str
    directory: Path | None
    arrays: str | None

    @property
    def name(self) -> str:
        """How to call the store in a message: never with a password."""
        return str(self.directory) if self.directory is not None else redact(self.catalog.replace("+psycopg", "", 1))


def resolve(
    store: str | os.PathLike[str] | None = None,
    arrays: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> Location:
    """The location that an option, the environment or the default names. Looks at nothing on disk."""
    env = os.environ if env is None else env
    store = os.fspath(store or env.get("QRP_STORE") or DEFAULT_STORE)
    arrays = os.fspath(arrays or env.get("QRP_STORE_ARRAYS") or "") or None
    if _DATABASE.match(store):
        return Location(_psycopg(store), None, arrays)
    if store.startswith("sqlite:"):
        raise InvalidInput(f"--store {store!r}: name the store's directory instead of an SQLite URL")
    if _URL.match(store):
        raise InvalidInput(f"--store {redact(store)!r}: expected a directory or postgresql://…")
    directory = Path(store).expanduser().absolute()
    return Location(f"sqlite:///{directory / 'catalog.db'}", directory, arrays)


def images_root(option: str | None, recorded: str | None, env: Mapping[str, str] | None = None) -> str | None:
    """The folder of a dataset's images: the option, else QRP_STORE_IMAGES, else the one that was recorded."""
    env = os.environ if env is None else env
    return option or env.get("QRP_STORE_IMAGES") or recorded


def _psycopg(url: str) -> str:
    scheme, rest = url.split("://", 1)
    whole = url if "+" in scheme else f"postgresql+psycopg://{rest}"
    secret = _password(whole)
    # SQLAlchemy ends a password at its first @
    return whole if secret is None else secret[0] + secret[1].replace("@", "%40") + secret[2]


def _password(url: str) -> tuple[str, str, str] | None:
    """What is before, in and behind a URL's password. It may hold anything: the last @ before the query ends it."""
    found = re.match(r"([a-z][a-z0-9+.-]*://[^:/@]*:)([^@]*)(@.*)", url, re.I | re.S)
    if found is None:
        return None
    before, secret, behind = found.groups()
    place, mark, query = behind.partition("?")
    last = place.rindex("@")
    return before, secret + place[:last], place[last:] + mark + query


def redact(url: str) -> str:
    """The URL with its password, if any, replaced by ***. Text that is no URL comes back as it is."""
    if not _URL.match(url):
        return url
    secret = _password(url)
    shown = url if secret is None else f"{secret[0]}***{secret[2]}"
    return re.sub(r"(?i)(password=)[^&]*", r"\1***", shown)
