"""A data set of any size whose true score is known: embeddings of planted groups, concepts from a log-linear model.

A sample's group is uniform; its embedding is the group's centre, some variation in a few directions, which K-means can
divide further, and a little noise in all. Each concept holds independently given the
group: often for the group's own concepts, seldom otherwise, so that log P(group | concepts) is linear in the concepts.
Given the group, embedding and concepts are independent; hence for any partition c of the embeddings
P(c | y) = Σ_g P(c | g) P(g | y).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import scipy.sparse

CHUNK = 8192
OWN, OFTEN, SELDOM = 16, 0.6, 0.0025
DIRECTIONS, CENTRE, VARIATION, NOISE = 16, 0.15, 0.02, 0.05


@dataclass(frozen=True)
class Planted:
    """`n` samples of `dim` numbers in `n_groups`; `n_concepts` in four vocabularies, about 15 a sample."""

    n: int
    dim: int
    n_groups: int
    n_concepts: int
    seed: int = 0

    def chunks(self) -> Iterator[tuple[int, int, int]]:
        """(number, first sample, sample after the last)."""
        for number, start in enumerate(range(0, self.n, CHUNK)):
            yield number, start, min(start + CHUNK, self.n)

    def groups(self, number: int, count: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 1, number]).integers(0, self.n_groups, count)

    def own(self) -> np.ndarray:
        """Which concepts are a group's own, bool (n_groups, n_concepts): as many of each vocabulary."""
        rng = np.random.default_rng([self.seed, 0])
        each = self.n_concepts // 4
        order = rng.random((self.n_groups, 4, each)).argsort(axis=2) < OWN // 4
        return order.reshape(self.n_groups, 4 * each)

    def concepts(self, number: int, groups: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Which concepts hold, bool (samples, n_concepts)."""
        drawn = np.random.default_rng([self.seed, 2, number]).random((len(groups), self.n_concepts), dtype=np.float32)
        return drawn < np.where(own[groups], np.float32(OFTEN), np.float32(SELDOM))

    def write_array(self, path: Path) -> None:
        """float16 rows as .npy; goes on where it was killed."""
        done = path.with_suffix(".chunks")
        if path.exists() and not done.exists():
            return
        first = int(done.read_text() or 0) if done.exists() else 0
        if first == 0:
            done.write_text("0")
        out = np.lib.format.open_memmap(path, "r+" if first else "w+", np.float16, (self.n, self.dim))
        rng = np.random.default_rng([self.seed, 3])
        centres = rng.standard_normal((self.n_groups, self.dim), np.float32) * np.float32(CENTRE)
        directions = rng.standard_normal((DIRECTIONS, self.dim), np.float32) * np.float32(VARIATION)
        for number, start, stop in self.chunks():
            if number < first:
                continue
            rng = np.random.default_rng([self.seed, 4, number])
            rows = rng.standard_normal((stop - start, self.dim), np.float32) * np.float32(NOISE)
            rows += rng.standard_normal((stop - start, DIRECTIONS), np.float32) @ directions
            rows += centres[self.groups(number, stop - start)]
            out[start:stop] = rows
            out.flush()
            done.write_text(str(number + 1))
        done.unlink()

    def write_labels(self, path: Path) -> None:
        """key,concept,group rows; the file appears whole."""
        if path.exists():
            return
        own, each = self.own(), self.n_concepts // 4
        names = pa.array([f"v{j // each}-{j % each}" for j in range(self.n_concepts)])
        vocabularies = pa.array([f"vocabulary-{j // each}" for j in range(self.n_concepts)])
        schema = pa.schema([("key", pa.string()), ("concept", pa.string()), ("group", pa.string())])
        partial = path.with_suffix(".partial")
        with pyarrow.csv.CSVWriter(partial, schema) as file:
            for number, start, stop in self.chunks():
                rows, columns = self.concepts(number, self.groups(number, stop - start), own).nonzero()
                keys = pa.array(rows + start).cast(pa.string())
                which = pa.array(columns)
                file.write(pa.table([keys, names.take(which), vocabularies.take(which)], schema=schema))
        os.replace(partial, path)

    def truth(self, clusters: np.ndarray, n_clusters: int, test: np.ndarray) -> tuple[float, float]:
        """(H(c), I(c; y)) in nats of this partition, int (n,), over the test samples, bool (n,)."""
        own = self.own()
        signature = scipy.sparse.csr_matrix(own.astype(np.float32)).T
        weight = np.log(OFTEN / (1 - OFTEN)) - np.log(SELDOM / (1 - SELDOM))
        given = np.zeros((self.n_groups, n_clusters))
        for number, start, stop in self.chunks():
            np.add.at(given, (self.groups(number, stop - start), clusters[start:stop]), 1)
        given /= given.sum(axis=1, keepdims=True)
        frequency = np.bincount(clusters[test], minlength=n_clusters) / test.sum()
        total = 0.0
        for number, start, stop in self.chunks():
            y = self.concepts(number, self.groups(number, stop - start), own)[test[start:stop]]
            logits = weight * (scipy.sparse.csr_matrix(y.astype(np.float32)) @ signature).toarray()
            posterior = np.exp(logits - logits.max(axis=1, keepdims=True))
            posterior /= posterior.sum(axis=1, keepdims=True)
            here = clusters[start:stop][test[start:stop]]
            total += float(np.log(np.einsum("ng,gn->n", posterior, given[:, here])).sum())
        seen = frequency[frequency > 0]
        entropy = float(-(seen * np.log(seen)).sum())
        return entropy, entropy + total / float(test.sum())
