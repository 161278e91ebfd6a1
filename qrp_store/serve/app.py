"""The web application: addresses, answers to errors, who may look, and what a browser may load."""

from __future__ import annotations

import csv
import hmac
import io
import tempfile
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from qrp_store import settings
from qrp_store.catalog.entities import datasets
from qrp_store.errors import Busy, InvalidInput, NotFound, QrpStoreError, SchemaMismatch, Unavailable
from qrp_store.options import ServeOptions, takes
from qrp_store.records import Table
from qrp_store.rendering import site
from qrp_store.serve import cluster_pages, concept_pages, dataset_pages, pages
from qrp_store.serve.pictures import SIDES, Pictures
from qrp_store.serve.reader import Reader
from qrp_store.store import Store, open_store

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

LOOPBACK = ("127.0.0.1", "::1", "localhost")
SQL_ROWS, SQL_SECONDS = 1000, 10.0
_EXPORT_ROWS = 100_000
_COOKIE = "qrp_store_token"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; script-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_ASSETS = {"page.css": "text/css", "site.css": "text/css", "site.js": "text/javascript"}
Page = Callable[[Reader, pages.Names, pages.Query], str]
PAGES: dict[str, Page] = {
    "/": dataset_pages.datasets,
    "/jobs": pages.jobs,
    "/dataset/{dataset}": dataset_pages.dataset,
    "/dataset/{dataset}/leaderboard": dataset_pages.leaderboard,
    "/dataset/{dataset}/compare": dataset_pages.compare,
    "/dataset/{dataset}/card": dataset_pages.card,
    "/dataset/{dataset}/concepts": concept_pages.concepts,
    "/dataset/{dataset}/concept": concept_pages.concept,
    "/dataset/{dataset}/image/{position:int}": concept_pages.image,
    "/result/{id}": cluster_pages.result,
    "/result/{id}/cluster/{cluster:int}": cluster_pages.cluster,
}
QUESTIONS = (
    ("Which backbone leads?", "SELECT * FROM leaderboard ORDER BY dataset, concepts, clusters, rank"),
    ("The newest results", "SELECT * FROM results ORDER BY created_at DESC LIMIT 50"),
    (
        "Clusters that the concepts explain best",
        "SELECT r.backbone, s.cluster, s.n_test, s.cross_entropy_nats, s.top_concept FROM cluster_scores s "
        "JOIN results r ON r.id = s.result_id WHERE s.n_test >= 10 ORDER BY s.cross_entropy_nats LIMIT 50",
    ),
    (
        "Concepts that say most alone",
        "SELECT r.backbone, c.concept, c.nmi FROM concept_scores c JOIN results r ON r.id = c.result_id "
        "ORDER BY c.nmi DESC LIMIT 50",
    ),
    ("Embeddings and where they are", "SELECT * FROM embeddings"),
)


def create_app(store: Store, *, images: str | None = None, token: str | None = None) -> Starlette:
    """The ASGI application over an open store, which it only reads and does not close.

    `images` names the folder of the images (default: where they were ingested from); `token` is what every request must
    bring as `?token=`, as a cookie, or as `Authorization: Bearer`.
    """
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.routing import Route
    except ImportError as error:
        raise Unavailable(f"serve needs {error.name}", hint="pip install 'qrp-store[serve]'") from error
    site_of = _Site(Reader(store), Pictures(), images)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> Any:
        yield
        site_of.pictures.close()

    routes = [Route(path, partial(_answer, site_of, make)) for path, make in site_of.routes()]
    return Starlette(routes=routes, middleware=[Middleware(_Guard, token=token)], lifespan=lifespan)


