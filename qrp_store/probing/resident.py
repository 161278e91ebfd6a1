"""SGD of one probe or of several with everything on one device, made for a GPU: a step is replayed.

What a step needs lies in buffers that never move and never change shape, so that on a GPU its kernels are recorded once
(`torch.cuda.CUDAGraph`) and started again with one call: at these sizes starting them one by one takes longer than they
do. Batches differ in how many concepts they have; what is missing to the fixed number of entries is filled up with
entries of spare bags, whose sums nobody reads. An epoch's batches are put together on the device, a group at a time,
without waiting for it; the last short batch is taken by itself. Sums are gathers as on the CPU, without atomics, but in
an order of the GPU's own: the last digits differ from the CPU's.

Several probes are one whose samples and concepts form blocks: a step takes a batch of each, and starts no more kernels
than for one alone. No row, sum or update looks at another probe's, so that the numbers are those of each alone.

On a CPU the same steps run one by one, which is how they are tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from qrp_store.options import ProbeOptions
from qrp_store.probing.descent import Bags, Batch, residuals, with_bias
from qrp_store.probing.device import current, torch
from qrp_store.probing.sparse import ConceptMatrix, block_diagonal

GROUP_BATCHES = 64
"""Batches that are put together at once; of several probes, those of each counted."""
_SPARE = 64
"""Bags that share the padding: a bag is summed by one thread a column, so one alone would hold up the step."""
_SLACK = 1.05
"""How much longer than the longest batch seen a buffer is made, so that it seldom has to be made again."""
_WARM_UP = 3
"""Steps before the recording, in which libraries set themselves up; what they change is put back."""


class ResidentDescent:
    """The `Descent` described above, over the training part (concepts, clusters) of each probe."""

    def __init__(
        self,
        parts: Sequence[tuple[ConceptMatrix, NDArray[np.int64]]],
        n_clusters: int,
        options: ProbeOptions,
        device: torch.device,
    ) -> None:
        self._size, self._device = options.batch_size, device
        x = block_diagonal([with_bias(x) for x, _ in parts])
        self._part = _Part(x, np.concatenate([clusters for _, clusters in parts]), device)
        self._firsts = np.cumsum([0, *(len(x) for x, _ in parts[:-1])])
        self.table = torch.zeros((x.n_concepts, n_clusters), device=device)
        self._tables = torch.split(self.table, [x.n_concepts + 1 for x, _ in parts])
        self._losses = torch.zeros(len(parts), dtype=torch.float64, device=device)
        # a tensor on the device, since a recorded step would go on with the number that it was recorded with
        self._lr = torch.zeros((), device=device)
        self._sgd = torch.optim.SGD(
            self._tables, lr=self._lr, momentum=options.momentum, weight_decay=options.weight_decay, fused=True
        )
        # moves nothing, but makes the momentum, so that it can be put back after a recording
        self._descend(torch.zeros_like(self.table))
        self._step: _Step | None = None

    def epoch(self, orders: Sequence[NDArray[np.int64]], lr: float) -> list[float]:
        size, n = self._size, max(map(len, orders))
        common = min(map(len, orders)) // size * size
        own = [order + first for order, first in zip(orders, self._firsts, strict=True)]
        with current(self._device):
            self._lr.fill_(lr)
            self._losses.zero_()
            if common:
                self._whole(np.stack([order[:common].reshape(-1, size) for order in own], axis=1))
            rests = [self._rest([order[start : start + size] for order in own]) for start in range(common, n, size)]
            losses: list[float] = sum(rests, self._losses.cpu()).tolist()
            return losses

    def _whole(self, order: NDArray[np.int64]) -> None:
        """Steps over a whole batch of each probe; (steps, probes, size)."""
        steps, probes, size = order.shape
        together, group = probes * size, max(1, GROUP_BATCHES // probes)
        at = torch.from_numpy(order.ravel()).to(self._device)
        entries = self._part.entries(at, steps)
        step = self._with_room_for(max(entries))
        for first in range(0, steps, group):
            some = entries[first : first + group]
            rows = at[first * together : (first + len(some)) * together]
            for inputs in zip(*self._part.group(rows, together, sum(some), step.room), strict=True):
                step(inputs)

    def _rest(self, orders: Sequence[NDArray[np.int64]]) -> torch.Tensor:
        """A step over what each probe has left, at most a batch, perhaps nothing; each one's loss, on the host."""
        counts = [len(order) for order in orders]
        at = torch.from_numpy(np.concatenate(orders)).to(self._device)
        (entries,) = self._part.entries(at, 1)
        (inputs,) = zip(*self._part.group(at, len(at), entries, entries), strict=True)
        losses = self._take(self._part.batch(inputs, entries), counts)
        # on the host, where a sum for each probe costs no kernel
        return torch.stack([part.sum(dtype=torch.float64) for part in torch.split(losses.cpu(), counts)])

    def _with_room_for(self, entries: int) -> _Step:
        if self._step is None or self._step.room < entries:
            momentum = [value for state in self._sgd.state.values() for value in state.values()]
            state = [self.table, self._losses, *(value for value in momentum if isinstance(value, torch.Tensor))]
            room = int(entries * _SLACK) + _SPARE
            inputs = self._part.buffers(len(self._tables) * self._size, room)
            batch = self._part.batch(inputs, room)
            self._step = _Step(lambda: self._take_whole(batch), state, inputs, room)
        return self._step

    def _take_whole(self, batch: Batch) -> None:
        """One step over a whole batch of each. Nothing in it asks the device for a number: it can be recorded."""
        losses = self._take(batch)
        self._losses += losses.view(len(self._tables), self._size).sum(dim=1, dtype=torch.float64)

    def _take(self, batch: Batch, counts: Sequence[int] | None = None) -> torch.Tensor:
        """One step. A short batch is divided by the size of a whole one, so that it counts by its share."""
        assert batch.samples is not None
        losses, residual = residuals(batch, self.table)
        self._descend(batch.samples.sum(residual.mul_(1 / self._size))[: len(self.table)], counts)
        return losses

    def _descend(self, gradient: torch.Tensor, counts: Sequence[int] | None = None) -> None:
        """Each probe's update, in one kernel for all; none for one that `counts` gives no sample."""
        parts = torch.split(gradient, [len(table) for table in self._tables])
        for number, (table, part) in enumerate(zip(self._tables, parts, strict=True)):
            table.grad = part if counts is None or counts[number] else None
        self._sgd.step()


