"""What a shell offers after --dataset, --backbone and --concepts: the names in the store that the line so far means."""

from __future__ import annotations

from collections.abc import Callable

import typer


def names_of(what: str) -> Callable[[typer.Context, str], list[str]]:
    """The names of the store's `datasets`, `backbones` or `concepts` that begin with what was typed."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        from qrp_store.errors import QrpStoreError
        from qrp_store.look import listing
        from qrp_store.store import open_store

        before = ctx.parent.params if ctx.parent is not None else {}
        try:
            with open_store(*(ctx.params.get(name) or before.get(name) for name in ("store", "arrays"))) as store:
                table = listing(store, what)
        except QrpStoreError:  # no store to ask is no reason to disturb somebody who is typing
            return []
        at = table.columns.index("name")
        return sorted({row[at] for row in table.rows if row[at].startswith(incomplete)})

    return complete
