"""K-means over an embedding: the rows it streams, the engine that searches them, and where it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qrp_store.embedding import Embedding
from qrp_store.errors import InvalidInput
from qrp_store.execution import DaskPool
from qrp_store.options import ClusterOptions
from qrp_store.progress import Progress
from qrp_store.records import derive_seed
from qrp_store.samples import shown

if TYPE_CHECKING:
    from qrp_store.kmeans.engines import Chosen
    from qrp_store.kmeans.lloyd import KMeansResult, KMeansState
    from qrp_store.kmeans.points import Points


class UsableBlocks:
    """The blocks of an embedding without the rows that have no vector."""

    def __init__(self, embedding: Embedding) -> None:
        self._embedding = embedding
        spec = embedding.stored.array
        self.positions = np.delete(np.arange(spec.n), list(embedding.stored.bad)).astype(np.int64)
        edges = [spec.rows_of(i)[0] for i in range(spec.n_blocks)] + [spec.n]
        self._first = np.searchsorted(self.positions, edges)

    @property
    def url(self) -> str:
        """URL of the array."""
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
        """Return the number of the block's first usable row, and how many usable rows it has."""
        return int(self._first[index]), int(self._first[index + 1] - self._first[index])

    def read(self, index: int) -> np.ndarray:
        """Return the block's usable rows, verified."""
        rows = self._embedding.block(index)
        first, count = self.rows_of(index)
        if count == len(rows):
            return rows
        start = self._embedding.stored.array.rows_of(index)[0]
        kept: np.ndarray = rows[self.positions[first : first + count] - start]
        return kept


def refuse_zero_rows(blocks: UsableBlocks, keys: Sequence[str]) -> None:
    """Raise InvalidInput, with the keys, if rows are all zeros: they have no direction."""
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
    """Where K-means runs: the engine, its device, and the Dask pool (None: this process)."""

    chosen: Chosen
    pool: DaskPool | None = None

    def provenance(self) -> dict[str, Any]:
        """Return what a clustering records of it."""
        used = {"engine": self.chosen.engine, "device": self.chosen.device}
        if self.pool is None:
            return used
        return {**used, "scheduler": self.pool.address, "workers": self.pool.workers}

    def require_readable(self, blocks: UsableBlocks) -> None:
        """Raise Unavailable, with the worker's address, if a worker cannot read the blocks."""
        if self.pool is not None:
            from qrp_store.kmeans.distributed import require_readable

            require_readable(blocks, self.pool, blocks.url)

    def kmeans(
        self,
        blocks: UsableBlocks,
        keys: Sequence[str],
        options: ClusterOptions,
        memory: int,
        resume: KMeansState | None,
        after_iteration: Callable[[KMeansState], None],
        progress: Progress,
    ) -> KMeansResult:
        """Cluster the rows of the blocks. `keys` name rows in messages; `memory` (bytes) bounds the rows in memory."""
        from qrp_store.kmeans.lloyd import KMeansOptions, kmeans

        training = KMeansOptions(
            k=options.clusters,
            seed=derive_seed(options.seed, "kmeans"),
            niter=options.niter,
            nredo=options.nredo,
            init=options.init,
            sample=options.sample,
            spherical=options.spherical,
        )
        points = self._points(blocks, keys, options, memory)
        return kmeans(points, training, resume=resume, on_iteration=after_iteration, progress=progress)

    def assign(
        self,
        blocks: UsableBlocks,
        keys: Sequence[str],
        centroids: np.ndarray,
        options: ClusterOptions,
        memory: int,
        progress: Progress,
    ) -> KMeansResult:
        """Assign the rows of the blocks to these centroids, float32 (k, d); other arguments as in `kmeans`."""
        from qrp_store.kmeans.lloyd import quantized

        return quantized(self._points(blocks, keys, options, memory), centroids, progress=progress)

    def _points(self, blocks: UsableBlocks, keys: Sequence[str], options: ClusterOptions, memory: int) -> Points:
        def name(row: int) -> str:
            return f"row of key {shown(keys[blocks.positions[row]])}"

        if self.pool is not None:
            from qrp_store.kmeans.distributed import DistributedPoints, require_gpu_room

            require_gpu_room(self.pool, self.chosen, options.clusters, blocks.dim)
            return DistributedPoints(
                blocks,
                self.pool,
                self.chosen,
                k=options.clusters,
                normalize=options.normalize,
                memory=memory,
                name=name,
            )
        from qrp_store.kmeans.points import StreamedPoints

        streamed = StreamedPoints(
            blocks,
            normalize=options.normalize,
            memory=memory,
            nearest=None if self.chosen.on_gpu else self.chosen.nearest(),
            workers=options.workers,
            name=name,
        )
        if not self.chosen.on_gpu:
            return streamed
        from qrp_store.kmeans.torch_points import TorchPoints

        return TorchPoints(streamed, device=self.chosen.device, engine=self.chosen.engine, name=name)


@contextmanager
def place_for(options: ClusterOptions, rows: int = 0, dim: int = 0) -> Iterator[Place]:
    """Yield the place that the options choose for so many rows: device cuda takes all GPUs for a long job.

    Raise Unavailable for an engine, device or scheduler that is missing.
    """
    from qrp_store.kmeans.engines import choose, gpus_worth_starting, local_gpus

    scheduler = options.scheduler
    if scheduler is None:
        chosen = choose(options.engine, options.device)
        gpus = gpus_worth_starting(chosen, _operations(options, rows, dim)) if rows else []
        if not gpus:
            yield Place(chosen)
            return
        scheduler = f"local:{len(gpus)}"
    else:
        gpus = local_gpus(options.device) if scheduler.startswith("local") else []
    from qrp_store.kmeans.distributed import choose_on_workers

    with DaskPool(scheduler, gpus) as pool:
        yield Place(choose_on_workers(pool, options.engine, options.device), pool)


def _operations(options: ClusterOptions, rows: int, dim: int) -> float:
    """Return about how many float operations a K-means over so many rows takes."""
    from qrp_store.kmeans.lloyd import KMeansOptions

    training = KMeansOptions(options.clusters, sample=options.sample).sample_size(rows)
    passes = options.niter * options.nredo
    return 2.0 * dim * options.clusters * (training * passes + rows)
