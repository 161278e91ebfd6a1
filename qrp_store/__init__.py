"""qrp_store: quantized reverse probing over a shared store of embeddings.

Importing this loads nothing heavy: no torch, faiss, dask or zarr.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

from qrp_store.errors import (
    Busy,
    Corrupt,
    Interrupted,
    InvalidInput,
    NotFound,
    QrpStoreError,
    SchemaMismatch,
    Unavailable,
)

if TYPE_CHECKING:
    from qrp_store.store import Store

__version__ = "0.3.0.dev0"

__all__ = [
    "Busy",
    "Corrupt",
    "Interrupted",
    "InvalidInput",
    "NotFound",
    "QrpStoreError",
    "SchemaMismatch",
    "Unavailable",
    "__version__",
    "open",
]


def open(store: str | PathLike[str] | None = None, arrays: str | PathLike[str] | None = None) -> Store:
    """Open an existing store; nothing is ever created by looking.

    `store` is a directory or a database URL (default: $QRP_STORE, then ./qrp-data); `arrays` names another
    mount of the arrays' root. Raises NotFound, SchemaMismatch or Unavailable. Use it as a context manager.
    """
    from qrp_store.store import open_store

    return open_store(store, arrays)
