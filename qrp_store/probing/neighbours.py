"""A weighted vote of the nearest training samples, by cosine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qrp_store.probing.device import torch
from qrp_store.probing.linear import Features, Labelled
from qrp_store.probing.sparse import ConceptMatrix

NEIGHBOURS, TEMPERATURE = 20, 0.07
_DECIMALS = 9
"""Of votes: twenty weights add up to 1 only up to rounding, and queries whose neighbours all agree are a tie."""
_QUERIES, _ROWS = 2048, 8192


@dataclass(frozen=True, eq=False)
class Votes:
    """What each query's neighbours say: neighbour (q, k) as row of the training part, weight (q, k), summing to 1."""

    neighbours: NDArray[np.int64]
    weights: NDArray[np.float64]
    x: ConceptMatrix

    def of(self, columns: slice) -> NDArray[np.float64]:
        """The summed weight of the neighbours that have each concept of `columns`, (q, concepts)."""
        first, last, _ = columns.indices(self.x.n_concepts)
        queries, k = self.neighbours.shape
        found = self.x.take(self.neighbours.ravel())
        lengths = np.diff(found.indptr)
        query = np.repeat(np.arange(queries).repeat(k), lengths)
        weight = np.repeat(self.weights.ravel(), lengths)
        inside = (found.indices >= first) & (found.indices < last)
        cell = query[inside] * (last - first) + found.indices[inside] - first
        votes = np.zeros(queries * (last - first))
        np.add.at(votes, cell, weight[inside])
        return votes.round(_DECIMALS).reshape(queries, last - first)


def vote(features: Features, train: Labelled, queries: NDArray[np.int64], device: torch.device) -> Votes:
    """The NEIGHBOURS nearest training samples of each query (positions, ascending) and their weights.

    Cosine similarity s, weights exp(s / TEMPERATURE), normalised. Exact: every training vector is looked at.
    """
    asked = torch.cat([_unit(chunk, device) for chunk in features.chunks(queries)])
    k = min(NEIGHBOURS, len(train))
    best = torch.full((len(asked), k), -torch.inf, device=device)
    where = torch.zeros((len(asked), k), dtype=torch.int64, device=device)
    seen = 0
    for whole in features.chunks(train.positions):
        for start in range(0, len(whole), _ROWS):
            rows = _unit(whole[start : start + _ROWS], device)
            for first in range(0, len(asked), _QUERIES):
                part = slice(first, first + _QUERIES)
                near, at = torch.topk(asked[part] @ rows.T, min(k, len(rows)), dim=1)
                best[part], kept = torch.topk(torch.cat((best[part], near), 1), k, dim=1)
                where[part] = torch.cat((where[part], at + seen), 1).gather(1, kept)
            seen += len(rows)
    weights = torch.softmax(best.double() / TEMPERATURE, dim=1)
    return Votes(where.cpu().numpy(), weights.cpu().numpy(), train.x)


def _unit(vectors: NDArray[np.float32], device: torch.device) -> torch.Tensor:
    """Each row divided by its length; a row of zeros stays."""
    return torch.nn.functional.normalize(torch.from_numpy(vectors).to(device), dim=1)
