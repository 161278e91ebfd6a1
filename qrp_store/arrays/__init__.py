"""Write-once blocked arrays, as plain Zarr v3 below one root. Only this package imports zarr."""

from __future__ import annotations

from qrp_store.arrays.arrays import (
    create,
    default_block_rows,
    load_array,
    read_block,
    save_array,
    verify_block,
    write_block,
)
from qrp_store.arrays.location import Root, open_root

__all__ = [
    "Root",
    "create",
    "default_block_rows",
    "load_array",
    "open_root",
    "read_block",
    "save_array",
    "verify_block",
    "write_block",
]
