"""Images to vectors, block by block: threads decode the next batches while the network works on this one."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qrp_store.errors import InvalidInput
from qrp_store.samples import ImageFile
from qrp_store.sources.backbone import LoadedBackbone
from qrp_store.sources.images import decode_bytes, digest_of, read_image

if TYPE_CHECKING:
    import torch

_BATCHES_AHEAD = 3


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
class _Decoded:
    pixels: torch.Tensor | None
    digest: str | None
    problem: str | None


@dataclass(frozen=True)
class _Batch:
    block: int
    offset: int
    images: list[Future[_Decoded]]


def extract(
    model: LoadedBackbone,
    blocks: Sequence[Sequence[ImageFile]],
    *,
    batch_size: int = 64,
    workers: int | None = None,
    stop: Callable[[], object] = lambda: None,
) -> Iterator[ExtractedBlock]:
    """The blocks' vectors, in order, each as soon as it is whole.

    Batches start at fixed offsets inside a block and never cross its end, and a bad image leaves its place in the
    batch empty: so a vector depends on its own block alone, and a run that is taken up again gives the same bits.
    A file that is no image, or whose vector is not finite, becomes a bad row, never an error. `stop` is called before
    each batch; whatever it raises ends the work. `workers`: threads that decode (default: one a processor, at most
    16). Raises InvalidInput for a batch size or number of workers below 1.
    """
    workers = min(os.cpu_count() or 1, 16) if workers is None else workers
    if batch_size < 1:
        raise InvalidInput(f"batch size {batch_size}: expected at least 1")
    if workers < 1:
        raise InvalidInput(f"{workers} workers: expected at least 1")
    return _extract(model, blocks, batch_size, workers, stop)


def _extract(
    model: LoadedBackbone, blocks: Sequence[Sequence[ImageFile]], size: int, workers: int, stop: Callable[[], object]
) -> Iterator[ExtractedBlock]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        batches = _ahead(model, blocks, size, pool)
        for block, images in enumerate(blocks):
            whole = ExtractedBlock(np.full((len(images), model.dim), np.nan, np.float32), {}, [])
            for _ in range(0, len(images), size):
                stop()
                batch = next(batches)
                assert batch.block == block
                _embed(model, batch, size, whole)
            yield whole
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ahead(
    model: LoadedBackbone, blocks: Sequence[Sequence[ImageFile]], size: int, pool: ThreadPoolExecutor
) -> Iterator[_Batch]:
    """Batches in order, with the next few already being decoded."""
    waiting: deque[_Batch] = deque()
    for block, images in enumerate(blocks):
        for offset in range(0, len(images), size):
            futures = [pool.submit(_decode, model, image) for image in images[offset : offset + size]]
            waiting.append(_Batch(block, offset, futures))
            if len(waiting) > _BATCHES_AHEAD:
                yield waiting.popleft()
    yield from waiting


def _decode(model: LoadedBackbone, image: ImageFile) -> _Decoded:
    digest = None
    try:
        data = read_image(image.path)
        digest = digest_of(data)
        return _Decoded(model.transform(decode_bytes(data)), digest, None)
    except InvalidInput as error:
        return _Decoded(None, digest, error.message)


def _embed(model: LoadedBackbone, batch: _Batch, size: int, whole: ExtractedBlock) -> None:
    """Put a batch's vectors, problems and digests into the block."""
    import torch

    decoded = [future.result() for future in batch.images]
    pixels = torch.zeros((len(decoded), 3, model.image_size, model.image_size), dtype=torch.uint8)
    for row, image in enumerate(decoded):
        if image.pixels is not None:
            pixels[row] = image.pixels
    features = model.forward(pixels).numpy()
    finite = np.isfinite(features).all(axis=1)
    for row, image in enumerate(decoded):
        problem = image.problem or (None if finite[row] else "non-finite features")
        if problem is None:
            whole.rows[batch.offset + row] = features[row]
        else:
            whole.bad[batch.offset + row] = problem
        whole.digests.append(image.digest)
