"""rm of datasets and backbones, and what gc leaves of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(("name", "n"), [("photos", 1 + 3 + 2 + 9 + 19), ("sharp", 1 + 1 + 3 + 7)])
def test_a_dataset_or_backbone_is_retired_with_everything_made_of_it(
    qrp: Any, own: Path, world: Any, sql: Any, name: str, n: int
) -> None:
    assert "--cascade" in qrp.fails(4, "rm", name, "--yes", store=own)
    assert "--yes" in qrp.fails(4, "rm", name, "--cascade", store=own)
    assert len(sql(own, "SELECT * FROM embeddings")) == 3
    assert len(qrp.ok("rm", name, "--cascade", "--yes", store=own)["retired"]) == n
    qrp.fails(3, "rm", name, "--cascade", "--yes", store=own)
    left = 0 if name == "photos" else 2
    assert len(sql(own, "SELECT DISTINCT backbone FROM leaderboard")) == left
    assert len(qrp.rows("ls", "backbones", store=own)) == (3 if name == "photos" else 2)
    assert len(qrp.rows("ls", "datasets", store=own)) == (0 if name == "photos" else 1)
    qrp.ok("gc", store=own)
    assert qrp.ok("gc", store=own)["rows"] == 0
    assert qrp.ok("verify", "--deep", store=own)["problems"] == []
    retired = sql(own, "SELECT id, nmi FROM result_versions WHERE state = 'retired'")
    assert len(retired) == (19 if name == "photos" else 7)
    if name == "photos":  # withdrawn images leave nothing behind: neither keys nor vectors nor labels
        for table in ("sample", "image_file", "label", "assignment", "block"):
            assert sql(own, f"SELECT * FROM {table}") == []
        assert {p.parent.name for p in (own / "arrays").rglob("*") if p.is_file()} == {"arrays"}


def test_what_was_retired_is_shown_as_that(qrp: Any, own: Path, world: Any, sql: Any) -> None:
    ids = [row["id"] for row in sql(own, "SELECT min(id) AS id FROM artifact WHERE state = 'ready' GROUP BY kind")]
    qrp.ok("rm", "photos", "--cascade", "--yes", store=own)
    for _ in range(2):
        shown = [qrp.ok("show", identifier, store=own) for identifier in ids]
        assert [found["id"] for found in shown] == ids
        assert {found["state"] for found in shown} == {"retired"}
        assert {found["kind"] for found in shown} == {"embedding", "concepts", "clustering", "result"}
        qrp.ok("gc", store=own)


def test_what_was_retired_can_be_made_again_under_its_name(qrp: Any, own: Path, world: Any, files: Any) -> None:
    keys = files.keys(world.keys)
    again = ("ingest", files.array(world.rows["sharp"]), "--keys", keys, "--dataset", "photos", "--backbone", "sharp")
    qrp.ok("rm", "sharp", "--cascade", "--yes", store=own)
    made = qrp.ok(*again, store=own)
    assert (made["version"], made["cached"]) == (2, False)
    qrp.ok("rm", "photos", "--cascade", "--yes", store=own)
    qrp.ok("gc", store=own)
    made = qrp.ok(*again, store=own)
    assert (made["version"], made["cached"]) == (3, False)
    assert [row["name"] for row in qrp.rows("ls", "datasets", store=own)] == ["photos"]
    assert qrp.ok("verify", "--deep", store=own)["problems"] == []


def test_what_was_being_made_of_a_retired_dataset_is_refused(qrp: Any, own: Path, world: Any, sql: Any) -> None:
    from qrp_store.catalog.entities import concept_sets, datasets
    from qrp_store.catalog.lifecycle import lease
    from qrp_store.errors import QrpStoreError
    from qrp_store.records import Spec
    from qrp_store.store import open_store

    with open_store(str(own)) as store:
        dataset = datasets.get_dataset(store.catalog, "photos")
        spec = Spec("concepts", "late", concept_sets.series("photos", "late"), {"source": "x"})
        claimed = lease.claim(store.catalog, spec)
        assert isinstance(claimed, lease.Claim)
        qrp.ok("rm", "photos", "--cascade", "--yes", store=own)
        with pytest.raises(QrpStoreError, match="was retired meanwhile"):
            concept_sets.write(
                store.catalog, claimed, dataset, concept_sets.Vocabulary((), (), ()), _none(), exclusive=False
            )
    assert sql(own, "SELECT * FROM labels") == []


def test_a_clustering_whose_embedding_is_retired_meanwhile_is_refused(
    qrp: Any, own: Path, world: Any, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qrp_store.catalog.entities import clusterings
    from qrp_store.catalog.lifecycle import retire
    from qrp_store.catalog.overview.references import resolve
    from qrp_store.cluster import cluster
    from qrp_store.errors import NotFound
    from qrp_store.store import open_store

    write = clusterings.write

    def retiring(catalog: Any, *args: Any) -> None:
        write(catalog, *args)
        retire.retire(catalog, [world.ingested["sharp"]["id"]], resolve(catalog, world.ingested["sharp"]["id"]))

    monkeypatch.setattr(clusterings, "write", retiring)
    with open_store(str(own)) as store, pytest.raises(NotFound, match="was retired meanwhile"):
        cluster(store, dataset="photos", backbone="sharp", k=3, workers=1)
    assert sql(own, "SELECT * FROM assignments WHERE clusters = 3") == []
    qrp.ok("gc", store=own)
    assert qrp.ok("verify", "--deep", store=own)["problems"] == []


def test_verify_beside_rm_and_gc_reports_nothing_that_is_gone(
    qrp: Any, own: Path, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qrp_store.catalog.lifecycle import retire as promises
    from qrp_store.maintenance.gc import gc
    from qrp_store.maintenance.removal import retire, verify
    from qrp_store.store import open_store

    ready = promises.ready
    with open_store(str(own)) as store, open_store(str(own)) as other:

        def then(catalog: Any) -> Any:
            rows = list(ready(catalog))
            retire(other, "photos", cascade=True, yes=True)
            gc(other)
            return iter(rows)

        monkeypatch.setattr(promises, "ready", then)
        assert verify(store, deep=True).problems == ()


def test_two_gc_at_once_delete_everything_once(qrp: Any, own: Path, world: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from qrp_store.maintenance.gc import gc
    from qrp_store.store import open_store

    qrp.ok("rm", "photos", "--cascade", "--yes", store=own)
    would = qrp.ok("gc", "--dry-run", store=own)
    assert would["rows"] > 400 * 9

    def collect(_: int) -> Any:
        with open_store(str(own)) as store:
            return gc(store)

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(collect, range(2)))
    assert would["objects"] <= sum(report.objects for report in done)
    assert qrp.ok("gc", store=own) == {"dry_run": False, "artifacts": [], "rows": 0, "objects": 0, "bytes": 0}
    assert qrp.ok("verify", "--deep", store=own)["problems"] == []


def _none() -> Any:
    import numpy as np

    return np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0)
