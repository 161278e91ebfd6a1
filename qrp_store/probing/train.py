"""Fit the reverse probe: SGD by the published schedule, or the optimum (see `optimum`)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qrp_store.errors import InvalidInput, QrpStoreError
from qrp_store.probing.descent import CpuDescent, Descent
from qrp_store.probing.device import resolve_device, torch, using_threads
from qrp_store.probing.objective import CrossEntropy, Objective, square
from qrp_store.probing.optimum import Optimum, optimum, tightest
from qrp_store.probing.resident import ResidentDescent
from qrp_store.probing.reverse import Epoch, ProbeFit, ProbeOptions
from qrp_store.probing.sparse import ConceptMatrix
from qrp_store.progress import Progress, silent

_EXPLODED = 100.0
"""A running loss of so many times that of guessing is not going to come back."""
_SMALL = 1 << 16
"""Floats of weights and logits in a step, up to which a second thread gains nothing: `benchmarks/probe.py --steps`."""


@dataclass(frozen=True, eq=False)
class _Parts:
    """Training and validation part, checked, with the clusters' number and where to compute."""

    x_train: ConceptMatrix
    c_train: NDArray[np.int64]
    x_val: ConceptMatrix
    c_val: NDArray[np.int64]
    n_clusters: int
    device: torch.device


def fit(
    x_train: ConceptMatrix,
    c_train: ArrayLike,
    x_val: ConceptMatrix,
    c_val: ArrayLike,
    n_clusters: int,
    options: ProbeOptions,
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress = silent,
) -> ProbeFit:
    """Train q(c | y) = softmax(W y + b) on the training part and choose among its epochs by the validation part.

    c_train and c_val are (n,) integers in 0…n_clusters − 1; clusters may be absent from either part. Ours, after
    Laina et al. 2022:

    sgd     W and b start at 0; `numpy.random.default_rng(seed).permutation(n)` gives each epoch's order; the last short
            batch is used; weight decay holds for W and b. The epoch of least validation cross-entropy is handed back.
            Epoch 0 stands for the model that looks at no concept: W = 0 and b = log((n_k + ½) / (n + K/2)) of the
            training counts (SGD itself still starts from zeros), so that a probe which only overfits scores about 0.
    lbfgs   the minimum of the whole training part's objective, whatever `epochs` says, without early stopping.
    tight   such minima along a path of weight decays, the best by validation cross-entropy (see `optimum.tightest`).

    On the CPU the same input, seed and number of torch threads give the same bits. Small steps of sgd are taken by one
    thread, with the same bits: two would mostly wait for each other, and long on busy cores. Raises InvalidInput for
    parts that do not fit together or are empty, QrpStoreError when training diverges.
    """
    parts = _Parts(
        x_train,
        _checked(x_train, c_train, n_clusters, "training"),
        x_val,
        _checked(x_val, c_val, n_clusters, "validation"),
        n_clusters,
        resolve_device(device),
    )
    if x_train.n_concepts != x_val.n_concepts:
        raise InvalidInput(f"{x_train.n_concepts} concepts in the training part, {x_val.n_concepts} in validation")
    floats = (x_train.n_concepts + 1 + min(len(x_train), options.batch_size)) * n_clusters
    # not under lbfgs, whose sums depend on the number of threads in their last bits
    small = options.solver == "sgd" and floats <= _SMALL
    with torch.no_grad(), using_threads(1 if small else None):
        if options.solver == "sgd":
            found = _sgd(parts, options, seed, progress)
        else:
            objective = Objective(x_train, parts.c_train, n_clusters, parts.device)
            validation = CrossEntropy(x_val, parts.c_val, n_clusters, parts.device)
            shape = (x_train.n_concepts + 1, n_clusters)
            search = tightest if options.protocol == "tight" else optimum
            found = search(objective, validation, shape, options.weight_decay, parts.device, progress)
        return _report(parts, options, found)


