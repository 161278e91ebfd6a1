"""The shell offers the names that are in the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    "line, offered",
    [
        ("leaderboard --dataset ", ["photos"]),
        ("evaluate --dataset photos --backbone s", ["sharp"]),
        ("evaluate --concepts ", ["classes", "objects"]),
        ("report --dataset x", []),
        ("leader", ["leaderboard"]),
        ("show ph", ["photos"]),
        ("rm ", ["classes", "dull", "noise", "objects", "photos", "sharp"]),
        ("export labels obj", ["objects"]),
    ],
)
def test_names_are_offered(qrp: Any, world: Any, line: str, offered: list[str]) -> None:
    assert complete(qrp, line, {"QRP_STORE": str(world.store)}) == offered


def test_ids_are_offered_once_there_is_a_start(qrp: Any, world: Any) -> None:
    env = {"QRP_STORE": str(world.store)}
    ids = {row["id"] for row in qrp.rows("ls", "results", store=world.store)}
    assert set(complete(qrp, "compare res-", env)) == set(complete(qrp, "show res-", env)) == ids
    assert {"sharp", "objects"} <= set(complete(qrp, "compare ", env))  # it takes backbones and concept sets, too


def test_the_store_of_the_line_is_asked(qrp: Any, world: Any, tmp_path: Path) -> None:
    assert complete(qrp, f"evaluate --store {world.store} --dataset ", {}) == ["photos"]
    assert complete(qrp, f"evaluate --store {tmp_path / 'none'} --dataset ", {}) == []
    assert list(tmp_path.iterdir()) == []


def complete(qrp: Any, line: str, env: dict[str, str]) -> list[str]:
    words = f"qrp-store {line}"
    asked = {"_QRP_STORE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    ran = qrp.run(env={**env, **asked})
    assert "Traceback" not in ran.err
    return list(ran.out.split())
