"""SGD of one probe or of several with all data on one device, made for a GPU: a recorded step is replayed.

The inputs of a step lie in buffers that never move or change shape. On a GPU its kernels are therefore recorded once
(`torch.cuda.CUDAGraph`) and started with one call: at these sizes starting them one by one takes longer than running
them. Batches differ in their number of concepts; padding fills them up to a fixed number of entries, in spare bags
whose sums are ignored. The device puts an epoch's batches together, a group at a time; the host waits for it once to
send the order and once to read the losses. The last short batch is a step of its own, unrecorded. Sums are gathers as
on the CPU, without atomics, but in another order: the last digits differ from the CPU's. Long bags are cut into pieces
(`descent.PIECE`), the bias's among them.

Several probes are one whose samples and concepts form blocks: a step takes a batch of each, and starts no more kernels
than for one alone. No row, sum or update reads another probe's, so the numbers are those of each alone.

On a CPU the same steps run one by one; so they are tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from qrp_store.options import ProbeOptions
from qrp_store.probing.descent import PIECE, Bags, Batch, Sgd, residuals, with_bias
from qrp_store.probing.runtime import current, torch
from qrp_store.probing.sparse import ConceptMatrix, block_diagonal

GROUP_BYTES = 1 << 28
"""Memory in which a group of batches is put together. A group starts some 40 kernels, so it must be large."""
_SPARE = 64
"""Bags that share the padding: one thread sums a column of a bag, so a single one would hold up the step."""
_SLACK = 1.05
"""The ratio of a buffer's length to the longest batch so far, so that it seldom has to be made again."""
_WARM_UP = 3
"""Steps before the recording, in which libraries initialise; their changes are undone."""


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
        borders = np.cumsum([0, *(x.n_concepts + 1 for x, _ in parts)]).tolist()
        self._rows = [slice(*border) for border in pairwise(borders)]
        self.table = torch.zeros((x.n_concepts, n_clusters), device=device)
        self._losses = torch.zeros(len(parts), dtype=torch.float64, device=device)
        self._sgd = Sgd(self.table, options)
        self._step: _Step | None = None

    def epoch(self, orders: Sequence[NDArray[np.int64]], lr: float) -> list[float]:
        size, common = self._size, min(map(len, orders)) // self._size
        samples = [order + first for order, first in zip(orders, self._firsts, strict=True)]
        whole = np.stack([some[: common * size].reshape(common, size) for some in samples], axis=1)
        rests = [
            [some[start : start + size] for some in samples]
            for start in range(common * size, max(map(len, orders)), size)
        ]
        order = np.concatenate([whole.ravel(), *(part for rest in rests for part in rest)])
        with current(self._device):
            if lr != self._sgd.lr:
                self._sgd.use(lr)
                self._step = None  # a recorded step has the learning rate in it
            self._losses.zero_()
            at, host_lengths = torch.from_numpy(order).to(self._device), self._part.host_lengths[order]
            if common:
                self._whole(at[: whole.size], host_lengths[: whole.size].reshape(common, -1).sum(axis=1))
            losses, done = [self._losses], whole.size
            for rest in rests:
                part = slice(done, done + sum(map(len, rest)))
                losses.append(self._rest(at[part], int(host_lengths[part].sum()), list(map(len, rest))))
                done = part.stop
            return self._sums(torch.cat([some.double() for some in losses]).cpu(), rests)

    def _sums(self, losses: torch.Tensor, rests: list[list[NDArray[np.int64]]]) -> list[float]:
        """Return each probe's summed loss: that of its whole batches, and of its samples in the rests, on the host."""
        probes = len(self._rows)
        sums, done = losses[:probes].clone(), probes
        for rest in rests:
            for probe, part in enumerate(rest):
                sums[probe] += losses[done : done + len(part)].sum()
                done += len(part)
        result: list[float] = sums.tolist()
        return result

    def _whole(self, at: torch.Tensor, entries: NDArray[np.int64]) -> None:
        """Take a step for each number of entries, over a whole batch of each probe; `at` are their samples."""
        together = len(at) // len(entries)
        step = self._with_room_for(int(entries.max()))
        group = max(1, GROUP_BYTES // batch_bytes(len(self.table), together, step.room))
        for first in range(0, len(entries), group):
            some = entries[first : first + group]
            rows = at[first * together : (first + len(some)) * together]
            for inputs in zip(*self._part.group(rows, together, int(some.sum()), step.room), strict=True):
                step(inputs)

    def _rest(self, at: torch.Tensor, entries: int, counts: list[int]) -> torch.Tensor:
        """Take a step over the last samples of each probe, at most a batch, perhaps none. Return each sample's loss."""
        (inputs,) = zip(*self._part.group(at, len(at), entries, entries), strict=True)
        return self._take(self._part.batch(inputs, entries), counts).squeeze(1)

    def _with_room_for(self, entries: int) -> _Step:
        if self._step is None or self._step.room < entries:
            room = int(entries * _SLACK) + _SPARE
            inputs = self._part.buffers(len(self._rows) * self._size, room)
            batch = self._part.batch(inputs, room)
            state = [self.table, self._sgd.moving, self._losses]
            self._step = None  # its memory first
            self._step = _Step(lambda: self._take_whole(batch), state, inputs, room)
        return self._step

    def _take_whole(self, batch: Batch) -> None:
        """Take one step over a whole batch of each. It never waits for the device, so it can be recorded."""
        losses = self._take(batch)
        self._losses += losses.view(len(self._rows), self._size).sum(dim=1, dtype=torch.float64)

    def _take(self, batch: Batch, counts: Sequence[int] | None = None) -> torch.Tensor:
        """Take one step of all probes, or of those with a count above 0. Return the samples' losses, (n, 1)."""
        assert batch.samples is not None
        losses, residual = residuals(batch, self.table)
        change = batch.samples.sum(residual.mul_(self._sgd.scale))
        every = counts is None or all(counts)
        for rows in [slice(0, len(self.table))] if every else [self._rows[i] for i in np.flatnonzero(counts or ())]:
            moving = self._sgd.moving[rows]
            torch.add(change[rows], moving, alpha=self._sgd.keep, out=moving)
            self._sgd.move(rows)
        return losses


class _Step:
    """`take` over the buffers `inputs`, with room for `room` entries; `state`: all tensors that it changes.

    Call it with one row of what `_Part.group` returns.
    """

    def __init__(
        self, take: Callable[[], None], state: list[torch.Tensor], inputs: list[torch.Tensor], room: int
    ) -> None:
        self.room, self._inputs = room, inputs
        self._take = _recorded(take, state) if state[0].device.type == "cuda" else take

    def __call__(self, inputs: tuple[torch.Tensor, ...]) -> None:
        for buffer, values in zip(self._inputs, inputs, strict=True):
            buffer.copy_(values)
        self._take()


def _recorded(step: Callable[[], None], state: list[torch.Tensor]) -> Callable[[], None]:
    """Return a function that does what `step` does, on the current GPU with a single start. Leave `state` unchanged."""
    before = [values.clone() for values in state]
    current, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(current)
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UP):
            step()
    current.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        if isinstance(error.__context__, torch.OutOfMemoryError):
            raise error.__context__ from None  # ending a failed recording raises an error that hides the reason
        raise
    for values, kept in zip(state, before, strict=True):
        values.copy_(kept)
    return graph.replay


