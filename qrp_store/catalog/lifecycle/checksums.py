"""A checksum over each artifact's rows: what tells that a row of the catalog is the one that was written.

Recorded with the artifact in the transaction that makes it ready, by name of the table. A large table's is the sum of a
hash of every row, taken from the numbers as they are written: it depends on no order and costs little. A small table's
is a digest of its sorted rows, read back before the commit. Keys of other rows stand as the ids they mean, columns
without any value are left out, so that a later schema with more columns gives the same checksums.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from qrp_store.catalog.database.engine import Catalog
from qrp_store.catalog.model import tables as t
from qrp_store.catalog.model import views
from qrp_store.catalog.model.columns import Document
from qrp_store.catalog.model.kinds import KINDS, Kind, Rows
from qrp_store.errors import Busy, Corrupt, Unavailable
from qrp_store.records import fingerprint

if TYPE_CHECKING:
    import numpy as np

ARTIFACT = "artifact"
HINT = "run `qrp-store verify --deep` and `qrp-store repair`, or restore the catalog from a backup"
_SEALED = (
    *("id", "kind", "name", "series", "version", "fingerprint", "spec", "provenance", "path"),
    *("created_at", "created_by"),
)
_MEANT = {
    "dataset_pk": (t.dataset, ("id", "name", "n", "fingerprint")),
    "backbone_pk": (t.backbone, ("id", "name", "fingerprint")),
}
_FACTORS = (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F)  # odd, bits as if at random
_REFUSES = re.compile(r" BEGIN SELECT RAISE\(ABORT, '[^']*'\); END$")
_CHUNK = 1 << 16  # stays in the processor's cache
_a = t.artifact.c


def of_numbers(*columns: np.ndarray) -> str:
    """The checksum (16 hex digits) of rows of up to three numbers, in whatever order: integers, or floats with NaN for
    NULL."""
    return f"{_sum_of_hashes(columns):016x}"


def _sum_of_hashes(columns: Sequence[np.ndarray]) -> int:
    import numpy as np

    total = 0
    with np.errstate(over="ignore"):
        for start in range(0, len(columns[0]), _CHUNK):
            hashed = np.zeros(len(columns[0][start : start + _CHUNK]), np.uint64)
            for factor, column in zip(_FACTORS, columns, strict=False):
                hashed += _bits(column[start : start + _CHUNK]) * np.uint64(factor)
            # the finaliser of splitmix64: without it a sum over rows would not notice values that change places
            hashed = (hashed ^ (hashed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            hashed = (hashed ^ (hashed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            total += int((hashed ^ (hashed >> np.uint64(31))).sum(dtype=np.uint64))
    return total % (1 << 64)


def _bits(column: np.ndarray) -> np.ndarray:
    import numpy as np

    if column.dtype.kind == "f":
        return (np.where(np.isnan(column), np.nan, column).astype(np.float64) + 0.0).view(np.uint64)
    return column.astype(np.int64).view(np.uint64)


def of_rows(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The checksum (32 hex digits) of rows of any values, in whatever order."""
    held = [tuple(row) for row in rows]
    used = [i for i in range(len(names)) if any(row[i] is not None for row in held)]
    if len(used) < len(names):
        held = [tuple(row[i] for i in used) for row in held]
    digest = hashlib.blake2b(repr([names[i] for i in used]).encode(), digest_size=16)
    digest.update("\n".join(sorted(map(repr, held))).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def record(connection: sa.Connection, pk: int, values: Mapping[str, str]) -> None:
    """Record checksums with an artifact, and keep those of its other tables."""
    known = connection.execute(sa.select(_a.checksums).where(_a.pk == pk)).scalar() or {}
    connection.execute(t.artifact.update().where(_a.pk == pk).values(checksums={**known, **values}))


def seal(connection: sa.Connection, pk: int) -> None:
    """Record the checksums of everything that an artifact says, in the transaction that makes it ready.

    Those of its large tables were recorded when they were written.
    """
    kind = KINDS[connection.execute(sa.select(_a.kind).where(_a.pk == pk)).scalar_one()]
    large = {rows.table.name for rows in kind.rows if rows.bulk}
    values: dict[str, str] = {}
    for name, calculate in _every(kind, pk):
        if name not in large:
            values |= calculate(connection)
    record(connection, pk, values)


def seal_later(connection: sa.Connection, pk: int, table: sa.Table) -> None:
    """Record the checksum of a table whose rows came after the artifact was ready. One that was made before there were
    checksums stays without."""
    recorded = connection.execute(sa.select(_a.kind, _a.checksums).where(_a.pk == pk)).one()
    if recorded.checksums is not None:
        (rows,) = [rows for rows in KINDS[recorded.kind].rows if rows.table is table]
        record(connection, pk, {table.name: of_table(connection, rows, pk)})


def _of_artifact(connection: sa.Connection, pk: int) -> str:
    columns = [_a[name] for name in _SEALED]
    return _of_columns(connection, columns, _a.pk == pk)


def of_table(connection: sa.Connection, rows: Rows, pk: int) -> str:
    """The checksum of an artifact's rows in a small table."""
    columns = [column for column in rows.table.c if column.name != rows.owner]
    return _of_columns(connection, columns, rows.table.c[rows.owner] == pk)


def _of_columns(connection: sa.Connection, columns: Sequence[sa.Column[Any]], where: sa.ColumnElement[bool]) -> str:
    held = connection.execute(sa.select(*columns).where(where)).all()
    turned = [
        _plain(connection, column, values) for column, values in zip(columns, zip(*held, strict=True), strict=False)
    ]
    return of_rows([column.name for column in columns], zip(*turned, strict=True))


def _plain(connection: sa.Connection, column: sa.Column[Any], values: Sequence[Any]) -> Sequence[Any]:
    """A column's values as every database gives them back."""
    if isinstance(column.type, Document):
        return [_text(value) for value in values]
    if isinstance(column.type, sa.Float):  # SQLite keeps no -0.0
        return [None if value is None else value + 0.0 for value in values]
    if column.name.endswith("_pk"):
        meant = {key: _meant(connection, column.name, key) for key in set(values)}
        return [meant[key] for key in values]
    return values


def _meant(connection: sa.Connection, column: str, key: int | None) -> object:
    """What tells the row that a key refers to from every other one, in any catalog."""
    if key is None:
        return None
    table, names = _MEANT.get(column, (t.artifact, ("id",)))
    row = connection.execute(sa.select(*(table.c[name] for name in names)).where(table.c.pk == key)).first()
    return "nothing" if row is None else tuple(row)


def _text(value: object) -> str | None:
    return None if value is None else json.dumps(_normal(value), sort_keys=True)


def _normal(value: object) -> object:
    """A document as every database gives it back: Postgres keeps no 1.0 apart from 1."""
    if isinstance(value, dict):
        return {name: _normal(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_normal(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def of_large_table(connection: sa.Connection, rows: Rows, pk: int) -> dict[str, str]:
    """The checksums of an artifact's rows in a large table, by name, read from the catalog."""
    assert rows.numbers is not None
    names = list(dict.fromkeys(name for columns in rows.numbers.values() for name in columns))
    sums = dict.fromkeys(rows.numbers, 0)
    query = sa.select(*(rows.table.c[name] for name in names)).where(rows.table.c[rows.owner] == pk)
    for part in connection.execute(query).partitions(200_000):
        values = dict(zip(names, zip(*part, strict=True), strict=True))
        _add(sums, rows, values)
    return {name: f"{total % (1 << 64):016x}" for name, total in sums.items()}


def _add(sums: dict[str, int], rows: Rows, values: Mapping[str, Sequence[Any]]) -> None:
    import numpy as np

    assert rows.numbers is not None
    columns = {
        name: np.array(held, np.float64 if isinstance(rows.table.c[name].type, sa.Float) else np.int64)
        for name, held in values.items()
    }
    for name, names in rows.numbers.items():
        sums[name] += _sum_of_hashes([columns[column] for column in names])


class LargeTable:
    """The checksums of a large table's rows that pass by as tuples, with their columns' `names`."""

    def __init__(self, rows: Rows, names: Sequence[str]) -> None:
        assert rows.numbers is not None
        self._rows, self._names = rows, list(names)
        self._sums = dict.fromkeys(rows.numbers, 0)

    def add(self, held: Sequence[Sequence[Any]]) -> None:
        values = dict(zip(self._names, zip(*held, strict=True), strict=True))
        summed = {column for columns in (self._rows.numbers or {}).values() for column in columns}
        _add(self._sums, self._rows, {name: column for name, column in values.items() if name in summed})

    def values(self) -> dict[str, str]:
        return {name: f"{total % (1 << 64):016x}" for name, total in self._sums.items()}


def compute(connection: sa.Connection, pk: int) -> dict[str, str]:
    """The checksums of everything that an artifact says, read from the catalog."""
    kind = KINDS[connection.execute(sa.select(_a.kind).where(_a.pk == pk)).scalar_one()]
    values: dict[str, str] = {}
    for _, calculate in _every(kind, pk):
        values |= calculate(connection)
    return values


def recorded(connection: sa.Connection, pk: int) -> dict[str, str] | None:
    """What was recorded with an artifact; None for one that was made before there were checksums."""
    values: dict[str, str] | None = connection.execute(sa.select(_a.checksums).where(_a.pk == pk)).scalar()
    return values


def require(connection: sa.Connection, pk: int, values: Mapping[str, str]) -> None:
    """Raise Corrupt, naming the artifact and the table, when its rows are not those that were written."""
    known = recorded(connection, pk) or {}
    differing = [name for name, value in values.items() if known.get(name, value) != value]
    if differing:
        row = connection.execute(sa.select(_a.kind, _a.name, _a.id).where(_a.pk == pk)).one()
        raise Corrupt(
            f"{row.kind} {row.name!r} ({row.id}): its rows in table {differing[0]} are not those that were written",
            hint=HINT,
        )


def differences(catalog: Catalog, pk: int) -> dict[str, str] | None:
    """Table → what is wrong, for every table whose rows are not those that were recorded with a ready artifact; None
    for an artifact without checksums. A table that cannot be read is one of them."""
    with catalog.read() as connection:
        known = recorded(connection, pk)
        kind = KINDS[connection.execute(sa.select(_a.kind).where(_a.pk == pk)).scalar_one()]
        changed = _unsealed_spec(connection, pk)
    if known is None:
        return {ARTIFACT: changed} if changed else None
    problems = {ARTIFACT: changed} if changed else {}
    for name, calculate in _every(kind, pk):
        problem = _compared(catalog, pk, name, calculate, known)
        if problem is not None and name in {rows.table.name for rows in kind.rows if rows.later}:
            with catalog.read() as connection:  # rows may have come between the two readings
                known = recorded(connection, pk) or known
            problem = _compared(catalog, pk, name, calculate, known)
        if problem is not None:
            problems.setdefault(name, problem)
    return problems


def _unsealed_spec(connection: sa.Connection, pk: int) -> str | None:
    row = connection.execute(sa.select(_a.kind, _a.spec, _a.fingerprint).where(_a.pk == pk)).one()
    same = fingerprint({"kind": row.kind, **row.spec}) == row.fingerprint
    return None if same else "its fingerprint is not that of its specification"


def _every(kind: Kind, pk: int) -> Iterator[tuple[str, Callable[[sa.Connection], dict[str, str]]]]:
    """Each table of an artifact with what computes its checksums."""
    yield ARTIFACT, partial(_named, ARTIFACT, partial(_of_artifact, pk=pk))
    for rows in (Rows(kind.table, "artifact_pk"), *kind.rows):
        name = rows.table.name
        if rows.bulk:
            yield name, partial(of_large_table, rows=rows, pk=pk)
        else:
            yield name, partial(_named, name, partial(of_table, rows=rows, pk=pk))


def _named(name: str, calculate: Callable[[sa.Connection], str], connection: sa.Connection) -> dict[str, str]:
    return {name: calculate(connection)}


def _compared(
    catalog: Catalog,
    pk: int,
    name: str,
    calculate: Callable[[sa.Connection], dict[str, str]],
    known: Mapping[str, str],
) -> str | None:
    """What is wrong with a table of an artifact, or None."""
    try:
        with catalog.read() as connection:
            values = calculate(connection)
    except (Unavailable, Busy):
        raise
    except Exception as error:  # a damaged value breaks its reader in many ways
        return f"its rows in table {name} cannot be read: {' '.join(str(error).split())[:200]}"
    if all(known.get(key, value) == value for key, value in values.items()):
        return None
    return f"its rows in table {name} are not those that were written"


def database_problems(catalog: Catalog) -> list[str]:
    """Return what the database itself finds wrong.

    SQLite: its integrity check, and views and triggers that are not this version's. Postgres: pages that failed their
    checksum when they were read, so call this last; and what the extension amcheck finds, where it is installed.
    """
    if not catalog.sqlite:
        return [*_failed_pages(catalog), *_amcheck(catalog)]
    with catalog.read() as connection:
        rows = connection.exec_driver_sql("PRAGMA integrity_check(20)").scalars().all()
        held = connection.exec_driver_sql("SELECT type, name, sql FROM sqlite_master WHERE type IN ('view', 'trigger')")
        return [str(row) for row in rows if row != "ok"] + [
            f"{kind} {name} is not the one that this version makes: qrp-store migrate renews views"
            for kind, name, sql in held
            if not _ours(kind, name, str(sql))
        ]


def _failed_pages(catalog: Catalog) -> Iterator[str]:
    query = (
        "SELECT checksum_failures, checksum_last_failure::text FROM pg_stat_database WHERE datname = current_database()"
    )
    with catalog.read() as connection:
        failures, last = connection.exec_driver_sql(query).one()
    if failures:
        yield f"{failures} pages failed their checksum, the last at {last} (after a repair: SELECT pg_stat_reset())"


_RELATIONS = """
SELECT c.relkind::text, quote_ident(n.nspname) || '.' || quote_ident(c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_index x ON x.indexrelid = c.oid
WHERE coalesce(x.indrelid, c.oid) IN (SELECT to_regclass(name)::oid FROM unnest(%s::text[]) AS name)
ORDER BY 1, 2
"""
_AMCHECK = {  # by kind of relation: the function of amcheck, and a query that fails or returns what is wrong
    "i": ("bt_index_check", "SELECT nullif(bt_index_check('{}'::regclass)::text, '')"),
    "r": ("verify_heapam", "SELECT msg FROM verify_heapam('{}'::regclass) LIMIT 3"),
}


def _amcheck(catalog: Catalog) -> Iterator[str]:
    """Yield damaged indexes and tables as the extension amcheck finds them; nothing where this role cannot call it."""
    allowed = (
        "SELECT DISTINCT p.proname::text FROM pg_extension e JOIN pg_depend d ON d.refobjid = e.oid "
        "JOIN pg_proc p ON p.oid = d.objid WHERE e.extname = 'amcheck' AND has_function_privilege(p.oid, 'EXECUTE')"
    )
    with catalog.read() as connection:
        functions = set(connection.exec_driver_sql(allowed).scalars())
        relations = connection.exec_driver_sql(_RELATIONS, (list(t.metadata.tables),)).all() if functions else []
    for kind, relation in relations:
        function, query = _AMCHECK.get(kind, ("", ""))
        if function in functions:
            try:
                with catalog.read() as connection:
                    wrong = connection.exec_driver_sql(query.format(relation.replace("%", "%%"))).scalars().all()
                yield from (f"{relation}: {message}" for message in wrong if message)
            except Corrupt as error:
                yield error.message


def _ours(kind: str, name: str, sql: str) -> bool:
    """Whether a view has this version's text, and a trigger does nothing but refuse."""
    if kind == "view":
        return views.is_ours(name, sql)
    return _REFUSES.search(sql) is not None and sql.upper().count(" BEGIN ") == 1


def fill(catalog: Catalog) -> int:
    """Record the checksums of ready artifacts that have none, as their rows are now; returns how many there were."""
    with catalog.read() as connection:
        query = sa.select(_a.pk).where(_a.state == "ready", _a.checksums.is_(None)).order_by(_a.pk)
        pks = list(connection.execute(query).scalars())
    for pk in pks:
        with catalog.read() as connection:
            values = compute(connection, pk)
        with catalog.write() as connection:
            same = t.artifact.update().where(_a.pk == pk, _a.state == "ready", _a.checksums.is_(None))
            connection.execute(same.values(checksums=values))
    return len(pks)
