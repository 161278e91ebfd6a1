"""Which concepts hold for which sample, as compressed rows: derived once a concept set, kept beside it, verified.

The truth is in the catalog. The two arrays are written before a set is ready and their checksums stand in its
provenance; whoever finds them missing or damaged makes them again from the catalog, with the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qrp_store.arrays.blocked import load_array, save_array
from qrp_store.catalog.entities import concept_sets, datasets
from qrp_store.catalog.entities.concept_sets import StoredConcepts
from qrp_store.errors import Corrupt, QrpStoreError
from qrp_store.store import Store

MEMBER = "rows"
Rows = tuple[np.ndarray, np.ndarray]


def compress(positions: np.ndarray, concepts: np.ndarray, n: int) -> Rows:
    """`indptr` int64 (n + 1) and `indices` int32 of pairs that are sorted by position, then concept."""
    indptr = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(positions, minlength=n), out=indptr[1:])
    return indptr, concepts.astype(np.int32, copy=False)


def save(store: Store, path: str, rows: Rows) -> dict[str, Any]:
    """Put rows beside a set that is being written; what its provenance says of them."""
    indptr, indices = rows
    return {
        "path": f"{path}/{MEMBER}",
        "indptr": save_array(store.arrays, f"{path}/{MEMBER}/indptr", indptr, replace=True),
        "indices": save_array(store.arrays, f"{path}/{MEMBER}/indices", indices, replace=True),
    }


def load(store: Store, stored: StoredConcepts) -> Rows:
    """A set's rows, over all positions of its dataset. Raises Corrupt when the catalog's labels are not those
    that were recorded."""
    kept: Mapping[str, Any] | None = stored.artifact.provenance.get(MEMBER)
    if kept is not None:
        try:
            return _read(store, kept)
        except QrpStoreError:
            pass  # missing, damaged, or the arrays are not here: the catalog has them all
    n = datasets.get_dataset(store.catalog, stored.dataset).n
    rows = compress(*concept_sets.labels(store.catalog, stored.artifact.id), n)
    if kept is not None:
        _put_back(store, stored, kept, rows)
    return rows


def _read(store: Store, kept: Mapping[str, Any]) -> Rows:
    indptr, indices = (load_array(store.arrays, f"{kept['path']}/{name}", kept[name]) for name in ("indptr", "indices"))
    return indptr, indices


def _put_back(store: Store, stored: StoredConcepts, kept: Mapping[str, Any], rows: Rows) -> None:
    try:
        made = save(store, str(stored.artifact.path), rows)
    except Corrupt:
        raise
    except QrpStoreError:
        return  # a store that cannot be written is fine to read
    if (made["indptr"], made["indices"]) != (kept["indptr"], kept["indices"]):
        raise Corrupt(
            f"{stored.artifact.id}: its labels in the catalog are not those that were recorded",
            hint="restore the catalog from a backup, or label again with --force",
        )
