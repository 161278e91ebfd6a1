"""A store: its catalog and its arrays, opened together for reading. The stories write."""

from __future__ import annotations

import contextlib
import time
import uuid as uuids
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrp_store.arrays.root import IDENTITY, read_document, write_document
from qrp_store.catalog.database import query, schema
from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.entities import datasets, embeddings
from qrp_store.catalog.lifecycle import identity
from qrp_store.catalog.model.column_types import arrow_table
from qrp_store.catalog.overview import references
from qrp_store.errors import InvalidInput, NotFound, QrpStoreError, Unavailable
from qrp_store.options import InitOptions, takes
from qrp_store.records import Table
from qrp_store.samples import shown
from qrp_store.settings import Location, redact, resolve

if TYPE_CHECKING:
    import pandas
    import pyarrow

    from qrp_store.arrays.root import Root
    from qrp_store.embedding import Embedding


@dataclass(frozen=True)
class InitReport:
    """What `init` did. `created` is False if the store existed."""

    store: str
    arrays: str
    uuid: str
    created: bool
    schema: str


class Rows:
    """The rows of a query: iterates dicts; `.columns`, `.table`, `.arrow()`, `.pandas()`.

    `truncated`: the query had more rows than the limit.
    """

    def __init__(self, table: Table, *, truncated: bool = False) -> None:
        self.table = table
        self.truncated = truncated

    @property
    def columns(self) -> tuple[str, ...]:
        return self.table.columns

    def __len__(self) -> int:
        return len(self.table.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(zip(self.columns, self.table.rows[index], strict=True))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(zip(self.columns, row, strict=True)) for row in self.table.rows)

    def arrow(self) -> pyarrow.Table:
        """Return a pyarrow Table; columns of views have a fixed type, also without rows."""
        return arrow_table(self.table)

    def pandas(self) -> pandas.DataFrame:
        """Return a pandas DataFrame. Raise Unavailable if pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise Unavailable("this needs pandas", hint="pip install pandas") from error
        return pandas.DataFrame(self.table.rows, columns=list(self.columns))


class Store:
    """An open store. Use it as a context manager; `embedding()` and `sql()` read."""

    def __init__(self, location: Location, catalog: Catalog) -> None:
        self.location = location
        self.catalog = catalog

    @property
    def name(self) -> str:
        """Directory of the store, or its URL without the password."""
        return self.location.name

    @cached_property
    def arrays(self) -> Root:
        """Root of this store's arrays. Raise NotFound or InvalidInput if it is missing or another store's."""
        row = schema.store_row(self.catalog)
        url = self.location.arrays or row.arrays_url
        root = _root(url)
        owner = root.read_identity()
        if owner is None:
            raise NotFound(
                f"the arrays of {self.name} are not at {redact(url)} (no qrp-store.json there)",
                hint=f"mount them, name them with --arrays, or finish with: qrp-store init --store {self.name}",
            )
        if owner != row.uuid:
            raise InvalidInput(
                f"{redact(url)} holds the arrays of another store ({owner}, not {row.uuid})",
                hint="--arrays names another mount of the same root, never another root",
            )
        return root

    def embedding(self, dataset: str, backbone: str, version: int | None = None) -> Embedding:
        """Return the newest embedding of a dataset under a backbone, or a version of it (`backbone` may be NAME@N).

        Raise NotFound.
        """
        from qrp_store.embedding import Embedding

        if version is None:
            backbone, version = split_version(backbone)
        stored = embeddings.get(self.catalog, dataset, backbone, version)
        return Embedding(self.arrays, stored, lambda: datasets.keys(self.catalog, stored.dataset))

    def sql(
        self,
        statement: str,
        parameters: tuple[Any, ...] = (),
        *,
        limit: int | None = None,
        timeout: float | None = None,
    ) -> Rows:
        """Return the rows of one query over the views, at most `limit`; the database refuses to write.

        Raise InvalidInput for an invalid query, and Unavailable if it takes longer than `timeout` seconds.
        """
        answer = query.query(self.catalog, statement, parameters, limit=limit, timeout=timeout)
        return Rows(answer.table, truncated=answer.truncated)

    def close(self) -> None:
        self.catalog.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def split_version(name: str) -> tuple[str, int | None]:
    """Split NAME or NAME@N into name and version (or None). Raise InvalidInput for a malformed version."""
    base, at, number = name.partition("@")
    if not at:
        return name, None
    if not references.VERSION.fullmatch(number):
        raise InvalidInput(f"{name!r}: after the @ comes a version number, like {base}@1")
    return base, int(number)


def check_name(name: str, what: str) -> str:
    """Return the name. Raise InvalidInput if it is empty, too long, or holds @, + or a control character."""
    bad = next((c for c in name if c in "@+" or ord(c) < 32 or 127 <= ord(c) < 160), None)
    if bad is not None:
        raise InvalidInput(f"{what} name {name!r} holds {bad!r}", hint="names hold no @, + or control characters")
    if not name.strip() or len(name) > 200:
        raise InvalidInput(f"{what} name {name[:40]!r} is empty or longer than 200 characters")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{what} name {name!r} is not valid Unicode") from error
    return name


def _root(url: str) -> Root:
    from qrp_store.arrays.location import open_root

    return open_root(url)


def _default_arrays(location: Location) -> str | None:
    """Return the default location of a directory store's arrays."""
    return None if location.directory is None else str(location.directory / "arrays")


def belongs_here(location: Location, url: str) -> bool:
    """Whether an arrays' root is the folder `arrays` next to the store's catalog."""
    default = _default_arrays(location)
    return default is not None and not url.startswith("s3://") and Path(url).resolve() == Path(default).resolve()


