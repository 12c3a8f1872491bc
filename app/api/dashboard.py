"""The page for operators, served from the package; logging in and out of it."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from functools import cache
from importlib import resources
from typing import NamedTuple

from fastapi import APIRouter, Request, Response
from pydantic import Field, SecretStr

from app.api import schemas
from app.api.service import Running, Service, StrictRoute, answer
from app.api.sessions import is_same_origin
from app.errors import Forbidden, NotFound, Unauthorized

logger = logging.getLogger(__name__)

router = APIRouter(tags=["dashboard"], route_class=StrictRoute)

# Scripts, styles and data from here, and nothing else: whatever an item is called, it is text.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


_TYPES = {
    "css": "text/css",
    "html": "text/html",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}


class _File(NamedTuple):
    content: bytes
    media_type: str
    etag: str


@cache
def _files() -> dict[str, _File]:
    """Return the files of app/web by name."""
    found = {}
    for path in resources.files("app").joinpath("web").iterdir():
        content = path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        found[path.name] = _File(content, _TYPES[path.name.rpartition(".")[2]], etag)
    return found


@router.get("/dashboard", response_class=Response, responses={200: {"content": {"text/html": {}}}})
async def page(request: Request) -> Response:
    """Return the page: it shows nothing by itself, and asks the API with a key or a session."""
    return _served(request, "index.html")


@router.get("/dashboard/", include_in_schema=False)
async def slashed_page() -> Response:
    """Lead to the page: what it loads it names relative to its path."""
    return Response(status_code=308, headers={"Location": "../dashboard"})


@router.get("/dashboard/{name}", include_in_schema=False)
async def page_file(request: Request, name: str) -> Response:
    """Return a file of the page."""
    return _served(request, name)


def _served(request: Request, name: str) -> Response:
    file = _files().get(name)
    if file is None:
        raise NotFound(f"the dashboard has no file {name!r}")
    headers = _HEADERS | {"ETag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


class LoginBody(schemas.Body):
    """The key that operators have."""

    key: SecretStr = Field(min_length=1, max_length=1_000)


@router.get("/v1/session", response_model=schemas.Session)
async def get_session(service: Running, request: Request) -> Response:
    """Say whether a key is needed here, and whether this browser is logged in."""
    return _session(service, is_open=_is_open(service, request))


def _is_open(service: Service, request: Request) -> bool:
    return service.sessions.key is None or bool(service.sessions.key_of(request, time.time()))


def _session(service: Service, *, is_open: bool) -> Response:
    return answer({"needs_key": service.sessions.key is not None, "is_open": is_open})


@router.post("/v1/session", response_model=schemas.Session, responses=schemas.errors(403))
async def log_in(service: Running, request: Request, body: LoginBody) -> Response:
    """Log a browser in, for twelve hours, with the key that operators have."""
    sessions = service.sessions
    if sessions.key is None:
        return _session(service, is_open=True)
    if "origin" in request.headers and not is_same_origin(request):
        raise Forbidden("a page of another site may not log in here")
    if not hmac.compare_digest(body.key.get_secret_value().encode(), sessions.key.encode()):
        whence = request.client.host if request.client else "nowhere"
        logger.warning("a login to the dashboard failed, from %s: another key", whence)
        raise Unauthorized("this is not the key that operators have")
    response = _session(service, is_open=True)
    sessions.begin(response, int(time.time()), is_https=request.url.scheme == "https")
    return response


@router.delete("/v1/session", response_model=schemas.Session)
async def log_out(service: Running, request: Request) -> Response:
    """Log this browser out."""
    response = _session(service, is_open=service.sessions.key is None)
    if service.sessions.key is not None:
        service.sessions.end(response, is_https=request.url.scheme == "https")
    return response
