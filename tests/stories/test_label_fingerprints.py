"""The fingerprints of concept sets are those of earlier versions: an old set is found again, not made twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qrp_store.ingest import ingest
from qrp_store.label import label
from qrp_store.store import Store, create_store, open_store

FILES = {
    "long.csv": "key,concept,score\n0,red,0.9\n1,blue,0.2\n2,red,0.6\n",
    "wide.csv": "key,red,blue\n0,yes,no\n1,no,yes\n2,yes,yes\n",
    "columns.csv": "id,tags,weight,kind\na,red;blue,0.9,colour\n1,blue,0.2,colour\n",
    "scores.csv": "key,red,blue\n0,2.5,-1.5\n1,-3.5,1.5\n2,4.5,0.5\n",
    "names.csv": "red,crimson\nblue,azure\n",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("labels")
    create_store(str(folder / "store"))
    np.save(folder / "x.npy", np.eye(3, dtype=np.float32))
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    with open_store(str(folder / "store")) as store:
        ingest(store, str(folder / "x.npy"), dataset="d", backbone="b")
        yield store, folder


@pytest.mark.parametrize(
    ("name", "options", "fingerprint"),
    [
        ("long.csv", {}, "dca53b58323100f5"),
        ("long.csv", {"threshold": 0.1, "group": "colour", "match": "stem"}, "52ca1ace97d4484b"),
        ("scores.csv", {"format": "clip-scores", "exclusive": True, "activation": "softmax"}, "8cb4c09aa243ae25"),
        ("long.csv", {"names": "names.csv", "max_concepts": 7}, "a388fb87d1b9f72d"),
        ("wide.csv", {"true": "yes", "false": ["no"]}, "319bd05fbeef7f38"),
        ("wide.csv", {"format": "wide", "ignore_unknown_keys": True}, "60829a7498e75b00"),
        (
            "columns.csv",
            {
                "key_column": "id",
                "concept_column": "tags",
                "score_column": "weight",
                "group_column": "kind",
                "split": ";",
                "ignore_unknown_keys": True,
            },
            "978e59f59764461d",
        ),
    ],
)
def test_a_fingerprint_is_the_earlier_one(
    store: tuple[Store, Path], name: str, options: dict[str, Any], fingerprint: str
) -> None:
    opened, folder = store
    if "names" in options:
        options = {**options, "names": str(folder / options["names"])}
    made = label(opened, str(folder / name), dataset="d", concepts="c", **options)
    assert made.fingerprint[:16] == fingerprint