@takes(ServeOptions)
def serve(
    store: str | None = None,
    arrays: str | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    images: str | None = None,
    token: str | None = None,
    started: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve a store until interrupted. `started` gets the address once the port is open.

    Raises InvalidInput for a host beyond loopback without a token, or a port in use.
    """
    if host not in LOOPBACK and not token:
        raise InvalidInput(
            f"--host {host} lets other machines read the store", hint="protect it with --token, or stay on 127.0.0.1"
        )
    try:
        import uvicorn
    except ImportError as error:
        raise Unavailable(f"serve needs {error.name}", hint="pip install 'qrp-store[serve]'") from error
    with open_store(store, arrays) as opened, _listening(host, port) as listener:
        app = create_app(opened, images=images, token=token)
        number = listener.getsockname()[1]
        address = f"http://{f'[{host}]' if ':' in host else host}:{number}/"
        started(address + (f"?token={quote(token)}" if token else ""))
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> Any:
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)  # from now on a browser waits instead of being refused
    except OSError as error:
        listener.close()
        raise InvalidInput(
            f"{host}:{port} cannot be opened: {error.strerror or error}", hint="another --port; 0 takes a free one"
        ) from error
    return listener


class _Guard:
    """Ask for the token, and send the headers that keep a page from loading anything foreign."""

    def __init__(self, app: Any, token: str | None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse, RedirectResponse

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request, answer = Request(scope, receive), self.app
        given = request.query_params.get("token")
        if self.token and not any(_same(word, self.token) for word in (given, *_brought(request))):
            answer = PlainTextResponse("401: this server asks for its token: open the address it printed\n", 401)
        elif self.token and given is not None:  # out of the address, so that it is not pasted along
            left = "&".join(f"{quote(k)}={quote(v)}" for k, v in request.query_params.multi_items() if k != "token")
            answer = RedirectResponse(request.url.path + (f"?{left}" if left else ""), 303)
            answer.set_cookie(_COOKIE, given, httponly=True, samesite="strict")
        await answer(scope, receive, partial(_send_safely, send))


def _same(word: str | None, token: str) -> bool:
    return word is not None and hmac.compare_digest(word.encode(), token.encode())


def _brought(request: Request) -> tuple[str | None, str | None]:
    scheme, _, word = request.headers.get("authorization", "").partition(" ")
    return request.cookies.get(_COOKIE), word if scheme.lower() == "bearer" else None


async def _send_safely(send: Any, message: Any) -> None:
    if message["type"] == "http.response.start":
        present = {name.lower() for name, _ in message["headers"]}
        added = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items() if k.lower().encode() not in present]
        message = {**message, "headers": [*message["headers"], *added]}
    await send(message)


async def _answer(site_of: _Site, make: Callable[[Request], Response], request: Request) -> Response:
    """Make the answer in a thread; an error of the store becomes a page with its message and hint."""
    from starlette.concurrency import run_in_threadpool

    try:
        return await run_in_threadpool(make, request)
    except QrpStoreError as error:
        return await run_in_threadpool(site_of.failure, error)


class _Site:
    """Every address with what makes its answer."""

    def __init__(self, reader: Reader, pictures: Pictures, images: str | None) -> None:
        self.reader, self.pictures, self._images = reader, pictures, images

    def routes(self) -> Sequence[tuple[str, Callable[[Request], Response]]]:
        pages_at = [(path, partial(self._page, make)) for path, make in PAGES.items()]
        return (
            *pages_at,
            ("/static/{name}", self._static),
            ("/dataset/{dataset}/report", self._report),
            ("/dataset/{dataset}/image", self._find_image),
            ("/dataset/{dataset}/picture/{position:int}", self._picture),
            ("/sql", self._sql),
            ("/sql.csv", self._csv),
            ("/sql.parquet", self._parquet),
            ("/{path:path}", self._nowhere),
        )

    def _page(self, make: Page, request: Request) -> Response:
        return _html(make(self.reader, request.path_params, request.query_params))

    def failure(self, error: QrpStoreError) -> Response:
        """A page for an error of the store."""
        codes = {NotFound: 404, InvalidInput: 400, Busy: 503, SchemaMismatch: 503, Unavailable: 503}
        code = next((number for kind, number in codes.items() if isinstance(error, kind)), 500)
        heading = {404: "Not found", 400: "That cannot be shown", 503: "Not available now"}.get(code, "Failed")
        text = pages.failure(self.reader, heading, error)
        return _html(text, code)

    def _nowhere(self, request: Request) -> Response:
        raise NotFound(f"there is no page {request.url.path[:100]!r}", hint="start at /")

    def _static(self, request: Request) -> Response:
        from starlette.responses import Response

        name = request.path_params["name"]
        if name not in _ASSETS:
            raise NotFound(f"there is no file {name[:60]!r}")
        return Response(site.asset(name), media_type=_ASSETS[name], headers={"Cache-Control": "max-age=300"})

    def _find_image(self, request: Request) -> Response:
        from starlette.responses import RedirectResponse

        owner = self.reader.dataset(request.path_params["dataset"])
        position = self.reader.position(owner, request.query_params.get("key", ""))
        return RedirectResponse(f"/dataset/{quote(owner.name, safe='')}/image/{position}", 303)

    def _picture(self, request: Request) -> Response:
        from starlette.responses import Response

        owner = self.reader.dataset(request.path_params["dataset"])
        position = request.path_params["position"]
        key = self.reader.keys(owner, [position]).get(position)
        catalog = self.reader.store.catalog
        folder = settings.images_folder(self._images, datasets.image_root(catalog, owner))
        digest = datasets.digests_at(catalog, owner, [position]).get(position)
        if key is None or folder is None or (folder.recorded and digest is None):
            raise NotFound("there is no picture")
        side = SIDES[1] if request.query_params.get("side") == str(SIDES[1]) else SIDES[0]
        data = self.pictures.picture(folder.path, key, side, digest if folder.recorded else None)
        return Response(data, media_type="image/webp", headers={"Cache-Control": "private, max-age=3600"})

    def _report(self, request: Request) -> Response:
        """Build the static page and send it as a file."""
        from starlette.responses import Response

        from qrp_store.report import report

        name = self.reader.dataset(request.path_params["dataset"]).name
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "report.html"
            report(self.reader.store, dataset=name, output=str(path), images=self._images)
            data = path.read_bytes()
        return Response(data, media_type="text/html", headers=_download(f"{name}.html"))

    def _sql(self, request: Request) -> Response:
        query = request.query_params.get("q", "").strip()
        table, truncated, problem = None, False, None
        if query:
            try:
                table, truncated = self._asked(query, SQL_ROWS)
            except QrpStoreError as error:
                problem = f"{error.message}{f' ({error.hint})' if error.hint else ''}"
        text = pages.sql(self.reader, query, table, truncated, problem, QUESTIONS, SQL_ROWS, SQL_SECONDS)
        return _html(text, 400 if problem else 200)

    def _asked(self, query: str, limit: int) -> tuple[Table, bool]:
        rows = self.reader.store.sql(query, limit=limit, timeout=SQL_SECONDS)
        return rows.table, rows.truncated

    def _csv(self, request: Request) -> Response:
        from starlette.responses import Response

        table, _ = self._asked(request.query_params.get("q", ""), _EXPORT_ROWS)
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(table.columns)
        writer.writerows(table.rows)
        data = text.getvalue().encode("utf-8", "replace")
        return Response(data, media_type="text/csv; charset=utf-8", headers=_download("query.csv"))

    def _parquet(self, request: Request) -> Response:
        import pyarrow.parquet
        from starlette.responses import Response

        rows = self.reader.store.sql(request.query_params.get("q", ""), limit=_EXPORT_ROWS, timeout=SQL_SECONDS)
        sink = io.BytesIO()
        pyarrow.parquet.write_table(rows.arrow(), sink)
        return Response(sink.getvalue(), media_type="application/octet-stream", headers=_download("query.parquet"))


def _html(text: str, code: int = 200) -> Response:
    from starlette.responses import HTMLResponse

    return HTMLResponse(text.encode("utf-8", "replace"), code, headers={"Cache-Control": "no-cache"})


def _download(name: str) -> dict[str, str]:
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}
