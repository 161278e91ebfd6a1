"""What the tables are made of: one metadata, column types, and the keys by which they refer to one another."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Integer, MetaData, TypeDecorator
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine


class Document(TypeDecorator[Any]):
    """JSON; JSONB on Postgres, whose dialect is imported only there."""

    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name != "postgresql":
            return dialect.type_descriptor(JSON())
        from sqlalchemy.dialects.postgresql import JSONB

        return dialect.type_descriptor(JSONB())


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
# An autoincrementing key on both databases: SQLite wants INTEGER for its rowid.
PK = BigInteger().with_variant(Integer(), "sqlite")
KEYED: dict[str, Any] = {"sqlite_with_rowid": False}


def key(table: str, *, primary: bool = False, nullable: bool = False) -> Column[int]:
    return Column(f"{table}_pk", PK, ForeignKey(f"{table}.pk"), primary_key=primary, nullable=nullable)


def of(parent: str, *, primary: bool = True) -> Column[int]:
    """The key of a row that belongs to an artifact's own table (its key is the artifact's)."""
    return Column(f"{parent}_pk", PK, ForeignKey(f"{parent}.artifact_pk"), primary_key=primary, nullable=False)


def bulk_of(parent: str) -> Column[int]:
    """`of` without a foreign key, whose look-up a row makes a COPY four times as long: rows of these tables are written
    under the fenced lease of their owner, and removed before it."""
    return Column(f"{parent}_pk", PK, primary_key=True, autoincrement=False, nullable=False)
