"""The reverse probe q(cluster | concepts) = softmax(W y + b): its options, and what a fit hands back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qrp_store.options import ProbeOptions as ProbeOptions

CERTIFICATE = 1e-3
"""A fit counts as converged when the training loss is provably within this many nats of its minimum."""
_FLAT = 1e-6
"""Without weight decay nothing is provable: a gradient as small as this is then called converged."""


@dataclass(frozen=True)
class Epoch:
    """One line of a fit's history. Losses in nats a sample.

    `epoch` counts passes over the training part; 0 is the model before the first. `train_loss` is, under sgd, the mean
    cross-entropy of the batches as they were met, and under lbfgs the objective; None for epoch 0.
    """

    epoch: int
    train_loss: float | None
    val_cross_entropy: float
    weight_decay: float


@dataclass(frozen=True, eq=False)
class ProbeFit:
    """A trained reverse probe over K clusters and M concepts.

    weight         float32 (K, M), bias float32 (K,): q(c | y) = softmax(weight @ y + bias)
    train_loss     mean cross-entropy + λ/2 (‖W‖² + ‖b − b₀‖²) over the whole training part at these weights, in nats;
                   b₀ is 0, under tight the log frequencies of the training part
    grad_norm      2-norm of its gradient; `gap_bound` = grad_norm² / (2λ) bounds what is left to gain
    weight_decay   λ, as given or (tight) as chosen by validation
    epochs_run     passes over the training part; `best_epoch` the one whose weights these are
    cluster_counts int64 (K,): rows of each cluster in training and validation part together
    timings        seconds: train_s optimisation alone; val_s validation and the final look at the objective
    """

    weight: NDArray[np.float32] = field(repr=False)
    bias: NDArray[np.float32] = field(repr=False)
    train_loss: float
    grad_norm: float
    weight_decay: float
    epochs_run: int
    best_epoch: int
    history: tuple[Epoch, ...] = field(repr=False)
    timings: Mapping[str, float]
    options: ProbeOptions
    device: str
    n_train: int
    n_val: int
    cluster_counts: NDArray[np.int64] = field(repr=False)

    @property
    def n_clusters(self) -> int:
        return len(self.bias)

    @property
    def n_concepts(self) -> int:
        return int(self.weight.shape[1])

    @property
    def gap_bound(self) -> float:
        """Nats that the training loss can still fall at most: the objective is λ-strongly convex."""
        return self.grad_norm**2 / (2 * self.weight_decay) if self.weight_decay > 0 else math.inf

    @property
    def converged(self) -> bool:
        """Whether `gap_bound` is within CERTIFICATE; without weight decay, whether the gradient has vanished."""
        return self.gap_bound <= CERTIFICATE if self.weight_decay > 0 else self.grad_norm <= _FLAT
