"""serve: the store in a browser, read-only."""

from __future__ import annotations

from typing import Annotated

import typer

from . import output
from .session import Session, command


def register(app: typer.Typer) -> None:
    command(
        app,
        "serve",
        example="qrp-store serve --open\nqrp-store serve --host 0.0.0.0 --port 8000 --token s3cret",
    )(serve)


def serve(
    session: Session,
    host: Annotated[
        str, typer.Option("--host", metavar="HOST", help="Address to listen on; beyond loopback it needs --token.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    images: Annotated[
        str | None,
        typer.Option(
            "--images", metavar="FOLDER", help="Folder of the images.  [default: where they were ingested from]"
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option("--token", metavar="TEXT", envvar="QRP_STORE_TOKEN", help="Require this token from every reader."),
    ] = None,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve the store as web pages, read-only, until Ctrl-C.

    Pages: datasets and running jobs, leaderboards, clusters with their images, concepts, images with their nearest
    neighbours, comparisons, SQL.
    """
    from qrp_store.serve import serve

    def started(address: str) -> None:
        output.write(output.to_json({"url": address}) if session.as_json else f"Serving {address} (Ctrl-C stops)")
        if browser:
            typer.launch(address)

    serve(session.store, session.arrays, host=host, port=port, images=images, token=token, started=started)
