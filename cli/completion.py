"""Shell completion from the store: after --dataset, --backbone and --concepts, for ids and for names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import typer


def names_of(what: str) -> Callable[[typer.Context, str], list[str]]:
    """Return a completer for the names of the store's `datasets`, `backbones` or `concepts`."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        return _in_store(ctx, incomplete, {what: ("name",)})

    return complete


def results(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the ids of results."""
    return _in_store(ctx, incomplete, {"results": ("id",)})


def anything(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete names of datasets, backbones and concept sets; ids of everything after the first letter."""
    named = dict.fromkeys(("datasets", "backbones", "concepts"), ("id", "name") if incomplete else ("name",))
    made = dict.fromkeys(("embeddings", "clusterings", "results"), ("id",) if incomplete else ())
    return _in_store(ctx, incomplete, {**named, **made})


def _in_store(ctx: typer.Context, incomplete: str, columns_of: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the values in these columns of these listings that start with the typed text."""
    from qrp_store.errors import QrpStoreError
    from qrp_store.look import listing
    from qrp_store.store import open_store

    before = ctx.parent.params if ctx.parent is not None else {}
    values: set[str] = set()
    try:
        with open_store(*(ctx.params.get(name) or before.get(name) for name in ("store", "arrays"))) as store:
            for what, columns in columns_of.items():
                values.update(row[column] for row in listing(store, what).named() for column in columns)
    except QrpStoreError:  # without a store there is nothing to complete
        return []
    return sorted(value for value in values if value.startswith(incomplete))
