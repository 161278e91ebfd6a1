"""From the vectors of images and texts to the concepts of each image: scores in [0, 1], and only those that count.

Every concept has a logit for an image. Models with a sigmoid (SigLIP) were trained so that the logit's sigmoid is a
probability. CLIP's logits mean something only beside other texts, so a concept competes with a neutral text ("a photo
of a thing.") and, in a vocabulary with groups, with the other concepts of its group: its score is its share of the
softmax over all of these. Without the neutral text one concept of a group would always win, and without a group the
score of a concept would depend on which other words a vocabulary happens to hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from qrp_store.device import float32_arithmetic, memory_errors

if TYPE_CHECKING:
    import torch

_PIECE = 1 << 23  # numbers of the product of images and texts that are in memory at once


@dataclass(frozen=True, eq=False)
class ZeroShot:
    """How vectors become scores.

    `texts`: the concepts' vectors, float32 (concepts, dim), of length 1. `groups`: a group for each concept, or None.
    `neutral`: the neutral text's vector, for "softmax". A logit is `scale` times the cosine, plus `bias`.
    """

    texts: NDArray[np.float32]
    groups: Sequence[str | None]
    neutral: NDArray[np.float32]
    activation: Literal["sigmoid", "softmax"]
    scale: float
    bias: float
    device: str = "cpu"

    def above(
        self, images: NDArray[np.float32], threshold: float | None, top_k: int | None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
        """Yield row, concept and score of what counts in image vectors (rows, dim), some rows at a time.

        A score counts when it is greater than `threshold` and among the `top_k` best of its image; None: no such
        limit. No more than some rows' scores are ever in memory.
        """
        import torch

        texts, neutral = (torch.from_numpy(v).to(self.device) for v in (self.texts, self.neutral))
        apart = self._apart()
        rows = max(1, _PIECE // max(1, len(self.texts)))
        for start in range(0, len(images), rows):
            with (
                torch.inference_mode(),
                float32_arithmetic(),
                memory_errors(self.device, f"the scores of {rows} images"),
            ):
                piece = torch.from_numpy(np.ascontiguousarray(images[start : start + rows])).to(self.device)
                row, concept, score = self._piece(piece, texts, neutral, apart, threshold, top_k)
            yield row + start, concept, score

    def scores(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores of all concepts, float32 (rows, concepts): for few rows."""
        out = np.zeros((len(images), len(self.texts)), np.float32)
        for row, concept, score in self.above(images, None, None):
            out[row, concept] = score
        return out

    def _apart(self) -> list[NDArray[np.int64]]:
        """Return the concepts of each group that has several."""
        if self.activation == "sigmoid":
            return []
        members: dict[str, list[int]] = {}
        for number, group in enumerate(self.groups):
            if group is not None:
                members.setdefault(group, []).append(number)
        return [np.array(numbers) for numbers in members.values() if len(numbers) > 1]

    def _piece(
        self,
        images: torch.Tensor,
        texts: torch.Tensor,
        neutral: torch.Tensor,
        apart: list[NDArray[np.int64]],
        threshold: float | None,
        top_k: int | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        import torch

        odds = (images @ texts.T).mul_(self.scale)  # log-odds of each concept
        if self.activation == "sigmoid":
            odds += self.bias
        else:
            other = (images @ neutral)[:, None].mul_(self.scale)
            for numbers in apart:
                at = torch.from_numpy(numbers).to(images.device)
                logits = odds[:, at]
                total = torch.logsumexp(torch.cat([logits, other], 1), 1, keepdim=True)
                share = (logits - total).clamp_(max=-1e-7)
                odds[:, at] = share - torch.log(-torch.expm1(share)) + other  # `other` goes again below
            odds -= other
        if top_k is not None and top_k < odds.shape[1]:
            best = odds.topk(top_k, 1).indices.sort(1).values
            row = torch.arange(len(odds), device=odds.device).repeat_interleave(top_k)
            concept = best.flatten()
        else:
            # A little below the threshold: rounding decides nothing here, the scores do.
            least = -math.inf if threshold is None or threshold <= 0 else _log_odds(threshold) - 1e-3
            row, concept = (odds > least).nonzero(as_tuple=True)
        score = odds[row, concept].sigmoid()
        if threshold is not None:
            counts = score > threshold
            row, concept, score = row[counts], concept[counts], score[counts]
        return row.cpu().numpy(), concept.cpu().numpy(), score.float().cpu().numpy()


def _log_odds(share: float) -> float:
    return math.inf if share >= 1 else math.log(share / (1 - share))