def _checked(x: ConceptMatrix, clusters: ArrayLike, n_clusters: int, part: str) -> NDArray[np.int64]:
    c = np.ascontiguousarray(clusters, dtype=np.int64)
    if n_clusters < 2:
        raise InvalidInput(f"{n_clusters} clusters: a probe needs at least 2")
    if c.shape != (len(x),):
        raise InvalidInput(f"{part} part: {len(x)} rows of concepts for {c.shape} clusters")
    if len(c) == 0:
        raise InvalidInput(f"the {part} part is empty", hint="use fewer clusters, or more samples")
    if not 0 <= c.min() <= c.max() < n_clusters:
        raise InvalidInput(f"{part} part: a cluster lies outside 0…{n_clusters - 1}")
    return c


def _sgd(parts: _Parts, options: ProbeOptions, seed: int, progress: Progress) -> Optimum:
    device, n_clusters, n = parts.device, parts.n_clusters, len(parts.c_train)
    given = (parts.x_train, parts.c_train, n_clusters, options)
    descent: Descent = CpuDescent(*given) if device.type == "cpu" else ResidentDescent(*given, device)
    validation = CrossEntropy(parts.x_val, parts.c_val, n_clusters, device)
    rng = np.random.default_rng(seed)
    best_table = torch.zeros_like(descent.table)
    best_table[-1] = _frequencies(parts)
    began = time.perf_counter()
    history = [Epoch(0, None, validation(best_table), options.weight_decay)]
    train_s, val_s, best = 0.0, time.perf_counter() - began, history[0]
    with progress.task("probe", options.epochs, "epoch") as task:
        for epoch in range(1, options.epochs + 1):
            began = time.perf_counter()
            mean = descent.epoch(rng.permutation(n), options.lr_at(epoch)) / n
            trained = time.perf_counter()
            train_s += trained - began
            if not mean <= _EXPLODED * (1 + math.log(parts.n_clusters)):
                raise QrpStoreError(
                    f"training diverged in epoch {epoch}: mean loss {mean:.3g} nats at learning rate {options.lr}",
                    hint="lower the learning rate",
                )
            history.append(Epoch(epoch, mean, validation(descent.table), options.weight_decay))
            if history[-1].val_cross_entropy < best.val_cross_entropy:
                best = history[-1]
                best_table.copy_(descent.table)
            val_s += time.perf_counter() - trained
            task.advance()
    if best.epoch == 0 and options.epochs:
        progress.note("no epoch beat the model without concepts; a lower learning rate or protocol tight may")
    return Optimum(best_table, options.weight_decay, options.epochs, best.epoch, tuple(history), train_s, val_s)


def _frequencies(parts: _Parts) -> torch.Tensor:
    """The bias of a model that knows the clusters' training frequencies and nothing else, centred; float32 (K,)."""
    counts = np.bincount(parts.c_train, minlength=parts.n_clusters) + 0.5
    log_p = np.log(counts / counts.sum())
    return torch.from_numpy((log_p - log_p.mean()).astype(np.float32)).to(parts.device)


def _report(parts: _Parts, options: ProbeOptions, found: Optimum) -> ProbeFit:
    began = time.perf_counter()
    objective = Objective(parts.x_train, parts.c_train, parts.n_clusters, parts.device)
    loss, gradient = objective(found.table, found.weight_decay)
    table = found.table.cpu().numpy()
    return ProbeFit(
        weight=np.ascontiguousarray(table[:-1].T),
        bias=table[-1].copy(),
        train_loss=loss,
        grad_norm=math.sqrt(square(gradient)),
        weight_decay=found.weight_decay,
        epochs_run=found.epochs_run,
        best_epoch=found.best_epoch,
        history=found.history,
        timings={"train_s": found.train_s, "val_s": found.val_s + time.perf_counter() - began},
        options=options,
        device=str(parts.device),
        n_train=len(parts.c_train),
        n_val=len(parts.c_val),
        cluster_counts=np.bincount(np.concatenate((parts.c_train, parts.c_val)), minlength=parts.n_clusters),
    )
