"""What an earlier try left of an embedding that is being written: which of its blocks still stand."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from qrp_store.arrays import blocked as arrays
from qrp_store.catalog.entities import embeddings
from qrp_store.catalog.lifecycle import lease
from qrp_store.records import ArraySpec, Block
from qrp_store.store import Store


def standing_blocks(
    store: Store,
    claimed: lease.Claim,
    layout: ArraySpec,
    recorded: tuple[Block, ...],
    spoiled: Collection[int] = (),
) -> set[int]:
    """The numbers of the recorded blocks that are whole, have no bad rows and are not `spoiled`; the others are
    forgotten. When an expired owner's claim was taken over, they are linked to the new path."""
    previous = layout
    if claimed.previous_path is not None:
        previous = replace(layout, path=f"{claimed.previous_path}/{embeddings.MEMBER}")
    good = {
        b.index
        for b in recorded
        # after a power cut a block that was recorded need not be whole
        if not b.bad and b.index not in spoiled and not arrays.verify_block(store.arrays, previous, b, True)
    }
    again = [b.index for b in recorded if b.index not in good]
    if again:
        embeddings.forget_blocks(store.catalog, claimed, again)
    if previous is layout and claimed.resumed:
        _clear(store, layout, good)
    elif good:
        names = ["zarr.json", *(f"c/{number}/0" for number in sorted(good))]
        store.arrays.link(previous.path, layout.path, names)
    return good


def _clear(store: Store, layout: ArraySpec, good: Collection[int]) -> None:
    """Delete the blocks of an earlier try that nobody recorded: what is written from now on replaces nothing."""
    kept = {f"{layout.path}/c/{number}/0" for number in good}
    for path in list(store.arrays.list(f"{layout.path}/c")):
        if path not in kept:
            store.arrays.delete(path)
