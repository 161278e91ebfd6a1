"""Any order of making, retiring, collecting, damaging and mending leaves what a plain dictionary would hold."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from qrp_store.catalog.lifecycle.lease import claim
from qrp_store.cluster.imported import import_clustering
from qrp_store.errors import Busy, Corrupt, InvalidInput, NotFound
from qrp_store.ingest import ingest
from qrp_store.label import label
from qrp_store.maintenance.gc import gc
from qrp_store.maintenance.removal import retire, verify
from qrp_store.maintenance.repair import repair
from qrp_store.records import Spec
from qrp_store.store import create_store, open_store

N, DIM = 40, 3
NAMES = st.sampled_from(("a", "b"))
VALUES = st.integers(0, 2)


class StoreMachine(RuleBasedStateMachine):
    """`embeddings`: (backbone → versions of (value or None when retired)); `sets` and `groupings` likewise."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        create_store(str(self.folder / "store"))
        self.store = open_store(str(self.folder / "store"))
        self.versions: dict[tuple[str, str], list[int | None]] = {}

    def teardown(self) -> None:
        self.store.close()
        self._folder.cleanup()

    def newest(self, kind: str, name: str) -> tuple[int, int] | None:
        """(version, value) of the newest that shows."""
        there = [(i + 1, v) for i, v in enumerate(self.versions.get((kind, name), [])) if v is not None]
        return there[-1] if there else None

    @property
    def has_dataset(self) -> bool:
        return any(kind == "embedding" for kind, _ in self.versions)

    def _made(self, kind: str, name: str, value: int, version: int, cached: bool, force: bool = False) -> None:
        newest = self.newest(kind, name)
        if newest is not None and newest[1] == value and not force:
            assert (version, cached) == (newest[0], True)
            return
        self.versions.setdefault((kind, name), []).append(value)
        assert (version, cached) == (len(self.versions[kind, name]), False)

    @rule(name=NAMES, value=VALUES, block_rows=st.sampled_from((16, 40)), force=st.booleans())
    def ingest(self, name: str, value: int, block_rows: int, force: bool) -> None:
        path = self.folder / f"{name}{value}.npy"
        np.save(path, np.full((N, DIM), value, np.float32) + np.arange(DIM, dtype=np.float32))
        newest = self.newest("embedding", name)
        try:
            made = ingest(
                self.store, str(path), dataset="d", backbone=name, block_rows=block_rows, force=force
            )  # fmt: skip
        except InvalidInput:
            assert newest is not None
            assert newest[1] != value
            assert not force
            return
        self._made("embedding", name, value, made.version, made.cached, force)

    @precondition(lambda self: self.has_dataset)
    @rule(name=NAMES, value=VALUES)
    def label(self, name: str, value: int) -> None:
        path = self.folder / f"labels{value}.csv"
        path.write_text("key,concept\n" + "".join(f"{i},c{i % (value + 1)}\n" for i in range(N)))
        made = label(self.store, str(path), dataset="d", concepts=name)
        self._made("concepts", name, value, made.version, made.cached)

    @precondition(lambda self: self.has_dataset)
    @rule(name=NAMES, value=VALUES)
    def group(self, name: str, value: int) -> None:
        path = self.folder / f"groups{value}.npy"
        np.save(path, np.arange(N) % (value + 2))
        made = import_clustering(self.store, str(path), dataset="d", name=f"of {name}")
        self._made("clustering", f"of {name}", value, made.version, made.cached)

    @rule(name=NAMES, kind=st.sampled_from(("embedding", "concepts", "clustering")))
    def retire(self, name: str, kind: str) -> None:
        name = f"of {name}" if kind == "clustering" else name
        newest = self.newest(kind, name)
        called = f"d/{name}" if kind == "embedding" else name
        if newest is None:
            with pytest.raises((NotFound, InvalidInput)):
                retire(self.store, f"{called}@{len(self.versions.get((kind, name), [])) + 1}", yes=True)
            return
        (row,) = self.store.sql(
            "SELECT a.id FROM artifact a WHERE a.kind = ? AND a.name = ? AND a.version = ?", (kind, called, newest[0])
        )
        retire(self.store, row["id"], yes=True)
        self.versions[kind, name][newest[0] - 1] = None

    @rule()
    def gc(self) -> None:
        gc(self.store)

    @rule(name=NAMES)
    def abandon(self, name: str) -> None:
        """Somebody claims something and is never heard of again."""
        with suppress(Busy):
            claim(self.store.catalog, Spec("concepts", f"abandoned {name}", f"series {name}", {"a": 1}), wait=False)

    @precondition(lambda self: self.newest("embedding", "a") is not None)
    @rule(how=st.sampled_from(("flip", "cut", "missing")), block=st.integers(0, 9))
    def damage_and_mend(self, how: str, block: int) -> None:
        embedding = self.store.embedding("d", "a")
        spec = embedding.stored.array
        place = f"{spec.path}/c/{block % spec.n_blocks}/0"
        data = bytearray(self.store.arrays.get(place))
        if how == "missing":
            self.store.arrays.delete(place)
        else:
            data[7] ^= 16
            self.store.arrays.put(place, bytes(data if how == "flip" else data[:9]), replace=True)
        with pytest.raises(Corrupt):
            embedding[:]
        assert len(repair(self.store).mended) == 1

    @invariant()
    def what_shows_is_what_was_made(self) -> None:
        shown = {
            (row["backbone"], row["version"]) for row in self.store.sql("SELECT backbone, version FROM embeddings")
        }
        assert shown == self._expected("embedding")
        rows = self.store.sql("SELECT concepts, version, count(*) AS n FROM labels GROUP BY concepts, version")
        assert {(row["concepts"], row["version"]) for row in rows} == self._expected("concepts")
        assert all(row["n"] == N for row in rows)
        rows = self.store.sql("SELECT DISTINCT backbone, version FROM assignments")
        assert {(row["backbone"], row["version"]) for row in rows} == self._expected("clustering")
        for name in ("a", "b"):
            newest = self.newest("embedding", name)
            if newest is not None:
                assert (self.store.embedding("d", name)[:] == newest[1] + np.arange(DIM)).all()
        assert verify(self.store).problems == ()

    def _expected(self, kind: str) -> set[tuple[str, int]]:
        return {
            (name, i + 1)
            for (of, name), values in self.versions.items()
            if of == kind
            for i, value in enumerate(values)
            if value is not None
        }


@pytest.mark.parametrize(
    ("part", "examples"), [*((part, 12) for part in range(4)), pytest.param(8, 500, marks=pytest.mark.soak)]
)
def test_any_order_leaves_what_a_dictionary_would_hold(part: int, examples: int, figure: Callable[[str], None]) -> None:
    """In parts, so that several processes share them; each has commands of its own."""
    run_state_machine_as_test(
        seed(part)(type("Part", (StoreMachine,), {})),
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            phases=[Phase.generate],  # a failing case is short enough to read, and shrinking takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
    figure(f"{examples} stores × 50 commands in any order: what a dictionary would hold")
