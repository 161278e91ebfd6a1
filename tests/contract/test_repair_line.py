"""repair, as a command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def test_repair_mends_what_verify_found_and_says_so_block_by_block(qrp: Any, own: Path, sql: Any) -> None:
    assert qrp.ok("repair", store=own)["mended"] == []
    assert "all well" in qrp.run("repair", store=own).out
    (row,) = sql(own, "SELECT array_url FROM embeddings WHERE backbone = 'sharp'")
    array = own / "arrays" / Path(row["array_url"]).relative_to(Path(row["array_url"]).parents[3])
    chunk = array / "c" / "2" / "0"
    whole = chunk.read_bytes()
    for damage in (whole[:40], bytes([whole[0] ^ 1]) + whole[1:], None):
        chunk.unlink() if damage is None else chunk.write_bytes(damage)
        assert qrp.run("verify", "--deep", store=own).code == 6
        ran = qrp.run("repair", store=own)
        assert ran.code == 0
        assert "block 2" in ran.out
        assert chunk.read_bytes() == whole
        assert qrp.ok("verify", "--deep", store=own)["problems"] == []


def test_repair_retires_what_it_cannot_mend_and_keep_leaves_it_with_exit_6(
    qrp: Any, files: Any, store: Path, sql: Any
) -> None:
    source = files.array([[0.0, 1], [1, 0], [1, 1]])
    qrp.ok("ingest", source, "--dataset", "d", "--backbone", "b", store=store)
    source.unlink()
    chunk = next(p for p in (store / "arrays").rglob("*") if p.parent.name == "0")
    chunk.unlink()
    ran = qrp.run("repair", "--keep", "--json", store=store)
    assert ran.code == 6
    assert [row["part"] for row in ran.json["left"]] == ["block 0"]
    report = qrp.ok("repair", store=store)
    assert [row["kind"] for row in report["dropped"]] == ["embedding"]
    assert sql(store, "SELECT * FROM embeddings") == []
    assert qrp.ok("verify", "--deep", store=store)["problems"] == []
