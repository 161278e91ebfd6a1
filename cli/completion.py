"""What a shell offers after --dataset, --backbone and --concepts, for an id and for a name: what is in the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import typer


def names_of(what: str) -> Callable[[typer.Context, str], list[str]]:
    """The names of the store's `datasets`, `backbones` or `concepts` that begin with what was typed."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        return _in_store(ctx, incomplete, {what: ("name",)})

    return complete


def results(ctx: typer.Context, incomplete: str) -> list[str]:
    """The ids of results."""
    return _in_store(ctx, incomplete, {"results": ("id",)})


def anything(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of datasets, backbones and concept sets; ids of everything, once there is a letter to go by."""
    named = dict.fromkeys(("datasets", "backbones", "concepts"), ("id", "name") if incomplete else ("name",))
    made = dict.fromkeys(("embeddings", "clusterings", "results"), ("id",) if incomplete else ())
    return _in_store(ctx, incomplete, {**named, **made})


def _in_store(ctx: typer.Context, incomplete: str, wanted: Mapping[str, Sequence[str]]) -> list[str]:
    """What stands in these columns of these listings and begins with what was typed."""
    from qrp_store.errors import QrpStoreError
    from qrp_store.look import listing
    from qrp_store.store import open_store

    before = ctx.parent.params if ctx.parent is not None else {}
    found: set[str] = set()
    try:
        with open_store(*(ctx.params.get(name) or before.get(name) for name in ("store", "arrays"))) as store:
            for what, columns in wanted.items():
                found.update(row[column] for row in listing(store, what).named() for column in columns)
    except QrpStoreError:  # no store to ask is no reason to disturb somebody who is typing
        return []
    return sorted(value for value in found if value.startswith(incomplete))
