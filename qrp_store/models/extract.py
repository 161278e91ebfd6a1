"""Images to vectors, block by block: the next batches are decoded (and, on a CPU, embedded) while this one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qrp_store.errors import InvalidInput
from qrp_store.execution import available_cores
from qrp_store.images import decoded, digest_of, read_image
from qrp_store.models.together import Embedder
from qrp_store.samples import ImageFile

if TYPE_CHECKING:
    import torch

_MOST_WORKERS = {"cpu": 64, "cuda": 16}


@dataclass(frozen=True)
class ExtractedBlock:
    """The vectors of one block's images. rows: float32 (r, dim), NaN where there is no vector.

    `bad` says why, by row within the block; `digests` are those of the files' bytes, None where a file could not be
    read at all.
    """

    rows: NDArray[np.float32]
    bad: dict[int, str]
    digests: list[str | None]


@dataclass(frozen=True)
class _Batch:
    """One batch's images, decoded (a bad one's place is zeros), and its features when a worker has made them."""

    pixels: torch.Tensor
    features: torch.Tensor | None
    problems: list[str | None]
    digests: list[str | None]


def extract(
    model: Embedder,
    blocks: Sequence[Sequence[ImageFile]],
    *,
    batch_size: int = 64,
    workers: int | None = None,
) -> Iterator[ExtractedBlock]:
    """The blocks' vectors, in order, each as soon as it is whole.

    Batches start at fixed offsets inside a block and never cross its end, and a bad image leaves its place in the
    batch empty: so a vector depends on its own block alone, and a run that is taken up again gives the same bits,
    with any number of workers.
    A file that is no image, or whose vector is not finite, becomes a bad row, never an error. `workers`: threads that
    decode and, on a CPU, run the network (default: one a processor, at most 64; 16 with a GPU). Raises InvalidInput for
    a batch size or number of workers below 1.
    """
    if workers is None:
        workers = min(available_cores(), _MOST_WORKERS["cpu" if model.device == "cpu" else "cuda"])
    if batch_size < 1:
        raise InvalidInput(f"batch size {batch_size}: expected at least 1")
    if workers < 1:
        raise InvalidInput(f"{workers} workers: expected at least 1")
    return _extract(model, blocks, batch_size, workers)


def _extract(
    model: Embedder,
    blocks: Sequence[Sequence[ImageFile]],
    size: int,
    workers: int,
) -> Iterator[ExtractedBlock]:
    import torch

    # On a CPU each worker runs the network in one thread of torch's: small layers split badly, on a busy machine the
    # parts wait for each other, and the split decides the last bits. torch keeps the number for each thread, but its
    # matrix library for the process, so it is put back.
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "embed", initializer=torch.set_num_threads, initargs=(1,))
    try:
        batches = _ahead(model, blocks, size, pool, workers + 2)
        for images in blocks:
            whole = ExtractedBlock(np.full((len(images), model.dim), np.nan, np.float32), {}, [])
            for offset in range(0, len(images), size):
                _put(model, next(batches).result(), offset, whole)
            yield whole
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)


def _ahead(
    model: Embedder, blocks: Sequence[Sequence[ImageFile]], size: int, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[Future[_Batch]]:
    """Batches in order, with the next ones already under way."""
    waiting: deque[Future[_Batch]] = deque()
    for images in blocks:
        for offset in range(0, len(images), size):
            waiting.append(pool.submit(_work, model, images[offset : offset + size]))
            if len(waiting) > ahead:
                yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def _work(model: Embedder, images: Sequence[ImageFile]) -> _Batch:
    """A worker's share: decode a batch, and on a CPU embed it."""
    import torch

    pixels = torch.zeros((len(images), 3, model.image_size, model.image_size), dtype=torch.uint8)
    problems: list[str | None] = [None] * len(images)
    digests: list[str | None] = [None] * len(images)
    for row, image in enumerate(images):
        try:
            data = read_image(image)
            digests[row] = digest_of(data)
            with decoded(data) as picture:
                pixels[row] = model.transform(picture)
        except InvalidInput as error:
            problems[row] = error.message
    features = model.forward(pixels) if model.device == "cpu" else None
    return _Batch(pixels, features, problems, digests)


def _put(model: Embedder, batch: _Batch, offset: int, whole: ExtractedBlock) -> None:
    """Put a batch's vectors, problems and digests into its block."""
    features = (model.forward(batch.pixels) if batch.features is None else batch.features).numpy()
    finite = np.isfinite(features).all(axis=1)
    for row, problem in enumerate(batch.problems):
        if problem is None and not finite[row]:
            problem = "non-finite features"
        if problem is None:
            whole.rows[offset + row] = features[row]
        else:
            whole.bad[offset + row] = problem
    whole.digests.extend(batch.digests)
