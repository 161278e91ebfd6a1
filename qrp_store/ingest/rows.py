"""What ingest reads from, as rows in the dataset's order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from qrp_store.progress import Progress
from qrp_store.records import ArraySpec

SeenFile = tuple[int, int, str | None]  # size in bytes, mtime in ns, digest (None: undecodable)


@dataclass(frozen=True)
class BlockRows:
    """One block's rows (rows, dim) in the stored dtype; `bad`: index inside the block → why; `files`: images seen."""

    rows: np.ndarray
    bad: Mapping[int, str]
    files: Sequence[SeenFile] = ()


@dataclass(frozen=True)
class Output:
    """One embedding that a source's rows hold: these columns, by the backbone of this specification (what makes its
    name mean one thing). A model's several layers are one output each; everything else has one."""

    backbone: Mapping[str, Any]
    columns: slice
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        return int(self.columns.stop - self.columns.start)


class RowPart(Protocol):
    """One block's worth of a source: what is needed to make it elsewhere. It pickles."""

    def compute(self, threads: int) -> BlockRows: ...


class RowSource(Protocol):
    """Rows to ingest. `keys`, and everything by position, is in the dataset's order once `reorder` was called."""

    keys: Sequence[str]
    root: str | None

    @property
    def outputs(self) -> Sequence[Output]: ...

    @property
    def content(self) -> str | None:
        """Digest of the numbers when they come from a file, None when a model makes them."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any]: ...

    @property
    def columns(self) -> Mapping[str, Any] | None:
        """The roles of a table's columns (`vector`, `key`, `left_out`), None for every other source."""
        ...

    @property
    def not_taken(self) -> Mapping[str, int]:
        """How many files of a folder or archive are no images, by ending."""
        ...

    def reorder(self, order: np.ndarray) -> None:
        """`order[position]` is the row (as the source has them now) that belongs at that position."""
        ...

    def prepare(self, progress: Progress) -> None:
        """Load what `outputs` and `content` need."""
        ...

    def changed_blocks(self, layout: ArraySpec, seen: Mapping[int, SeenFile]) -> set[int]:
        """Blocks whose source is no longer what an earlier try saw."""
        ...

    def part(self, layout: ArraySpec, number: int) -> RowPart:
        """What makes one block's rows in another process that reaches the source."""
        ...

    def check(self, start: int, files: Sequence[SeenFile]) -> None:
        """InvalidInput when images, from position `start` on, are not those that the dataset was made of."""
        ...

    def blocks(self, layout: ArraySpec, numbers: Sequence[int]) -> Iterator[BlockRows]:
        """The rows of these blocks, in this order."""
        ...
