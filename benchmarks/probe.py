"""The probe's epoch beside the plain script a user would write, from one run and at the same losses.

    python benchmarks/probe.py [--quick] [--imagenet] [--tight] [--forward] [--steps] [--stack]
        [--device D] [--threads N] [--repeats N]

plain   a Dataset of dense multi-hot rows, DataLoader, nn.Linear, cross_entropy, SGD
ours    qrp_store.probing.train.fit, sgd

Both start from zero and meet the samples in the same order. Also timed: the bootstrap at 256,000 samples.
All the figures: --imagenet --tight --forward. --imagenet adds one epoch at ImageNet's size (819,947 samples) with the
memory it takes beside the labels; --tight the protocol tight at a tenth of that, and one of its passes at the whole;
--forward the usual probes on 50,000 vectors; --steps one step of SGD by one and by two threads, from small to large;
--stack small probes one after another and together.
--device cuda: both on that GPU; its DataLoader makes dense rows on the CPU, as such a script does.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from qrp_store.options import ProbeOptions
from qrp_store.probing.descent import CpuDescent, Objective, with_bias
from qrp_store.probing.forward import ForwardData, forward
from qrp_store.probing.metrics import score
from qrp_store.probing.sparse import ConceptMatrix, block_diagonal
from qrp_store.probing.stack import fit_all
from qrp_store.probing.train import ProbeFit, Problem, fit
from qrp_store.progress import silent

SEED = 0
_IMAGENET = 819_947


class MultiHot(Dataset):  # type: ignore[type-arg]
    """Sample i as a dense row of 0 and 1, and its cluster."""

    def __init__(self, x: ConceptMatrix, clusters: np.ndarray) -> None:
        self.x, self.clusters = x, clusters

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        y = torch.zeros(self.x.n_concepts)
        y[torch.from_numpy(self.x.indices[self.x.indptr[i] : self.x.indptr[i + 1]]).long()] = 1.0
        return y, int(self.clusters[i])


class Shuffled(Sampler):  # type: ignore[type-arg]
    """The orders that `fit` takes: one permutation an epoch from one generator."""

    def __init__(self, n: int) -> None:
        self.n, self.rng = n, np.random.default_rng(SEED)

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        return iter(self.rng.permutation(self.n).tolist())


def plain(
    x: ConceptMatrix, clusters: np.ndarray, n_clusters: int, options: ProbeOptions, device: str = "cpu"
) -> tuple[list[float], float]:
    """Seconds of each epoch, and the last epoch's mean loss."""
    model = torch.nn.Linear(x.n_concepts, n_clusters, device=device)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay
    )
    loader = DataLoader(MultiHot(x, clusters), batch_size=options.batch_size, sampler=Shuffled(len(x)))
    seconds = []
    for epoch in range(1, options.epochs + 1):
        optimizer.param_groups[0]["lr"] = options.lr_at(epoch)
        total, began = 0.0, time.perf_counter()
        for y, c in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(y.to(device)), c.to(device))
            (loss * (len(c) / options.batch_size)).backward()  # a short batch counts by its share
            optimizer.step()
            total += loss.item() * len(c)
        seconds.append(time.perf_counter() - began)
    return seconds, total / len(x)


def ours(
    x: ConceptMatrix, clusters: np.ndarray, n_clusters: int, options: ProbeOptions, device: str = "cpu"
) -> ProbeFit:
    few = np.arange(min(len(x), options.batch_size))
    return fit(x, clusters, x.take(few), clusters[few], n_clusters, options, seed=SEED, device=device)


def generated(n: int, n_concepts: int, n_clusters: int, per_sample: int) -> tuple[ConceptMatrix, np.ndarray]:
    """Random concepts, and clusters that two of them decide most of the time."""
    rng = np.random.default_rng(SEED)
    concepts = rng.integers(0, n_concepts, (n, per_sample))
    clusters = (concepts.max(axis=1) * 31 + concepts.min(axis=1)) % n_clusters
    clusters = np.where(rng.random(n) < 0.2, rng.integers(0, n_clusters, n), clusters)
    rows = np.repeat(np.arange(n), per_sample)
    return ConceptMatrix.from_pairs(rows, concepts.ravel(), n, n_concepts), clusters


def compare(n: int, n_concepts: int, n_clusters: int, epochs: int, repeats: int, device: str) -> None:
    x, clusters = generated(n, n_concepts, n_clusters, 13)
    options = ProbeOptions(epochs=epochs)
    few = np.arange(min(n, 8 * options.batch_size))
    plain(
        x.take(few), clusters[few], n_clusters, ProbeOptions(epochs=1), device
    )  # warms up both: threads, caches, kernels
    ours(x.take(few), clusters[few], n_clusters, ProbeOptions(epochs=1), device)
    theirs, mine, ratios = [], [], []
    for _ in range(repeats):
        seconds, their_loss = plain(x, clusters, n_clusters, options, device)
        probe = ours(x, clusters, n_clusters, options, device)
        theirs.append(statistics.median(seconds))
        mine.append(probe.timings["train_s"] / epochs)
        ratios.append(theirs[-1] / mine[-1])
    print(
        f"{n:,} samples x {n_concepts:,} concepts (13 a sample) x {n_clusters:,} clusters, batch {options.batch_size}"
    )
    print(f"both on {device}")
    print(f"  plain DataLoader script  {statistics.median(theirs):8.3f} s an epoch   last loss {their_loss:.6f}")
    print(f"  qrp_store                {statistics.median(mine):8.3f} s an epoch   last loss {_last_loss(probe):.6f}")
    print(f"  ratio                    {statistics.median(ratios):8.1f}   (each run: {_list(ratios)})")


