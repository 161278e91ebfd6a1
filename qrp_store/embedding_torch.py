"""An embedding as torch datasets. They are at module level because the workers of a DataLoader unpickle them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info


class BlockedRows(Protocol):
    """Rows of shape (dim,), in blocks, such as `qrp_store.embedding.Embedding`."""

    @property
    def n_blocks(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: int | np.ndarray, /) -> np.ndarray: ...
    def block(self, index: int, /) -> np.ndarray:
        """Return the rows of one block, shape (rows, dim)."""
        ...


class MappedRows(Dataset[torch.Tensor]):
    """Rows by position, each a tensor (dim,); a batch of positions is read at once."""

    def __init__(self, embedding: BlockedRows) -> None:
        self.embedding = embedding

    def __len__(self) -> int:
        return len(self.embedding)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.embedding[index])

    def __getitems__(self, indices: Sequence[int]) -> list[torch.Tensor]:
        return list(torch.from_numpy(self.embedding[np.asarray(indices)]))


class StreamedRows(IterableDataset[torch.Tensor]):
    """Rows in order, each a tensor (dim,), block by block; the workers of a DataLoader divide the blocks.

    With a `seed`, the blocks and the rows inside each block are shuffled.
    """

    def __init__(self, embedding: BlockedRows, seed: int | None) -> None:
        self.embedding = embedding
        self.seed = seed

    def __len__(self) -> int:
        return len(self.embedding)

    def __iter__(self) -> Iterator[torch.Tensor]:
        numbers = np.arange(self.embedding.n_blocks)
        if self.seed is not None:
            np.random.default_rng(self.seed).shuffle(numbers)
        worker = get_worker_info()
        for number in numbers if worker is None else numbers[worker.id :: worker.num_workers]:
            rows = self.embedding.block(int(number))
            if self.seed is not None:
                rows = np.random.default_rng((self.seed, int(number))).permutation(rows)
            yield from torch.from_numpy(rows)
