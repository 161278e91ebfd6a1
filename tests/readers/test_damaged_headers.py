"""numpy evaluates a header as a Python literal: a damaged one is bad input, whatever the parser raises for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qrp_store.errors import InvalidInput
from qrp_store.readers.groupings import read_grouping

HEADERS = (b"{'descr': ((('<i8', ", b"{'descr': '<i8' 'x", b"\x00\x00\x00", b"[1, 2]", b"{'descr': 3}")


@pytest.mark.parametrize("start", HEADERS)
def test_a_damaged_header_of_a_grouping_is_bad_input(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "groups.npy"
    np.save(path, np.arange(5))
    whole = bytearray(path.read_bytes())
    whole[10:127] = start.ljust(117)
    path.write_bytes(whole)
    with pytest.raises(InvalidInput, match="not an array that can be read"):
        read_grouping(path)
