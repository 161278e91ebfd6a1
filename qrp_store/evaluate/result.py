"""A probe result as `evaluate` reports it: the values of its row, and whether it was computed now."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from qrp_store.catalog.entities import results
from qrp_store.catalog.model.values import ResultValues
from qrp_store.store import Store


@dataclass(frozen=True)
class Result(ResultValues):
    """One probe result. Information in nats unless the name says bits; times in seconds.

    `cached` is False when it was computed by this call. `forward`, `curve` and `thresholds` are None unless requested:
    rows of the views `forward_scores`, `curve_scores` and `threshold_scores`. `nmi_limit` with its 95 % interval, under
    tight with a curve: the NMI that ever more training images would approach (`probing.limit`). `nmi_upper` with
    `upper` (its model and all candidates) and `code_length_nats` with `mdl` (n, entropy, what it saves) are None
    unless requested.
    """

    cached: bool
    timings: dict[str, float]
    forward: tuple[dict[str, Any], ...] | None = None
    curve: tuple[dict[str, Any], ...] | None = None
    thresholds: tuple[dict[str, Any], ...] | None = None
    nmi_limit: float | None = None
    nmi_limit_lo: float | None = None
    nmi_limit_hi: float | None = None
    nmi_upper: float | None = None
    upper: dict[str, Any] | None = None
    code_length_nats: float | None = None
    mdl: dict[str, Any] | None = None


def stored_result(store: Store, identifier: str, *, cached: bool) -> Result:
    """A ready result as `evaluate` reports it. Raises NotFound."""
    row = results.values(store.catalog, identifier)
    return Result(
        **{field.name: row[field.name] for field in fields(ResultValues)}, cached=cached, timings=row["timings"]
    )