class _Step:
    """`take` over what lies in `inputs`, with room for `room` entries. `state` is all that it changes.

    Called with what `_Part.group` has for a batch.
    """

    def __init__(
        self, take: Callable[[], None], state: list[torch.Tensor], inputs: list[torch.Tensor], room: int
    ) -> None:
        self.room, self._inputs = room, inputs
        self._take = _recorded(take, state) if state[0].device.type == "cuda" else take

    def __call__(self, inputs: tuple[torch.Tensor, ...]) -> None:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._take()


def _recorded(step: Callable[[], None], state: list[torch.Tensor]) -> Callable[[], None]:
    """What does the same on the current GPU as `step`, started at once. Leaves `state` as it is."""
    before = [values.clone() for values in state]
    here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UP):
            step()
    here.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for values, kept in zip(state, before, strict=True):
        values.copy_(kept)
    return graph.replay


class _Part:
    """Samples' concepts and clusters on a device."""

    def __init__(self, x: ConceptMatrix, clusters: NDArray[np.int64], device: torch.device) -> None:
        self._n_concepts = x.n_concepts
        self._starts, self._lengths, self._concepts, self._clusters = (
            torch.from_numpy(values).to(device) for values in (x.indptr[:-1], np.diff(x.indptr), x.indices, clusters)
        )
        self._values = None if x.values is None else torch.from_numpy(x.values).to(device)

    def entries(self, at: torch.Tensor, parts: int) -> list[int]:
        """How many concepts the samples `at` have, for each of so many equal parts of them."""
        counts: list[int] = self._lengths[at].view(parts, -1).sum(dim=1).tolist()
        return counts

    def buffers(self, size: int, room: int) -> list[torch.Tensor]:
        """Where one row of what `group` returns finds room."""
        device, weighted = self._lengths.device, self._values is not None
        return [
            torch.zeros(sum(self._widths(size, room)), dtype=torch.int32, device=device),
            torch.zeros(size, dtype=torch.int64, device=device),
            *(torch.zeros(room, device=device) for _ in range(2 * weighted)),
        ]

    def batch(self, inputs: Sequence[torch.Tensor], room: int) -> Batch:
        """What lies in one row of what `group` returned, as it will be read: nothing is copied."""
        numbers, clusters, *values = inputs
        concepts, ends, samples, sample_ends = torch.split(numbers, self._widths(len(clusters), room))
        by_sample, by_concept = values or (None, None)
        return Batch(Bags(concepts, ends, by_sample), clusters, Bags(samples, sample_ends, by_concept))

    def _widths(self, size: int, room: int) -> list[int]:
        return [room, size + 1 + _SPARE, room, self._n_concepts + 1 + _SPARE]

    def group(self, at: torch.Tensor, size: int, entries: int, room: int) -> list[torch.Tensor]:
        """These samples in batches of `size`, one a row, for `batch`; `entries` is how many concepts they have in all.

        int32: concepts of each sample (room), where they end (size + 1 + spare), samples of each concept (room), where
        they end (n_concepts + 1 + spare); int64: clusters (size); with values, those of the first and of the third.
        """
        count, device = len(at) // size, at.device
        lengths = self._lengths[at]
        ends = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        sample = torch.repeat_interleave(torch.arange(len(at), device=device), lengths, output_size=entries)
        entry = torch.arange(entries, device=device)
        source = self._starts[at][sample] + entry - ends[sample]
        concept, batch, firsts = self._concepts[source].long(), sample // size, ends[::size]
        place = batch * room + entry - firsts[batch]
        # sorted by batch, concept and sample; every batch keeps its entries, and with them its place
        turned, origin = ((batch * self._n_concepts + concept) * size + sample % size).sort()
        borders = torch.arange(count * self._n_concepts + 1, device=device) * size
        concept_ends = torch.searchsorted(turned, borders)

        def row(values: torch.Tensor) -> torch.Tensor:
            return values.new_zeros(count * room).scatter_(0, place, values).view(count, room)

        def bags(all_ends: torch.Tensor, number: int) -> torch.Tensor:
            last = firsts.diff().unsqueeze(1)
            spare = last + (room - last) * torch.arange(1, _SPARE + 1, device=device) // _SPARE
            return torch.cat([all_ends.unfold(0, number + 1, number) - firsts[:-1].unsqueeze(1), spare], dim=1)

        parts = [row(concept), bags(ends, size), row(turned % size), bags(concept_ends, self._n_concepts)]
        inputs = [torch.cat(parts, dim=1).int(), self._clusters[at].view(count, size)]
        if self._values is not None:
            values = self._values[source]
            inputs += [row(values), row(values[origin])]
        return inputs
