"""The page of a review as an HTTP application, below a secret path."""

import asyncio
import io
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from unfreeze.contract.errors import ImageError
from unfreeze.contract.images.decoding import decode
from unfreeze.pages.rendering import render
from unfreeze.review.session import DecisionError, Session
from unfreeze.serve.http.gate import Gate

_POLICY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_LARGEST_SIDE, _QUALITY = 1024, 90
_MOST_BODY_BYTES = 4096
_Handler = Callable[[Request], Awaitable[Response]]


def review_application(session: Session, token: str, on_done: Callable[[], None]) -> ASGIApp:
    """Build the application.

    Args:
        session: what is reviewed.
        token: first part of all paths, without which nothing is shown.
        on_done: called when the person has finished.
    """
    page = render("review.html.j2", model=session.model, out=str(session.out)).encode()
    folder = files("unfreeze.review") / "page"

    async def image(request: Request) -> Response:
        return await asyncio.to_thread(_image, session, request.path_params["digest"])

    async def state(_: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(session.state), headers=_POLICY)

    async def decide(request: Request) -> Response:
        document = await _document(request)
        arguments = [str(document.get(name, "")) for name in ("digest", "kind", "label")]
        return await _changed(partial(session.decide, *arguments))

    async def undo(_: Request) -> Response:
        return await _changed(session.undo)

    async def done(_: Request) -> Response:
        on_done()
        return JSONResponse({}, headers=_POLICY)

    routes = [
        _get("/", _constant(page, "text/html")),
        _get("/review.js", _constant((folder / "review.js").read_bytes(), "text/javascript")),
        _get("/review.css", _constant((folder / "review.css").read_bytes(), "text/css")),
        _get("/state", state),
        _get("/images/{digest}", image),
        _post("/decide", decide),
        _post("/undo", undo),
        _post("/done", done),
    ]
    return Gate(_Secret(Starlette(routes=routes), token), None, frozenset(), only_local=True)


class _Secret:
    """Answers paths that begin with a secret, and hides everything else."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a request."""
        token, slash, rest = scope["path"].lstrip("/").partition("/")
        if not slash or not secrets.compare_digest(token.encode("utf-8", "replace"), self._token):
            await Response("not found", 404)(scope, receive, send)
            return
        await self._app(dict(scope, path=f"/{rest}", raw_path=None, root_path=""), receive, send)


def _image(session: Session, digest: str) -> Response:
    """Return an image as JPEG, whatever its format: browsers do not show all of them."""
    found = session.image(digest)
    if found is None:
        return Response("there is no such image", 404)
    try:
        decoded = decode(found.path.read_bytes(), at_least=_LARGEST_SIDE)
    except (ImageError, OSError) as error:
        return Response(str(error), 422)
    decoded.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    buffer = io.BytesIO()
    decoded.save(buffer, "JPEG", quality=_QUALITY)
    return Response(buffer.getvalue(), headers=_POLICY, media_type="image/jpeg")


async def _changed(change: Callable[[], dict[str, Any]]) -> Response:
    try:
        return JSONResponse(await asyncio.to_thread(change), headers=_POLICY)
    except DecisionError as error:
        return JSONResponse({"error": str(error)}, 400)
    except OSError as error:
        return JSONResponse({"error": f"the decision cannot be stored: {error.strerror or error}"}, 507)


async def _document(request: Request) -> dict[str, Any]:
    if int(request.headers.get("content-length") or 0) > _MOST_BODY_BYTES:
        return {}
    try:
        document = await request.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _constant(content: bytes, media_type: str) -> _Handler:
    async def show(_: Request) -> Response:
        return Response(content, headers=_POLICY, media_type=media_type)

    return show


def _get(path: str, handler: _Handler) -> Route:
    return Route(path, handler, methods=["GET"])


def _post(path: str, handler: _Handler) -> Route:
    return Route(path, handler, methods=["POST"])
