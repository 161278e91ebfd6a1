"""Where things are: resolved once, option before environment before default."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

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
    return url if "+" in scheme else f"postgresql+psycopg://{rest}"


def redact(url: str) -> str:
    """The URL with its password, if any, replaced by ***. Text that is no URL comes back as it is."""
    if not _URL.match(url):
        return url
    try:
        parts = urlsplit(url)
        if parts.password is None and "password=" not in parts.query.lower():
            return url
        netloc = parts.netloc
        if parts.password is not None:
            user, host = parts.netloc.rsplit("@", 1)
            netloc = f"{user.split(':', 1)[0]}:***@{host}"
        query = re.sub(r"(?i)(password=)[^&]*", r"\1***", parts.query)
        return parts._replace(netloc=netloc, query=query).geturl()
    except ValueError:
        return url.split("://", 1)[0] + "://***"
