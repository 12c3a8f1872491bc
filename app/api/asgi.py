"""What happens to every request before routing: the raw path, the body's limit, the metrics."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import traces
from app.api.errors import answer_error, answer_unknown
from app.errors import InvalidRequest, SluiceError, TooLarge


class RawPath:
    """Routes on the path as it was sent: an encoded slash in an id is no separator.

    Each segment is decoded after the match, by the types of `service`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Replace the decoded path by the raw one."""
        if scope["type"] == "http" and scope.get("raw_path"):
            path = scope["raw_path"].split(b"?")[0].decode("latin-1")
            scope = {**scope, "path": path}
        await self.app(scope, receive, send)


class BodyLimit:
    """Refuses a body over the limit, declared or not, before it is held in memory."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the bytes on their way in."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if declared_bytes(scope) > self.max_bytes:
            await answer_error(_too_large(self.max_bytes))(scope, receive, send)
            return
        n_bytes = 0

        async def counted() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self.max_bytes:
                raise _too_large(self.max_bytes)
            return message

        await self.app(scope, counted, send)


def declared_bytes(scope: Scope) -> int:
    """Return how long a body is going to be, as far as its headers say so."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value.lstrip(b"0") or b"0") if value.isdigit() else 0
    return 0


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body has more than {max_bytes} bytes")


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """Return the whole body; raise TooLarge over the limit, InvalidRequest if it breaks off.

    Nor is one read that is compressed: of its lines nobody could say more than that they are none.
    """
    encoding = dict(scope["headers"]).get(b"content-encoding", b"identity").decode("latin-1")
    if encoding.strip().lower() not in ("", "identity"):
        raise InvalidRequest(f"Content-Encoding {encoding[:64]!r}: send the body uncompressed")
    if declared_bytes(scope) > max_bytes:
        raise _too_large(max_bytes)
    pieces, n_bytes, is_more = [], 0, True
    while is_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidRequest("the client hung up before the body had come whole")
        pieces.append(message.get("body", b""))
        n_bytes += len(pieces[-1])
        if n_bytes > max_bytes:
            raise _too_large(max_bytes)
        is_more = message.get("more_body", False)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class PlainFailure:
    """Says in one line why the service does not start, where it knows; else there is a trace."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put the error's own message in the place of its trace."""

        async def plainly(message: Message) -> None:
            error = sys.exc_info()[1]
            if message["type"] == "lifespan.startup.failed" and isinstance(error, SluiceError):
                message = {**message, "message": f"sluice: {error.message}"}
            await send(message)

        await self.app(scope, receive, plainly if scope["type"] == "lifespan" else send)


class LastAnswer:
    """Answers who still waits when a stop has waited for long enough, and cancels them."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say 503, where nothing has been said yet; a client that hangs up cancels nothing."""
        has_begun = False

        async def noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except asyncio.CancelledError:
            if scope["type"] != "http" or has_begun:
                raise
            await answer_unknown()(scope, receive, send)


def _route(scope: Scope) -> str:
    """Return the template of the route that a request took; empty where there is none."""
    return getattr(scope.get("route"), "path", "")


class Measure:
    """Counts and times requests by route (its template, never the ids in it)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Measure one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = time.perf_counter()
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with traces.request(scope["method"], scope["headers"]) as traced:
            try:
                await self.app(scope, receive, noted)
            finally:
                traced.route, traced.status = _route(scope), status
                self._note(scope, status, begin)

    def _note(self, scope: Scope, status: int, begin: float) -> None:
        service: Any = scope.get("state", {}).get("service")
        if service is not None:
            route = _route(scope)
            label = f"{scope['method']} {route}" if route else "none"
            service.note(scope, label, status, begin)
