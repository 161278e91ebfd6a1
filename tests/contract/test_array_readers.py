"""Embeddings open in other people's readers, and say there what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray
import zarr


def test_zarr_opens_the_array_and_xarray_the_group(qrp: Any, world: Any) -> None:
    (row,) = qrp.rows("sql", "SELECT * FROM embeddings WHERE backbone = 'sharp'", store=world.store)
    array = zarr.open_array(row["array_url"], mode="r")
    with xarray.open_zarr(row["group_url"], consolidated=False) as opened:
        seen = opened["embedding"]
        assert seen.dims == ("sample", "feature")
        for values, attributes in ((array[:], dict(array.attrs)), (seen.values, dict(seen.attrs))):
            assert np.array_equal(values, world.rows["sharp"])
            (fingerprint,) = qrp.rows(
                "sql", f"SELECT fingerprint FROM artifact WHERE id = '{row['id']}'", store=world.store
            )
            wanted = {"dataset": "photos", "backbone": "sharp", "id": row["id"], **fingerprint}
            assert {name: attributes[name] for name in wanted} == wanted
            assert attributes["made_by"].startswith("qrp-store ")
