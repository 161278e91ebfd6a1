"""A linear probe from embedding to concepts: logistic regression, its weight decay chosen by the validation part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qrp_store.device import free_bytes
from qrp_store.errors import QrpStoreError
from qrp_store.probing.runtime import torch
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.progress import Progress

PATH = tuple(10.0**-step for step in range(7))
"""Weight decays in the order of their fits: 1, 0.1, … 1e-6, on standardised features."""
_ITERATIONS = 100
_CELLS = 1 << 22
_KEPT_BYTES = 1 << 30
"""How many bytes of a part's vectors stay in the host's memory between passes."""
_KEPT_SHARE = 0.5
"""The share of a GPU's free memory that a part's vectors may take."""


class Features(Protocol):
    """Vectors by sample, perhaps too many for memory."""

    @property
    def dim(self) -> int: ...

    def chunks(self, positions: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
        """Yield the vectors of these samples (ascending), in order, in chunks of (n, dim)."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Samples by position (n,), ascending, and their concepts, (n, M)."""

    positions: NDArray[np.int64]
    x: ConceptMatrix

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Logits are standardised vectors times `table`, whose last row (of dim + 1) is the bias.

    `weight_decay` is the one of PATH with the least validation loss; `passes` counts passes over the training part.
    """

    table: torch.Tensor = field(repr=False)
    mean: torch.Tensor = field(repr=False)
    scale: torch.Tensor = field(repr=False)
    weight_decay: float
    passes: int

    def logits(
        self, features: Features, positions: NDArray[np.int64], columns: slice = slice(None)
    ) -> Iterator[torch.Tensor]:
        """Yield the logits in order, in chunks of (n, concepts of `columns`)."""
        table = self.table[:, columns]
        for vectors in self.standardised(features, positions):
            yield _logits(vectors, table)

    def standardised(self, features: Features, positions: NDArray[np.int64]) -> Iterator[torch.Tensor]:
        """Yield the standardised vectors, in chunks that keep the logits small."""
        rows = max(64, _CELLS // max(self.table.shape[1], 1))
        for vectors in features.chunks(positions):
            for start in range(0, len(vectors), rows):
                chunk = torch.from_numpy(vectors[start : start + rows]).to(self.mean.device)
                yield (chunk - self.mean) / self.scale


def fit_linear(
    features: Features, train: Labelled, val: Labelled, *, exclusive: bool, device: torch.device, progress: Progress
) -> LinearProbe:
    """Return the logistic regression of least validation loss along PATH; each fit starts from the last.

    One softmax over the concepts when they are `exclusive` (one a sample), else a sigmoid for each. It minimises mean
    loss + λ/2 ‖W‖² with a free bias, by full-batch L-BFGS of at most 100 steps a weight decay. The path ends when
    validation gets worse. Features are standardised by the training part.
    """
    mean, scale = _moments(features, train.positions, device)
    probe = LinearProbe(torch.zeros((features.dim + 1, train.x.n_concepts), device=device), mean, scale, PATH[0], 0)
    table, best_loss, best, passes = probe.table, np.inf, probe, 0
    vectors, val_vectors = _Standardised(probe, features, train), _Standardised(probe, features, val)
    with torch.no_grad(), progress.task("linear probe", len(PATH), "weight decay") as task:
        for decay in PATH:
            passes += _descend(vectors, table, decay, exclusive)
            loss = _loss(val_vectors, table, exclusive)
            task.advance()
            if not loss < best_loss:
                break
            best_loss, best = loss, LinearProbe(table.clone(), mean, scale, decay, passes)
    return LinearProbe(best.table, mean, scale, best.weight_decay, passes)


class _Standardised:
    """A part's standardised vectors, for many passes: they stay on the device when it has room for them."""

    def __init__(self, probe: LinearProbe, features: Features, part: Labelled) -> None:
        self.part, self._probe, self._features = part, probe, features
        fits = 4 * len(part) * features.dim <= _room(probe.mean.device)
        self._resident = list(self._fresh()) if fits else None

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self._fresh() if self._resident is None else iter(self._resident)

    def _fresh(self) -> Iterator[torch.Tensor]:
        return self._probe.standardised(self._features, self.part.positions)


def _room(device: torch.device) -> int:
    """Return how many bytes of vectors may stay on a device."""
    return int(_KEPT_SHARE * free_bytes(device)) if device.type == "cuda" else _KEPT_BYTES


def _descend(part: _Standardised, table: torch.Tensor, decay: float, exclusive: bool) -> int:
    """Move the table to the minimum at a weight decay. Return the number of passes."""
    search = torch.optim.LBFGS(
        [table],
        max_iter=_ITERATIONS,
        history_size=10,
        tolerance_grad=1e-5,
        tolerance_change=1e-7,
        line_search_fn="strong_wolfe",
    )
    passes = 0

    def evaluate() -> float:
        nonlocal passes
        passes += 1
        gradient = torch.zeros_like(table)
        loss = _loss(part, table, exclusive, gradient) + decay / 2 * float(table[:-1].square().sum())
        if not np.isfinite(loss):
            raise QrpStoreError(f"the linear probe was not found: its loss became {loss} at weight decay {decay:g}")
        gradient[:-1] += decay * table[:-1]
        table.grad = gradient
        return loss

    search.step(evaluate)  # type: ignore[no-untyped-call]
    return passes


def _loss(vectors: _Standardised, table: torch.Tensor, exclusive: bool, gradient: torch.Tensor | None = None) -> float:
    """Return the mean loss over a part, summed over concepts; add its gradient to `gradient` (dim + 1, M)."""
    n, done = len(vectors.part), 0
    loss = torch.zeros((), dtype=torch.float64, device=table.device)
    for rows in vectors:
        logits = _logits(rows, table)
        at, concept = _entries(vectors.part.x, done, done + len(rows), table.device)
        done += len(rows)
        chance = torch.logsumexp(logits, 1) if exclusive else torch.nn.functional.softplus(logits)
        loss += chance.sum(dtype=torch.float64) - logits[at, concept].sum(dtype=torch.float64)
        if gradient is not None:
            residual = torch.softmax(logits, 1) if exclusive else torch.sigmoid(logits)
            residual[at, concept] -= 1
            gradient[:-1].addmm_(rows.T, residual, alpha=1 / n)
            gradient[-1] += residual.sum(0) / n
    return float(loss) / n


def _logits(vectors: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    return torch.addmm(table[-1], vectors, table[:-1])


def _entries(x: ConceptMatrix, start: int, stop: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return row (from `start`) and concept of every entry of rows start … stop − 1."""
    ends = x.indptr[start : stop + 1]
    rows = np.repeat(np.arange(stop - start), np.diff(ends))
    concepts = x.indices[ends[0] : ends[-1]].astype(np.int64)
    return torch.from_numpy(rows).to(device), torch.from_numpy(concepts).to(device)


def _moments(
    features: Features, positions: NDArray[np.int64], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of each dimension (1 where it is constant), float32 (dim,)."""
    first = np.zeros(features.dim)
    for vectors in features.chunks(positions):
        first += vectors.sum(axis=0, dtype=np.float64)
    mean = first / len(positions)
    second = np.zeros(features.dim)
    for vectors in features.chunks(positions):
        second += np.square(vectors - mean.astype(np.float32)).sum(axis=0, dtype=np.float64)
    scale = np.sqrt(second / len(positions))
    scale[scale <= 1e-12 + 1e-6 * np.abs(mean)] = 1
    return tuple(torch.from_numpy(values.astype(np.float32)).to(device) for values in (mean, scale))  # type: ignore[return-value]
