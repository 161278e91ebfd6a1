"""copy, as a command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def test_copy_brings_a_laptops_results_into_the_teams_store(qrp: Any, world: Any, sql: Any, tmp_path: Path) -> None:
    team = tmp_path / "team"
    message = qrp.fails(3, "copy", "photos", "--to", team, store=world.store)
    assert f"qrp-store init --store {team}" in message
    assert not team.exists()
    qrp.ok("init", store=team)
    one = world.evaluated["results"][0]
    first = qrp.ok("copy", one["id"], "--to", team, store=world.store)
    assert [row["kind"] for row in first["copied"]] == ["embedding", "concepts", "clustering", "result"]
    assert not first["cached"]
    env = {"QRP_STORE": str(world.store), "QRP_STORE_ARRAYS": str(world.store / "arrays")}
    whole = qrp.ok("copy", "photos", "--to", team, env=env)
    assert len(whole["copied"]) + len(whole["found"]) == 3 + 2 + 9 + 19
    assert qrp.ok("copy", "photos", "--to", team, env=env)["cached"]
    fields = "id, version, fingerprint, dataset, backbone, clustering_id, setting, nmi, created_at, created_by"
    query = f"SELECT {fields} FROM results ORDER BY id"
    assert sql(team, query) == sql(world.store, query)
    assert sql(team, "SELECT * FROM leaderboard") == sql(world.store, "SELECT * FROM leaderboard")
    assert qrp.ok("verify", "--deep", store=team)["problems"] == []
    assert "NMI" in qrp.run("rerun", one["id"], store=team).out


def test_copy_tells_the_difference_when_a_name_means_something_else_there(
    qrp: Any, world: Any, files: Any, store: Path
) -> None:
    other = files.array(world.rows["sharp"] + 1)
    keys = files.keys(world.keys)
    qrp.ok("ingest", other, "--keys", keys, "--dataset", "photos", "--backbone", "sharp", store=store)
    message = qrp.fails(4, "copy", "photos", "--to", store, store=world.store)
    assert "'photos/sharp' version 1" in message
    assert "content" in message
    assert len(qrp.rows("ls", "embeddings", store=store)) == 1
