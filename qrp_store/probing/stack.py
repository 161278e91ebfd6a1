"""Which probes are trained together: on a GPU as many as fit and as still gain, on a CPU none.

On a GPU a small probe's step takes no longer than its kernels take to start, and a stack of many starts no more of them
(see `resident`). On a CPU a stack gains little: the steps of one small probe stay in a core's cache, those of many do
not (`benchmarks/probe.py --stack`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qrp_store.errors import InvalidInput
from qrp_store.probing.device import resolve_device, torch
from qrp_store.probing.resident import GROUP_BATCHES
from qrp_store.probing.reverse import ProbeOptions
from qrp_store.probing.sparse import ConceptMatrix

_FILLED = 1 << 22
"""Floats of weights and logits in a step with which its kernels run longer than they take to start: 16 MB, a few
microseconds of a GPU's memory for each pass over them. More probes at once gain nothing."""
_SHARE = 0.5
"""How much of a GPU's free memory a stack may take by its estimate: others may want some, and libraries do."""
_MOST_BYTES = 2 << 30
"""The most a stack may take in any case: its parts lie in the host's memory, too, several times over."""
_PASS_BYTES = 1 << 27
"""What a pass over a whole part takes: its logits twice, and as much again for its entries."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What a probe is trained on and how; `place` is the device that `device` names.

    The clusters are (n,) integers in 0…n_clusters − 1 for the n rows of concepts beside them; `seed` is that of the
    shuffles. Raises InvalidInput for parts that do not fit together or are empty, Unavailable for a missing device.
    """

    x_train: ConceptMatrix
    c_train: NDArray[np.int64]
    x_val: ConceptMatrix
    c_val: NDArray[np.int64]
    n_clusters: int
    options: ProbeOptions
    seed: int
    device: str = "cpu"
    place: torch.device = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "c_train", _checked(self.x_train, self.c_train, self.n_clusters, "training"))
        object.__setattr__(self, "c_val", _checked(self.x_val, self.c_val, self.n_clusters, "validation"))
        object.__setattr__(self, "place", resolve_device(self.device))
        if self.x_train.n_concepts != self.x_val.n_concepts:
            told = f"{self.x_train.n_concepts} concepts in the training part, {self.x_val.n_concepts} in validation"
            raise InvalidInput(told)

    @property
    def parts(self) -> tuple[ConceptMatrix, NDArray[np.int64], ConceptMatrix, NDArray[np.int64]]:
        """Concepts and clusters of the training and of the validation part."""
        return self.x_train, self.c_train, self.x_val, self.c_val

    @property
    def shape(self) -> tuple[int, int]:
        """That of its table, (M + 1, K)."""
        return self.x_train.n_concepts + 1, self.n_clusters

    @property
    def floats(self) -> int:
        """Weights and logits that a step of sgd goes through."""
        return (self.shape[0] + min(len(self.x_train), self.options.batch_size)) * self.n_clusters


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


def stacks(problems: Iterable[Problem]) -> Iterator[list[Problem]]:
    """All of them in their order, those in one list to be trained together; drawn as they are needed."""
    stack: list[Problem] = []
    room = 0
    for problem in problems:
        if stack and not _fits([*stack, problem], room):
            yield stack
            stack = []
        if not stack:
            gains = problem.options.solver == "sgd" and 2 * problem.floats <= _FILLED
            room = room_on(problem.place) if gains else 0
        stack.append(problem)
        del problem  # before the next one is drawn
        if not room:
            yield stack
            stack = []
    if stack:
        yield stack


def room_on(device: torch.device) -> int:
    """Bytes that a stack may take on a device; 0: a probe is trained by itself there."""
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(int(_SHARE * (free + kept)), _MOST_BYTES)


def _fits(stack: Sequence[Problem], room: int) -> bool:
    """Whether these can be trained together, within so many bytes, and gain by it."""
    first = stack[0]
    shared = (first.options, first.n_clusters, first.place)
    steps = [len(problem.x_train) // first.options.batch_size for problem in stack]
    return (
        all((problem.options, problem.n_clusters, problem.place) == shared for problem in stack)
        # what some have more than others is taken unrecorded, so it must be little
        and max(steps) - min(steps) <= 1
        and sum(problem.floats for problem in stack) <= _FILLED
        and needed_bytes(stack) <= room
    )


def needed_bytes(stack: Sequence[Problem]) -> int:
    """What training these together takes on a device, from above."""
    k, size = stack[0].n_clusters, stack[0].options.batch_size
    # float32: table, momentum, gradient, best, and the first two once more while a step is recorded; the final look
    # at one probe's objective is in float64
    tables = 4 * 6 * sum(p.shape[0] for p in stack) * k + 8 * 3 * max(p.shape[0] for p in stack) * k
    logits = 4 * 3 * len(stack) * size * k
    samples = sum(3 * 8 * len(p.x_train) + 2 * 8 * len(p.x_val) for p in stack)
    entries = sum(2 * 4 * (len(p.x_train.indices) + len(p.x_val.indices)) for p in stack)
    # where a group of batches is put together: a dozen arrays of int64
    each = max(len(p.x_train.indices) / len(p.x_train) for p in stack) + 1
    group = 8 * 12 * each * size * max(GROUP_BATCHES, len(stack))
    # and where each concept's samples end in each of these batches, looked for, found and cut
    ends = 8 * 4 * max(1, GROUP_BATCHES // len(stack)) * sum(p.shape[0] for p in stack)
    return int(tables + logits + samples + entries + group + ends) + _PASS_BYTES
