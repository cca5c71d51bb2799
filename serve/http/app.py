"""The HTTP application: which handler answers which path."""

from importlib.metadata import version
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from unfreeze.serve.http.gate import Gate
from unfreeze.serve.http.handlers import Handler, Handlers, handled
from unfreeze.serve.http.openapi import openapi_document
from unfreeze.serve.http.shared_memory import SharedMemoryHandlers
from unfreeze.serve.security.auth import Tokens

_PAGE = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_POLICY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "geolocation=(), microphone=()",
    "cache-control": "no-cache",
}
_VERSIONED = ("", "/versions/{version}")


def http_application(handlers: Handlers, tokens: Tokens | None, *, only_local: bool) -> ASGIApp:
    """Build the application.

    Args:
        handlers: answer the requests.
        tokens: valid tokens; None if none are needed.
        only_local: see `Gate`.
    """
    document = openapi_document(version("unfreeze"))

    async def answer_document(_: Request) -> Response:
        return JSONResponse(document)

    routes = [
        *(_page_route(path, *file) for path, file in _PAGE.items()),
        _get("/openapi.json", answer_document),
        _get("/v2/health/live", handlers.live),
        _get("/v2/health/ready", handlers.ready),
        _get("/v2", handlers.server_metadata),
        _get("/v2/models/stats", handlers.model_statistics),
        _post("/v2/repository/index", handlers.repository_index),
        _post("/v2/repository/models/{name}/load", handlers.load),
        _post("/v2/repository/models/{name}/unload", handlers.unload),
        _get("/v1/models", handlers.models),
        *_shared_memory_routes(handlers.shared_memory),
    ]
    for middle in _VERSIONED:
        model, described = f"/v2/models/{{name}}{middle}", f"/v1/models/{{name}}{middle}"
        routes += [
            _get(f"{model}/ready", handlers.model_ready),
            _get(f"{model}/config", handlers.model_config),
            _get(f"{model}/stats", handlers.model_statistics),
            _post(f"{model}/infer", handlers.infer),
            _get(model, handlers.model_metadata),
            _post(f"{described}:classify", handlers.classify),
            _get(described, handlers.describe),
        ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _not_found})
    return Gate(app, tokens, frozenset(_PAGE), only_local=only_local)


def _shared_memory_routes(handlers: SharedMemoryHandlers) -> list[Route]:
    system, cuda = "/v2/systemsharedmemory", "/v2/cudasharedmemory"
    routes = [
        _post(f"{system}/region/{{name}}/register", handlers.register),
        _post(f"{cuda}/region/{{name}}/register", handlers.cuda_register),
    ]
    for middle in ("", "/region/{name}"):
        routes += [
            _get(f"{system}{middle}/status", handlers.status),
            _post(f"{system}{middle}/unregister", handlers.unregister),
            _get(f"{cuda}{middle}/status", handlers.cuda_status),
            _post(f"{cuda}{middle}/unregister", handlers.cuda_unregister),
        ]
    return routes


def _get(path: str, handler: Handler) -> Route:
    return Route(path, handled(handler), methods=["GET"])


def _post(path: str, handler: Handler) -> Route:
    return Route(path, handled(handler), methods=["POST"])


def _page_route(path: str, file: str, media_type: str) -> Route:
    content = (files("unfreeze.serve.http") / "page" / file).read_bytes()

    async def show(_: Request) -> Response:
        return Response(content, headers=_POLICY, media_type=media_type)

    return Route(path, show)


def _not_found(request: Request, error: Exception) -> Response:
    """Answer what no route matches."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    problem = f"there is no {request.url.path!r:.200}" if status == 404 else f"{request.method} is not allowed here"  # noqa: PLR2004
    return JSONResponse({"error": f"{problem}; see /openapi.json"}, status, getattr(error, "headers", None))
