"""What a Dask worker does of an ingest: it makes one block of rows and puts it where the store keeps arrays.

The catalog stays with who began the ingest, and so does the lease: a worker only ever writes blocks below the path that
belongs to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from qrp_store.arrays import blocked as arrays
from qrp_store.arrays.root import Root
from qrp_store.errors import InvalidInput
from qrp_store.execution import DaskPool
from qrp_store.ingest.rows import RowPart, RowSource, SeenFile
from qrp_store.records import ArraySpec, Block


@dataclass(frozen=True)
class PlacedBlock:
    """A block that is in place; `bad` and `files` as `BlockRows` has them."""

    block: Block
    bad: Mapping[int, str]
    files: Sequence[SeenFile]


def place_blocks(
    pool: DaskPool, root: Root, rows: RowSource, layout: ArraySpec, numbers: Sequence[int]
) -> Iterator[PlacedBlock]:
    """Make these blocks on the cluster's workers, in this order; they must reach the source and the arrays' root."""
    threads = max(1, pool.threads // pool.workers)
    identity = root.read_identity()
    tasks = ((root, identity, layout, number, rows.part(layout, number), threads) for number in numbers)
    yield from pool.run(place_block, tasks)


def place_block(
    root: Root, identity: str | None, layout: ArraySpec, number: int, part: RowPart, threads: int
) -> PlacedBlock:
    """Make one block and put it in place, durably. InvalidInput when the arrays' root is another one here."""
    if root.read_identity() != identity:
        raise InvalidInput(
            f"{root.url} is not the root of the store's arrays here", hint="mount it at the same place on every worker"
        )
    made = part.compute(threads)
    positions = [layout.rows_of(number)[0] + local for local in made.bad]
    block = arrays.write_once(root, layout, number, made.rows, positions)
    return PlacedBlock(block, made.bad, made.files)