@takes(InitOptions)
def create_store(store: str | None = None, arrays: str | None = None, *, adopt: bool = False) -> InitReport:
    """Create a store, or the schema in an empty database. Harmless if repeated.

    Raise InvalidInput for an arrays' root that is not empty, unless `adopt`: then its files stay, and `gc` never
    deletes them. For an existing store, `adopt` records this catalog as the owner of the arrays.
    """
    location = resolve(store, arrays)
    known = schema.peek(location)
    url = location.arrays or _known_arrays(location, known) or _default_arrays(location)
    if url is None:
        raise InvalidInput(
            f"a store on {location.name} needs a location for its arrays", hint="--arrays DIR or s3://bucket/prefix"
        )
    root = _root(url)
    document = read_document(root)
    filled = _require_free(root, document, location, known, adopt)

    def name_root(uuid: str) -> None:
        if document is None or document["uuid"] != uuid:
            root.delete(IDENTITY)
            root.write_identity(uuid)

    catalog, created = schema.create(location, root.url, name_root)
    try:
        row = schema.store_row(catalog)
        if created or adopt:
            since = {"adopted_at" if created else "taken_over_at": time.time()} if adopt and (filled or known) else {}
            kept = {} if created else document or {}
            write_document(root, {**kept, "uuid": row.uuid, "catalog": identity.place_of(catalog), **since})
    finally:
        catalog.close()
    return InitReport(location.name, redact(root.url), row.uuid, created, schema.HEAD)


def _require_free(
    root: Root, document: dict[str, Any] | None, location: Location, known: schema.StoreRow | None, adopt: bool
) -> bool:
    """Return whether `root` holds foreign files. Raise InvalidInput if the store must not use it."""
    if known is not None and document is not None and document["uuid"] == known.uuid:
        return False
    stray = next((entry.path for entry in root.entries("") if entry.path != IDENTITY), None)
    owner = None if document is None else document["uuid"]
    # A root with only an identity file is left by an interrupted init.
    taken = stray is not None and owner is not None
    if known is not None:
        taken = owner is not None or known.arrays_url != root.url
    if taken:
        raise InvalidInput(
            f"{redact(root.url)} is not the arrays' root of {location.name}"
            + (f": it belongs to store {owner}" if owner else ""),
            hint="name another location, or restore the catalog that belongs to it",
        )
    if stray is not None and not adopt:
        raise InvalidInput(
            f"the arrays' root {redact(root.url)} is not empty: it holds {shown(stray)}",
            hint="name an empty folder or prefix; --adopt uses it as it is and keeps its files",
        )
    return stray is not None


def give_new_identity(store: str | None = None, arrays: str | None = None) -> str:
    """Make a copied catalog and its copied arrays an independent store; return its new UUID.

    Raise InvalidInput if the arrays are not a copy: two stores never share a root.
    """
    location = resolve(store, arrays)
    catalog = schema.open_catalog(location)
    try:
        row, place = schema.store_row(catalog), identity.place_of(catalog)
        url = location.arrays or _default_arrays(location)
        root = None if url is None else _root(url)
        document = None if root is None else read_document(root)
        if root is None or document is None:
            raise InvalidInput(
                f"{location.name} has no copy of the arrays{'' if root is None else f' at {redact(root.url)}'}",
                hint="copy them first (cp -r, aws s3 sync), then name the copy with --arrays",
            )
        if document["uuid"] != row.uuid:
            raise InvalidInput(f"{redact(root.url)} holds the arrays of another store ({document['uuid']})")
        if not belongs_here(location, root.url) and _same_place(root.url, row.arrays_url):
            raise InvalidInput(
                f"{redact(root.url)} is where the catalog that this one was copied from keeps its arrays",
                hint="copy them first (cp -r, aws s3 sync), then name the copy with --arrays",
            )
        uuid = str(uuids.uuid4())
        with catalog.write() as connection:
            schema.rename_store(connection, uuid, root.url)
            write_document(root, {**document, "uuid": uuid, "catalog": place})
        return uuid
    finally:
        catalog.close()


def _same_place(one: str, other: str) -> bool:
    if one.startswith("s3://") or other.startswith("s3://"):
        return one.rstrip("/") == other.rstrip("/")
    return Path(one).resolve() == Path(other).resolve()


def _known_arrays(location: Location, known: schema.StoreRow | None) -> str | None:
    """Return the arrays of an existing store: next to its catalog (it may have been moved), else as recorded."""
    if known is None:
        return None
    default = _default_arrays(location)
    if default is not None and _root(default).read_identity() == known.uuid:
        return default
    return known.arrays_url


def open_store(
    store: str | PathLike[str] | None = None,
    arrays: str | PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> Store:
    """Open an existing store. Create nothing. Raise NotFound, SchemaMismatch, Unavailable or Corrupt."""
    location = resolve(store, arrays, env)
    opened = Store(location, schema.open_catalog(location))
    try:
        if location.arrays is not None:
            _ = opened.arrays  # refuse another store's root before the first query
        elif location.directory is not None:
            _notice_move(opened)
    except BaseException:
        opened.close()
        raise
    return opened


def _notice_move(store: Store) -> None:
    """Record the new location of the arrays of a moved directory store, for `array_url` in SQL."""
    row = schema.store_row(store.catalog)
    default = _default_arrays(store.location)
    if default in (None, row.arrays_url) or _root(str(default)).read_identity() != row.uuid:
        return
    with contextlib.suppress(QrpStoreError):  # a read-only copy stays readable
        schema.move_arrays(store.catalog, str(default))
