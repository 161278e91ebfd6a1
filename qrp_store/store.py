"""A store: its catalog and its arrays, opened together, and reading from it. Writing is what the stories do."""

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
    """What `init` did. `created` is False when the store was there."""

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
        """As a pyarrow Table; the views' columns have their types whatever the rows."""
        return arrow_table(self.table)

    def pandas(self) -> pandas.DataFrame:
        """As a pandas DataFrame. Raises Unavailable when pandas is not installed."""
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
        """The store's directory or its URL without the password."""
        return self.location.name

    @cached_property
    def arrays(self) -> Root:
        """The arrays' root, checked to be this store's."""
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
        """The newest (or that) embedding of a dataset under a backbone; `backbone` may be NAME@N. Raises NotFound."""
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

        Raises InvalidInput for what is no query, and Unavailable when it takes longer than `timeout` seconds.
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
    """NAME or NAME@N → (name, version or None). Raises InvalidInput for another @."""
    base, at, number = name.partition("@")
    if not at:
        return name, None
    if not references.VERSION.fullmatch(number):
        raise InvalidInput(f"{name!r}: after the @ comes a version number, like {base}@1")
    return base, int(number)


def check_name(name: str, what: str) -> str:
    """The name, unless it is empty, longer than 200 characters, or holds @, + or a control character."""
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
    """Where a directory store keeps its arrays unless `init --arrays` says otherwise."""
    return None if location.directory is None else str(location.directory / "arrays")


def belongs_here(location: Location, url: str) -> bool:
    """Whether an arrays' root is the folder `arrays` next to the store's own catalog."""
    default = _default_arrays(location)
    return default is not None and not url.startswith("s3://") and Path(url).resolve() == Path(default).resolve()


@takes(InitOptions)
def create_store(store: str | None = None, arrays: str | None = None, *, adopt: bool = False) -> InitReport:
    """Make a store, or bring an empty database to the schema. Harmless when repeated.

    InvalidInput for an arrays' root that holds something, unless `adopt`: then those files stay, and `gc` never deletes
    them. For a store that exists, `adopt` makes this catalog the one that its arrays belong to.
    """
    location = resolve(store, arrays)
    known = schema.peek(location)
    url = location.arrays or _known_arrays(location, known) or _default_arrays(location)
    if url is None:
        raise InvalidInput(
            f"a store on {location.name} needs to know where its arrays go", hint="--arrays DIR or s3://bucket/prefix"
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
    """Raise InvalidInput unless the store may keep its arrays at `root`; return whether other files are there."""
    if known is not None and document is not None and document["uuid"] == known.uuid:
        return False
    stray = next((entry.path for entry in root.entries("") if entry.path != IDENTITY), None)
    owner = None if document is None else document["uuid"]
    # A root with nothing but its name is what an init that died left behind.
    taken = stray is not None and owner is not None
    if known is not None:
        taken = owner is not None or known.arrays_url != root.url
    if taken:
        raise InvalidInput(
            f"{redact(root.url)} is not the arrays' root of {location.name}"
            + (f": it belongs to store {owner}" if owner else ""),
            hint="name another place, or restore the catalog that belongs to it",
        )
    if stray is not None and not adopt:
        raise InvalidInput(
            f"the arrays' root {redact(root.url)} is not empty: it holds {shown(stray)}",
            hint="name an empty folder or a prefix of its own; --adopt takes it as it is, and its files stay",
        )
    return stray is not None


def give_new_identity(store: str | None = None, arrays: str | None = None) -> str:
    """Make a copied catalog, with a copy of its arrays, a store of its own; return its new UUID.

    Raises InvalidInput unless the arrays are a copy: two stores never share a root.
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
    """The arrays of a known store: next to its catalog if they are there (it may have been moved), else as recorded."""
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
    """Open an existing store. Raises NotFound, SchemaMismatch, Unavailable or Corrupt; creates nothing."""
    location = resolve(store, arrays, env)
    opened = Store(location, schema.open_catalog(location))
    try:
        if location.arrays is not None:
            _ = opened.arrays  # another store's root is refused before anything is asked
        elif location.directory is not None:
            _notice_move(opened)
    except BaseException:
        opened.close()
        raise
    return opened


def _notice_move(store: Store) -> None:
    """A directory store may be moved: its catalog then learns where its arrays are, for `array_url` in SQL."""
    row = schema.store_row(store.catalog)
    default = _default_arrays(store.location)
    if default in (None, row.arrays_url) or _root(str(default)).read_identity() != row.uuid:
        return
    with contextlib.suppress(QrpStoreError):  # a read-only copy is fine to look at
        schema.move_arrays(store.catalog, str(default))
