"""The reverse probe q(cluster | concepts) = softmax(W y + b): its options, and what a fit hands back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from qrp_store.errors import InvalidInput

Protocol = Literal["laina2022", "tight"]
Solver = Literal["sgd", "lbfgs"]

CERTIFICATE = 1e-3
"""A fit counts as converged when the training loss is provably within this many nats of its minimum."""
_FLAT = 1e-6
"""Without weight decay nothing is provable: a gradient as small as this is then called converged."""


@dataclass(frozen=True)
class ProbeOptions:
    """How a probe is trained; ours, after Laina et al. 2022. Raises InvalidInput for values that make no sense.

    `solver` None means the protocol's own: sgd for laina2022, lbfgs for tight (which accepts no other). The learning
    rate is divided by 10 at 60 % and at 80 % of the epochs. `epochs`, `batch_size`, `lr` and `momentum` matter to
    sgd alone; `weight_decay` (λ) to all but tight, which chooses its own.
    """

    protocol: Protocol = "laina2022"
    solver: Solver | None = None
    epochs: int = 100
    batch_size: int = 512
    lr: float = 3.5
    momentum: float = 0.9
    weight_decay: float = 3e-6

    def __post_init__(self) -> None:
        if self.protocol not in get_args(Protocol):
            raise InvalidInput(f"protocol {self.protocol!r} is not one of laina2022, tight")
        if self.solver is None:
            object.__setattr__(self, "solver", "lbfgs" if self.protocol == "tight" else "sgd")
        if self.solver not in get_args(Solver):
            raise InvalidInput(f"solver {self.solver!r} is not one of sgd, lbfgs")
        if self.protocol == "tight" and self.solver != "lbfgs":
            raise InvalidInput("protocol tight goes to the optimum: its solver is lbfgs", hint="leave the solver out")
        if self.epochs < 0 or self.batch_size < 1:
            raise InvalidInput(f"epochs {self.epochs} and batch size {self.batch_size} must be at least 0 and 1")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InvalidInput(f"learning rate {self.lr} must be above 0")
        if not 0 <= self.momentum < 1:
            raise InvalidInput(f"momentum {self.momentum} must lie in [0, 1)")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise InvalidInput(f"weight decay {self.weight_decay} must be at least 0")
        if self.protocol == "laina2022" and self.solver == "lbfgs" and self.weight_decay == 0:
            raise InvalidInput("solver lbfgs needs a weight decay above 0: without it there may be no optimum")

    @property
    def algorithm(self) -> int:
        """Version of what these options compute: results of two versions have different numbers.

        sgd     2: the gradient of a short last batch is divided by `batch_size` (1: by the batch's own size).
        tight   2: the bias decays toward the log frequencies, the path starts at λ = 1 (1: toward 0, from 0.01).
        """
        return 2 if self.solver == "sgd" or self.protocol == "tight" else 1

    def lr_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1. Milestones round down; the first epoch has the full rate."""
        milestones = (max(1, self.epochs * 3 // 5), max(1, self.epochs * 4 // 5))
        return float(self.lr * 0.1 ** sum(epoch > milestone for milestone in milestones))


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
