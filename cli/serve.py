"""serve: the store in a browser, read-only."""

from __future__ import annotations

import typer

from qrp_store.options import BrowserOptions, ServeOptions

from . import output
from .session import Session, command


def register(app: typer.Typer) -> None:
    command(
        app,
        "serve",
        example="qrp-store serve --open\nqrp-store serve --host 0.0.0.0 --port 8000 --token s3cret",
    )(serve)


def serve(session: Session, options: ServeOptions, after: BrowserOptions) -> None:
    """Serve the store as web pages, read-only, until Ctrl-C.

    Pages: datasets and running jobs, leaderboards, clusters with their images, concepts, images with their nearest
    neighbours, comparisons, SQL.
    """
    from qrp_store.serve import serve

    def started(address: str) -> None:
        output.write(output.to_json({"url": address}) if session.as_json else f"Serving {address} (Ctrl-C stops)")
        if after.browser:
            typer.launch(address)

    serve(
        session.store,
        session.arrays,
        host=options.host,
        port=options.port,
        images=options.images,
        token=options.token,
        started=started,
    )
