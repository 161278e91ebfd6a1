"""A weighted vote of the nearest training samples, by cosine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qrp_store.probing.linear import Features, Labelled
from qrp_store.probing.runtime import torch
from qrp_store.probing.sparse import ConceptMatrix

NEIGHBOURS, TEMPERATURE = 20, 0.07
_DECIMALS = 9
"""Votes are rounded: twenty weights add up to 1 only up to rounding, and queries with equal votes must be a tie."""
_QUERIES, _ROWS = 2048, 8192


@dataclass(frozen=True, eq=False)
class Votes:
    """The neighbours of each query: rows of the training part (q, k), and weights (q, k) that sum to 1."""

    neighbours: NDArray[np.int64]
    weights: NDArray[np.float64]
    x: ConceptMatrix

    def of(self, columns: slice) -> NDArray[np.float64]:
        """Return the summed weight of the neighbours that have each concept of `columns`, (q, concepts)."""
        first, last, _ = columns.indices(self.x.n_concepts)
        queries, k = self.neighbours.shape
        concepts = self.x.take(self.neighbours.ravel())
        lengths = np.diff(concepts.indptr)
        query = np.repeat(np.arange(queries).repeat(k), lengths)
        weight = np.repeat(self.weights.ravel(), lengths)
        inside = (concepts.indices >= first) & (concepts.indices < last)
        cell = query[inside] * (last - first) + concepts.indices[inside] - first
        votes = np.zeros(queries * (last - first))
        np.add.at(votes, cell, weight[inside])
        return votes.round(_DECIMALS).reshape(queries, last - first)


def vote(features: Features, train: Labelled, queries: NDArray[np.int64], device: torch.device) -> Votes:
    """Return the NEIGHBOURS nearest training samples of each query (positions, ascending) and their weights.

    The weights are exp(s / TEMPERATURE), normalised, with s the cosine similarity. The search is exact.
    """
    unit_queries = torch.cat([_unit(chunk, device) for chunk in features.chunks(queries)])
    k = min(NEIGHBOURS, len(train))
    best = torch.full((len(unit_queries), k), -torch.inf, device=device)
    rows_of = torch.zeros((len(unit_queries), k), dtype=torch.int64, device=device)
    done = 0
    for whole in features.chunks(train.positions):
        for start in range(0, len(whole), _ROWS):
            rows = _unit(whole[start : start + _ROWS], device)
            for first in range(0, len(unit_queries), _QUERIES):
                part = slice(first, first + _QUERIES)
                near, at = torch.topk(unit_queries[part] @ rows.T, min(k, len(rows)), dim=1)
                best[part], columns = torch.topk(torch.cat((best[part], near), 1), k, dim=1)
                rows_of[part] = torch.cat((rows_of[part], at + done), 1).gather(1, columns)
            done += len(rows)
    weights = torch.softmax(best.double() / TEMPERATURE, dim=1)
    return Votes(rows_of.cpu().numpy(), weights.cpu().numpy(), train.x)


def _unit(vectors: NDArray[np.float32], device: torch.device) -> torch.Tensor:
    """Return each row divided by its length; a row of zeros stays."""
    return torch.nn.functional.normalize(torch.from_numpy(vectors).to(device), dim=1)