class _Part:
    """Samples' concepts and clusters on a device; `host_lengths`: the number of concepts of each sample."""

    def __init__(self, x: ConceptMatrix, clusters: NDArray[np.int64], device: torch.device) -> None:
        self._n_concepts, self.host_lengths = x.n_concepts, np.diff(x.indptr)
        self._starts, self._lengths, self._concepts, self._clusters = (
            torch.from_numpy(values).to(device) for values in (x.indptr[:-1], self.host_lengths, x.indices, clusters)
        )
        self._values = None if x.values is None else torch.from_numpy(x.values).to(device)

    def buffers(self, size: int, room: int) -> list[torch.Tensor]:
        """Return buffers for one row of what `group` returns."""
        device, weighted = self._lengths.device, self._values is not None
        return [
            torch.zeros(sum(self._widths(size, room)), dtype=torch.int32, device=device),
            torch.zeros(size, dtype=torch.int64, device=device),
            *(torch.zeros(room, device=device) for _ in range(2 * weighted)),
        ]

    def batch(self, inputs: Sequence[torch.Tensor], room: int) -> Batch:
        """Return one row of what `group` returned as a batch: views of it, no copies."""
        numbers, clusters, *values = inputs
        concepts, ends, samples, pieces, joined = torch.split(numbers, self._widths(len(clusters), room))
        by_sample, by_concept = values or (None, None)
        piece = torch.arange(len(pieces) - 1, dtype=torch.int32, device=numbers.device)
        return Batch(Bags(concepts, ends, by_sample), clusters, Bags(samples, pieces, by_concept, Bags(piece, joined)))

    def _widths(self, size: int, room: int) -> list[int]:
        concepts = self._n_concepts
        return [room, size + 1 + _SPARE, room, _pieces(concepts, room) + 1, concepts + 1 + _SPARE]

    def group(self, at: torch.Tensor, size: int, entries: int, room: int) -> list[torch.Tensor]:
        """Return these samples in batches of `size`, one a row, for `batch`; they have `entries` concepts in all.

        int32: concepts of each sample (room) and their ends (size + 1 + spare); samples of each concept (room), the
        ends of their pieces (pieces + 1), and the ends of each concept's pieces (n_concepts + 1 + spare). int64:
        clusters (size). With values: those of the first and of the third.
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
            return all_ends.unfold(0, number + 1, number) - firsts[:-1].unsqueeze(1)

        sample_ends = _padded(bags(ends, size), room)
        pieces, joined = self._cut(bags(concept_ends, self._n_concepts), room)
        parts = [row(concept), sample_ends, row(turned % size), pieces, _padded(joined, pieces.shape[1] - 1)]
        inputs = [torch.cat(parts, dim=1).int(), self._clusters[at].view(count, size)]
        if self._values is not None:
            values = self._values[source]
            inputs += [row(values), row(values[origin])]
        return inputs

    def _cut(self, ends: torch.Tensor, room: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut the bags of each row, (rows, bags + 1), into pieces as `descent.in_pieces` does, their number fixed.

        Return the ends of the pieces, the last of which are padding up to `room`, and the ends of each bag's pieces.
        """
        pieces = ((ends.diff() + PIECE - 1) // PIECE).clamp(min=1)
        joined = torch.nn.functional.pad(pieces.cumsum(1), (1, 0))
        piece = torch.arange(_pieces(self._n_concepts, room), device=ends.device).expand(len(ends), -1).contiguous()
        bag = torch.searchsorted(joined, piece, right=True) - 1  # of the padding: the end of the last bag
        starts = (ends.gather(1, bag) + PIECE * (piece - joined.gather(1, bag))).clamp(max=room)
        return torch.nn.functional.pad(starts, (0, 1), value=room), joined


def batch_bytes(n_concepts: int, size: int, room: int) -> int:
    """Return an upper estimate of the memory in which `group` puts one batch of `size` samples together."""
    return 8 * (12 * (room + size) + 6 * _pieces(n_concepts, room))


def _pieces(n_concepts: int, room: int) -> int:
    """Return how many pieces suffice for the bags of all concepts and for the padding."""
    return n_concepts + room // PIECE + 2


def _padded(ends: torch.Tensor, total: int) -> torch.Tensor:
    """Return the ends of each row with _SPARE more bags for the members up to `total`."""
    last = ends[:, -1:]
    return torch.cat([ends, last + (total - last) * torch.arange(1, _SPARE + 1, device=ends.device) // _SPARE], dim=1)