def _last_loss(probe: ProbeFit) -> float:
    loss = probe.history[-1].train_loss
    return float("nan") if loss is None else loss


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def imagenet(device: str) -> None:
    x, clusters = generated(_IMAGENET, 2000, 1000, 13)
    before = peak_bytes(reset=True)
    probe = ours(x, clusters, 1000, ProbeOptions(epochs=1), device)
    took = (peak_bytes() - before) / 1e9
    print(f"ImageNet's size, {_IMAGENET:,} x 2,000 x 1,000, {probe.device}: {probe.timings['train_s']:.2f} s an epoch")
    print(f"  100 epochs at this rate: {probe.timings['train_s'] * 100 / 60:.0f} min, validation not counted")
    print(f"  the last look at the objective {probe.timings['val_s']:.2f} s; {took:.2f} GB beside the labels at most")


def tight() -> None:
    x, clusters = generated(_IMAGENET, 2000, 1000, 13)
    with torch.no_grad():
        objective = Objective(x, clusters, 1000, torch.device("cpu"))
        table = torch.zeros((2001, 1000))
        seconds = [_timed(lambda: objective(table, 1e-4)) for _ in range(3)]
    whole = statistics.median(seconds)
    train, val = np.arange(_IMAGENET // 10), np.arange(_IMAGENET // 10, _IMAGENET // 8)
    parts = (x.take(train), clusters[train], x.take(val), clusters[val])
    probe = fit(*parts, 1000, ProbeOptions(protocol="tight"), seed=SEED)
    print(f"tight, {len(train):,} x 2,000 x 1,000: {probe.timings['train_s']:.0f} s, {probe.epochs_run} passes")
    print(f"  chose weight decay {probe.weight_decay:.2g}, left at most {probe.gap_bound:.2g} nats from its optimum")
    told = f"{whole:.2f} s; as many passes would take {whole * probe.epochs_run / 60:.0f} min"
    print(f"  a pass at ImageNet's size, {_IMAGENET:,}: {told}")


def forward_probes() -> None:
    rng = np.random.default_rng(SEED)
    n, dim, k = 50_000, 512, 100
    classes = rng.integers(0, k, n)
    vectors = (rng.normal(size=(k, dim))[classes] * 0.3 + rng.normal(size=(n, dim))).astype(np.float32)
    x = ConceptMatrix.from_pairs(np.arange(n), classes, n, k)
    parts = rng.permutation(np.repeat([0, 1, 2], [n * 64 // 100, n * 16 // 100, n - n * 80 // 100]))
    data = ForwardData(InMemory(vectors), np.arange(n), parts, x, ["class"] * k)
    began = time.perf_counter()
    scores = forward(data, queries=20_000, seed=SEED, device="cpu", progress=silent)
    seconds = time.perf_counter() - began
    told = ", ".join(f"{s.probe} {s.metric} {s.value:.3f}" for s in scores if s.value is not None)
    passes = scores[0].details["passes"]
    print(f"forward, {n:,} x {dim}, {k} classes: {seconds:.1f} s ({told}; {passes} passes of the linear probe)")


def steps() -> None:
    """Each size's fastest twentieth by turns: short enough to fall between what else the machine does."""
    print("one step of 512 samples, its preparation included, ms: 1 thread, 2 threads")
    for n_concepts, n_clusters in ((20, 24), (65, 32), (200, 64), (300, 100), (500, 200), (1000, 300), (2000, 1000)):
        x, clusters = generated(4096, n_concepts, n_clusters, 13)
        descent, order = CpuDescent(x, clusters, n_clusters, ProbeOptions()), np.arange(len(x))
        taken: dict[int, list[float]] = {1: [], 2: []}
        for repeat in range(120):
            torch.set_num_threads(1 + repeat % 2)
            taken[1 + repeat % 2].append(_timed(lambda d=descent, o=order: d.epoch([o], 0.1)) / (len(x) / 512))
        one, two = (1e3 * float(np.quantile(seconds, 0.05)) for seconds in taken.values())
        floats = (n_concepts + 1 + 512) * n_clusters
        print(f"  {n_concepts:5,} x {n_clusters:5,} ({floats:9,} floats) {one:7.3f} {two:7.3f}   ratio {one / two:.2f}")


class InMemory:
    """Vectors that are at hand."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def chunks(self, positions: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(positions), 8192):
            yield self.vectors[positions[start : start + 8192]]


def peak_bytes(*, reset: bool = False) -> int:
    """The most memory this process has held since the last reset; Linux."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def bootstrap(n: int) -> None:
    x, clusters = generated(n, 2000, 1000, 13)
    few = np.arange(5000)
    probe = ours(x.take(few), clusters[few], 1000, ProbeOptions(epochs=1))
    seconds = {}
    for resamples in (1, 0, 1000):  # the first one warms up
        began = time.perf_counter()
        score(probe, x, clusters, bootstrap=resamples, seed=SEED)
        seconds[resamples] = time.perf_counter() - began
    print(
        f"bootstrap, 1,000 resamples of {n:,} samples: {seconds[1000] - seconds[0]:.2f} s (scoring: {seconds[0]:.2f} s)"
    )


def stacked(device: str) -> None:
    """On a CPU, where nothing is trained together otherwise, single epochs by turns; on a GPU whole fits."""
    print(f"small probes one after another and together, {device}, 13 concepts a sample, ms an epoch of all")
    for n, n_concepts, n_clusters, probes in ((12_800, 300, 50, 8), (12_800, 300, 50, 64), (1_920, 40, 12, 8)):
        x, clusters = generated(n + 512, n_concepts, n_clusters, 13)
        part, val = (np.arange(n), np.arange(n, n + 512))
        problem = Problem(
            x.take(part), clusters[part], x.take(val), clusters[val], n_clusters, ProbeOptions(), SEED, device
        )
        if device == "cpu":
            shown = [(f"{some} thread(s)", _epochs_by_turns(problem, probes, some)) for some in (1, 2)]
        else:
            list(fit_all([(0, problem)]))  # warms up
            each = _timed(lambda p=problem, m=probes: [list(fit_all([(0, p)])) for _ in range(m)])
            shown = [("", (each / 100, _timed(lambda p=problem, m=probes: list(fit_all([(0, p)] * m))) / 100))]
        for how, (one, all_) in shown:
            told = f"{1e3 * one:8.2f} {1e3 * all_:8.2f}   ratio {one / all_:.2f}   {how}"
            print(f"  {probes:2} x {n:6,} samples x {n_concepts} x {n_clusters}: {told}")


def _epochs_by_turns(problem: Problem, probes: int, threads: int) -> tuple[float, float]:
    """The fastest twentieth of epochs: one after another on one thread, as `fit` does it, and as blocks of one probe.

    Those blocks are trained at another learning rate, which takes the same time.
    """
    x, c, k, options = problem.x_train, problem.c_train, problem.n_clusters, problem.options
    size = options.batch_size
    blocks = block_diagonal([with_bias(x)] * probes)
    together = CpuDescent(blocks, np.tile(c, probes), k, replace(options, batch_size=size * probes))
    each = [CpuDescent(x, c, k, options) for _ in range(probes)]
    order = np.random.default_rng(SEED).permutation(len(x))[: len(x) // size * size]
    own = (order.reshape(-1, 1, size) + np.arange(probes)[:, np.newaxis] * len(x)).ravel()
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(40):
        torch.set_num_threads(1)
        taken[0].append(_timed(lambda: [descent.epoch([order], 0.1) for descent in each]))
        torch.set_num_threads(threads)
        taken[1].append(_timed(lambda: together.epoch([own], 0.1)))
    one, all_ = (float(np.quantile(seconds, 0.05)) for seconds in taken)
    return one, all_


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the probe's epoch beside a plain DataLoader script.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, once")
    parser.add_argument("--imagenet", action="store_true", help="also one epoch at ImageNet's size")
    parser.add_argument("--tight", action="store_true", help="also the protocol tight, about 2 minutes")
    parser.add_argument("--forward", action="store_true", help="also the usual probes")
    parser.add_argument("--steps", action="store_true", help="also single steps by one and by two threads")
    parser.add_argument("--stack", action="store_true", help="also small probes one after another and together")
    parser.add_argument("--device", default="cpu", help="device of both sides: cpu (default), cuda, cuda:N")
    parser.add_argument("--threads", type=int, help="torch's threads (default: as torch chooses)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, the median counts (default 3)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    if arguments.imagenet:  # first: what others have let go of would be taken again unseen
        imagenet(arguments.device)
    if arguments.quick:
        compare(4_000, 500, 200, epochs=3, repeats=1, device=arguments.device)
    else:
        compare(60_000, 2_000, 1_000, epochs=3, repeats=arguments.repeats, device=arguments.device)
    bootstrap(25_600 if arguments.quick else 256_000)
    if arguments.tight:
        tight()
    if arguments.forward:
        forward_probes()
    if arguments.steps:
        with torch.no_grad():
            steps()
    if arguments.stack:
        with torch.no_grad():
            stacked(arguments.device)


if __name__ == "__main__":
    main()
