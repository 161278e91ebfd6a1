"""SGD of the probe with everything on one device, made for a GPU: the training part stays there, a step is replayed.

What a step needs lies in buffers that never move and never change shape, so that on a GPU its kernels are recorded once
(`torch.cuda.CUDAGraph`) and started again with one call: at these sizes starting them one by one takes longer than they
do. Batches differ in how many concepts they have; what is missing to the fixed number of entries is filled up with
entries of spare bags, whose sums nobody reads. An epoch's batches are put together on the device, a group at a time,
without waiting for it; the last short batch is taken by itself. Sums are gathers as on the CPU, without atomics, but in
an order of the GPU's own: the last digits differ from the CPU's.

On a CPU the same steps run one by one, which is how they are tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qrp_store.probing.device import current, torch
from qrp_store.probing.objective import Bags, Batch, batches, residuals, with_bias
from qrp_store.probing.reverse import ProbeOptions
from qrp_store.probing.sparse import ConceptMatrix

_GROUP_BATCHES = 64
"""Batches that are put together at once."""
_SPARE = 64
"""Bags that share the padding: a bag is summed by one thread a column, so one alone would hold up the step."""
_SLACK = 1.05
"""How much longer than the longest batch seen a buffer is made, so that it seldom has to be made again."""
_WARM_UP = 3
"""Steps before the recording, in which libraries set themselves up; what they change is put back."""


class ResidentDescent:
    """The `Descent` described above."""

    def __init__(
        self,
        x: ConceptMatrix,
        clusters: NDArray[np.int64],
        n_clusters: int,
        options: ProbeOptions,
        device: torch.device,
    ) -> None:
        self._x, self._clusters, self._size, self._device = with_bias(x), clusters, options.batch_size, device
        self.table = torch.zeros((x.n_concepts + 1, n_clusters), device=device)
        self._part = _Part(self._x, clusters, device)
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        # a tensor on the device, since a recorded step would go on with the number that it was recorded with
        self._lr = torch.zeros((), device=device)
        self._sgd = torch.optim.SGD(
            [self.table], lr=self._lr, momentum=options.momentum, weight_decay=options.weight_decay, fused=True
        )
        self.table.grad = torch.zeros_like(self.table)
        self._sgd.step()  # moves nothing, but makes the momentum, so that it can be put back after a recording
        self._step: _Step | None = None

    def epoch(self, order: NDArray[np.int64], lr: float) -> float:
        size = self._size
        whole = len(order) - len(order) % size
        with current(self._device):
            self._lr.fill_(lr)
            self._loss.zero_()
            rows = torch.from_numpy(order[:whole]).to(self._device)
            entries = np.diff(self._x.indptr)[order[:whole]].reshape(-1, size).sum(axis=1)
            for first in range(0, len(entries), _GROUP_BATCHES):
                some = entries[first : first + _GROUP_BATCHES]
                step = self._with_room_for(int(entries.max()))
                at = rows[first * size : (first + len(some)) * size]
                for inputs in zip(*self._part.group(at, size, int(some.sum()), step.room), strict=True):
                    step(inputs)
            for batch in batches(self._x, self._clusters, size, self._device, order=order[whole:], transposed=True):
                self._take(batch)
            return float(self._loss)

    def _with_room_for(self, entries: int) -> _Step:
        if self._step is None or self._step.room < entries:
            momentum = self._sgd.state[self.table].values()
            state = [self.table, self._loss, *(value for value in momentum if isinstance(value, torch.Tensor))]
            weighted = self._x.values is not None
            room = int(entries * _SLACK) + _SPARE
            self._step = _Step(self._take, state, self._size, room, weighted=weighted)
        return self._step

    def _take(self, batch: Batch) -> None:
        """One step over a batch. Nothing in it asks the device for a number, so that it can be recorded."""
        assert batch.samples is not None
        loss, residual = residuals(batch, self.table)
        self._loss += loss
        self.table.grad = batch.samples.sum(residual.mul_(1 / len(batch)))[: len(self.table)]
        self._sgd.step()


class _Step:
    """`take` over a batch of `size` samples with room for `room` entries, always in the same buffers.

    Called with what `_Part.group` has for a batch. `state` is all that `take` changes.
    """

    def __init__(
        self,
        take: Callable[[Batch], None],
        state: list[torch.Tensor],
        size: int,
        room: int,
        *,
        weighted: bool,
    ) -> None:
        table = state[0]
        self.room = room
        widths = [room, size + 1 + _SPARE, room, len(table) + 1 + _SPARE]
        self._inputs = [
            torch.zeros(sum(widths), dtype=torch.int32, device=table.device),
            torch.zeros(size, dtype=torch.int64, device=table.device),
            *(torch.zeros(room, device=table.device) for _ in range(2 * weighted)),
        ]
        concepts, ends, samples, sample_ends = torch.split(self._inputs[0], widths)
        by_sample, by_concept = self._inputs[2:] if weighted else (None, None)
        batch = Batch(Bags(concepts, ends, by_sample), self._inputs[1], Bags(samples, sample_ends, by_concept))
        self._take: Callable[[], None] = lambda: take(batch)
        if table.device.type == "cuda":
            self._take = _recorded(self._take, state)

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

    def group(self, at: torch.Tensor, size: int, entries: int, room: int) -> list[torch.Tensor]:
        """These samples in batches of `size`, one a row, for `_Step`; `entries` is how many concepts they have in all.

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
