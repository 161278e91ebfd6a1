"""The K-means of an embedding: which rows it sees, which engine searches them, and where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qrp_store.embedding import Embedding
from qrp_store.errors import InvalidInput
from qrp_store.execution import Cluster
from qrp_store.options import ClusterOptions
from qrp_store.progress import Progress
from qrp_store.records import derive_seed
from qrp_store.samples import shown

if TYPE_CHECKING:
    from qrp_store.kmeans.engines import Chosen
    from qrp_store.kmeans.lloyd import KMeansResult, KMeansState
    from qrp_store.kmeans.points import Points


class UsableBlocks:
    """An embedding's blocks without the rows that have no vector: what K-means streams."""

    def __init__(self, embedding: Embedding) -> None:
        self._embedding = embedding
        spec = embedding.stored.array
        self.positions = np.delete(np.arange(spec.n), list(embedding.stored.bad)).astype(np.int64)
        edges = [spec.rows_of(i)[0] for i in range(spec.n_blocks)] + [spec.n]
        self._first = np.searchsorted(self.positions, edges)

    @property
    def url(self) -> str:
        """Where the array is."""
        return self._embedding.url

    @property
    def count(self) -> int:
        return len(self.positions)

    @property
    def dim(self) -> int:
        return self._embedding.shape[1]

    @property
    def n_blocks(self) -> int:
        return self._embedding.stored.array.n_blocks

    def rows_of(self, index: int) -> tuple[int, int]:
        """Number of the block's first usable row, and how many it has."""
        return int(self._first[index]), int(self._first[index + 1] - self._first[index])

    def read(self, index: int) -> np.ndarray:
        """The block's usable rows, verified."""
        rows = self._embedding.block(index)
        first, count = self.rows_of(index)
        if count == len(rows):
            return rows
        start = self._embedding.stored.array.rows_of(index)[0]
        kept: np.ndarray = rows[self.positions[first : first + count] - start]
        return kept


def refuse_zero_rows(blocks: UsableBlocks, keys: Sequence[str]) -> None:
    """Raises InvalidInput, naming the keys, when there are rows that have no direction."""
    zero = [
        shown(keys[blocks.positions[blocks.rows_of(index)[0] + i]])
        for index in range(blocks.n_blocks)
        for i in np.flatnonzero(~blocks.read(index).any(axis=1))
    ]
    if zero:
        raise InvalidInput(
            f"{len(zero)} rows are all zeros and cannot be normalised: {', '.join(zero)}",
            hint="leave --normalize out, or ingest without them",
        )


@dataclass(frozen=True)
class Place:
    """Where K-means runs: by which engine, on which device, in this process or on the workers of a cluster."""

    chosen: Chosen
    cluster: Cluster | None = None

    def provenance(self) -> dict[str, Any]:
        """What a clustering says of it."""
        ran = {"engine": self.chosen.engine, "device": self.chosen.device}
        if self.cluster is None:
            return ran
        return {**ran, "scheduler": self.cluster.address, "workers": self.cluster.workers}

    def require_readable(self, blocks: UsableBlocks) -> None:
        """Raises Unavailable, naming it, when a worker cannot read the blocks."""
        if self.cluster is not None:
            from qrp_store.kmeans.distributed import require_readable

            require_readable(blocks, self.cluster, blocks.url)

    def kmeans(
        self,
        blocks: UsableBlocks,
        keys: Sequence[str],
        asked: ClusterOptions,
        memory: int,
        resume: KMeansState | None,
        after_iteration: Callable[[KMeansState], None],
        progress: Progress,
    ) -> KMeansResult:
        """Cluster the blocks' rows; `keys` name them in messages, `memory` (bytes) bounds what is held of them."""
        from qrp_store.kmeans.lloyd import KMeansOptions, kmeans

        options = KMeansOptions(
            k=asked.clusters,
            seed=derive_seed(asked.seed, "kmeans"),
            niter=asked.niter,
            nredo=asked.nredo,
            init=asked.init,
            sample=asked.sample,
            spherical=asked.spherical,
        )
        points = self._points(blocks, keys, asked, memory)
        return kmeans(points, options, resume=resume, on_iteration=after_iteration, progress=progress)

    def assign(
        self,
        blocks: UsableBlocks,
        keys: Sequence[str],
        centroids: np.ndarray,
        asked: ClusterOptions,
        memory: int,
        progress: Progress,
    ) -> KMeansResult:
        """The blocks' rows by the nearest of these centroids, float32 (k, d); the rest as for `kmeans`."""
        from qrp_store.kmeans.lloyd import quantized

        return quantized(self._points(blocks, keys, asked, memory), centroids, progress=progress)

    def _points(self, blocks: UsableBlocks, keys: Sequence[str], asked: ClusterOptions, memory: int) -> Points:
        def name(row: int) -> str:
            return f"row of key {shown(keys[blocks.positions[row]])}"

        if self.cluster is not None:
            from qrp_store.kmeans.distributed import DistributedPoints

            return DistributedPoints(
                blocks, self.cluster, self.chosen, k=asked.clusters, normalize=asked.normalize, memory=memory, name=name
            )
        from qrp_store.kmeans.points import StreamedPoints

        streamed = StreamedPoints(
            blocks,
            normalize=asked.normalize,
            memory=memory,
            nearest=self.chosen.nearest(),
            workers=asked.workers,
            name=name,
        )
        if not self.chosen.sums_there:
            return streamed
        from qrp_store.kmeans.torch_points import TorchPoints

        return TorchPoints(streamed, device=self.chosen.device, name=name)


@contextmanager
def place_for(asked: ClusterOptions) -> Iterator[Place]:
    """Where K-means runs when this is asked. Raises Unavailable for what is not there."""
    if asked.scheduler is None:
        from qrp_store.kmeans.engines import choose

        yield Place(choose(asked.engine, asked.device))
        return
    from qrp_store.kmeans.distributed import choose_on_workers

    with Cluster(asked.scheduler) as cluster:
        yield Place(choose_on_workers(cluster, asked.engine, asked.device), cluster)
